"""Views of constants: transposed, cast, reshaped, sliced, … as they are read, one box after the other.

What comes of small constants is computed at once.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.ir.tensor import ArrayTensor, Box, Reader, Tensor, contiguous, extents, whole
from j2o.ir.types import DType, Type

COVER = 2**20  # bytes that may be read at once to get at fewer
Shape: TypeAlias = "tuple[int, ...]"
Cut: TypeAlias = "Callable[[np.ndarray], np.ndarray]"


class View(Tensor):
    """What `open` reads of other tensors. `how` describes it and goes into the key."""

    __slots__ = ("_open", "bases", "how", "name")

    def __init__(
        self,
        how: str,
        type: Type,
        bases: tuple[Tensor, ...],
        open: Callable[[], Reader],
    ) -> None:
        self.how, self.bases, self._open = how, bases, open
        self.dtype, self.shape = type.dtype, type.static_shape
        self.key = f"{how}({','.join(b.key for b in bases)})"
        names = {b.name for b in bases if b.name}
        self.name = (
            names.pop() if len(names) == 1 else ""
        )  # what is made from one weight keeps its name

    def reader(self) -> Reader:
        return self._open()


def view(
    how: str, type: Type, bases: tuple[Tensor, ...], open: Callable[[], Reader]
) -> Tensor:
    """What `open` reads of `bases`: at once where all are small, else recorded."""
    made = View(how, type, bases, open)
    if not made.size:
        return ArrayTensor(np.empty(made.shape, made.dtype.numpy), name=made.name)
    if made.is_small and all(b.is_small for b in bases):
        return ArrayTensor(contiguous(np.asarray(made.load())), name=made.name)
    return made


def _of(
    how: str, x: Tensor, shape: Sequence[int], read: Callable[[Reader, Box], np.ndarray]
) -> Tensor:
    """A view of one tensor, of its dtype: `read(source, box)` makes a box of it."""

    def open() -> Reader:
        return functools.partial(read, x.reader())

    return view(how, Type(x.dtype, tuple(shape)), (x,), open)


def mapped(
    fn: Callable[..., np.ndarray], how: str, type: Type, *bases: Tensor
) -> Tensor:
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
    own = box[len(box) - len(shape) :]
    return tuple(
        slice(0, 1) if size == 1 else wanted
        for size, wanted in zip(shape, own, strict=True)
    )


def casted(x: Tensor, dtype: DType) -> Tensor:
    """`x` converted as numpy does it."""
    return mapped(
        lambda a: a.astype(dtype.numpy), f"cast[{dtype.value}]", Type(dtype, x.shape), x
    )


def transposed(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """`x` with its axes in the order `perm`."""
    back = [perm.index(axis) for axis in range(len(perm))]

    def read_transposed(read: Reader, box: Box) -> np.ndarray:
        source_box = tuple(box[k] for k in back)
        return read(source_box).transpose(perm)

    return _of(f"transpose{list(perm)}", x, [x.shape[p] for p in perm], read_transposed)


def broadcasted(x: Tensor, shape: Shape) -> Tensor:
    """`x` broadcast to `shape` by numpy's rules."""

    def read_broadcast(read: Reader, box: Box) -> np.ndarray:
        return np.broadcast_to(read(unbroadcast(box, x.shape)), extents(box))

    return _of(f"broadcast{list(shape)}", x, shape, read_broadcast)


def padded(x: Tensor, widths: Sequence[Sequence[int]], value: Tensor) -> Tensor:
    """`x` with `widths` (before, after) elements of a scalar's value around it, along each axis."""
    for axis, (low, high) in enumerate(widths):
        if low or high:
            before = broadcasted(value, _resized(x.shape, axis, low))
            after = broadcasted(value, _resized(x.shape, axis, high))
            x = concatenated((before, x, after), axis)
    return x


