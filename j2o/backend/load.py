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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from j2o.backend.asked import Progress, in_a_line
from j2o.backend.external import CHECKSUM
from j2o.backend.files import MESSAGE
from j2o.backend.proto import CONSTRAINTS
from j2o.backend.takers import Taker, takers, told
from j2o.backend.wire import DEPTH, GRAPHS, Costly, Damaged, scan
from j2o.errors import LoadError, shown
from j2o.ir.tensor import CHUNK

T = TypeVar("T", bound=Message)
LONGEST = 500  # characters that are shown of what others say
RANK = 1024  # sizes of a tensor; more are an attack
CALLED = 150_000  # nodes that the calls of functions stand for; onnxruntime writes them out, up to 70 µs each
CALLS = 30_000  # calls written out, for which it takes more with each
DENSE = 2**26  # elements of the sparse tensors of a model; onnxruntime makes them dense
DTYPES = {d.value: d for d in ir.DataType if d.value}


def read(path: str | os.PathLike[str]) -> onnx.ModelProto:
    """Return the model without its external data.

    LoadError, in one line, where the file is no model, or one that would take too much time or memory
    (`wire`).
    """
    path = checked(path)
    # mapped, so that a large file that is something else is not read
    with (
        readable(path),
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
    """Return the path of a file that may be a model.

    LoadError where there is none, or it has not the size of one.
    """
    text: object = None
    with contextlib.suppress(TypeError):  # of an __fspath__ that gives something else
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise LoadError(
            f"path={shown(path)}: give the name of a file as a str or a pathlib.Path"
        )
    name = in_a_line(text)
    try:
        status = os.stat(text)
    except PermissionError:
        raise LoadError(f"{name}: cannot be read") from None
    except (OSError, ValueError):  # a name with NUL, one that is too long
        raise LoadError(f"{name}: there is no such file") from None
    if not stat.S_ISREG(status.st_mode):
        exists = os.path.lexists(text)
        what = "is no file" if exists else "there is no such file"
        raise LoadError(f"{name}: {what}")
    if not 0 < status.st_size <= MESSAGE:
        raise LoadError(f"{name}: is not an ONNX model: it has {status.st_size} bytes")
    return Path(text)


@contextlib.contextmanager
def readable(path: str | os.PathLike[str]) -> Iterator[None]:
    """Raise as a LoadError what goes wrong in reading a file."""
    name = in_a_line(path)
    cut_short = "it is cut short, or something else"
    try:
        yield
    except OSError as error:
        raise LoadError(f"{name}: cannot be read: {error.strerror}") from error
    except Damaged as error:
        what = str(error) or cut_short
        raise LoadError(f"{name}: is not an ONNX model: {what}") from None
    except Costly as error:
        raise LoadError(
            f"{name}: would take too much time or memory: {error}"
        ) from None
    except DecodeError as error:
        raise LoadError(f"{name}: is not an ONNX model: {cut_short}") from error


# ------------------------------------------------------------------------------ what a model holds


SHOWN = 200  # inputs, outputs, sizes, files, kinds of operators: of more, how many more


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
            "  " + ", ".join(_kinds(graph)),
            *told(takers(model)),
        ]
    return "\n".join(_printable(line) for line in lines)


def taken_by(found: Sequence[Taker]) -> str:
    """Return which of the known runtimes take a model, and what keeps the others from it, as lines."""
    return "\n".join(_printable(line) for line in told(found))


def _interface(kind: str, values: Sequence[onnx.ValueInfoProto]) -> list[str]:
    """A line for each of the first inputs or outputs, and one for the rest."""
    shown = [f"  {kind} {_value(value)}" for value in values[:SHOWN]]
    return _first(shown, len(values), f"  … {{}} more {kind.strip()}s")


def _constraints(model: onnx.ModelProto) -> list[str]:
    """What the symbolic sizes must fulfil."""
    entries = model.metadata_props[:SHOWN]
    return [f"  where  {_short(e.value)}" for e in entries if e.key == CONSTRAINTS]


