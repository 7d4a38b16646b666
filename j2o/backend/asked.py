"""What a call of `save` asks for: a path, a folder that takes the file, and options.

Nothing is changed on the disk here.
"""

from __future__ import annotations

import contextlib
import operator
import os
import re
import stat
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import SupportsIndex

import numpy as np

from j2o.errors import J2OError, SaveError, raised, shown
from j2o.ir.tensor import Tensor

Progress = Callable[[int, int], None]  # bytes written so far, bytes in all
# bytes of a model's name: file systems allow 255, and `.<nonce>.<n>.partial` comes behind it
LONGEST_NAME = 225
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


def in_a_line(path: object) -> str:
    """A path in a message of one line: not endless, and `?` for what cannot be printed."""
    text = str(path)
    if len(text) > LONGEST_SHOWN:
        text = text[: LONGEST_SHOWN // 2] + "…" + text[-LONGEST_SHOWN // 2 :]
    return "".join(c if c.isprintable() else "?" for c in text)


def path_text(path: object, error: type[J2OError]) -> str:
    """Return the name of a file that was given as a str or a path; the error where it is neither."""
    text: object = None
    with contextlib.suppress(TypeError):  # of an __fspath__ that gives something else
        text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        raise error(
            f"path={shown(path)}: give the name of a file as a str or a pathlib.Path"
        )
    return text


def checked_path(path: object) -> Path:
    """Return the path of a file to be written.

    SaveError where it is none, or where its name could not stand in a model.
    """
    text = path_text(path, SaveError)
    name = re.split(_SEPARATORS, text)[-1]
    if name in ("", ".", ".."):
        raise SaveError(
            f"path={shown(text)}: names a folder; "
            "give the name of a file, such as 'model.onnx'"
        )
    is_text = not any(unicodedata.category(c) in ("Cc", "Cs") for c in name)
    if "\0" in text or "\\" in name or not is_text:
        raise SaveError(
            f"path={shown(text)}: runtimes could not open a file of that name; "
            "leave out backslashes, control characters and what is not UTF-8"
        )
    size = len(name.encode())
    if size > LONGEST_NAME:
        raise SaveError(
            f"path={shown(text)}: the name of the file has {size} bytes; "
            f"at most {LONGEST_NAME} leave room for the names of the files beside it"
        )
    return Path(text)


def check_folder(target: Path) -> None:
    """Raise SaveError where the folder of `target` is missing or cannot be written, or no file stands there.

    A link to a file, or to nothing, is as good as a file: the model takes its place, and what it leads to
    stays as it is.
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


def checked_limit(
    external_data: object, max_file_bytes: object, progress: object
) -> int | None:
    """Return `max_file_bytes` as an int; SaveError where one of the options is not what it may be."""
    if not (external_data is None or isinstance(external_data, bool | np.bool_)):
        raise SaveError(
            f"external_data={shown(external_data)}: "
            "give True, False or None (True above 1 GiB of weights)"
        )
    if not (progress is None or callable(progress)):
        raise SaveError(
            f"progress={shown(progress)}: "
            "give a function that takes the bytes written and those in all"
        )
    if max_file_bytes is None:
        return None
    limit = _whole_number(max_file_bytes)
    if limit < 1:
        raise SaveError(
            f"max_file_bytes={shown(max_file_bytes)}: "
            "give a whole number of bytes from 1 on, or None"
        )
    if external_data is not None and not external_data:
        raise SaveError(
            f"max_file_bytes={max_file_bytes}: "
            "there are no data files to split with external_data=False"
        )
    return limit


def _whole_number(value: object) -> int:
    """An integer of Python's or another's; 0 for all else, bools too."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        with contextlib.suppress(TypeError):
            return operator.index(value)
    return 0


def check_sizes(limit: int | None, large: dict[str, Tensor]) -> None:
    """Raise SaveError where a weight alone is larger than a data file may be."""
    for name, tensor in large.items():
        if limit is not None and tensor.nbytes > limit:
            raise SaveError(
                f"max_file_bytes={limit}: {name!r} alone has {tensor.nbytes} bytes, "
                "and lies in one file"
            )


def guarded(progress: Progress | None) -> Progress:
    """Return `progress`, with what it raises as a SaveError that says so.

    An OSError of the user's function is none of the disk.
    """

    def call(done: int, total: int) -> None:
        """Tell the user's function how far a save is; SaveError where it raises."""
        if progress is None:
            return
        try:
            progress(done, total)
        except J2OError:
            raise
        except Exception as error:
            raise SaveError(f"progress: the function raised {raised(error)}") from error

    return call
