"""Looking into models: what they hold, and whether they are sound. Weights are not read unless asked for."""

from __future__ import annotations

import collections
import itertools
import os
from pathlib import Path

import google.protobuf.message
import onnx

from j2o.errors import LoadError


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model without its external data; LoadError in one line where the file is none."""
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (google.protobuf.message.DecodeError, onnx.checker.ValidationError) as error:
        raise LoadError(f"{path}: is not an ONNX model, or is cut short") from error
    if not model.opset_import or not model.HasField("graph"):
        raise LoadError(f"{path}: is not an ONNX model: there is no graph in it")
    return model


def summary(path: str | os.PathLike[str]) -> str:
    """Inputs, outputs, operators, opset and size of a model, as text."""
    model = read(path)
    lines = [
        f"{path}: opset {model.opset_import[0].version}, IR version {model.ir_version}, by {model.producer_name or 'unknown'}"
    ]
    lines += [f"  input  {_value(v)}" for v in model.graph.input]
    lines += [f"  output {_value(v)}" for v in model.graph.output]
    weights = sum(_bytes(t) for t in model.graph.initializer)
    lines.append(
        f"  {len(model.graph.initializer)} initializers, {weights / 2**20:.1f} MiB; {len(model.functions)} functions"
    )
    counts = collections.Counter(n.op_type for n in model.graph.node)
    lines.append("  " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    return "\n".join(lines)


def _value(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ",".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
    return f"{value.name}: {onnx.TensorProto.DataType.Name(tensor.elem_type).lower()}[{dims}]"


def _bytes(tensor: onnx.TensorProto) -> int:
    stored = {e.key: e.value for e in tensor.external_data}
    return int(stored["length"]) if "length" in stored else len(tensor.raw_data) or tensor.ByteSize()


def check(path: str | os.PathLike[str], deep: bool = False) -> None:
    """Structure, shapes, where external data lies, and that onnxruntime loads the model; LoadError says what is wrong.

    `deep` also reads the external data from end to end.
    """
    from j2o.backend.session import Session

    path = Path(path)
    model = read(path)
    _check_regions(path, model, deep)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise LoadError(f"{path}: {' '.join(str(error).split())}") from error
    Session(str(path))


def _check_regions(path: Path, model: onnx.ModelProto, deep: bool) -> None:
    """External data must lie in files beside the model, inside them, and apart from each other."""
    taken: dict[str, list[tuple[int, int, str]]] = collections.defaultdict(list)
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        stored = {e.key: e.value for e in tensor.external_data}
        location = stored.get("location", "")
        file = path.parent / location
        if not location or os.path.isabs(location) or ".." in Path(location).parts:
            raise LoadError(f"{path}: {tensor.name!r} lies at {location!r}, outside the model's folder")
        if file.is_symlink() or not file.is_file():
            raise LoadError(f"{path}: {tensor.name!r} lies in {location!r}, which is missing or a link")
        start = int(stored.get("offset", 0))
        length = int(stored.get("length", file.stat().st_size - start))
        if start < 0 or length < 0 or start + length > file.stat().st_size:
            raise LoadError(f"{path}: {tensor.name!r} reaches past the end of {location!r}")
        taken[location].append((start, start + length, tensor.name))
    for location, regions in taken.items():
        regions.sort()
        for (_, end, first), (start, _, second) in itertools.pairwise(regions):
            if start < end:
                raise LoadError(f"{path}: {first!r} and {second!r} overlap in {location!r}")
        if deep:
            with open(path.parent / location, "rb") as file:
                while file.read(1 << 24):
                    pass
