"""`open_safetensors`: files of safetensors, one alone or several with an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from j2o.arguments import check_installed, existing_path
from j2o.errors import SpecError, shown
from j2o.frozen import LazyArray
from j2o.ir.tensor import Reader

# dtypes of safetensors by numpy's and ml_dtypes' names
DTYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "U8": "uint8",
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "C64": "complex64",
}


def open_safetensors(path: Any) -> dict[str, LazyArray]:
    """The weights of a safetensors file, or of the files beside it that an index (`….json`) names, by name.

    Only headers are read here; each weight is read in slices while the model is written. Needs the
    extra `safetensors`. SpecError where that is not installed, and of a file or weight that is missing,
    damaged, outside the index's folder, or of a dtype that ONNX lacks.
    """
    check_installed("open_safetensors", "safetensors", extra="safetensors")
    path = existing_path("open_safetensors: path", path)
    if not path.is_file():
        raise _refused(f"there is no file {shown(str(path))}")
    if path.suffix != ".json":
        return dict(_weights_of(path))
    index = _index(path)
    files = {}
    for file in sorted(set(index.values())):
        files[file] = dict(_weights_of(path.parent / file))
    for name, file in index.items():
        if name not in files[file]:
            what = f"says that {file} has {name!r}, which is not there"
            raise _refused(f"{path.name} {what}")
    return {name: files[file][name] for name, file in index.items()}


def _index(path: Path) -> dict[str, str]:
    """Which file has which weight; files that an index names lie in its own folder."""
    try:
        found = json.loads(path.read_bytes())["weight_map"]
        entries = {str(name): str(file) for name, file in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        advice = "JSON with a 'weight_map' of names to files is"
        raise _refused(f"{str(path)!r} is not an index; {advice}") from None
    for name, file in entries.items():
        is_plain = Path(file).name == file and "\\" not in file
        if not is_plain or not (path.parent / file).is_file():
            what = f"puts {name!r} in {file!r}, no file in the index's folder"
            raise _refused(f"{path.name} {what}")
    return entries


def _weights_of(path: Path) -> Iterator[tuple[str, LazyArray]]:
    """The weights of one file, by name."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118  (the file is no mapping)
                yield name, _lazy(path, name, file.get_slice(name))
    except (SafetensorError, OSError) as error:
        what = f"{str(path)!r} is no safetensors file: {error}"
        raise _refused(what) from error


def _lazy(path: Path, name: str, piece: Any) -> LazyArray:
    """One weight, of which only the header has been read."""
    import ml_dtypes

    text = DTYPES.get(piece.get_dtype())
    if text is None:
        what = f"is {piece.get_dtype()}, not an ONNX dtype"
        raise _refused(f"{name!r} of {path.name} {what}")
    dtype = np.dtype(getattr(ml_dtypes, text, text))
    return LazyArray(piece.get_shape(), dtype, lambda: _slices(path, name))


def _slices(path: Path, name: str) -> Reader:
    """Reads boxes of one weight of a file."""
    from safetensors import safe_open

    file = safe_open(path, framework="numpy")
    piece = file.get_slice(name)
    return lambda box: piece[box] if box else file.get_tensor(name)


def _refused(why: str) -> SpecError:
    return SpecError(f"open_safetensors: {why}")
