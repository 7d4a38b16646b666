"""What a model holds, as data for programs; `summary.py` has the text for people. Weights are not read."""

from __future__ import annotations

import collections
import os
from collections.abc import Sequence
from typing import Any

import onnx

from j2o.backend.load import read, readable
from j2o.backend.proto import CONSTRAINTS, ONNX_DTYPES
from j2o.backend.takers import Taker, takers
from j2o.backend.tensors import DTYPES, data_files, size_of
from j2o.ir.types import DType

_DTYPES_OF_J2O = {int(number): dtype for dtype, number in ONNX_DTYPES.items()}


def contents(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what is in a model under the keys of `j2o inspect --json`; LoadError for what is no model."""
    model = read(path)
    with readable(path):
        graph = model.graph
        constraints = [e.value for e in model.metadata_props if e.key == CONSTRAINTS]
        counts = collections.Counter(node.op_type for node in graph.node)
        opsets = {one.domain: one.version for one in model.opset_import}
        return {
            "file": os.fspath(path),
            "producer": model.producer_name,
            "opset": opsets.get("", opsets.get("ai.onnx")),
            "opsets": opsets,
            "ir_version": model.ir_version,
            "inputs": list(map(_typed, graph.input)),
            "outputs": list(map(_typed, graph.output)),
            "constraints": constraints,
            "operators": dict(counts.most_common()),
            "functions": len(model.functions),
            "weights": _weights_as_data(path, graph.initializer),
            "runtimes": runtimes(takers(model)),
        }


def runtimes(found: Sequence[Taker]) -> list[dict[str, Any]]:
    """Each known runtime, whether it takes a model, and what keeps it from that."""
    return [
        {"name": one.name, "takes": not one.reasons, "reasons": list(one.reasons)}
        for one in found
    ]


def _typed(value: onnx.ValueInfoProto) -> dict[str, Any]:
    """Name, dtype and shape: null where there is none, a size null where it is not said."""
    kind = value.type.WhichOneof("value") or "none"
    tensor = value.type.tensor_type
    dtype = None
    shape = None
    if kind == "tensor_type":
        dtype = _dtype_name(tensor.elem_type)
        if tensor.HasField("shape"):
            shape = list(map(_size_as_data, tensor.shape.dim))
    kind = kind.removesuffix("_type")
    return {"name": value.name, "kind": kind, "dtype": dtype, "shape": shape}


def _dtype_name(number: int) -> str | None:
    """The name of a dtype as numpy has it, `float32`; None for one that nobody knows."""
    known = _DTYPES_OF_J2O.get(number)
    if known is not None and known is not DType.STRING:
        return known.numpy.name
    dtype = DTYPES.get(number)
    return None if dtype is None else dtype.name.lower()


def _size_as_data(dim: onnx.TensorShapeProto.Dimension) -> str | int | None:
    """A symbol, a number, or None for a size that is not said."""
    if dim.dim_param:
        return dim.dim_param
    return dim.dim_value if dim.HasField("dim_value") else None


def _weights_as_data(
    path: str | os.PathLike[str], weights: Sequence[onnx.TensorProto]
) -> dict[str, Any]:
    """How many weights there are, their bytes, and the data files in which they lie."""
    total = sum(size_of(path, tensor).bytes for tensor in weights)
    files = sorted(data_files(weights))
    return {"count": len(weights), "bytes": total, "files": files}
