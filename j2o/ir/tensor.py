"""Constants: a dtype, a shape, a key, and a way to read the data when it is needed.

Small constants are arrays in memory. Large ones are read while the model is written, one box (a
range along every axis) after the other. What passes do to them (see `views`) is done to each box,
so that no large constant is ever whole in memory.
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

# bytes; constants up to this size are computed with, larger ones only recorded
SMALL = 64 * 1024
CHUNK = 16 * 1024 * 1024  # bytes read at a time

# start and stop along every axis, in the array and not empty
Box: TypeAlias = "tuple[slice, ...]"
Reader: TypeAlias = "Callable[[Box], np.ndarray]"

_serial = itertools.count()


class Tensor:
    """Base class: `dtype`, `shape`, `key` (tree path or content hash, equal keys mean equal contents)."""

    __slots__ = ("dtype", "key", "shape")

    # the path in the user's tree of what the data comes from, where it has one
    name = ""

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
        return (math.prod(self.shape) * self.dtype.bits + 7) // 8

    @property
    def is_small(self) -> bool:
        """Return True where passes may compute with the elements."""
        return self.nbytes <= SMALL

    @property
    def origin(self) -> Any:
        """Equal ones mean equal elements, also where the keys differ; None where that is not known."""
        return None

    def reader(self) -> Reader:
        """A function that reads boxes of the array.

        It holds open files and all else that reading needs; these are released with it.
        """
        raise NotImplementedError

    def load(self) -> np.ndarray:
        """The whole array; for large tensors this reads everything into memory."""
        return self.reader()(whole(self.shape))

    def chunks(self, limit: int = CHUNK) -> Iterator[np.ndarray]:
        """The elements in row-major order, as one-dimensional C-contiguous arrays.

        Each has at most `limit` bytes, or one element. Memory stays within a few times `limit`
        where the source can be read in part.
        """
        read = self.reader()
        elements = limit // self.dtype.numpy.itemsize
        for box in boxes(self.shape, max(1, elements)):
            yield contiguous(read(box)).reshape(-1)

    @property
    def scalar(self) -> Any:
        """The only element as a Python number; ValueError when there are more."""
        return self.load().item()

    @property
    def entries(self) -> tuple[int, ...] | None:
        """The elements of a small vector or scalar of integers; None for other tensors."""
        if len(self.shape) > 1 or not self.dtype.is_int or not self.is_small:
            return None
        return tuple(map(int, self.load().reshape(-1)))

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Tensor) or self.key != other.key:
            return False
        return self.dtype == other.dtype and self.shape == other.shape

    def __hash__(self) -> int:
        return hash((self.key, self.shape))

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.key} {self.type}>"


class ArrayTensor(Tensor):
    """A constant in memory; never copied. The content hash is taken for small arrays only."""

    __slots__ = ("_entries", "array", "name")

    def __init__(
        self, array: np.ndarray, key: str | None = None, name: str = ""
    ) -> None:
        self.array = array
        self._entries: tuple[int, ...] | None = None
        self.name = name or key or ""
        self.dtype = dtype_of(array.dtype)
        self.shape = array.shape
        self.key = key or _key(array)

    @property
    def origin(self) -> Any:
        """The memory, and how the elements lie in it."""
        array = self.array
        return (array.ctypes.data, array.strides, array.shape, self.dtype)

    @property
    def entries(self) -> tuple[int, ...] | None:
        """Read once: types are inferred from a shape vector again and again."""
        if self._entries is None:
            self._entries = super().entries
        return self._entries

    def reader(self) -> Reader:
        return lambda box: self.array[(*box, ...)]  # the dots keep a scalar an array

    def load(self) -> np.ndarray:
        return self.array


class LazyTensor(Tensor):
    """A constant that is read when asked for: `open()` gives its reader.

    SpecError names the tensor where reading fails.
    """

    __slots__ = ("_open", "name")

    def __init__(self, type: Type, key: str, open: Callable[[], Reader]) -> None:
        self.dtype = type.dtype
        self.shape = type.static_shape
        self.key = key
        self.name = key
        self._open = open

    @property
    def origin(self) -> Any:
        """What opens the source."""
        return (id(self._open), self.shape, self.dtype)

    def reader(self) -> Reader:
        read = self._guarded(self._open)
        return lambda box: self._guarded(read, box)

    def _guarded(self, fn: Callable[..., Any], *args: Any) -> Any:
        """The function's result; SpecError where it fails."""
        try:
            return fn(*args)
        except SpecError as error:
            raise SpecError(f"weights {self.key!r}: {error}") from error
        except Exception as error:  # whatever a source of the user's raises
            what = " ".join(f"{type(error).__name__}: {error}".split())
            failed = f"weights {self.key!r}: reading failed with {what}"
            raise SpecError(failed) from error


