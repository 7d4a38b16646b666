"""Writing models: weights stream to disk in one pass, and what stands at the path is always a complete model.

Everything is first written and flushed under names of its own (`NAME.<nonce>.<n>.partial`). Then, alone in the folder, the
data files get names that no file of other contents has, so that an older model keeps its data, and renaming the `.onnx`
is the one step from the old model to the new. The names depend on the contents and on what stood there, not on chance.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import operator
import os
import re
import secrets
import stat
import time
import unicodedata
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from j2o.backend import disk
from j2o.backend.proto import initializer, raw_chunks, to_parts
from j2o.errors import J2OError, SaveError, raised, shown
from j2o.ir.graph import Graph
from j2o.ir.tensor import CHUNK, Tensor

if TYPE_CHECKING:
    import onnx
    from google.protobuf.message import Message

T = TypeVar("T")
AUTOMATIC = 2**30  # bytes of weights above which they go to files of their own
MESSAGE = 2**31 - 1  # bytes of the longest message of protobuf
EARLY = 2**26  # bytes written after which the disk begins, while more is written
CACHED = (
    2**31
)  # bytes of a model that may stay in the system's cache: more would push out what others use
INLINE = 1024  # smaller constants stay in the .onnx
ALIGNMENT = 4096  # of weights in data files, so that runtimes can map them (ONNX, ExternalData.md)
CHECKSUM = (
    "sha256"  # key in a tensor's metadata; ONNX's own `checksum` is of whole files
)
LONGEST_NAME = 225  # bytes of a model's name: file systems allow 255, and `.<nonce>.<n>.partial` comes behind it
LONGEST_SHOWN = 200  # characters of a path in a message
_SEPARATORS = "[/\\\\]" if os.name == "nt" else "/"
_KINDS = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
Progress = Callable[[int, int], None]  # bytes written so far, bytes in all


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

    Raises SaveError, with what stood at the path untouched, where the path or an option is none, where something else
    than a file stands there, where the folder is missing, cannot be written or is full, where a single file would exceed
    protobuf's 2 GiB, where a weight is not of the size it says, and where `progress` raises. What is no Exception
    (Ctrl-C, SystemExit) comes out as it is.
    """
    target = checked_path(path)
    limit = _check_options(external_data, max_file_bytes, progress)
    check_folder(target)
    model, constants = to_parts(graph, opset, sources=sources)
    large = {name: t for name, t in constants.items() if t.nbytes >= INLINE}
    model.graph.initializer.extend(
        initializer(name, t) for name, t in constants.items() if name not in large
    )
    _check_limit(limit, large)
    total = sum(t.nbytes for t in large.values())
    separate = (
        limit is not None or total > AUTOMATIC
        if external_data is None
        else bool(external_data)
    )
    pieces = [] if separate and large else _single(target, model, large)
    try:
        with ThreadPoolExecutor(3) as pool:
            files = _Files(system, target, pool, _guarded(progress), total)
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