def _weights(path: str | os.PathLike[str], model: onnx.ModelProto) -> str:
    """The number of weights, their bytes and the files in which they lie."""
    weights = model.graph.initializer
    total = sum(size_of(path, tensor).bytes for tensor in weights)
    size = f"{total / 2**20:.1f} MiB" if total < 2**63 else "more than 2**63 bytes"
    entries = (entry for tensor in weights for entry in tensor.external_data)
    files = sorted({_short(e.value) for e in entries if e.key == "location"})
    if files:
        size += " in " + ", ".join(_first(files[:SHOWN], len(files), "… {} more"))
    return f"  {len(weights)} initializers, {size}; {len(model.functions)} functions"


def _kinds(graph: onnx.GraphProto) -> list[str]:
    """How often each operator occurs in the main graph, the most frequent first."""
    counts = collections.Counter(node.op_type for node in graph.node)
    shown = [f"{_short(name)} {count}" for name, count in counts.most_common(SHOWN)]
    return _first(shown, len(counts), "… {} more kinds")


def _printable(line: str) -> str:
    """A line with `?` for what cannot be printed."""
    return "".join(c if c.isprintable() else "?" for c in line)


def _first(shown: list[str], count: int, rest: str) -> list[str]:
    """Those shown, and a word on the rest of `count`."""
    return [*shown, rest.format(count - len(shown))] if count > len(shown) else shown


def _short(name: str) -> str:
    return name if len(name) <= SHOWN else f"{name[:SHOWN]}…"


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
    sizes = _first([_dim(dim) for dim in dims[:SHOWN]], len(dims), "… {} more")
    return f"{name}: {element}[{','.join(sizes)}]"


def _dim(dim: onnx.TensorShapeProto.Dimension) -> str:
    """A size: its symbol, its number, or `?`."""
    if dim.dim_param:
        return _short(dim.dim_param)
    return str(dim.dim_value) if dim.HasField("dim_value") else "?"


# ------------------------------------------------------------------------- whether a model is sound


def check(
    path: str | os.PathLike[str], deep: bool = False, progress: Progress | None = None
) -> int:
    """Check structure, shapes, where the weights lie, and that onnxruntime loads the model.

    `deep` also reads the weights that have a checksum of `save`, in bounded memory, and compares; without it
    no external data is read. Returns the number of weights whose checksum is right. LoadError says what is
    wrong.
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
    with readable(path):
        found = [_place(path, tensor) for tensor in _messages(model, onnx.TensorProto)]
        places = [place for place in found if place is not None]
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
    [
        # from a model to its graphs
        "algorithm",
        "functions",
        "graph",
        "initialization",
        "training_info",
        # from a graph or function to its attributes
        "attribute",
        "attribute_proto",
        "node",
        # from a graph to its tensors
        "initializer",
        "sparse_initializer",
        # from an attribute to tensors and graphs
        "g",
        "graphs",
        "sparse_tensor",
        "sparse_tensors",
        "t",
        "tensors",
        # from a sparse tensor to its two
        "indices",
        "values",
    ]
)


def _messages(message: Message, kind: type[T]) -> Iterator[T]:
    """Every message of a kind of tensor in a message, wherever it stands.

    That is in initializers, attributes, subgraphs, functions and sparse tensors.
    """
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.name in _HOLDERS:
            for part in (value,) if isinstance(value, Message) else value:
                yield from _messages(part, kind)


class _Region(NamedTuple):
    """A region of a file, which is told by device and inode."""

    file: tuple[int, int]
    start: int
    end: int


class _Place(NamedTuple):
    """Where the external data of a tensor lies, and what is stored of it: its name and its checksum."""

    region: _Region
    location: str
    name: str
    digest: str


def _place(path: Path, tensor: onnx.TensorProto) -> _Place | None:
    """Where the data lies if it is external, else None.

    LoadError where a tensor's data cannot be what its dtype and shape say.
    """
    size = size_of(path, tensor)
    what = f"{in_a_line(path)}: {tensor.name[:80]!r}"
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        _check_inside(what, tensor, size)
        return None
    stored = {entry.key: entry.value for entry in tensor.external_data}
    location = stored.get("location", "")
    place = f"{location[:80]!r}"
    status = _data_file(path.parent, location)
    if status is None:
        raise LoadError(
            f"{what} lies in {place}, which is no file below the model's folder, or a link"
        )
    offset = stored.get("offset", "0")
    length = stored.get("length", str(size.bytes))
    if not all(re.fullmatch("[0-9]{1,19}", number) for number in (offset, length)):
        raise LoadError(
            f"{what} lies at offset {offset[:80]!r}, length {length[:80]!r}: "
            "these are no sizes"
        )
    if int(length) != size.bytes or tensor.data_type == onnx.TensorProto.STRING:
        raise LoadError(
            f"{what} has {length} bytes in {place}, its dtype and shape say {size.bytes}"
        )
    end = int(offset) + int(length)
    if end > status.st_size:
        raise LoadError(
            f"{what} reaches past the end of {place}: to {end} of {status.st_size}"
        )
    region = _Region((status.st_dev, status.st_ino), int(offset), end)
    return _Place(region, location, tensor.name, _digest(tensor))


_TYPED = ("float", "double", "int32", "int64", "uint64", "string")


def _check_inside(what: str, tensor: onnx.TensorProto, size: Size) -> None:
    """LoadError where the data in a tensor's own message is not as long as its dtype and shape say."""
    typed = sum(len(getattr(tensor, f"{kind}_data")) for kind in _TYPED)
    if tensor.HasField("raw_data"):
        unit, wanted = "bytes", size.bytes
        found = len(tensor.raw_data) + typed
    else:
        unit, wanted = "entries", size.entries
        found = typed
    if found != wanted:
        raise LoadError(
            f"{what} holds {found} {unit}, its dtype and shape say {wanted}"
        )


