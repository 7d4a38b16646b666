"""Writing models: weights stream to disk in one pass, and what stands at the path is always a complete model.

Everything is first written and flushed under names of its own (`NAME.<nonce>.<n>.partial`). Then, alone in the folder, the
data files get names that no file of other contents has, so that an older model keeps its data, and renaming the `.onnx`
is the one step from the old model to the new. The names depend on the contents and on what stood there, not on chance.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from j2o.backend.proto import initializer, raw_chunks, to_parts
from j2o.errors import SaveError
from j2o.ir.graph import Graph
from j2o.ir.tensor import CHUNK, Tensor

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

AUTOMATIC = 2**30  # bytes of weights above which they go to files of their own
MESSAGE = 2**31 - 1  # bytes of the longest message of protobuf
EARLY = 2**26  # bytes written after which the disk begins, while more is written
CACHED = 2**31  # bytes of a model that may stay in the system's cache: more would push out what others use
INLINE = 1024  # smaller constants stay in the .onnx
ALIGNMENT = 4096  # of weights in data files, so that runtimes can map them (ONNX, ExternalData.md)
CHECKSUM = "sha256"  # key in a tensor's metadata; ONNX's own `checksum` is of whole files
Progress = Callable[[int, int], None]  # bytes written so far, bytes in all


def save(
    graph: Graph,
    opset: int,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    max_file_bytes: int | None = None,
    progress: Progress | None = None,
    system: Any = os,
) -> None:
    """Write a root graph as `Model.save` says; every call that changes the disk goes to `system`.

    Raises SaveError, with what stood at the path untouched, where the folder is missing, cannot be written or is full,
    where a single file would exceed protobuf's 2 GiB, and where a weight is not of the size it says.
    """
    target = Path(path)
    check_folder(target)
    model, constants = to_parts(graph, opset)
    large = {name: t for name, t in constants.items() if t.nbytes >= INLINE}
    model.graph.initializer.extend(initializer(name, t) for name, t in constants.items() if name not in large)
    _check_options(external_data, max_file_bytes, large)
    total = sum(t.nbytes for t in large.values())
    separate = bool(max_file_bytes) or total > AUTOMATIC if external_data is None else external_data
    pieces = [] if separate and large else _single(target, model, large)
    try:
        quiet = progress or (lambda done, total: None)
        with ThreadPoolExecutor(2) as pool, _Files(system, target, pool, quiet, total) as files:
            if pieces:
                _write_single(files, pieces, large)
            else:
                _write_apart(files, target, model, large, max_file_bytes)
    except OSError as error:
        raise SaveError(f"{target}: cannot be written: {error.strerror or error}") from error


def _check_options(external_data: object, limit: int | None, large: dict[str, Tensor]) -> None:
    if external_data not in (None, True, False):
        raise SaveError(f"external_data={external_data!r}: give True, False or None (True above 1 GiB of weights)")
    if limit is None:
        return
    if external_data is False:
        raise SaveError(f"max_file_bytes={limit}: there are no data files to split with external_data=False")
    for name, tensor in large.items():
        if tensor.nbytes > limit:
            raise SaveError(f"max_file_bytes={limit}: {name!r} alone has {tensor.nbytes} bytes, and lies in one file")


def check_folder(target: Path) -> None:
    """SaveError where the folder of `target` is missing or cannot be written, or `target` is a folder."""
    folder = target.parent
    if not folder.is_dir():
        raise SaveError(f"{target}: there is no folder {str(folder)!r}; make it first")
    if target.is_dir():
        raise SaveError(f"{target}: is a folder; give the name of a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SaveError(f"{target}: the folder {str(folder)!r} cannot be written")


class _Files:
    """The files of one save, by plain names in one open folder: never through a link, never outside of it.

    New files are handles. Each is locked for as long as the save lives, so that others tell it from a left-over, and
    removed at the end where its name in `made` has not been cleared.
    """

    def __init__(self, system: Any, target: Path, pool: ThreadPoolExecutor, progress: Progress, total: int) -> None:
        self.os, self.name, self.pool, self.progress, self.total = system, target.name, pool, progress, total
        self.folder: int = system.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        self.made: dict[int, str] = {}
        nonce = secrets.token_hex(4)
        self.fresh = (f"{self.name}.{nonce}.{n}.partial" for n in itertools.count())
        self.done = self.dirty = 0  # bytes written, and those since the disk was last told to begin
        self.flushing: Future[Any] = pool.submit(bool)

    def __enter__(self) -> _Files:
        self.clear(r"\.[0-9a-f]{8}\.\d+\.partial", abandoned=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown()  # what it still does is done to open files
        for file, name in self.made.items():
            if name:
                self.remove(name)
            self.os.close(file)
        self.os.close(self.folder)

    def new(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        while True:
            name = next(self.fresh)
            file = self.os.open(name, flags, 0o666, dir_fd=self.folder)
            self.made[file] = name
            _lock(file)
            if os.fstat(file).st_nlink:  # else another save took it for a left-over before it was locked
                return file

    def write(self, file: int, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data`, wherever the system stops short; the offset after it."""
        rest = memoryview(data)
        while rest:
            written = self.os.pwrite(file, rest, offset)
            offset, rest = offset + written, rest[written:]
        return offset

    def stream(self, file: int, offset: int, name: str, tensor: Tensor) -> str:
        """Write a weight to `offset`; its checksum, taken (and the disk kept busy) while the next bytes are made and written."""
        digest = hashlib.sha256()
        start, hashed = offset, self.pool.submit(bool)
        for chunk in raw_chunks(tensor):
            hashed.result()
            hashed = self.pool.submit(digest.update, chunk)
            end = self.write(file, chunk, offset)
            self.done, self.dirty, offset = self.done + end - offset, self.dirty + end - offset, end
            if self.dirty >= EARLY and self.flushing.done():
                self.flushing.result()  # an error of the disk is told once, and not to the next who asks
                self.flushing, self.dirty = self.pool.submit(self.flush, file, self.done), 0
            self.progress(self.done, self.total)
        hashed.result()
        if offset - start != tensor.nbytes:
            raise SaveError(f"weight {name!r}: its source gave {offset - start} bytes, {tensor.nbytes} are declared")
        return digest.hexdigest()

    def flush(self, file: int, done: int) -> None:
        """Bring what was written to the disk; its copy in memory is given back from `CACHED` bytes of the model on."""
        getattr(self.os, "fdatasync", self.os.fsync)(file)  # macOS has neither fdatasync nor posix_fadvise
        if done > CACHED and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, file: int) -> None:
        self.flushing.result()
        self.os.fsync(file)

    def rename(self, file: int, name: str) -> None:
        self.os.rename(self.made[file], name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.made[file] = name

    def switch(self, file: int, data: list[str]) -> None:
        """From the old model to the new one with these data files; then those that only an older one had go."""
        self.os.fsync(file)
        self.os.fsync(self.folder)
        # the data stays from here on: a renaming that gives an error may have been done
        self.made.update((f, "") for f, n in self.made.items() if n in data)
        self.rename(file, self.name)
        self.made[file] = ""
        self.os.fsync(self.folder)
        self.clear(r"(\.[0-9a-f]{8})?(\.\d{1,7})?\.data", keep=data)

    @contextlib.contextmanager
    def regular(self, name: str) -> Iterator[int]:
        """A handle for reading; OSError where there is no regular file of that name, or a link of any kind."""
        file = self.os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.folder)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
                raise FileExistsError(errno.EEXIST, "is a link or no file")
            yield file
        finally:
            self.os.close(file)

    def same(self, file: int, name: str) -> bool:
        """Whether a regular file of one name has the contents of a new one; if so, they are on disk."""
        with contextlib.suppress(OSError), self.regular(name) as other:
            size = os.fstat(file).st_size
            if os.fstat(other).st_size == size and all(
                os.pread(file, CHUNK, at) == os.pread(other, CHUNK, at) for at in range(0, size, CHUNK)
            ):
                self.os.fsync(other)
                return True
        return False

    def clear(self, pattern: str, keep: Sequence[str] = (), abandoned: bool = False) -> None:
        """Remove the files of this model whose names go on like that; `abandoned`: those that no living save holds."""
        for name in os.listdir(self.folder):
            if re.fullmatch(re.escape(self.name) + pattern, name) and name not in keep:
                self.remove(name, abandoned)

    def remove(self, name: str, abandoned: bool = False) -> None:
        with (
            contextlib.suppress(OSError),
            self.regular(name) as file,
        ):  # a left-over tells what it is; the next save tries
            if abandoned:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.os.unlink(name, dir_fd=self.folder)


