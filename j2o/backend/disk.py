"""One folder, and what is done to its files.

That is done by a handle of the folder where the system has such, else by path (Windows). `Folder` never goes
through a link and never out of its folder, wherever this is moved meanwhile. `PathFolder` does with what
every system has: it takes turns by a file of its own, and renames files only when they are closed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from typing import Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

PATIENCE = 60.0  # seconds to wait for another save of the same model, where saves take turns by a file
_OPENABLE = 2.0  # seconds in which a lock that was just given back may still look forbidden (Windows)


class Folder:
    """A folder held open; every call goes to `system`, which is `os`. All give OSError."""

    closes_to_rename = False

    def __init__(self, system: Any, path: str | os.PathLike[str], model: str) -> None:
        self.os, self.model = system, model
        self.handle: int = system.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def create(self, name: str) -> int | None:
        """A handle of a new file, ours for as long as it lives.

        None where it was taken for a left-over before.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        file = self.os.open(name, flags, 0o666, dir_fd=self.handle)
        _lock(file)
        if os.fstat(file).st_nlink:
            return file
        self.os.close(file)
        return None

    def write(self, file: int, data: memoryview, offset: int) -> int:
        """Write some bytes of `data` to a place; how many."""
        return self.os.pwrite(file, data, offset)

    def read(self, file: int, size: int, offset: int) -> bytes:
        """Read at most `size` bytes from a place."""
        return os.pread(file, size, offset)

    def open_regular(self, name: str) -> int:
        """A handle for reading; OSError where no regular file has that name, or a link of any kind.

        Nothing else is opened.
        """
        _refuse_others(os.stat(name, dir_fd=self.handle, follow_symlinks=False))
        file = self.os.open(
            name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.handle
        )
        try:
            _refuse_others(os.fstat(file))
        except OSError:
            self.os.close(file)
            raise
        return file

    def look_into(self, name: str) -> int | None:
        """A handle for reading what a name leads to, by links too; None where that is no regular file."""
        try:
            status = os.stat(name, dir_fd=self.handle)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        flags = os.O_RDONLY | os.O_NONBLOCK
        return self.os.open(name, flags, dir_fd=self.handle)

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; one that bore it is replaced."""
        self.os.rename(old, new, src_dir_fd=self.handle, dst_dir_fd=self.handle)

    def remove(self, name: str, abandoned: bool = False) -> None:
        """Remove a regular file; `abandoned`: only if no living save holds it."""
        file = self.open_regular(name)
        try:
            if abandoned and fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.os.unlink(name, dir_fd=self.handle)
        finally:
            self.os.close(file)

    def names(self) -> list[str]:
        """The names of all that is in the folder."""
        return os.listdir(self.handle)

    def sync(self) -> None:
        """Bring the names to the disk."""
        self.os.fsync(self.handle)

    def begin(self) -> bool:
        """Return True where a save may begin: here always, as only what `lock` is for has to take turns."""
        return True

    def lock(self) -> None:
        """Be alone with the names of this folder, until `close`."""
        _lock(self.handle)

    def close(self) -> None:
        """Give the folder back, and with it what `lock` or `begin` took."""
        self.os.close(self.handle)


class PathFolder(Folder):
    """A folder by its path.

    Saves of one model take turns from `begin` to `close`, so that all partial files are left-overs.
    """

    closes_to_rename = True

    def __init__(self, system: Any, path: str | os.PathLike[str], model: str) -> None:
        self.os, self.model = system, model
        self.path = os.path.abspath(path)
        self.turn: int | None = None
        self.started = time.monotonic()

    def at(self, name: str) -> str:
        return os.path.join(self.path, name)

    def create(self, name: str) -> int | None:
        return self.os.open(
            self.at(name), os.O_RDWR | os.O_CREAT | os.O_EXCL | _BINARY, 0o666
        )

    def write(self, file: int, data: memoryview, offset: int) -> int:
        os.lseek(file, offset, os.SEEK_SET)
        return self.os.write(file, data)

    def read(self, file: int, size: int, offset: int) -> bytes:
        os.lseek(file, offset, os.SEEK_SET)
        return os.read(file, size)

    def open_regular(self, name: str) -> int:
        _refuse_others(os.lstat(self.at(name)))
        # for writing too: else Windows does not flush it
        return self.os.open(self.at(name), os.O_RDWR | _BINARY)

    def look_into(self, name: str) -> int | None:
        path = self.at(name)
        return (
            self.os.open(path, os.O_RDONLY | _BINARY) if os.path.isfile(path) else None
        )

    def rename(self, old: str, new: str) -> None:
        self.os.replace(self.at(old), self.at(new))

    def remove(self, name: str, abandoned: bool = False) -> None:
        _refuse_others(os.lstat(self.at(name)))
        self.os.unlink(self.at(name))

    def names(self) -> list[str]:
        return os.listdir(self.path)

    def sync(self) -> None:
        """Nothing: there is no call for it."""

    def begin(self) -> bool:
        """Return True where it is this save's turn; OSError where another's lasts too long."""
        lock = f"{self.model}.lock"
        waited = time.monotonic() - self.started
        try:
            # the system removes the file with its handle, also when the process is killed
            self.turn = self.os.open(
                self.at(lock), os.O_RDWR | os.O_CREAT | os.O_EXCL | _TEMPORARY, 0o666
            )
        except FileExistsError:
            if waited > PATIENCE:
                raise FileExistsError(
                    errno.EEXIST,
                    f"another save holds {lock!r}; if there is none, remove it",
                ) from None
        except PermissionError:
            if waited > _OPENABLE:
                raise
        return self.turn is not None

    def lock(self) -> None:
        """Nothing: it is this save's turn."""

    def close(self) -> None:
        if self.turn is not None:
            self.os.close(self.turn)
            self.turn = None
            with contextlib.suppress(OSError):
                self.os.unlink(self.at(f"{self.model}.lock"))


_BINARY = getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
_TEMPORARY = _BINARY | getattr(os, "O_TEMPORARY", 0)


def folder_kind() -> type[Folder]:
    """Return `Folder` where this system can do all that it needs, else `PathFolder`."""
    has_handles = (
        hasattr(os, "pwrite")
        and hasattr(os, "O_DIRECTORY")
        and os.open in os.supports_dir_fd
    )
    return Folder if has_handles and fcntl is not None else PathFolder


def _refuse_others(status: os.stat_result) -> None:
    """FileExistsError for all that is no regular file of one name."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise FileExistsError(errno.EEXIST, "is a link or no file")


def _lock(file: int) -> None:
    """Wait for a file or folder to be ours until it is closed.

    Without effect where a file system knows no locks.
    """
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