class Size(NamedTuple):
    """How long the data of a tensor is: as entries in the field of its dtype, and as bytes."""

    entries: int
    bytes: int


def size_of(path: str | os.PathLike[str], tensor: onnx.TensorProto) -> Size:
    """How long the data of a tensor must be; LoadError where its dtype and shape cannot say that."""
    what = f"{in_a_line(path)}: {tensor.name[:80]!r}"
    dtype = DTYPES.get(tensor.data_type)
    rank = len(tensor.dims)
    if rank > RANK:
        raise LoadError(f"{what} has {rank} dimensions, more than {RANK}")
    if dtype is None or min(tensor.dims, default=0) < 0:
        sizes = f"{tensor.dims[:8]}"[:200]
        raise LoadError(f"{what} has no dtype or shape: {tensor.data_type}, {sizes}")
    count = math.prod(tensor.dims)
    if count.bit_length() > 63:
        raise LoadError(f"{what} has more than 2**63 elements, its shape says")
    if dtype == ir.DataType.STRING:
        return Size(count, sum(map(len, tensor.string_data)))
    size = (count * dtype.bitwidth + 7) // 8
    if dtype.bitwidth < 8:  # an entry holds the elements of one byte
        return Size(size, size)
    is_complex = "COMPLEX" in dtype.name  # two entries an element
    return Size(2 * count if is_complex else count, size)


def _check_cost(path: Path, model: onnx.ModelProto) -> None:
    """LoadError where loading would make far more of the model than stands in the file."""
    name = in_a_line(path)
    sparse = _messages(model, onnx.SparseTensorProto)
    dense = sum(math.prod(tensor.dims[:RANK]) for tensor in sparse)
    if dense > DENSE:
        raise LoadError(
            f"{name}: its sparse tensors have more than {DENSE:,} elements when they are dense"
        )
    if not model.functions:
        return
    total = _Costs(path, model.functions).of(model.graph.node, in_function=False)
    if total.called > CALLED or total.calls > CALLS or total.graphs > GRAPHS:
        raise LoadError(
            f"{name}: the calls of its functions stand for too much: "
            f"{total.calls:,} calls of {total.called:,} nodes and {total.graphs:,} graphs; "
            f"{CALLS:,}, {CALLED:,} and {GRAPHS:,} are checked"
        )


class _Cost(NamedTuple):
    """What is made of some nodes when functions are written out."""

    called: int = 0  # nodes of functions
    calls: int = 0
    graphs: int = 0  # within functions