def _resized(shape: Shape, axis: int, size: int) -> Shape:
    """A shape with another size in one place."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def concatenated(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Tensors joined along an axis. A source is opened when the first box needs it."""
    ends = np.cumsum([p.shape[axis] for p in parts]).tolist()
    starts = [0, *ends[:-1]]
    shape = _resized(parts[0].shape, axis, ends[-1])
    in_turn = math.prod(shape[:axis]) == 1  # what has been read is not needed again

    def open() -> Reader:
        readers: dict[int, Reader] = {}

        def reader(i: int) -> Reader:
            if i not in readers:
                if in_turn:
                    readers.clear()
                readers[i] = parts[i].reader()
            return readers[i]

        def piece(i: int, box: Box) -> np.ndarray:
            """What the part `i` has of the box."""
            wanted = box[axis]
            own = slice(
                max(0, wanted.start - starts[i]),
                min(parts[i].shape[axis], wanted.stop - starts[i]),
            )
            return contiguous(reader(i)((*box[:axis], own, *box[axis + 1 :])))

        def read(box: Box) -> np.ndarray:
            wanted = box[axis]
            pieces = []
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                if start < min(end, wanted.stop) and end > wanted.start:
                    pieces.append(piece(i, box))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)

        return read

    return view(f"concat[{axis}]", Type(parts[0].dtype, shape), parts, open)


# ------------------------------------------------- through larger boxes of what they are made of


def _through(
    how: str, x: Tensor, shape: Sequence[int], cover: Callable[[Box], tuple[Box, Cut]]
) -> Tensor:
    """A view whose boxes are cut out of larger ones: `cover(box)` is what is read of `x`, and what cuts out of that.

    A box that would take far more than it holds is put together of two halves.
    """

    def nbytes(box: Box) -> int:
        return math.prod(extents(box)) * x.dtype.numpy.itemsize

    def read(source: Reader, box: Box) -> np.ndarray:
        outer, cut = cover(box)
        axis = next((k for k, s in enumerate(box) if s.stop - s.start > 1), None)
        if axis is None or nbytes(outer) <= max(COVER, 2 * nbytes(box)):
            return cut(source(outer))
        start, stop = box[axis].start, box[axis].stop
        middle = (start + stop) // 2
        first = read(source, (*box[:axis], slice(start, middle), *box[axis + 1 :]))
        second = read(source, (*box[:axis], slice(middle, stop), *box[axis + 1 :]))
        return np.concatenate([first, second], axis)

    return _of(how, x, shape, read)


