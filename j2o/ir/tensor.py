"""Constants: a dtype, a shape, a key, and a way to read the data when it is needed.

Small constants are arrays in memory. Large ones are read while the model is written, one box (a range along every axis)
after the other; what passes do to them (see `views`) is done to each box, so that no large constant is ever whole in memory.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import SpecError
from j2o.ir.types import DType, Type, dtype_of

SMALL = (
    64 * 1024
)  # bytes; constants up to this size are computed with, larger ones only recorded
CHUNK = 16 * 1024 * 1024  # bytes read at a time

Box: TypeAlias = (
    "tuple[slice, ...]"  # start and stop along every axis, in the array and not empty
)
Reader: TypeAlias = "Callable[[Box], np.ndarray]"

_serial = itertools.count()


class Tensor:
    """Base class: `dtype`, `shape`, `key` (tree path or content hash, equal keys mean equal contents)."""

    __slots__ = ("dtype", "key", "shape")

    name = (
        ""  # the path in the user's tree of what the data comes from, where it has one
    )

    dtype: DType
    shape: tuple[int, ...]
    key: str

    @property
    def type(self) -> Type:
        return Type(self.dtype, self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements as ONNX stores them (sub-byte elements packed)."""
        return (self.size * self.dtype.bits + 7) // 8

    @property
    def is_small(self) -> bool:
        return self.nbytes <= SMALL

    def reader(self) -> Reader:
        """What reads boxes of the array; open files and whatever else reading needs is released with it."""
        raise NotImplementedError

    def load(self) -> np.ndarray:
        """The whole array; for large tensors this reads everything into memory."""
        return self.reader()(whole(self.shape))

    def chunks(self, limit: int = CHUNK) -> Iterator[np.ndarray]:
        """The elements in row-major order, as one-dimensional C-contiguous arrays of at most `limit` bytes (or one element).

        Memory stays within a few times `limit` where the source can be read in part.
        """
        read = self.reader()
        for box in boxes(self.shape, max(1, limit // self.dtype.numpy.itemsize)):
            yield contiguous(read(box)).reshape(-1)

    @property
    def scalar(self) -> Any:
        """The only element as a Python number; ValueError when there are more."""
        return self.load().item()

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, Tensor)
            and self.key == other.key
            and self.dtype == other.dtype
            and self.shape == other.shape
        )

    def __hash__(self) -> int:
        return hash((self.key, self.shape))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self.type}>"


class ArrayTensor(Tensor):
    """A constant in memory; never copied. The content hash is taken for small arrays only."""

    __slots__ = ("array", "name")

    def __init__(
        self, array: np.ndarray, key: str | None = None, name: str = ""
    ) -> None:
        self.array, self.name = array, name or key or ""
        self.dtype = dtype_of(array.dtype)
        self.shape = array.shape
        self.key = key or (
            _content_key(array) if array.nbytes <= SMALL else f"array_{next(_serial)}"
        )

    def reader(self) -> Reader:
        return lambda box: self.array[(*box, ...)]  # the dots keep a scalar an array

    def load(self) -> np.ndarray:
        return self.array


class LazyTensor(Tensor):
    """A constant that is read when asked for: `open()` gives its reader. SpecError names the tensor where that fails."""

    __slots__ = ("_open", "name")

    def __init__(self, type: Type, key: str, open: Callable[[], Reader]) -> None:
        self.dtype, self.shape, self.key = type.dtype, type.static_shape, key
        self.name, self._open = key, open

    def reader(self) -> Reader:
        read = self._guarded(self._open)
        return lambda box: self._guarded(read, box)

    def _guarded(self, fn: Callable[..., Any], *args: Any) -> Any:
        try:
            return fn(*args)
        except SpecError as error:
            raise SpecError(f"weights {self.key!r}: {error}") from error
        except Exception as error:  # whatever a source of the user's raises
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise SpecError(
                f"weights {self.key!r}: reading failed with {what}"
            ) from error


def tensor(value: object, dtype: DType | None = None) -> Tensor:
    """A tensor of a Python scalar, a sequence or an array; `dtype` converts (Python ints wrap, as JAX's constants do not)."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value, dtype=None if dtype is None else dtype.numpy)
    return ArrayTensor(array)


_text = functools.cache(
    str
)  # numpy takes longer for the name of a dtype than the digest of a few elements does


def _content_key(array: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8)
    digest.update(f"{_text(array.dtype)}{array.shape}".encode())
    return digest.hexdigest()


# -------------------------------------------------------------------------------------------------- boxes


def whole(shape: Sequence[int]) -> Box:
    """The box that is all of an array."""
    return tuple(slice(0, d) for d in shape)


def extents(box: Box) -> tuple[int, ...]:
    """The shape of what a box holds."""
    return tuple(s.stop - s.start for s in box)


def boxes(shape: Sequence[int], limit: int) -> Iterator[Box]:
    """The boxes of at most `limit` elements, in row-major order, that make up an array."""
    if 0 in shape:
        return
    axis = next(
        (k for k in range(len(shape)) if math.prod(shape[k + 1 :]) <= limit), None
    )
    if axis is None:
        yield ()
        return
    step = limit // math.prod(shape[axis + 1 :])
    for index in itertools.product(*(range(d) for d in shape[:axis])):
        for start in range(0, shape[axis], step):
            rows = slice(start, min(start + step, shape[axis]))
            yield (*(slice(i, i + 1) for i in index), rows, *whole(shape[axis + 1 :]))


BLOCK = 256  # rows turned at a time, few enough to stay in the nearest cache
PAD = 192  # bytes between them beyond a row, so that a column does not fall on one set of a cache


def contiguous(array: np.ndarray) -> np.ndarray:
    """`array` in C order; a copy only where it is not.

    A transposed array is turned in blocks that are first copied to rows of an uneven length: numpy's own copy walks
    down columns whose elements, for a width that is a power of two, evict each other from the cache.
    """
    if array.flags.c_contiguous or array.nbytes <= SMALL:
        return np.ascontiguousarray(array).reshape(array.shape)
    unit = _unit_axis(array)
    last = max(k for k, d in enumerate(array.shape) if d > 1)
    if unit == last:
        return np.ascontiguousarray(array)
    out = np.empty(array.shape, array.dtype)
    step = max(8, BLOCK // math.prod(array.shape[unit + 1 : last]))
    outer_axes = [k for k in range(array.ndim) if k not in (unit, last)]
    order = [*outer_axes, last, unit]
    for start in range(0, array.shape[last], step):
        piece = (*[slice(None)] * last, slice(start, start + step))
        rows = _with_uneven_rows(array[piece].transpose(order))
        out[piece] = rows.transpose(np.argsort(order))
    return out


def _unit_axis(array: np.ndarray) -> int:
    """The axis along which elements lie closest together in memory."""
    strides = [
        abs(stride) if stride and size > 1 else math.inf
        for stride, size in zip(array.strides, array.shape, strict=True)
    ]
    return strides.index(min(strides))


def _with_uneven_rows(rows: np.ndarray) -> np.ndarray:
    """A copy whose rows lie a few bytes more apart than they are long."""
    width = rows.shape[-1]
    wider = np.empty((*rows.shape[:-1], width + PAD // rows.itemsize), rows.dtype)
    copy = wider[..., :width]
    copy[...] = rows
    return copy
