"""What a model holds, as text for people; `contents.py` has it as data for programs.

    digits.onnx: opset 18, IR version 8, by j2o
      input  x: float[B,28,28]
      output output: float[B,10]
      2 initializers, 0.0 MiB; 0 functions
      Reshape 1, MatMul 1, Relu 1
      runs on onnxruntime-1.20 to 1.32, onnxruntime-web, openvino

Weights are not read.
"""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence

import onnx

from j2o.backend.asked import in_a_line
from j2o.backend.load import read, readable
from j2o.backend.proto import CONSTRAINTS
from j2o.backend.takers import Taker, takers, told
from j2o.backend.tensors import DTYPES, data_files, size_of

# a file may hold anything: of each list so many entries are shown, and how many more there are
SHOWN = 200
LONGEST_NAME = 200


def summary(path: str | os.PathLike[str]) -> str:
    """Return inputs, outputs, operators, opset, size and runtimes of a model, as text; LoadError for none."""
    model = read(path)
    with readable(path):
        graph = model.graph
        maker = _short(model.producer_name) or "unknown"
        opset = model.opset_import[0].version
        lines = [
            f"{in_a_line(path)}: opset {opset}, IR version {model.ir_version}, by {maker}",
            *_interface("input ", graph.input),
            *_interface("output", graph.output),
            *_constraints(model),
            _weights(path, model),
            f"  {_kinds(graph)}",
            *told(takers(model)),
        ]
    return "\n".join(_printable(line) for line in lines)


def taken_by(found: Sequence[Taker]) -> str:
    """Return which of the known runtimes take a model, and what keeps the others from it, as lines."""
    return "\n".join(_printable(line) for line in told(found))


def _interface(kind: str, values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    """A line for each of the first inputs or outputs, and one for the rest."""
    lines = [f"  {kind} {_value(value)}" for value in values[:SHOWN]]
    rest = len(values) - len(lines)
    if rest:
        lines.append(f"  … {rest} more {kind.strip()}s")
    return lines


def _constraints(model: onnx.ModelProto) -> list[str]:
    """What the symbolic sizes must fulfil."""
    entries = model.metadata_props[:SHOWN]
    return [f"  where  {_short(e.value)}" for e in entries if e.key == CONSTRAINTS]


def _weights(path: str | os.PathLike[str], model: onnx.ModelProto) -> str:
    """The number of weights, their bytes and the files in which they lie."""
    weights = model.graph.initializer
    total = sum(size_of(path, tensor).bytes for tensor in weights)
    size = f"{total / 2**20:.1f} MiB" if total < 2**63 else "more than 2**63 bytes"
    files = sorted(map(_short, data_files(weights)))
    where = f" in {_joined(files, len(files))}" if files else ""
    functions = f"{len(model.functions)} functions"
    return f"  {len(weights)} initializers, {size}{where}; {functions}"


def _kinds(graph: onnx.GraphProto) -> str:
    """How often each operator occurs in the main graph, the most frequent first."""
    counts = collections.Counter(node.op_type for node in graph.node)
    frequent = counts.most_common(SHOWN)
    texts = [f"{_short(name)} {count}" for name, count in frequent]
    return _joined(texts, len(counts), what=" kinds")


def _joined(
    texts: Sequence[str], count: int, *, what: str = "", separator: str = ", "
) -> str:
    """The first of `count` texts, and how many more of `what` there are."""
    shown = list(texts[:SHOWN])
    rest = count - len(shown)
    if rest:
        shown.append(f"… {rest} more{what}")
    return separator.join(shown)


def _printable(line: str) -> str:
    """A line with `?` for what cannot be printed."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _short(name: str) -> str:
    """The beginning of a name that is long."""
    return name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"


def _value(value: onnx.ValueInfoProto) -> str:
    """The name, element type and sizes of an input or output."""
    name = _short(value.name)
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return f"{name}: {kind.removesuffix('_type') if kind else 'no type'}"
    tensor = getattr(value.type, kind)
    dtype = DTYPES.get(tensor.elem_type)
    element = dtype.name.lower() if dtype else "unknown dtype"
    if kind == "sparse_tensor_type":
        element = f"sparse {element}"
    if not tensor.HasField("shape"):
        return f"{name}: {element} of any shape"
    dims = tensor.shape.dim
    texts = [_dim(dim) for dim in dims[:SHOWN]]
    return f"{name}: {element}[{_joined(texts, len(dims), separator=',')}]"


def _dim(dim: onnx.TensorShapeProto.Dimension) -> str:
    """A size: its symbol, its number, or `?`."""
    if dim.dim_param:
        return _short(dim.dim_param)
    return str(dim.dim_value) if dim.HasField("dim_value") else "?"