class _Every:
    """The elements that a slice picks along one axis: `range(size)[slice]`."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, wanted: slice) -> tuple[slice, slice]:
        """The run of the source that has the wanted elements, and what picks them out of that run."""
        chosen = self.numbers[wanted]
        low, high = min(chosen[0], chosen[-1]), max(chosen[0], chosen[-1])
        return slice(low, high + 1), slice(None, None, chosen.step)


class _Listed:
    """The elements that a list of numbers picks along one axis."""

    def __init__(self, numbers: np.ndarray) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, wanted: slice) -> tuple[slice, np.ndarray]:
        """The run of the source that has the wanted elements, and what picks them out of that run."""
        chosen = self.numbers[wanted]
        low, high = int(chosen.min()), int(chosen.max())
        return slice(low, high + 1), chosen - low


def sliced(x: Tensor, where: tuple[slice, ...]) -> Tensor:
    """`x[where]`, one slice for each axis."""
    ranges = [range(size)[s] for s, size in zip(where, x.shape, strict=True)]
    written = ",".join(f"{r.start}:{r.stop}:{r.step}" for r in ranges)
    return _picked(f"slice[{written}]", x, [_Every(r) for r in ranges])


def taken(x: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """`x[index]` along an axis; the index, of one axis, counts from either end and lies inside."""
    from_start = np.where(index < 0, index + x.shape[axis], index)
    picks: list[_Every | _Listed] = [_Every(range(size)) for size in x.shape]
    picks[axis] = _Listed(from_start)
    return _picked(f"take[{axis},{ArrayTensor(from_start).key}]", x, picks)


def _picked(how: str, x: Tensor, picks: Sequence[_Every | _Listed]) -> Tensor:
    """What is picked of `x`, independently along each axis."""

    def cover(box: Box) -> tuple[Box, Cut]:
        parts = [pick.part(wanted) for pick, wanted in zip(picks, box, strict=True)]
        inner = tuple(inside for _, inside in parts)
        return tuple(outer for outer, _ in parts), lambda array: array[inner]

    return _through(how, x, [len(pick) for pick in picks], cover)


def tiled(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """`np.tile(x, repeats)`, one number for each axis."""
    apart: list[int] = []  # each axis with one of size 1 before it, which is broadcast
    wide: list[int] = []
    for count, size in zip(repeats, x.shape, strict=True):
        apart += [1, size]
        wide += [count, size]
    shape = tuple(count * size for count, size in zip(repeats, x.shape, strict=True))
    return reshaped(broadcasted(reshaped(x, tuple(apart)), tuple(wide)), shape)


class _Run(NamedTuple):
    """What a box of a reshaped tensor needs of one group of axes: a run of `count` elements.

    The wanted ones begin at the number `first` in the run, and lie `steps` apart along the box's axes.
    """

    count: int
    first: int
    wanted: Shape
    steps: list[int]


def reshaped(x: Tensor, shape: Shape) -> Tensor:
    """`x` with its elements, in row-major order, in another shape."""
    if x.is_small:
        return ArrayTensor(contiguous(x.load()).reshape(shape), name=x.name)
    groups = axis_groups(x.shape, shape) if x.size else []

    def cover(box: Box) -> tuple[Box, Cut]:
        outer: list[slice] = []
        runs: list[_Run] = []
        for old, new in groups:
            wanted = box[new]
            steps = [
                math.prod(shape[k + 1 : new.stop]) for k in range(new.start, new.stop)
            ]
            first = sum(s.start * step for s, step in zip(wanted, steps, strict=True))
            last = sum(
                (s.stop - 1) * step for s, step in zip(wanted, steps, strict=True)
            )
            part, start = _flat_cover(x.shape[old], first, last)
            outer += part
            runs.append(
                _Run(math.prod(extents(part)), first - start, extents(wanted), steps)
            )
        return tuple(outer), functools.partial(_cut_runs, runs)

    return _through(f"reshape{list(shape)}", x, shape, cover)


def _cut_runs(runs: Sequence[_Run], array: np.ndarray) -> np.ndarray:
    """The wanted elements of an array that holds one run for each group of axes, without a copy."""
    flat = contiguous(array).reshape(-1)
    unit, first = (
        flat.itemsize,
        0,
    )  # bytes between neighbours of the group; the first wanted byte
    size: list[int] = []
    strides: list[int] = []
    for run in reversed(runs):
        first += run.first * unit
        size = [*run.wanted, *size]
        strides = [*(unit * step for step in run.steps), *strides]
        unit *= run.count
    wanted = flat[first // flat.itemsize :]
    return np.lib.stride_tricks.as_strided(wanted, size, strides, writeable=False)


def axis_groups(old: Shape, new: Shape) -> list[tuple[slice, slice]]:
    """Runs of axes of two shapes of the same size, none of it 0, that hold the same elements."""
    groups = []
    old_end = new_end = 0
    while old_end < len(old) or new_end < len(new):
        old_start, new_start = old_end, new_end
        old_end = min(old_end + 1, len(old))
        new_end = min(new_end + 1, len(new))
        while True:
            have, want = (
                math.prod(old[old_start:old_end]),
                math.prod(new[new_start:new_end]),
            )
            if have == want:
                break
            if have < want:
                old_end += 1
            else:
                new_end += 1
        groups.append((slice(old_start, old_end), slice(new_start, new_end)))
    return groups


def _flat_cover(shape: Shape, first: int, last: int) -> tuple[Box, int]:
    """The smallest box that is one run of elements and has those from `first` to `last`; the number of its first one."""
    low = [int(k) for k in np.unravel_index(first, shape)]
    high = [int(k) for k in np.unravel_index(last, shape)]
    differing = (k for k in range(len(shape)) if low[k] != high[k])
    axis = next(
        differing, len(shape) - 1
    )  # the outermost axis along which the box is longer than 1
    box = tuple(slice(low[k], high[k] + 1) for k in range(axis + 1))
    inner = shape[axis + 1 :]
    return (*box, *whole(inner)), first - first % math.prod(inner)