class _Costs:
    """The cost of the functions of a model; each function is looked at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        functions: Sequence[onnx.FunctionProto],
    ) -> None:
        self.path = path
        self.functions = {(f.domain, f.name, f.overload): f for f in functions}
        self.known: dict[tuple[str, str, str], _Cost] = {}

    def of(
        self,
        nodes: Sequence[onnx.NodeProto],
        in_function: bool = True,
        depth: int = 0,
    ) -> _Cost:
        """The cost of these nodes, themselves included where they stand in a function."""
        if depth > DEPTH:
            raise LoadError(
                f"{in_a_line(self.path)}: its functions call each other in a circle, "
                f"or deeper than {DEPTH}"
            )
        found = [_Cost(called=len(nodes) if in_function else 0)]
        for node in nodes:
            for graph in _graphs_of(node):
                found.append(_Cost(graphs=int(in_function)))
                found.append(self.of(graph.node, in_function, depth + 1))
            key = (node.domain, node.op_type, node.overload)
            if key in self.functions:
                if key not in self.known:
                    body = self.functions[key].node
                    self.known[key] = self.of(body, depth=depth + 1)
                found += [_Cost(calls=1), self.known[key]]
        return _Cost(*(sum(counts) for counts in zip(*found, strict=True)))


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _data_file(folder: Path, location: str) -> os.stat_result | None:
    """What the file system says of a regular file below a folder.

    None for all else, links on the way there too.
    """
    parts = Path(location).parts
    leads_out = os.path.isabs(location) or ".." in parts
    if not parts or leads_out or set(location) & {"\\", "\0"}:
        return None
    steps = [folder.joinpath(*parts[:n]) for n in range(1, len(parts) + 1)]
    try:
        *folders, file = (os.lstat(step) for step in steps)
    except OSError:
        return None
    is_straight = all(stat.S_ISDIR(status.st_mode) for status in folders)
    is_plain = stat.S_ISREG(file.st_mode) and file.st_nlink == 1
    return file if is_straight and is_plain else None


def _digest(tensor: onnx.TensorProto) -> str:
    """The checksum that `save` stored of a tensor, "" where there is none."""
    return next((e.value for e in tensor.metadata_props if e.key == CHECKSUM), "")


def _check_overlaps(path: Path, places: list[_Place]) -> None:
    """Weights may share all of a region, where their contents are equal, but no part of one."""
    filled = sorted(p for p in places if p.region.start < p.region.end)
    for one, other in itertools.pairwise(filled):
        first, second = one.region, other.region
        if first == second or first.file != second.file:
            continue
        if second.start < first.end:
            raise LoadError(
                f"{in_a_line(path)}: {one.name[:80]!r} and {other.name[:80]!r} overlap "
                f"in {one.location[:80]!r}"
            )


class _Sum(NamedTuple):
    """The checksum that is stored of a weight ("" for none), and that of its bytes."""

    name: str
    stored: str
    found: str


def _check_sums(
    path: Path, model: onnx.ModelProto, places: list[_Place], progress: Progress | None
) -> int:
    """Read every weight, a shared region once; how many checksums were stored, all of them right."""
    sums = _sums_inside(model) + _sums_outside(path, places, progress)
    for one in sums:
        if one.stored not in ("", one.found):
            raise LoadError(
                f"{in_a_line(path)}: {one.name[:80]!r} is damaged: "
                "its bytes do not have the checksum that was stored"
            )
    return sum(bool(one.stored) for one in sums)


def _sums_inside(model: onnx.ModelProto) -> list[_Sum]:
    """The checksums of the tensors that lie in the model itself."""
    return [
        _Sum(tensor.name, _digest(tensor), hashlib.sha256(tensor.raw_data).hexdigest())
        for tensor in _messages(model, onnx.TensorProto)
        if tensor.data_location != onnx.TensorProto.EXTERNAL and _digest(tensor)
    ]


def _sums_outside(
    path: Path, places: list[_Place], progress: Progress | None
) -> list[_Sum]:
    """The checksums of the tensors in data files; `progress` is told the bytes read and those in all."""
    stored = [place for place in places if place.digest]
    locations = {place.region: place.location for place in stored}
    total = sum(region.end - region.start for region in locations)
    done = 0
    found: dict[_Region, str] = {}
    for region, location in locations.items():
        digest = hashlib.sha256()
        with open(path.parent / location, "rb", buffering=0) as file:
            file.seek(region.start)
            while chunk := file.read(min(CHUNK, region.end - file.tell())):
                digest.update(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(done, total)
        found[region] = digest.hexdigest()
    return [_Sum(place.name, place.digest, found[place.region]) for place in stored]
