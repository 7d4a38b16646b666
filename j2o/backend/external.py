"""Writing models: weights stream to disk, and what stands at the path is always a complete model.

The new files are written beside the old ones under names of their own, flushed, and the `.onnx` is renamed over the old
one last. A data file never replaces the one that an older `.onnx` refers to before that `.onnx` is gone.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx_ir as ir

from j2o.backend.proto import LIMIT, LazyProtoTensor, to_model
from j2o.errors import SaveError
from j2o.ir.graph import Graph
from j2o.ir.tensor import Tensor

AUTOMATIC = 2**30  # bytes of weights from which they go to a file of their own
INLINE = 1024  # smaller constants stay in the .onnx
ALIGNMENT = 4096
Progress = Callable[[int], None]


def save(
    graph: Graph,
    opset: int,
    path: str | os.PathLike[str],
    *,
    external_data: bool | None = None,
    name: str = "main",
    progress: Progress | None = None,
) -> None:
    """Write a root graph to `path`, its weights to `path + ".data"` with `external_data` (default: above 1 GiB).

    Raises SaveError, with what stood at the path untouched, where the folder is missing, cannot be written or is full, or
    where a single file would exceed protobuf's 2 GiB.
    """
    target = Path(path)
    check_folder(target)
    model = to_model(graph, opset, name)
    tensors = [v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, LazyProtoTensor)]
    total = sum(t.source.nbytes for t in tensors)
    separate = total > AUTOMATIC if external_data is None else external_data
    if not separate and total > LIMIT:
        raise SaveError(
            f"{target}: {total / 2**30:.1f} GiB of weights do not fit a single file (protobuf's limit is 2 GiB); "
            "save with external_data=True"
        )
    try:
        _write(target, model, tensors if separate else [], progress)
    except OSError as error:
        raise SaveError(f"{target}: cannot be written: {error.strerror or error}") from error


def check_folder(target: Path) -> None:
    """SaveError where the folder of `target` is missing or cannot be written, or `target` is a folder."""
    folder = target.parent
    if not folder.is_dir():
        raise SaveError(f"{target}: there is no folder {str(folder)!r}; make it first")
    if target.is_dir():
        raise SaveError(f"{target}: is a folder; give the name of a file")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise SaveError(f"{target}: the folder {str(folder)!r} cannot be written")


def _write(target: Path, model: ir.Model, tensors: list[LazyProtoTensor], progress: Progress | None) -> None:
    folder = target.parent
    stale = _data_files(target)
    made: list[Path] = []
    try:
        if tensors:
            data = folder / f"{target.name}.data"
            if data.exists() or data.is_symlink():  # an older model may refer to it
                data = folder / f"{target.name}.{secrets.token_hex(4)}.data"
            with _fresh(data, made) as file:
                places = _stream(file, tensors, progress)
            for value in model.graph.initializers.values():
                place = places.get(id(value.const_value))
                if place is not None:
                    value.const_value = _external(value.const_value, data.name, *place)  # type: ignore[arg-type]
            stale.discard(data)
        partial = folder / f".{target.name}.{secrets.token_hex(4)}.partial"
        with _fresh(partial, made) as file:
            file.write(ir.to_proto(model).SerializeToString())
        _sync_folder(folder)
        os.replace(partial, target)
        made.clear()
        _sync_folder(folder)
    finally:
        for path in made:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()
    for path in stale:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def _data_files(target: Path) -> set[Path]:
    """The data files that earlier saves of this path made: `NAME.data` and `NAME.<8 hex digits>.data`, no links."""
    own = [target.parent / f"{target.name}.data", *target.parent.glob(f"{target.name}.????????.data")]
    return {p for p in own if p.is_file() and not p.is_symlink()}


@contextlib.contextmanager
def _fresh(path: Path, made: list[Path]) -> Iterator[BinaryIO]:
    """A new file, never one that exists or a link; flushed to disk at the end."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0), 0o644)
    made.append(path)
    with os.fdopen(descriptor, "wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _stream(file: BinaryIO, tensors: list[LazyProtoTensor], progress: Progress | None) -> dict[int, tuple[int, int]]:
    """Write the large tensors one after the other, aligned; (offset, length) by `id` of the tensor."""
    places: dict[int, tuple[int, int]] = {}
    offset = 0
    for tensor in tensors:
        if tensor.source.nbytes < INLINE:
            continue
        padding = -offset % ALIGNMENT
        file.write(b"\0" * padding)
        offset += padding
        start = offset
        for chunk in raw_chunks(tensor.source):
            file.write(chunk)
            offset += len(chunk)
            if progress is not None:
                progress(offset)
        places[id(tensor)] = (start, offset - start)
    return places


def raw_chunks(tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of a constant as ONNX stores them: little-endian, sub-byte elements packed from the low bits."""
    if tensor.dtype.bits < 8:
        yield memoryview(_packed(tensor.load(), tensor.dtype.bits))
        return
    for chunk in tensor.chunks():
        if chunk.size:
            yield np.ascontiguousarray(chunk).reshape(-1).view(np.uint8).data


def _packed(array: np.ndarray, bits: int) -> bytes:
    per = 8 // bits
    flat = array.reshape(-1).view(np.uint8) & ((1 << bits) - 1)
    flat = np.concatenate([flat, np.zeros(-flat.size % per, np.uint8)]).reshape(-1, per)
    shifts = (np.arange(per) * bits).astype(np.uint8)
    return np.bitwise_or.reduce(flat << shifts, axis=1).astype(np.uint8).tobytes()


def _external(tensor: LazyProtoTensor, location: str, offset: int, length: int) -> ir.ExternalTensor:
    assert tensor.name is not None
    return ir.ExternalTensor(location, offset, length, tensor.dtype, shape=tensor.shape, name=tensor.name)  # type: ignore[arg-type]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
