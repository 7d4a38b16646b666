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
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

from j2o.backend import disk
from j2o.backend.asked import Progress
from j2o.backend.proto import raw_chunks
from j2o.errors import SaveError
from j2o.ir.tensor import CHUNK, Tensor

T = TypeVar("T")
EARLY = 2**26  # bytes written after which the disk begins, while more is written
# bytes of a model that may stay in the system's cache: more would push out what others use
CACHED = 2**31
# names of files behind the name of a model
PARTIAL = r"\.[0-9a-f]{8}\.\d+\.partial"
DATA = r"(\.[0-9a-f]{8})?(\.\d{1,7})?\.data"


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
    ) -> None:
        self.os = system
        self.target = target
        self.pool = pool
        self.progress = progress
        self.total = total
        self.name = target.name
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
        self.whole(self.clear, PARTIAL, abandoned=True)
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

    def _close_one(self, file: NewFile) -> None:
        if file.handle is not None:
            handle, file.handle = file.handle, None
            self.os.close(handle)

    def new(self) -> NewFile:
        """A new file of this save, under a name of its own."""
        return self.whole(self._new)

    def _new(self) -> NewFile:
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
        if self.opened.closes_to_rename:
            self._close_one(file)
        self.opened.rename(file.name, name)
        file.name = name

    def switch(self, file: NewFile, data: list[str]) -> None:
        """From the old model to the new one with these data files.

        Then those that only an older one had go.
        """
        self.whole(self._switch, file, data)

    def _switch(self, file: NewFile, data: list[str]) -> None:
        self.os.fsync(file.handle)
        self.opened.sync()
        # the data stays from here on: a renaming that gives an error may have been done
        for one in self.made:
            one.name = "" if one.name in data else one.name
        self._rename(file, self.name)
        file.name = ""
        self.opened.sync()
        self.clear(DATA, keep=data)

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
        self.others.append(self.opened.open_regular(name))
        return self.others[-1]

    def clear(
        self, pattern: str, keep: Sequence[str] = (), abandoned: bool = False
    ) -> None:
        """Remove the files of this model whose names go on like that.

        With `abandoned`, those alone that no living save holds.
        """
        for name in self.opened.names():
            if re.fullmatch(re.escape(self.name) + pattern, name) and name not in keep:
                self.remove(name, abandoned)

    def remove(self, name: str, abandoned: bool = False) -> None:
        """Remove a file if that can be done: a left-over tells what it is, and the next save tries."""
        with contextlib.suppress(OSError):
            self.opened.remove(name, abandoned)