def in_a_line(path: object) -> str:
    """A path in a message of one line: not endless, and `?` for what cannot be printed."""
    text = str(path)
    if len(text) > LONGEST_SHOWN:
        text = text[: LONGEST_SHOWN // 2] + "…" + text[-LONGEST_SHOWN // 2 :]
    return "".join(c if c.isprintable() else "?" for c in text)


def checked_path(path: object) -> Path:
    """The path of a file to be written; SaveError where it is none, or where its name could not stand in a model."""
    text = None
    with contextlib.suppress(TypeError):
        text = os.fspath(path)  # type: ignore[call-overload]
    if not isinstance(text, str):
        raise SaveError(
            f"path={shown(path)}: give the name of a file as a str or a pathlib.Path"
        )
    last = re.split(_SEPARATORS, text)[-1]
    if last in ("", ".", ".."):
        raise SaveError(
            f"path={shown(text)}: names a folder; give the name of a file, such as 'model.onnx'"
        )
    if (
        "\0" in text
        or "\\" in last
        or any(unicodedata.category(c) in ("Cc", "Cs") for c in last)
    ):
        raise SaveError(
            f"path={shown(text)}: runtimes could not open a file of that name; "
            "leave out backslashes, control characters and what is not UTF-8"
        )
    size = len(last.encode())
    if size > LONGEST_NAME:
        raise SaveError(
            f"path={shown(text)}: the name of the file has {size} bytes; "
            f"at most {LONGEST_NAME} leave room for the names of the files beside it"
        )
    return Path(text)


def check_folder(target: Path) -> None:
    """SaveError where the folder of `target` is missing or cannot be written, or where no file stands at `target`.

    A link to a file, or to nothing, is as good as a file: the model takes its place, and what it leads to stays as it is.
    """
    folder, name = target.parent, in_a_line(target)
    try:
        is_folder = stat.S_ISDIR(os.stat(folder).st_mode)
    except FileNotFoundError:
        is_folder = False
    except OSError as error:
        raise SaveError(
            f"{name}: cannot be written: {error.strerror or error}"
        ) from error
    if not is_folder:
        raise SaveError(
            f"{name}: there is no folder '{in_a_line(folder)}'; make it first"
        )
    kind = _kind_at(target)
    if kind not in ("", "a file"):
        raise SaveError(f"{name}: is {kind}; give the name of a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SaveError(f"{name}: the folder '{in_a_line(folder)}' cannot be written")


def _kind_at(path: Path) -> str:
    """What stands at a path, or where a link there leads; "" for nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # nothing, or a link to nothing
        return ""
    return _KINDS.get(stat.S_IFMT(mode), "no file")


def _check_options(
    external_data: object, limit: object, progress: object
) -> int | None:
    """`max_file_bytes` as an int; SaveError where one of the options is not what it may be."""
    if not (external_data is None or isinstance(external_data, bool | np.bool_)):
        raise SaveError(
            f"external_data={shown(external_data)}: give True, False or None (True above 1 GiB of weights)"
        )
    if not (progress is None or callable(progress)):
        raise SaveError(
            f"progress={shown(progress)}: give a function that takes the bytes written and those in all"
        )
    if limit is None:
        return None
    number = 0
    with contextlib.suppress(TypeError):
        number = 0 if isinstance(limit, bool) else operator.index(limit)  # type: ignore[arg-type]
    if number < 1:
        raise SaveError(
            f"max_file_bytes={shown(limit)}: give a whole number of bytes from 1 on, or None"
        )
    if external_data is not None and not external_data:
        raise SaveError(
            f"max_file_bytes={limit}: there are no data files to split with external_data=False"
        )
    return number


def _check_limit(limit: int | None, large: dict[str, Tensor]) -> None:
    for name, tensor in large.items():
        if limit is not None and tensor.nbytes > limit:
            raise SaveError(
                f"max_file_bytes={limit}: {name!r} alone has {tensor.nbytes} bytes, and lies in one file"
            )


def _guarded(progress: Progress | None) -> Progress:
    """`progress` with what it raises as a SaveError that says so: an OSError of the user's is none of the disk."""

    def call(done: int, total: int) -> None:
        if progress is None:
            return
        try:
            progress(done, total)
        except J2OError:
            raise
        except Exception as error:
            raise SaveError(f"progress: the function raised {raised(error)}") from error

    return call


@dataclasses.dataclass
class _New:
    """A file that is being made: its handle (None when closed) and its name ("" when it is to stay)."""

    handle: int | None
    name: str


class _Files:
    """The files of one save, by plain names in one folder.

    Each new one is the save's own for as long as it lives, so that others tell it from a left-over, and is removed at the
    end unless it is to stay. What makes, names and removes files is done by another thread: Ctrl-C, which comes to the
    main thread, waits for the end of such a step and so never leaves a half of it.
    """

    def __init__(
        self,
        system: Any,
        target: Path,
        pool: ThreadPoolExecutor,
        progress: Progress,
        total: int,
    ) -> None:
        self.os, self.target, self.pool, self.progress, self.total = (
            system,
            target,
            pool,
            progress,
            total,
        )
        self.name = target.name
        self.folder: disk.Folder | None = None
        self.made: list[_New] = []
        self.others: list[int] = []  # handles of files that are only read
        self.nonce, self.count = secrets.token_hex(4), 0
        self.done = self.dirty = (
            0  # bytes written, and those since the disk was last told to begin
        )
        self.flushing: Future[Any] = pool.submit(bool)

    def __enter__(self) -> _Files:
        self.whole(self._open)
        while not self.whole(self.opened.begin):
            time.sleep(0.02)
        self.whole(self.clear, r"\.[0-9a-f]{8}\.\d+\.partial", abandoned=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def whole(self, step: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Do a step to its end; what comes to this thread meanwhile (Ctrl-C) is raised after it."""
        future = self.pool.submit(step, *args, **kwargs)
        stopped: BaseException | None = None
        while not future.done():
            try:
                wait([future])
            except BaseException as error:
                stopped = error
        if stopped is not None:
            raise stopped
        return future.result()

    @property
    def opened(self) -> disk.Folder:
        assert self.folder is not None
        return self.folder

    def _open(self) -> None:
        self.folder = disk.folder_kind()(self.os, self.target.parent, self.name)

    def close(self) -> None:
        """Remove what is not to stay, and give everything back; a second time does nothing."""
        self.whole(self._close)

    def _close(self) -> None:
        wait([self.flushing])
        while self.made:
            file = self.made.pop()
            if self.opened.closes_to_rename:
                self._close_one(file)
            if file.name:
                self.remove(file.name)
            self._close_one(file)
        while self.others:
            self.os.close(self.others.pop())
        if self.folder is not None:
            folder, self.folder = self.folder, None
            folder.close()

    def _close_one(self, file: _New) -> None:
        if file.handle is not None:
            handle, file.handle = file.handle, None
            self.os.close(handle)

    def new(self) -> _New:
        return self.whole(self._new)

    def _new(self) -> _New:
        while True:
            name = f"{self.name}.{self.nonce}.{self.count}.partial"
            self.count += 1
            handle = self.opened.create(name)
            if handle is not None:
                self.made.append(_New(handle, name))
                return self.made[-1]

    def write(self, file: _New, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data`, wherever the system stops short; the offset after it."""
        assert file.handle is not None
        rest = memoryview(data)
        while rest:
            written = self.opened.write(file.handle, rest, offset)
            offset, rest = offset + written, rest[written:]
        return offset

    def stream(self, file: _New, offset: int, name: str, tensor: Tensor) -> str:
        """Write a weight to `offset`; its checksum, taken (and the disk kept busy) while the next bytes are made and written."""
        digest = hashlib.sha256()
        start, hashed = offset, self.pool.submit(bool)
        for chunk in raw_chunks(tensor):
            hashed.result()
            hashed = self.pool.submit(digest.update, chunk)
            end = self.write(file, chunk, offset)
            self.done, self.dirty, offset = (
                self.done + end - offset,
                self.dirty + end - offset,
                end,
            )
            if self.dirty >= EARLY and self.flushing.done():
                self.flushing.result()  # an error of the disk is told once, and not to the next who asks
                self.flushing, self.dirty = (
                    self.pool.submit(self.flush, file, self.done),
                    0,
                )
            self.progress(self.done, self.total)
        hashed.result()
        if offset - start != tensor.nbytes:
            raise SaveError(
                f"weight {name!r}: its source gave {offset - start} bytes, {tensor.nbytes} are declared"
            )
        return digest.hexdigest()

    def flush(self, file: _New, done: int) -> None:
        """Bring what was written to the disk; its copy in memory is given back from `CACHED` bytes of the model on."""
        getattr(self.os, "fdatasync", self.os.fsync)(
            file.handle
        )  # macOS has neither fdatasync nor posix_fadvise
        if done > CACHED and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.handle, 0, 0, os.POSIX_FADV_DONTNEED)  # type: ignore[arg-type]

    def sync(self, file: _New) -> None:
        self.flushing.result()
        self.os.fsync(file.handle)

    def shorten(self, file: _New, size: int) -> None:
        self.os.ftruncate(file.handle, size)

    def rename(self, file: _New, name: str) -> None:
        self.whole(self._rename, file, name)

    def _rename(self, file: _New, name: str) -> None:
        if self.opened.closes_to_rename:
            self._close_one(file)
        self.opened.rename(file.name, name)
        file.name = name

    def switch(self, file: _New, data: list[str]) -> None:
        """From the old model to the new one with these data files; then those that only an older one had go."""
        self.whole(self._switch, file, data)

    def _switch(self, file: _New, data: list[str]) -> None:
        self.os.fsync(file.handle)
        self.opened.sync()
        # the data stays from here on: a renaming that gives an error may have been done
        for one in self.made:
            one.name = "" if one.name in data else one.name
        self._rename(file, self.name)
        file.name = ""
        self.opened.sync()
        self.clear(r"(\.[0-9a-f]{8})?(\.\d{1,7})?\.data", keep=data)

    def same(self, file: _New, name: str) -> bool:
        """Whether a regular file of one name has the contents of a new one; if so, they are on disk."""
        assert file.handle is not None
        read, size = self.opened.read, os.fstat(file.handle).st_size
        with contextlib.suppress(OSError):
            other = self.whole(self._open_other, name)
            if os.fstat(other).st_size != size:
                return False
            for at in range(0, size, CHUNK):
                if read(file.handle, CHUNK, at) != read(other, CHUNK, at):
                    return False
            self.os.fsync(other)
            return True
        return False

    def _open_other(self, name: str) -> int:
        self.others.append(self.opened.open_regular(name))
        return self.others[-1]

    def clear(
        self, pattern: str, keep: Sequence[str] = (), abandoned: bool = False
    ) -> None:
        """Remove the files of this model whose names go on like that; `abandoned`: those that no living save holds."""
        for name in self.opened.names():
            if re.fullmatch(re.escape(self.name) + pattern, name) and name not in keep:
                self.remove(name, abandoned)

    def remove(self, name: str, abandoned: bool = False) -> None:
        with contextlib.suppress(
            OSError
        ):  # a left-over tells what it is; the next save tries
            self.opened.remove(name, abandoned)


# -------------------------------------------------------------------------------------------------- a single file


def _single(
    target: Path, model: onnx.ModelProto, large: dict[str, Tensor]
) -> list[bytes]:
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
            f"{in_a_line(target)}: {size / 2**30:.1f} GiB do not fit a single file (protobuf's limit is 2 GiB); "
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
    files.opened.lock()
    files.switch(file, [])


# ------------------------------------------------------------------------------------------------------ data files


def _write_apart(
    files: _Files,
    target: Path,
    model: onnx.ModelProto,
    large: dict[str, Tensor],
    limit: int | None,
) -> None:
    made, places = _write_data(files, large, limit)
    for file in made:
        files.sync(file)
    files.opened.lock()
    names = _settle(files, made, repr(places))
    for name, (file, offset, digest) in places.items():
        tensor = initializer(name, large[name], data=False)
        tensor.data_location = tensor.EXTERNAL
        for key, value in (
            ("location", names[file]),
            ("offset", offset),
            ("length", large[name].nbytes),
        ):
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
) -> tuple[list[_New], dict[str, tuple[int, int, str]]]:
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
            files.shorten(made[-1], end)
    return made if end else made[:-1], places


def _settle(files: _Files, made: list[_New], contents: str) -> list[str]:
    """Give data files names that no file of other contents has: `NAME.data`, else with a digest of the contents."""
    taken = set(files.opened.names())
    for attempt in itertools.count():
        tag = (
            f".{hashlib.sha256(f'{attempt}{contents}'.encode()).hexdigest()[:8]}"
            if attempt
            else ""
        )
        names = [
            f"{files.name}{tag}.{i}.data" if i else f"{files.name}{tag}.data"
            for i in range(len(made))
        ]
        if _are_free(files, made, names, taken):
            break
    for file, name in zip(made, names, strict=True):
        if name not in taken:
            files.rename(file, name)
    return names


def _are_free(
    files: _Files, made: list[_New], names: list[str], taken: set[str]
) -> bool:
    """Whether no name is that of a file of other contents than the one to be named."""
    # no generator: Python loses a Ctrl-C that comes as one ends
    for file, name in zip(made, names, strict=True):
        if name in taken and not files.same(file, name):
            return False
    return True
