"""Views of constants: transposed, cast, reshaped, sliced, … as they are read, one box after the other.

What comes of small constants is computed at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from j2o.ir.tensor import ArrayTensor, Box, Reader, Tensor, contiguous, extents, whole
from j2o.ir.types import DType, Type

COVER = 2**20  # bytes that may be read at once to get at fewer
Shape: TypeAlias = "tuple[int, ...]"


class View(Tensor):
    """What `open` reads of other tensors. `how` describes it and goes into the key."""

    __slots__ = ("_open", "bases", "how", "name")

    def __init__(self, how: str, type: Type, bases: tuple[Tensor, ...], open: Callable[[], Reader]) -> None:
        self.how, self.bases, self._open = how, bases, open
        self.dtype, self.shape = type.dtype, type.shape  # type: ignore[assignment]
        self.key = f"{how}({','.join(b.key for b in bases)})"
        names = {b.name for b in bases if b.name}
        self.name = names.pop() if len(names) == 1 else ""  # what is made from one weight keeps its name

    def reader(self) -> Reader:
        return self._open()


def view(how: str, type: Type, bases: tuple[Tensor, ...], open: Callable[[], Reader]) -> Tensor:
    """What `open` reads of `bases`: at once where all are small, else recorded."""
    made = View(how, type, bases, open)
    if not made.size:
        return ArrayTensor(np.empty(made.shape, made.dtype.numpy), name=made.name)
    if made.is_small and all(b.is_small for b in bases):
        return ArrayTensor(contiguous(np.asarray(made.load())), name=made.name)
    return made


def _of(how: str, x: Tensor, shape: Sequence[int], read: Callable[[Reader, Box], np.ndarray]) -> Tensor:
    """A view of one tensor, of its dtype."""
    return view(how, Type(x.dtype, tuple(shape)), (x,), lambda: functools.partial(read, x.reader()))


def mapped(fn: Callable[..., np.ndarray], how: str, type: Type, *bases: Tensor) -> Tensor:
    """`fn` of tensors, element by element, these broadcast against each other by numpy's rules."""

    def open() -> Reader:
        readers = [(b.shape, b.reader()) for b in bases]

        def read(box: Box) -> np.ndarray:
            with np.errstate(all="ignore"):
                return fn(*(r(unbroadcast(box, shape)) for shape, r in readers))

        return read

    return view(how, type, bases, open)


def unbroadcast(box: Box, shape: Shape) -> Box:
    """The part of an array of that shape which a box of what it is broadcast to shows."""
    return tuple(slice(0, 1) if d == 1 else s for d, s in zip(shape, box[len(box) - len(shape) :], strict=True))


def casted(x: Tensor, dtype: DType) -> Tensor:
    return mapped(lambda a: a.astype(dtype.numpy), f"cast[{dtype.value}]", Type(dtype, x.shape), x)


