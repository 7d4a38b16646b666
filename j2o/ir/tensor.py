"""Constants: a dtype, a shape, a key, and a way to read the data when it is needed.

Small constants are arrays in memory. Large ones are read while the model is written; what passes do to them
(transpose, cast, reshape, slice, …) is recorded in a `MappedTensor` and done while reading.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from j2o.ir.types import DType, Type, dtype_of

SMALL = 64 * 1024  # bytes; constants up to this size are computed with, larger ones only recorded
CHUNK = 16 * 1024 * 1024  # bytes read at a time

_serial = itertools.count()


class Tensor:
    """Base class: `dtype`, `shape`, `key` (tree path or content hash, equal keys mean equal contents)."""

    __slots__ = ("dtype", "key", "shape")

    name = ""  # the path in the user's tree of what the data comes from, where it has one

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

    def load(self) -> np.ndarray:
        """The whole array; for large tensors this reads everything into memory."""
        raise NotImplementedError

    def chunks(self) -> Iterator[np.ndarray]:
        """The elements in row-major order, as one-dimensional C-contiguous arrays of bounded size where the source allows."""
        flat = np.ascontiguousarray(self.load()).reshape(-1)
        step = max(1, CHUNK // max(1, flat.itemsize))
        for start in range(0, flat.size, step):
            yield flat[start : start + step]

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

    def __init__(self, array: np.ndarray, key: str | None = None, name: str = "") -> None:
        self.array, self.name = array, name or key or ""
        self.dtype = dtype_of(array.dtype)
        self.shape = array.shape
        self.key = key or (_content_key(array) if array.nbytes <= SMALL else f"array_{next(_serial)}")

    def load(self) -> np.ndarray:
        return self.array


class LazyTensor(Tensor):
    """A constant that is read when asked for: `read()` gives the array; `read_chunks()`, if given, flat pieces of it."""

    __slots__ = ("_read", "_read_chunks", "name")

    def __init__(
        self,
        type: Type,
        key: str,
        read: Callable[[], np.ndarray],
        read_chunks: Callable[[], Iterator[np.ndarray]] | None = None,
    ) -> None:
        self.dtype, self.shape, self.key = type.dtype, type.shape, key  # type: ignore[assignment]
        self.name = key
        self._read, self._read_chunks = read, read_chunks

    def load(self) -> np.ndarray:
        array = self._read()
        if array.shape != self.shape or array.dtype != self.dtype.numpy:
            raise ValueError(f"the source of {self.key} gave {array.dtype}{list(array.shape)}, declared as {self.type}")
        return array

    def chunks(self) -> Iterator[np.ndarray]:
        return self._read_chunks() if self._read_chunks else super().chunks()


class MappedTensor(Tensor):
    """`fn` of other tensors, computed when read. `how` describes it and goes into the key."""

    __slots__ = ("bases", "fn", "how", "name")

    def __init__(self, bases: tuple[Tensor, ...], how: str, fn: Callable[..., np.ndarray], type: Type) -> None:
        self.bases, self.how, self.fn = bases, how, fn
        self.dtype, self.shape = type.dtype, type.shape  # type: ignore[assignment]
        self.key = f"{how}({','.join(b.key for b in bases)})"
        self.name = name_of(bases)

    def load(self) -> np.ndarray:
        return np.asarray(self.fn(*(b.load() for b in self.bases)))


def tensor(value: object, dtype: DType | None = None) -> Tensor:
    """A tensor of a Python scalar, a sequence or an array; `dtype` converts (Python ints wrap, as JAX's constants do not)."""
    if isinstance(value, Tensor):
        return value
    array = np.asarray(value, dtype=None if dtype is None else dtype.numpy)
    return ArrayTensor(array)


def _content_key(array: np.ndarray) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8)
    digest.update(f"{array.dtype}{array.shape}".encode())
    return digest.hexdigest()


# ---------------------------------------------------------------------------------- recorded transforms


def name_of(bases: Sequence[Tensor]) -> str:
    """What is made from one tensor keeps its name."""
    return bases[0].name if len(bases) == 1 else ""


def mapped(fn: Callable[..., np.ndarray], how: str, type: Type, *bases: Tensor) -> Tensor:
    """`fn` of tensors: computed at once where all are small, else recorded."""
    if all(b.is_small for b in bases) and type.size <= SMALL:  # type: ignore[operator]
        array = np.ascontiguousarray(np.asarray(fn(*(b.load() for b in bases)), type.dtype.numpy))
        return ArrayTensor(array, name=name_of(bases))
    return MappedTensor(bases, how, fn, type)


def transposed(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    return mapped(
        lambda a: a.transpose(perm), f"transpose{list(perm)}", Type(x.dtype, tuple(x.shape[p] for p in perm)), x
    )


def reshaped(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    return mapped(lambda a: a.reshape(shape), f"reshape{list(shape)}", Type(x.dtype, shape), x)


def casted(x: Tensor, dtype: DType) -> Tensor:
    return mapped(lambda a: a.astype(dtype.numpy), f"cast[{dtype.value}]", Type(dtype, x.shape), x)


def sliced(x: Tensor, where: tuple[slice, ...]) -> Tensor:
    shape = tuple(len(range(*s.indices(d))) for s, d in zip(where, x.shape, strict=True))
    text = ",".join(f"{s.start}:{s.stop}:{s.step}" for s in where)
    return mapped(lambda a: a[where], f"slice[{text}]", Type(x.dtype, shape), x)


def concatenated(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    first = parts[0]
    shape = (*first.shape[:axis], sum(p.shape[axis] for p in parts), *first.shape[axis + 1 :])
    return mapped(lambda *arrays: np.concatenate(arrays, axis), f"concat[{axis}]", Type(first.dtype, shape), *parts)
