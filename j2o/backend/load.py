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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from j2o.backend.external import CHECKSUM, MESSAGE, Progress, in_a_line
from j2o.backend.proto import CONSTRAINTS
from j2o.backend.wire import DEPTH, GRAPHS, Costly, Damaged, scan
from j2o.errors import LoadError, shown
from j2o.ir.tensor import CHUNK

T = TypeVar("T", bound=Message)
LONGEST = 500  # characters that are shown of what others say
RANK = 1024  # sizes of a tensor; more are an attack
CALLED = 150_000  # nodes that the calls of functions stand for; onnxruntime writes them out, up to 70 µs each
CALLS = 30_000  # calls written out, for which it takes more with each
DENSE = 2**26  # elements of the sparse tensors of a model; onnxruntime makes them dense
_DTYPES = {d.value: d for d in ir.DataType if d.value}


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """The model without its external data; LoadError in one line where the file is none, or would take too much (`wire`)."""
    path = checked(path)
    # mapped, so that a large file that is something else is not read
    with (
        _readable(path),
        open(path, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        scan(view)
        model = onnx.ModelProto.FromString(view)  # type: ignore[arg-type]
    if not model.opset_import or not model.HasField("graph"):
        raise LoadError(
            f"{in_a_line(path)}: is not an ONNX model: there is no graph in it"
        )
    return model


def checked(path: object) -> Path:
    """The path of a file that may be a model; LoadError where there is none, or it has not the size of one."""
    text = None
    with contextlib.suppress(TypeError):
        text = os.fspath(path)  # type: ignore[call-overload]
    if not isinstance(text, str):
        raise LoadError(
            f"path={shown(path)}: give the name of a file as a str or a pathlib.Path"
        )
    try:
        status = os.stat(text)
    except (OSError, ValueError) as error:  # a name with NUL, one that is too long
        missing = not isinstance(error, PermissionError)
        raise LoadError(
            f"{in_a_line(text)}: {'there is no such file' if missing else 'cannot be read'}"
        ) from None
    if not stat.S_ISREG(status.st_mode):
        raise LoadError(
            f"{in_a_line(text)}: is no file"
            if os.path.lexists(text)
            else f"{in_a_line(text)}: there is no such file"
        )
    if not 0 < status.st_size <= MESSAGE:
        raise LoadError(
            f"{in_a_line(text)}: is not an ONNX model: it has {status.st_size} bytes"
        )
    return Path(text)


@contextlib.contextmanager
def _readable(path: str | os.PathLike[str]) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LoadError(
            f"{in_a_line(path)}: cannot be read: {error.strerror}"
        ) from error
    except Damaged as error:
        what = str(error) or "it is cut short, or something else"
        raise LoadError(f"{in_a_line(path)}: is not an ONNX model: {what}") from None
    except Costly as error:
        raise LoadError(
            f"{in_a_line(path)}: would take too much time or memory: {error}"
        ) from None
    except DecodeError as error:
        raise LoadError(
            f"{in_a_line(path)}: is not an ONNX model: it is cut short, or something else"
        ) from error


SHOWN = 200  # inputs, outputs, sizes, files, kinds of operators: of more, how many more


def summary(path: str | os.PathLike[str]) -> str:
    """Inputs, outputs, operators, opset and size of a model, as text."""
    model = read(path)
    with _readable(path):
        graph, maker = model.graph, _short(model.producer_name) or "unknown"
        lines = [
            f"{in_a_line(path)}: opset {model.opset_import[0].version}, IR version {model.ir_version}, by {maker}"
        ]
        lines += _first(
            [f"  input  {_value(v)}" for v in graph.input[:SHOWN]],
            len(graph.input),
            "  … {} more inputs",
        )
        lines += _first(
            [f"  output {_value(v)}" for v in graph.output[:SHOWN]],
            len(graph.output),
            "  … {} more outputs",
        )
        lines += [
            f"  where  {_short(entry.value)}"
            for entry in model.metadata_props[:SHOWN]
            if entry.key == CONSTRAINTS
        ]
        weights = sum(_size(path, t)[1] for t in graph.initializer)
        size = (
            f"{weights / 2**20:.1f} MiB" if weights < 2**63 else "more than 2**63 bytes"
        )
        files = sorted(
            {
                _short(e.value)
                for t in graph.initializer
                for e in t.external_data
                if e.key == "location"
            }
        )
        where = (
            f" in {', '.join(_first(files[:SHOWN], len(files), '… {} more'))}"
            if files
            else ""
        )
        lines.append(
            f"  {len(graph.initializer)} initializers, {size}{where}; {len(model.functions)} functions"
        )
        counts = collections.Counter(n.op_type for n in graph.node)
        kinds = [f"{_short(name)} {n}" for name, n in counts.most_common(SHOWN)]
        lines.append("  " + ", ".join(_first(kinds, len(counts), "… {} more kinds")))
    return "\n".join(
        "".join(c if c.isprintable() else "?" for c in line) for line in lines
    )


def _first(shown: list[str], count: int, rest: str) -> list[str]:
    """Those shown, and a word on the rest of `count`."""
    return [*shown, rest.format(count - len(shown))] if count > len(shown) else shown


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


def _value(value: onnx.ValueInfoProto) -> str:
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return (
            f"{_short(value.name)}: {kind.removesuffix('_type') if kind else 'no type'}"
        )
    tensor = getattr(value.type, kind)
    dtype = _DTYPES.get(tensor.elem_type)
    name = ("sparse " if kind == "sparse_tensor_type" else "") + (
        dtype.name.lower() if dtype else "unknown dtype"
    )
    if not tensor.HasField("shape"):
        return f"{_short(value.name)}: {name} of any shape"
    dims = tensor.shape.dim
    sizes = [
        _short(d.dim_param) or (str(d.dim_value) if d.HasField("dim_value") else "?")
        for d in dims[:SHOWN]
    ]
    return f"{_short(value.name)}: {name}[{','.join(_first(sizes, len(dims), '… {} more'))}]"


def check(
    path: str | os.PathLike[str], deep: bool = False, progress: Progress | None = None
) -> int:
    """Structure, shapes, where the weights lie, and that onnxruntime loads the model; LoadError says what is wrong.

    `deep` also reads the weights that have a checksum of `save`, in bounded memory, and compares; without it no external
    data is read. Gives the number of weights whose checksum is right.
    """
    from j2o.backend.session import Session

    model = read(path)
    path = Path(path)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise LoadError(
            f"{in_a_line(path)}: its name is not UTF-8, give the file another name"
        ) from None
    with _readable(path):
        places = [p for t in _tensors(model) if (p := _place(path, t)) is not None]
        _check_overlaps(path, places)
        good = _check_sums(path, model, places, progress) if deep else 0
        _check_cost(path, model)
    del model  # those who look next read the file themselves
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise LoadError(
            f"{in_a_line(path)}: {' '.join(str(error).split())[:LONGEST]}"
        ) from error
    Session(str(path), optimise=False)
    return good


# fields of ONNX's messages through which a tensor may be reached from a model
_HOLDERS = frozenset(
    "graph functions training_info initialization algorithm node attribute attribute_proto t g tensors graphs initializer "
    "sparse_tensor sparse_tensors sparse_initializer values indices".split()
)


def _tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, wherever it stands: initializers, attributes, subgraphs, functions, sparse ones."""
    return _messages(message, onnx.TensorProto)


def _messages(message: Message, kind: type[T]) -> Iterator[T]:
    """Every message of a kind of tensor in a message, wherever it stands."""
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.name in _HOLDERS:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _messages(part, kind)


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
    what = f"{in_a_line(path)}: {tensor.name[:80]!r}"
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        typed = sum(
            len(getattr(tensor, f"{kind}_data"))
            for kind in ("float", "double", "int32", "int64", "uint64", "string")
        )
        raw = tensor.HasField("raw_data")
        found, wanted = (
            (len(tensor.raw_data) + typed, size) if raw else (typed, entries)
        )
        if found != wanted:
            raise LoadError(
                f"{what} holds {found} {'bytes' if raw else 'entries'}, its dtype and shape say {wanted}"
            )
        return None
    stored = {e.key: e.value for e in tensor.external_data}
    location = stored.get("location", "")
    status = _data_file(path.parent, location)
    if status is None:
        raise LoadError(
            f"{what} lies in {location[:80]!r}, which is no file below the model's folder, or a link"
        )
    start, length = (
        stored.get(key, default)
        for key, default in (("offset", "0"), ("length", str(size)))
    )
    if not all(re.fullmatch("[0-9]{1,19}", n) for n in (start, length)):
        raise LoadError(
            f"{what} lies at offset {start[:80]!r}, length {length[:80]!r}: these are no sizes"
        )
    end = int(start) + int(length)
    if int(length) != size or tensor.data_type == onnx.TensorProto.STRING:
        raise LoadError(
            f"{what} has {length} bytes in {location[:80]!r}, its dtype and shape say {size}"
        )
    if end > status.st_size:
        raise LoadError(
            f"{what} reaches past the end of {location[:80]!r}: to {end} of {status.st_size}"
        )
    return _Place(
        (status.st_dev, status.st_ino),
        int(start),
        end,
        location,
        tensor.name,
        _digest(tensor),
    )


def _size(path: str | os.PathLike[str], tensor: onnx.TensorProto) -> tuple[int, int]:
    """Entries in the field of its dtype, and bytes, of a tensor's data."""
    dtype, rank = _DTYPES.get(tensor.data_type), len(tensor.dims)
    if rank > RANK:
        raise LoadError(
            f"{in_a_line(path)}: {tensor.name[:80]!r} has {rank} dimensions, more than {RANK}"
        )
    if dtype is None or min(tensor.dims, default=0) < 0:
        sizes = f"{tensor.dims[:8]}"[:200]
        raise LoadError(
            f"{in_a_line(path)}: {tensor.name[:80]!r} has no dtype or shape: {tensor.data_type}, {sizes}"
        )
    count = math.prod(tensor.dims)
    if count.bit_length() > 63:
        raise LoadError(
            f"{in_a_line(path)}: {tensor.name[:80]!r} has more than 2**63 elements, its shape says"
        )
    if dtype == ir.DataType.STRING:
        return count, sum(map(len, tensor.string_data))
    size = (count * dtype.bitwidth + 7) // 8
    return size if dtype.bitwidth < 8 else count * (1 + ("COMPLEX" in dtype.name)), size


def _check_cost(path: Path, model: onnx.ModelProto) -> None:
    """LoadError where loading would make far more of the model than stands in the file."""
    dense = sum(
        math.prod(t.dims[:RANK]) for t in _messages(model, onnx.SparseTensorProto)
    )
    if dense > DENSE:
        raise LoadError(
            f"{in_a_line(path)}: its sparse tensors have more than {DENSE:,} elements when they are dense"
        )
    if not model.functions:
        return
    functions = {(f.domain, f.name, f.overload): f for f in model.functions}
    known: dict[tuple[str, str, str], _Cost] = {}
    total = _cost(path, model.graph.node, functions, known, in_function=False)
    if total.called > CALLED or total.calls > CALLS or total.graphs > GRAPHS:
        raise LoadError(
            f"{in_a_line(path)}: the calls of its functions stand for too much: {total.calls:,} calls of {total.called:,} nodes "
            f"and {total.graphs:,} graphs; {CALLS:,}, {CALLED:,} and {GRAPHS:,} are checked"
        )


class _Cost(NamedTuple):
    """What is made of some nodes when functions are written out."""

    called: int = 0  # nodes of functions
    calls: int = 0
    graphs: int = 0  # within functions


def _cost(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    functions: Mapping[tuple[str, str, str], onnx.FunctionProto],
    known: dict[tuple[str, str, str], _Cost],
    in_function: bool = True,
    depth: int = 0,
) -> _Cost:
    """The cost of these nodes, themselves included where they stand in a function; each function is looked at once."""
    if depth > DEPTH:
        raise LoadError(
            f"{in_a_line(path)}: its functions call each other in a circle, or deeper than {DEPTH}"
        )
    found = [_Cost(called=len(nodes) if in_function else 0)]
    for node in nodes:
        for attribute in node.attribute:
            parts = (
                [attribute.g, *attribute.graphs]
                if attribute.HasField("g")
                else attribute.graphs
            )
            for part in parts:
                found.append(_Cost(graphs=int(in_function)))
                found.append(
                    _cost(path, part.node, functions, known, in_function, depth + 1)
                )
        key = node.domain, node.op_type, node.overload
        if key in functions:
            if key not in known:
                known[key] = _cost(
                    path, functions[key].node, functions, known, depth=depth + 1
                )
            found += [_Cost(calls=1), known[key]]
    return _Cost(*(sum(counts) for counts in zip(*found, strict=True)))


def _data_file(folder: Path, location: str) -> os.stat_result | None:
    """What the file system says of a regular file below a folder; None for all else, links on the way there too."""
    parts = Path(location).parts
    if (
        not parts
        or os.path.isabs(location)
        or ".." in parts
        or set(location) & {"\\", "\0"}
    ):
        return None
    try:
        *folders, last = (
            os.lstat(folder.joinpath(*parts[:n])) for n in range(1, len(parts) + 1)
        )
    except OSError:
        return None
    straight = all(stat.S_ISDIR(s.st_mode) for s in folders)
    return (
        last if straight and stat.S_ISREG(last.st_mode) and last.st_nlink == 1 else None
    )


def _digest(tensor: onnx.TensorProto) -> str:
    return next((e.value for e in tensor.metadata_props if e.key == CHECKSUM), "")


def _check_overlaps(path: Path, places: list[_Place]) -> None:
    """Weights may share all of a region, where their contents are equal, but no part of one."""
    for a, b in itertools.pairwise(sorted(p for p in places if p.start < p.end)):
        if a.file == b.file and b.start < a.end and a[:3] != b[:3]:
            raise LoadError(
                f"{in_a_line(path)}: {a.name[:80]!r} and {b.name[:80]!r} overlap in {a.location[:80]!r}"
            )


def _check_sums(
    path: Path, model: onnx.ModelProto, places: list[_Place], progress: Progress | None
) -> int:
    """Read every weight, a shared region once; how many checksums were stored, all of them right."""
    inside = [
        t
        for t in _tensors(model)
        if t.data_location != onnx.TensorProto.EXTERNAL and _digest(t)
    ]
    wanted = [
        (t.name, _digest(t), hashlib.sha256(t.raw_data).hexdigest()) for t in inside
    ]
    places = [p for p in places if p.digest]
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
            raise LoadError(
                f"{in_a_line(path)}: {name[:80]!r} is damaged: its bytes do not have the checksum that was stored"
            )
    return sum(bool(stored) for _, stored, _ in wanted)