def transposed(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    back = [perm.index(axis) for axis in range(len(perm))]
    return _of(f"transpose{list(perm)}", x, [x.shape[p] for p in perm],
               lambda read, box: read(tuple(box[b] for b in back)).transpose(perm))  # fmt: skip


def broadcasted(x: Tensor, shape: Shape) -> Tensor:
    return _of(f"broadcast{list(shape)}", x, shape,
               lambda read, box: np.broadcast_to(read(unbroadcast(box, x.shape)), extents(box)))  # fmt: skip


def padded(x: Tensor, widths: Sequence[Sequence[int]], value: Tensor) -> Tensor:
    """`x` with `widths` (before, after) elements of a scalar's value around it, along each axis."""
    for axis, (low, high) in enumerate(widths):
        if low or high:
            ends = (broadcasted(value, (*x.shape[:axis], n, *x.shape[axis + 1 :])) for n in (low, high))
            x = concatenated((next(ends), x, next(ends)), axis)
    return x


def concatenated(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    ends = np.cumsum([p.shape[axis] for p in parts]).tolist()
    shape = (*parts[0].shape[:axis], ends[-1], *parts[0].shape[axis + 1 :])
    in_turn = math.prod(shape[:axis]) == 1  # what has been read is not needed again

    def open() -> Reader:
        readers: dict[int, Reader] = {}

        def piece(i: int, start: int, box: Box) -> np.ndarray:
            if i not in readers:
                if in_turn:
                    readers.clear()
                readers[i] = parts[i].reader()
            s = box[axis]
            own = slice(max(0, s.start - start), min(parts[i].shape[axis], s.stop - start))
            return contiguous(readers[i]((*box[:axis], own, *box[axis + 1 :])))

        def read(box: Box) -> np.ndarray:
            starts = [0, *ends]
            found = [
                i for i in range(len(parts)) if starts[i] < min(ends[i], box[axis].stop) and ends[i] > box[axis].start
            ]
            pieces = [piece(i, starts[i], box) for i in found]
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)

        return read

    return view(f"concat[{axis}]", Type(parts[0].dtype, shape), parts, open)


# ------------------------------------------------- through larger boxes of what they are made of


def _through(how: str, x: Tensor, shape: Sequence[int], cover: Callable[[Box], tuple[Box, Callable]]) -> Tensor:
    """A view whose boxes are cut out of larger ones: `cover(box)` is what is read of `x`, and what cuts out of that.

    A box that would take far more than it holds is put together of two halves.
    """

    def read(source: Reader, box: Box) -> np.ndarray:
        outer, cut = cover(box)
        size, read_size = (math.prod(extents(b)) * x.dtype.numpy.itemsize for b in (box, outer))
        axis = next((k for k, s in enumerate(box) if s.stop - s.start > 1), None)
        if axis is None or read_size <= max(COVER, 2 * size):
            return cut(source(outer))
        middle = (box[axis].start + box[axis].stop) // 2
        halves = (slice(box[axis].start, middle), slice(middle, box[axis].stop))
        return np.concatenate([read(source, (*box[:axis], half, *box[axis + 1 :])) for half in halves], axis)

    return _of(how, x, shape, read)


def sliced(x: Tensor, where: tuple[slice, ...]) -> Tensor:
    ranges = [range(d)[s] for s, d in zip(where, x.shape, strict=True)]
    return _picked("slice[{}]".format(",".join(f"{r.start}:{r.stop}:{r.step}" for r in ranges)), x, ranges)


def taken(x: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """`x[index]` along an axis; the index, of one axis, counts from either end and lies inside."""
    index = np.where(index < 0, index + x.shape[axis], index)
    how = f"take[{axis},{ArrayTensor(index).key}]"
    return _picked(how, x, [index if k == axis else range(d) for k, d in enumerate(x.shape)])


def _picked(how: str, x: Tensor, numbers: Sequence[range | np.ndarray]) -> Tensor:
    def cover(box: Box) -> tuple[Box, Callable]:
        outer, inner = [], []
        for all_of_axis, s in zip(numbers, box, strict=True):
            n = all_of_axis[s]
            low, high = (min(n[0], n[-1]), max(n[0], n[-1])) if isinstance(n, range) else (int(n.min()), int(n.max()))
            outer.append(slice(low, high + 1))
            inner.append(slice(None, None, n.step) if isinstance(n, range) else n - low)
        return tuple(outer), lambda array: array[tuple(inner)]

    return _through(how, x, [len(n) for n in numbers], cover)


def tiled(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """`np.tile(x, repeats)`, one number for each axis."""
    apart = [d for pair in zip((1,) * len(x.shape), x.shape, strict=True) for d in pair]
    wide = [d for pair in zip(repeats, x.shape, strict=True) for d in pair]
    shape = tuple(r * d for r, d in zip(repeats, x.shape, strict=True))
    return reshaped(broadcasted(reshaped(x, tuple(apart)), tuple(wide)), shape)


def reshaped(x: Tensor, shape: Shape) -> Tensor:
    if x.is_small:
        return ArrayTensor(contiguous(x.load()).reshape(shape), name=x.name)
    groups = axis_groups(x.shape, shape) if x.size else []

    def cover(box: Box) -> tuple[Box, Callable]:
        outer: list[slice] = []
        runs = []  # for each group: elements read, the first that is wanted, extents and steps of those wanted
        for old, new in groups:
            steps = [math.prod(shape[k + 1 : new.stop]) for k in range(new.start, new.stop)]
            first = sum(s.start * step for s, step in zip(box[new], steps, strict=True))
            last = sum((s.stop - 1) * step for s, step in zip(box[new], steps, strict=True))
            part, start = _flat_cover(x.shape[old], first, last)
            outer += part
            runs.append((math.prod(extents(part)), first - start, extents(box[new]), steps))

        def cut(array: np.ndarray) -> np.ndarray:
            flat = contiguous(array).reshape(-1)
            unit, at, size, strides = flat.itemsize, 0, [], []
            for count, first, wanted, steps in reversed(runs):
                at += first * unit
                size, strides = [*wanted, *size], [*(unit * s for s in steps), *strides]
                unit *= count
            return np.lib.stride_tricks.as_strided(flat[at // flat.itemsize :], size, strides, writeable=False)

        return tuple(outer), cut

    return _through(f"reshape{list(shape)}", x, shape, cover)


def axis_groups(old: Shape, new: Shape) -> list[tuple[slice, slice]]:
    """Runs of axes of two shapes of the same size, none of it 0, that hold the same elements."""
    groups, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        i0, j0, i, j = i, j, min(i + 1, len(old)), min(j + 1, len(new))
        while (have := math.prod(old[i0:i])) != (want := math.prod(new[j0:j])):
            i, j = (i + 1, j) if have < want else (i, j + 1)
        groups.append((slice(i0, i), slice(j0, j)))
    return groups


def _flat_cover(shape: Shape, first: int, last: int) -> tuple[Box, int]:
    """The smallest box that is one run of elements and has those from `first` to `last`; the number of its first one."""
    low, high = (np.unravel_index(n, shape) for n in (first, last))
    axis = next((k for k, (a, b) in enumerate(zip(low, high, strict=True)) if a != b), len(shape) - 1)
    box = tuple(slice(int(a), int(b) + 1) for a, b in zip(low[: axis + 1], high, strict=False))
    inner = shape[axis + 1 :]
    return (*box, *whole(inner)), first - first % math.prod(inner)
