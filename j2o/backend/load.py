"""Reads a model without its weights, or says in one line why it cannot be read.

`tensors.py` tells where weights lie, `summary.py` what a model holds, `check.py` whether it is sound.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from j2o.backend.asked import in_a_line, path_text
from j2o.backend.files import MESSAGE
from j2o.backend.wire import Costly, Damaged, scan
from j2o.errors import LoadError


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
    text = path_text(path, LoadError)
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
