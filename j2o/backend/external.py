"""Writing models: weights stream to disk in one pass, and what stands at the path is always a complete model.

Everything is first written and flushed under names of its own (`NAME.<nonce>.<n>.partial`). Then, alone in
the folder, the data files get names that no file of other contents has, so that an older model keeps its
data, and renaming the `.onnx` is the one step from the old model to the new. The names depend on the contents
and on what stood there, not on chance. `asked.py` checks what is asked for, `files.py` makes and names the
files, `disk.py` speaks to the system.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from j2o.backend.asked import (
    Progress,
    check_folder,
    check_sizes,
    checked_limit,
    checked_path,
    guarded,
    in_a_line,
)
from j2o.backend.files import MESSAGE, DataNames, Files, NewFile
from j2o.backend.proto import initializer, to_parts
from j2o.errors import SaveError
from j2o.ir.graph import Graph
from j2o.ir.tensor import Tensor

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

AUTOMATIC = 2**30  # bytes of weights above which they go to files of their own
INLINE = 1024  # smaller constants stay in the .onnx
# of weights in data files, so that runtimes can map them (ONNX, ExternalData.md)
ALIGNMENT = 4096
# key in a tensor's metadata; ONNX's own `checksum` is of whole files
CHECKSUM = "sha256"


def save(
    graph: Graph,
    opset: int,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    max_file_bytes: int | None = None,
    progress: Progress | None = None,
    sources: bool = True,
    system: Any = os,
) -> None:
    """Write a root graph as `Model.save` says; every call that changes the disk goes to `system`.

    Raises SaveError, with what stood at the path untouched, where the path or an option is none, where
    something else than a file stands there, where the folder is missing, cannot be written or is full, where
    a single file would exceed protobuf's 2 GiB, where a weight is not of the size it says, and where
    `progress` raises. What is no Exception (Ctrl-C, SystemExit) comes out as it is.
    """
    target = checked_path(path)
    limit = checked_limit(external_data, max_file_bytes, progress)
    check_folder(target)
    model, large = divided(graph, opset, sources)
    check_sizes(limit, large)
    total = sum(tensor.nbytes for tensor in large.values())
    if external_data is None:
        is_apart = limit is not None or total > AUTOMATIC
    else:
        is_apart = bool(external_data)
    pieces = [] if is_apart and large else _single(target, model, large)
    try:
        with ThreadPoolExecutor(3) as pool:
            files = Files(system, target, pool, guarded(progress), total)
            try:
                with files:
                    if pieces:
                        _write_single(files, pieces, large)
                    else:
                        _write_apart(files, target, model, large, limit)
            finally:
                files.close()  # which Ctrl-C may have kept from being done
    except OSError as error:
        raise SaveError(
            f"{in_a_line(target)}: cannot be written: {error.strerror or error}"
        ) from error


def divided(
    graph: Graph, opset: int, sources: bool
) -> tuple[onnx.ModelProto, dict[str, Tensor]]:
    """The model with its small constants, and the large ones by name."""
    model, constants = to_parts(graph, opset, sources=sources)
    large: dict[str, Tensor] = {}
    for name, tensor in constants.items():
        if tensor.nbytes >= INLINE:
            large[name] = tensor
        else:
            model.graph.initializer.append(initializer(name, tensor))
    return model, large


# ------------------------------------------------------------------------------------------- a single file


def _single(
    target: Path, model: onnx.ModelProto, large: dict[str, Tensor]
) -> list[bytes]:
    """What stands in the file before each weight, whose bytes and checksum follow it.

    The weights are the last fields of the graph and the graph is the last of the model, so no message is
    built that holds them (https://protobuf.dev/programming-guides/encoding: a key, a length, the bytes).
    """
    entries: list[bytes] = []
    size = 0
    for name, tensor in large.items():
        message = initializer(name, tensor, data=False)
        head = message.SerializeToString() + _key(message, "raw_data", tensor.nbytes)
        inside = len(head) + tensor.nbytes + len(_checksum(""))
        key = _key(model.graph, "initializer", inside)
        entries.append(key + head)
        size += len(key) + inside
    graph = model.graph.SerializeToString(deterministic=True)
    key = _key(model, "graph", len(graph) + size)
    model.ClearField("graph")
    start = model.SerializeToString(deterministic=True) + key + graph
    check_size(target, len(start) + size)
    return [start, *entries]


def _key(message: Message, field: str, size: int) -> bytes:
    """The key of a field of bytes (protobuf's wire type 2), and the length of what stands in it."""
    number = message.DESCRIPTOR.fields_by_name[field].number
    made = bytearray([number << 3 | 2])
    while size > 127:
        made.append(size & 127 | 128)
        size >>= 7
    return bytes([*made, size])


def _checksum(digest: str) -> bytes:
    """The field of a tensor that holds its checksum; of one length for all."""
    import onnx

    entry = onnx.StringStringEntryProto(key=CHECKSUM, value=digest or "0" * 64)
    return onnx.TensorProto(metadata_props=[entry]).SerializeToString()


def check_size(target: Path, size: int) -> None:
    """SaveError where a message would be longer than protobuf allows."""
    if size > MESSAGE:
        raise SaveError(
            f"{in_a_line(target)}: {size / 2**30:.1f} GiB do not fit a single file "
            "(protobuf's limit is 2 GiB); save with external_data=True"
        )


def _write_single(files: Files, pieces: list[bytes], large: dict[str, Tensor]) -> None:
    """Write the pieces and the weights in turn, and put the file in the place of the old model."""
    file = files.new()
    offset = files.write(file, pieces[0], 0)
    for piece, (name, tensor) in zip(pieces[1:], large.items(), strict=True):
        offset = files.write(file, piece, offset)
        digest = files.stream(file, offset, name, tensor)
        offset = files.write(file, _checksum(digest), offset + tensor.nbytes)
    files.sync(file)
    files.opened.lock()
    files.switch({files.name: file}, [])


# ----------------------------------------------------------------------------------------------- data files


class WeightPlace(NamedTuple):
    """Where a weight lies: the number of its file and the offset in it; and its checksum."""

    file: int
    offset: int
    digest: str


def _write_apart(
    files: Files,
    target: Path,
    model: onnx.ModelProto,
    large: dict[str, Tensor],
    limit: int | None,
) -> None:
    """Write data files, then the model that names them, and put it in the place of the old one."""
    made, places = write_data(files, large, limit)
    for file in made:
        files.sync(file)
    files.opened.lock()
    names = settle(files, made, places)
    for name, place in places.items():
        made_entry = entry(name, large[name], place, names[place.file])
        model.graph.initializer.append(made_entry)
    file = write_message(files, target, model)
    files.switch({files.name: file}, names)


def write_message(files: Files, target: Path, model: onnx.ModelProto) -> NewFile:
    """A new file with a model whose weights lie apart; SaveError where it is too long for one."""
    data = model.SerializeToString(deterministic=True)
    check_size(target, len(data))
    file = files.new()
    files.write(file, data, 0)
    return file


def entry(name: str, tensor: Tensor, place: WeightPlace, file: str) -> onnx.TensorProto:
    """What stands in the model of a weight in a data file (ONNX, ExternalData.md)."""
    made = initializer(name, tensor, data=False)
    made.data_location = made.EXTERNAL
    made.external_data.add(key="location", value=file)
    made.external_data.add(key="offset", value=str(place.offset))
    made.external_data.add(key="length", value=str(tensor.nbytes))
    made.MergeFromString(_checksum(place.digest))
    return made


def write_data(
    files: Files, large: dict[str, Tensor], limit: int | None
) -> tuple[list[NewFile], dict[str, WeightPlace]]:
    """Write data files; where each weight lies in them.

    A weight that turns out to equal an earlier one is taken back.
    """
    made = [files.new()]
    end = 0
    places: dict[str, WeightPlace] = {}
    first: dict[str, WeightPlace] = {}  # by the checksum
    known: dict[Any, WeightPlace] = {}  # by the origin
    for name, tensor in large.items():
        origin = tensor.origin
        if origin is not None and origin in known:
            places[name] = known[origin]
            files.skip(tensor.nbytes)
            continue
        start = end + -end % ALIGNMENT
        if limit and start and start + tensor.nbytes > limit:
            made.append(files.new())
            start = end = 0
        digest = files.stream(made[-1], start, name, tensor)
        place = WeightPlace(len(made) - 1, start, digest)
        places[name] = known[origin] = first.setdefault(digest, place)
        if places[name] is place:
            end = start + tensor.nbytes
        else:
            files.shorten(made[-1], end)
    if not end:  # all of the last file was taken back
        made = made[:-1]
    return made, places


def settle(
    files: Files, made: list[NewFile], places: dict[str, WeightPlace]
) -> list[str]:
    """Give data files names that no file of other contents has, and return these."""
    contents = repr({name: tuple(place) for name, place in places.items()})
    taken = set(files.opened.names())
    for attempt in itertools.count():
        names = _data_names(files.data_names, len(made), attempt, contents)
        if _are_free(files, made, names, taken):
            break
    for file, name in zip(made, names, strict=True):
        if name not in taken:
            files.rename(file, name)
    return names


def _data_names(kind: DataNames, count: int, attempt: int, contents: str) -> list[str]:
    """`MODEL.data`, `MODEL.1.data`, …; from the second attempt on with a digest of the contents."""
    tag = ""
    if attempt:
        digest = hashlib.sha256(f"{attempt}{contents}".encode()).hexdigest()
        tag = f".{digest[:8]}"
    numbers = [f".{i}" if i else "" for i in range(count)]
    return [kind.name(tag, number) for number in numbers]


def _are_free(
    files: Files, made: list[NewFile], names: list[str], taken: set[str]
) -> bool:
    """Return True where no name is that of a file of other contents than the one to be named."""
    # no generator: Python loses a Ctrl-C that comes as one ends
    for file, name in zip(made, names, strict=True):
        if name in taken and not files.same(file, name):
            return False
    return True
