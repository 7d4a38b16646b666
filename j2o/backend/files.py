"""The files of one save: made under names of its own, written, renamed, and removed unless they are to stay.

The order of the calls to the system is what makes a save safe; the tests stop it after each of them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from j2o.backend import disk
from j2o.backend.asked import Progress
from j2o.backend.proto import raw_chunks
from j2o.errors import SaveError
from j2o.ir.tensor import CHUNK, Tensor

T = TypeVar("T")
EARLY = 2**26  # bytes written after which the disk begins, while more is written
# bytes of a model that may stay in the system's cache: more would push out what others use
CACHED = 2**31
MESSAGE = 2**31 - 1  # bytes of the longest message of protobuf
# names of files: what stands behind the name of a model, and in the middle of the name of a data file
PARTIAL = r"\.[0-9a-f]{8}\.\d+\.partial"
MIDDLE = r"(\.[0-9a-f]{8})?(\.\d{1,7})?"


class DataNames(NamedTuple):
    """How the data files of a save are named: `STEM.DIGEST.NUMBER.SUFFIX`, the middle parts as needed.

    Those with names that several models share stay as long as a file in their folder speaks of them.
    """

    stem: str
    suffix: str
    are_shared: bool = False

    def name(self, tag: str, number: str) -> str:
        """The name with these middle parts, each empty or with a dot in front."""
        return f"{self.stem}{tag}{number}{self.suffix}"

    def fits(self, name: str) -> bool:
        """Return True for a name of this kind."""
        pattern = re.escape(self.stem) + MIDDLE + re.escape(self.suffix)
        return re.fullmatch(pattern, name) is not None


def data_names_of(model: str) -> DataNames:
    """How the data files of one model are named, by the name of the model."""
    return DataNames(model, ".data")


@dataclasses.dataclass
class NewFile:
    """A file that is being made: its handle (None when closed) and its name ("" when it is to stay)."""

    handle: int | None
    name: str


class Files:
    """The files of one save, by plain names in one folder.

    Each new one is the save's own for as long as it lives, so that others tell it from a left-over. It is
    removed at the end unless it is to stay. What makes, names and removes files is done by another thread:
    Ctrl-C, which comes to the main thread, waits for the end of such a step and so never leaves a half of it.
    """

    def __init__(
        self,
        system: Any,
        target: Path,
        pool: ThreadPoolExecutor,
        progress: Progress,
        total: int,
        data_names: DataNames | None = None,
    ) -> None:
        self.os = system
        self.target = target
        self.pool = pool
        self.progress = progress
        self.total = total
        self.name = target.name
        self.data_names = data_names or data_names_of(target.name)
        self.folder: disk.Folder | None = None
        self.made: list[NewFile] = []
        self.others: list[int] = []  # handles of files that are only read
        self.nonce = secrets.token_hex(4)
        self.count = 0
        self.done = 0  # bytes written
        self.dirty = 0  # those since the disk was last told to begin
        self.flushing: Future[Any] = pool.submit(bool)

    def __enter__(self) -> Files:
        self.whole(self._open)
        while not self.whole(self.opened.begin):
            time.sleep(0.02)
        self.whole(self._clear_partial)
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
        """The folder, which is open from the beginning of a save to its end."""
        assert self.folder is not None
        return self.folder

    def _open(self) -> None:
        """Open the folder for a save under this name."""
        self.folder = disk.folder_kind()(self.os, self.target.parent, self.name)

    def close(self) -> None:
        """Remove what is not to stay, and give everything back; a second time does nothing."""
        self.whole(self._close)

    def _close(self) -> None:
        """What `close` lets run to its end."""
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

    def _close_one(self, file: NewFile) -> None:
        """Close the handle of a file, if it is open."""
        if file.handle is not None:
            handle, file.handle = file.handle, None
            self.os.close(handle)

    def new(self) -> NewFile:
        """A new file of this save, under a name of its own."""
        return self.whole(self._new)

    def _new(self) -> NewFile:
        """What `new` lets run to its end: it takes the first name that nobody has."""
        while True:
            name = f"{self.name}.{self.nonce}.{self.count}.partial"
            self.count += 1
            handle = self.opened.create(name)
            if handle is not None:
                self.made.append(NewFile(handle, name))
                return self.made[-1]

    def write(self, file: NewFile, data: bytes | memoryview, offset: int) -> int:
        """Write all of `data`, wherever the system stops short; the offset after it."""
        assert file.handle is not None
        rest = memoryview(data)
        while rest:
            written = self.opened.write(file.handle, rest, offset)
            offset, rest = offset + written, rest[written:]
        return offset

    def stream(self, file: NewFile, offset: int, name: str, tensor: Tensor) -> str:
        """Write a weight to `offset`, and return its checksum.

        That is taken, and the disk kept busy, while the next bytes are made and written.
        """
        digest = hashlib.sha256()
        start, hashed = offset, self.pool.submit(bool)
        for chunk in raw_chunks(tensor):
            hashed.result()
            hashed = self.pool.submit(digest.update, chunk)
            end = self.write(file, chunk, offset)
            self.done += end - offset
            self.dirty += end - offset
            offset = end
            if self.dirty >= EARLY and self.flushing.done():
                # an error of the disk is told once, and not to the next who asks
                self.flushing.result()
                self.flushing = self.pool.submit(self.flush, file, self.done)
                self.dirty = 0
            self.progress(self.done, self.total)
        hashed.result()
        if offset - start != tensor.nbytes:
            raise SaveError(
                f"weight {name!r}: its source gave {offset - start} bytes, "
                f"{tensor.nbytes} are declared"
            )
        return digest.hexdigest()

    def skip(self, size: int) -> None:
        """Count bytes as written that stand in a file already."""
        self.done += size
        self.progress(self.done, self.total)

    def flush(self, file: NewFile, done: int) -> None:
        """Bring what was written to the disk.

        Its copy in memory is given back from `CACHED` bytes of the model on.
        """
        assert file.handle is not None
        # macOS has neither fdatasync nor posix_fadvise
        bring = getattr(self.os, "fdatasync", self.os.fsync)
        bring(file.handle)
        if done > CACHED and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.handle, 0, 0, os.POSIX_FADV_DONTNEED)

    def sync(self, file: NewFile) -> None:
        """Bring all of a file to the disk, and tell an error of the disk that came meanwhile."""
        self.flushing.result()
        self.os.fsync(file.handle)

    def shorten(self, file: NewFile, size: int) -> None:
        """Cut a file to its first `size` bytes."""
        self.os.ftruncate(file.handle, size)

    def rename(self, file: NewFile, name: str) -> None:
        """Give a new file another name; what bore it is gone."""
        self.whole(self._rename, file, name)

    def _rename(self, file: NewFile, name: str) -> None:
        """What `rename` lets run to its end."""
        if self.opened.closes_to_rename:
            self._close_one(file)
        self.opened.rename(file.name, name)
        file.name = name

    def switch(self, models: Mapping[str, NewFile], data: list[str]) -> None:
        """From the old models to the new ones with these data files, one after the other.

        Then those that only older ones had go.
        """
        self.whole(self._switch, models, data)

    def _switch(self, models: Mapping[str, NewFile], data: list[str]) -> None:
        """What `switch` lets run to its end."""
        for file in models.values():
            self.os.fsync(file.handle)
        self.opened.sync()
        # the data stays from here on: a renaming that gives an error may have been done
        for one in self.made:
            one.name = "" if one.name in data else one.name
        for name, file in models.items():
            self._rename(file, name)
            file.name = ""
        self.opened.sync()
        self._clear_data(models, data)

    def same(self, file: NewFile, name: str) -> bool:
        """Return True where a regular file of one name has the contents of a new one.

        Then they are on the disk.
        """
        assert file.handle is not None
        read = self.opened.read
        size = os.fstat(file.handle).st_size
        with contextlib.suppress(OSError):
            other = self.whole(self._open_other, name)
            if os.fstat(other).st_size != size:
                return False
            for offset in range(0, size, CHUNK):
                if read(file.handle, CHUNK, offset) != read(other, CHUNK, offset):
                    return False
            self.os.fsync(other)
            return True
        return False

    def _open_other(self, name: str) -> int:
        """Open a file that is there, to be closed with the save."""
        self.others.append(self.opened.open_regular(name))
        return self.others[-1]

    def _clear_partial(self) -> None:
        """Remove the partial files of this name that no living save holds."""
        for name in self.opened.names():
            if re.fullmatch(re.escape(self.name) + PARTIAL, name):
                self.remove(name, abandoned=True)

    def _clear_data(self, models: Collection[str], keep: Sequence[str]) -> None:
        """Remove the data files that older models at these names had, and that nobody else needs."""
        there = self.opened.names()
        own = list(map(data_names_of, models))
        for name in there:
            if name not in keep and any(kind.fits(name) for kind in own):
                self.remove(name)
        if not self.data_names.are_shared:
            return
        old = [n for n in there if self.data_names.fits(n) and n not in keep]
        others = [n for n in there if n not in keep and n not in old]
        for name in self._not_spoken_of(old, others):
            self.remove(name)

    def _not_spoken_of(self, data: list[str], files: Sequence[str]) -> list[str]:
        """Those of the data files whose names stand in none of these files."""
        for file in files:
            if data:
                data = [
                    name for name in data if name not in self._spoken_of(data, file)
                ]
        return data

    def _spoken_of(self, data: Sequence[str], file: str) -> set[str]:
        """The names that stand in a file, which may be a model: all of them where it cannot be read."""
        longest = max(len(name.encode()) for name in data)
        found: set[str] = set()
        try:
            handle = self.opened.look_into(file)
            if handle is None:
                return found
            self.others.append(handle)
            size = os.fstat(handle).st_size
            if size > MESSAGE:
                return found
            for offset in range(0, size, CHUNK):
                # with the start of the next chunk, as a name may stand across
                read = self.opened.read(handle, CHUNK + longest, offset)
                found.update(name for name in data if name.encode() in read)
        except OSError:
            return set(data)
        return found

    def remove(self, name: str, abandoned: bool = False) -> None:
        """Remove a file if that can be done: a left-over tells what it is, and the next save tries."""
        with contextlib.suppress(OSError):
            self.opened.remove(name, abandoned)
