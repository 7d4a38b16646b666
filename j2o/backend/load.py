"""Looking into models: what they hold, and whether they are sound. Weights are not read unless asked for."""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import math
import mmap
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from j2o.backend.external import CHECKSUM, MESSAGE, Progress
from j2o.errors import LoadError
from j2o.ir.tensor import CHUNK

_DTYPES = {d.value: d for d in ir.DataType if d.value}


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model without its external data; LoadError in one line where the file is none."""
    path = Path(path)
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    size = path.stat().st_size
    if not 0 < size <= MESSAGE:
        raise LoadError(f"{path}: is not an ONNX model: it has {size} bytes")
    # mapped, so that a large file that is something else is not read
    with (
        _readable(path),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        model = onnx.ModelProto.FromString(view)  # type: ignore[arg-type]
        if not _is_text(model):
            raise LoadError(f"{path}: is damaged: a name in it is no text")
    if not model.opset_import or not model.HasField("graph"):
        raise LoadError(f"{path}: is not an ONNX model: there is no graph in it")
    return model


def _is_text(message: Message) -> bool:
    """Whether all that should be text in a message is; protobuf gives bytes for what it cannot decode."""
    for field, value in message.ListFields():
        if field.type not in (field.TYPE_STRING, field.TYPE_MESSAGE):
            continue
        for part in (value,) if isinstance(value, str | bytes | Message) else value:
            if isinstance(part, bytes) or (isinstance(part, Message) and not _is_text(part)):
                return False
    return True


@contextlib.contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LoadError(f"{path}: cannot be read: {error.strerror}") from error
    except DecodeError as error:
        raise LoadError(f"{path}: is not an ONNX model, or is cut short") from error
    except UnicodeDecodeError as error:  # protobuf decodes text when it is asked for
        raise LoadError(f"{path}: is damaged: a name in it is no text") from error


def summary(path: str | os.PathLike[str]) -> str:
    """Inputs, outputs, operators, opset and size of a model, as text."""
    model = read(path)
    with _readable(path):
        graph, maker = model.graph, model.producer_name or "unknown"
        lines = [f"{path}: opset {model.opset_import[0].version}, IR version {model.ir_version}, by {maker}"]
        lines += [f"  input  {_value(v)}" for v in graph.input]
        lines += [f"  output {_value(v)}" for v in graph.output]
        weights = sum(_size(path, t)[1] for t in graph.initializer) / 2**20
        files = {e.value for t in graph.initializer for e in t.external_data if e.key == "location"}
        where = f" in {', '.join(sorted(files))}" if files else ""
        lines.append(
            f"  {len(graph.initializer)} initializers, {weights:.1f} MiB{where}; {len(model.functions)} functions"
        )
        counts = collections.Counter(n.op_type for n in graph.node)
        lines.append("  " + ", ".join(f"{name} {n}" for name, n in counts.most_common()))
    return "\n".join("".join(c if c.isprintable() else "?" for c in line) for line in lines)


def _value(value: onnx.ValueInfoProto) -> str:
    tensor = value.type.tensor_type
    dims = ",".join(d.dim_param or str(d.dim_value) for d in tensor.shape.dim)
    dtype = _DTYPES.get(tensor.elem_type)
    return f"{value.name}: {dtype.name.lower() if dtype else 'no tensor'}[{dims}]"


def check(path: str | os.PathLike[str], deep: bool = False, progress: Progress | None = None) -> int:
    """Structure, shapes, where the weights lie, and that onnxruntime loads the model; LoadError says what is wrong.

    `deep` also reads the weights, in bounded memory, and compares them with the checksums that `save` stored; without it
    no external data is read. Gives the number of weights whose checksum is right.
    """
    from j2o.backend.session import Session

    path = Path(path)
    model = read(path)
    with _readable(path):
        places = [p for t in _tensors(model) if (p := _place(path, t)) is not None]
        _check_overlaps(path, places)
        good = _check_sums(path, model, places, progress) if deep else 0
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise LoadError(f"{path}: {' '.join(str(error).split())}") from error
    Session(str(path), optimise=False)
    return good


# fields of ONNX's messages through which a tensor may be reached from a model
_HOLDERS = frozenset(
    "graph functions training_info initialization algorithm node attribute attribute_proto t g tensors graphs initializer "
    "sparse_tensor sparse_tensors sparse_initializer values indices".split()
)


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, wherever it stands: initializers, attributes, subgraphs, functions, sparse ones."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.name in _HOLDERS:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _tensors(part)


class _Place(NamedTuple):
    """Where the external data of a tensor lies: the file by device and inode, and the region in it."""

    file: tuple[int, int]
    start: int
    end: int
    location: str
    name: str
    digest: str


def _place(path: Path, tensor: onnx.TensorProto) -> _Place | None:
    """Where the data lies if it is external; LoadError where a tensor's data cannot be what its dtype and shape say."""
    entries, size = _size(path, tensor)
    what = f"{path}: {tensor.name[:80]!r}"
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        typed = sum(
            len(getattr(tensor, f"{kind}_data")) for kind in ("float", "double", "int32", "int64", "uint64", "string")
        )
        raw = tensor.HasField("raw_data")
        found, wanted = (len(tensor.raw_data) + typed, size) if raw else (typed, entries)
        if found != wanted:
            raise LoadError(f"{what} holds {found} {'bytes' if raw else 'entries'}, its dtype and shape say {wanted}")
        return None
    stored = {e.key: e.value for e in tensor.external_data}
    location = stored.get("location", "")
    status = _data_file(path.parent, location)
    if status is None:
        raise LoadError(f"{what} lies in {location[:80]!r}, which is no file below the model's folder, or a link")
    start, length = (stored.get(key, default) for key, default in (("offset", "0"), ("length", str(size))))
    if not all(re.fullmatch("[0-9]{1,19}", n) for n in (start, length)):
        raise LoadError(f"{what} lies at offset {start[:80]!r}, length {length[:80]!r}: these are no sizes")
    end = int(start) + int(length)
    if int(length) != size or tensor.data_type == onnx.TensorProto.STRING:
        raise LoadError(f"{what} has {length} bytes in {location[:80]!r}, its dtype and shape say {size}")
    if end > status.st_size:
        raise LoadError(f"{what} reaches past the end of {location[:80]!r}: to {end} of {status.st_size}")
    return _Place((status.st_dev, status.st_ino), int(start), end, location, tensor.name, _digest(tensor))