def tensor(value: object, dtype: DType | None = None) -> Tensor:
    """A tensor of a Python scalar, a sequence or an array, converted where `dtype` is given.

    OverflowError where the dtype does not hold a Python integer.
    """
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value, dtype=None if dtype is None else dtype.numpy)
    return ArrayTensor(array)


# numpy takes longer for the name of a dtype than the digest of a few elements does
_text = functools.cache(str)


def _key(array: np.ndarray) -> str:
    """The digest of a small array's contents; a new number for a large one."""
    if array.nbytes > SMALL:
        return f"array_{next(_serial)}"
    kind = f"{_text(array.dtype)}{array.shape}".encode()
    return hashlib.blake2b(array.tobytes() + kind, digest_size=8).hexdigest()


# -------------------------------------------------------------------------------- boxes


def whole(shape: Sequence[int]) -> Box:
    """The box that is all of an array."""
    return tuple(slice(0, size) for size in shape)


def extents(box: Box) -> tuple[int, ...]:
    """The shape of what a box holds."""
    return tuple(span.stop - span.start for span in box)


def boxes(shape: Sequence[int], limit: int) -> Iterator[Box]:
    """The boxes of at most `limit` elements, in row-major order, that make up an array."""
    if 0 in shape:
        return
    if not shape:
        yield ()
        return
    axis = _axis_to_cut(shape, limit)
    size = shape[axis]
    inner = shape[axis + 1 :]
    step = limit // math.prod(inner)
    for index in itertools.product(*map(range, shape[:axis])):
        outer = [slice(number, number + 1) for number in index]
        for start in range(0, size, step):
            rows = slice(start, min(start + step, size))
            yield (*outer, rows, *whole(inner))


def _axis_to_cut(shape: Sequence[int], limit: int) -> int:
    """The outermost axis of which one number, with all that is inside it, keeps to the limit."""
    for axis in range(len(shape)):
        if math.prod(shape[axis + 1 :]) <= limit:
            return axis
    return len(shape) - 1


BLOCK = 256  # rows turned at a time, few enough to stay in the nearest cache
PAD = 192  # bytes between them beyond a row, so that a column does not fall on one set of a cache


def contiguous(array: np.ndarray) -> np.ndarray:
    """`array` in C order; a copy only where it is not.

    A transposed array is turned in blocks that are first copied to rows of an uneven length. For
    numpy's own copy walks down columns whose elements, where the width is a power of two, evict
    each other from the cache.
    """
    if array.flags.c_contiguous or array.nbytes <= SMALL:
        return np.ascontiguousarray(array).reshape(array.shape)
    unit = _unit_axis(array)
    last = max(axis for axis, size in enumerate(array.shape) if size > 1)
    if unit == last:
        return np.ascontiguousarray(array)
    out = np.empty(array.shape, array.dtype)
    step = max(8, BLOCK // math.prod(array.shape[unit + 1 : last]))
    outer_axes = [axis for axis in range(array.ndim) if axis not in (unit, last)]
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
    *outer, width = rows.shape
    padding = PAD // rows.itemsize
    wider = np.empty((*outer, width + padding), rows.dtype)
    copy = wider[..., :width]
    copy[...] = rows
    return copy