def _lock(file: int) -> None:
    """Wait for a file or folder to be ours until it is closed; without effect where a file system knows no locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(file, fcntl.LOCK_EX)


# -------------------------------------------------------------------------------------------------- a single file


def _single(target: Path, model: onnx.ModelProto, large: dict[str, Tensor]) -> list[bytes]:
    """What stands in the file before each weight, whose bytes and checksum follow it.

    The weights are the last fields of the graph and the graph is the last of the model, so no message is built that
    holds them (protobuf's encoding: a key, a length, the bytes).
    """
    entries: list[bytes] = []
    size = 0
    for name, tensor in large.items():
        head = initializer(name, tensor, data=False)
        head = head.SerializeToString() + _key(head, "raw_data", tensor.nbytes)
        inside = len(head) + tensor.nbytes + len(_checksum(""))
        entries.append(_key(model.graph, "initializer", inside) + head)
        size += len(entries[-1]) - len(head) + inside
    graph = model.graph.SerializeToString(deterministic=True)
    key = _key(model, "graph", len(graph) + size)
    model.ClearField("graph")
    start = model.SerializeToString(deterministic=True) + key + graph
    _check_size(target, len(start) + size)
    return [start, *entries]


def _key(message: Message, field: str, size: int) -> bytes:
    """The key of a field and the length of what stands in it."""
    out = bytearray([message.DESCRIPTOR.fields_by_name[field].number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes([*out, size])


def _checksum(digest: str) -> bytes:
    """The field of a tensor that holds its checksum; of one length for all."""
    import onnx

    entry = onnx.StringStringEntryProto(key=CHECKSUM, value=digest or "0" * 64)
    return onnx.TensorProto(metadata_props=[entry]).SerializeToString()


def _check_size(target: Path, size: int) -> None:
    if size > MESSAGE:
        raise SaveError(
            f"{target}: {size / 2**30:.1f} GiB do not fit a single file (protobuf's limit is 2 GiB); "
            "save with external_data=True"
        )


def _write_single(files: _Files, pieces: list[bytes], large: dict[str, Tensor]) -> None:
    file = files.new()
    offset = files.write(file, pieces[0], 0)
    for piece, (name, tensor) in zip(pieces[1:], large.items(), strict=True):
        offset = files.write(file, piece, offset)
        digest = files.stream(file, offset, name, tensor)
        offset = files.write(file, _checksum(digest), offset + tensor.nbytes)
    files.sync(file)
    _lock(files.folder)
    files.switch(file, [])


# ------------------------------------------------------------------------------------------------------ data files


def _write_apart(
    files: _Files, target: Path, model: onnx.ModelProto, large: dict[str, Tensor], limit: int | None
) -> None:
    made, places = _write_data(files, large, limit)
    for file in made:
        files.sync(file)
    _lock(files.folder)
    names = _settle(files, made, repr(places))
    for name, (file, offset, digest) in places.items():
        tensor = initializer(name, large[name], data=False)
        tensor.data_location = tensor.EXTERNAL
        for key, value in (("location", names[file]), ("offset", offset), ("length", large[name].nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        tensor.MergeFromString(_checksum(digest))
        model.graph.initializer.append(tensor)
    data = model.SerializeToString(deterministic=True)
    _check_size(target, len(data))
    file = files.new()
    files.write(file, data, 0)
    files.switch(file, names)


def _write_data(
    files: _Files, large: dict[str, Tensor], limit: int | None
) -> tuple[list[int], dict[str, tuple[int, int, str]]]:
    """Data files, and for each weight the number of its file, the offset in it and the checksum.

    A weight that turns out to equal an earlier one is taken back.
    """
    made, end = [files.new()], 0
    places: dict[str, tuple[int, int, str]] = {}
    seen: dict[str, tuple[int, int, str]] = {}
    for name, tensor in large.items():
        start = end + -end % ALIGNMENT
        if limit and start and start + tensor.nbytes > limit:
            made.append(files.new())
            start = end = 0
        digest = files.stream(made[-1], start, name, tensor)
        place = len(made) - 1, start, digest
        places[name] = seen.setdefault(digest, place)
        if places[name] is place:
            end = start + tensor.nbytes
        else:
            files.os.ftruncate(made[-1], end)
    return made if end else made[:-1], places


def _settle(files: _Files, made: list[int], contents: str) -> list[str]:
    """Give data files names that no file of other contents has: `NAME.data`, else with a digest of the contents."""
    taken = set(os.listdir(files.folder))
    for attempt in itertools.count():
        tag = f".{hashlib.sha256(f'{attempt}{contents}'.encode()).hexdigest()[:8]}" if attempt else ""
        names = [f"{files.name}{tag}.{i}.data" if i else f"{files.name}{tag}.data" for i in range(len(made))]
        if all(n not in taken or files.same(f, n) for f, n in zip(made, names, strict=True)):
            break
    for file, name in zip(made, names, strict=True):
        if name not in taken:
            files.rename(file, name)
    return names