def _size(path: str | os.PathLike[str], tensor: onnx.TensorProto) -> tuple[int, int]:
    """Entries in the field of its dtype, and bytes, of a tensor's data."""
    count, dtype = math.prod(tensor.dims), _DTYPES.get(tensor.data_type)
    if dtype is None or min(tensor.dims, default=0) < 0:
        raise LoadError(f"{path}: {tensor.name[:80]!r} has no dtype or shape: {tensor.data_type}, {list(tensor.dims)}")
    if dtype == ir.DataType.STRING:
        return count, sum(map(len, tensor.string_data))
    size = (count * dtype.bitwidth + 7) // 8
    return size if dtype.bitwidth < 8 else count * (1 + ("COMPLEX" in dtype.name)), size


def _data_file(folder: Path, location: str) -> os.stat_result | None:
    """What the file system says of a regular file below a folder; None for all else, links on the way there too."""
    parts = Path(location).parts
    if not parts or os.path.isabs(location) or ".." in parts or set(location) & {"\\", "\0"}:
        return None
    try:
        *folders, last = (os.lstat(folder.joinpath(*parts[:n])) for n in range(1, len(parts) + 1))
    except OSError:
        return None
    straight = all(stat.S_ISDIR(s.st_mode) for s in folders)
    return last if straight and stat.S_ISREG(last.st_mode) and last.st_nlink == 1 else None


def _digest(tensor: onnx.TensorProto) -> str:
    return next((e.value for e in tensor.metadata_props if e.key == CHECKSUM), "")


def _check_overlaps(path: Path, places: list[_Place]) -> None:
    """Weights may share all of a region, where their contents are equal, but no part of one."""
    for a, b in itertools.pairwise(sorted(p for p in places if p.start < p.end)):
        if a.file == b.file and b.start < a.end and a[:3] != b[:3]:
            raise LoadError(f"{path}: {a.name[:80]!r} and {b.name[:80]!r} overlap in {a.location[:80]!r}")


def _check_sums(path: Path, model: onnx.ModelProto, places: list[_Place], progress: Progress | None) -> int:
    """Read every weight, a shared region once; how many checksums were stored, all of them right."""
    inside = [t for t in _tensors(model) if t.data_location != onnx.TensorProto.EXTERNAL and _digest(t)]
    wanted = [(t.name, _digest(t), hashlib.sha256(t.raw_data).hexdigest()) for t in inside]
    regions = {p[:3]: p.location for p in places}
    total, done = sum(end - start for _, start, end in regions), 0
    sums: dict[tuple[object, ...], str] = {}
    for (inode, start, end), location in regions.items():
        digest = hashlib.sha256()
        with open(path.parent / location, "rb", buffering=0) as file:
            file.seek(start)
            while chunk := file.read(min(CHUNK, end - file.tell())):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        sums[inode, start, end] = digest.hexdigest()
    wanted += [(p.name, p.digest, sums[p[:3]]) for p in places]
    for name, stored, found in wanted:
        if stored not in ("", found):
            raise LoadError(f"{path}: {name[:80]!r} is damaged: its bytes do not have the checksum that was stored")
    return sum(bool(stored) for _, stored, _ in wanted)
