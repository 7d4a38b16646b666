"""Tensors of a model as they are stored: how long their data must be, and where it lies.

LoadError where a tensor's data cannot be what its dtype and shape say.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from j2o.backend.asked import in_a_line
from j2o.backend.external import CHECKSUM
from j2o.errors import LoadError

T = TypeVar("T", bound=Message)
RANK = 1024  # sizes of a tensor; more are an attack
DTYPES = {d.value: d for d in ir.DataType if d.value}


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


class Region(NamedTuple):
    """A region of a file, which is told by device and inode."""

    file: tuple[int, int]
    start: int
    end: int


class Place(NamedTuple):
    """Where the external data of a tensor lies, and what is stored of it: its name and its checksum."""

    region: Region
    location: str
    name: str
    digest: str


def place_of(path: Path, tensor: onnx.TensorProto) -> Place | None:
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
    region = Region((status.st_dev, status.st_ino), int(offset), end)
    return Place(region, location, tensor.name, digest_of(tensor))


def data_files(weights: Iterable[onnx.TensorProto]) -> set[str]:
    """The names of the files in which weights lie, as these say."""
    names: set[str] = set()
    for tensor in weights:
        for entry in tensor.external_data:
            if entry.key == "location":
                names.add(entry.value)
    return names


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


def digest_of(tensor: onnx.TensorProto) -> str:
    """The checksum that `save` stored of a tensor, "" where there is none."""
    return next((e.value for e in tensor.metadata_props if e.key == CHECKSUM), "")


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


def messages_of(message: Message, kind: type[T]) -> Iterator[T]:
    """Every message of a kind of tensor in a message, wherever it stands.

    That is in initializers, attributes, subgraphs, functions and sparse tensors.
    """
    if isinstance(message, kind):
        yield message
        return
    for field, value in message.ListFields():
        if field.name in _HOLDERS:
            for part in (value,) if isinstance(value, Message) else value:
                yield from messages_of(part, kind)
