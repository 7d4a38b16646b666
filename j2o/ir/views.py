"""Views of constants: transposed, cast, reshaped, sliced, … as they are read, one box after the other.

What comes of small constants is computed at once.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.ir.tensor import ArrayTensor, Box, Reader, Tensor, contiguous, extents, whole
from j2o.ir.types import DType, Type

COVER = 2**20  # bytes that may be read at once to get at fewer
StaticShape: TypeAlias = "tuple[int, ...]"
Cut: TypeAlias = "Callable[[np.ndarray], np.ndarray]"
ReadFrom: TypeAlias = "Callable[[Reader, Box], np.ndarray]"  # a box, by a reader
Cover: TypeAlias = "Callable[[Box], tuple[Box, Cut]]"


def name_of_one(bases: Iterable[Tensor]) -> str:
    """What is made from constants is named as the one weight among them; "" where there are several."""
    names = {base.name for base in bases if base.name}
    return names.pop() if len(names) == 1 else ""


class TensorView(Tensor):
    """A constant made of others, `bases`: what `open()` returns reads it.

    `how` describes it and goes into the key.
    """

    __slots__ = ("_open", "bases", "how", "name")

    def __init__(
        self,
        how: str,
        type: Type,
        bases: tuple[Tensor, ...],
        open: Callable[[], Reader],
    ) -> None:
        self.how = how
        self.bases = bases
        self._open = open
        self.dtype = type.dtype
        self.shape = type.static_shape
        keys = ",".join(base.key for base in bases)
        self.key = f"{how}({keys})"
        self.name = name_of_one(bases)

    def reader(self) -> Reader:
        return self._open()


def is_in_memory(tensor: Tensor) -> bool:
    """Return True for an array in memory, and for what is made of such arrays alone."""
    if isinstance(tensor, TensorView):
        return all(map(is_in_memory, tensor.bases))
    return isinstance(tensor, ArrayTensor)


def view(
    how: str, type: Type, bases: tuple[Tensor, ...], open: Callable[[], Reader]
) -> Tensor:
    """A constant made of `bases` (see `TensorView`): computed at once where all are small, else recorded."""
    made = TensorView(how, type, bases, open)
    if not made.size:
        return ArrayTensor(np.empty(made.shape, made.dtype.numpy), name=made.name)
    if made.is_small and all(base.is_small for base in bases):
        array = np.asarray(made.load())
        return ArrayTensor(contiguous(array), name=made.name)
    return made


def _of(how: str, x: Tensor, shape: Sequence[int], read: ReadFrom) -> Tensor:
    """A view of one tensor, of its dtype: `read(source, box)` makes a box of it."""

    def open() -> Reader:
        return functools.partial(read, x.reader())

    return view(how, Type(x.dtype, tuple(shape)), (x,), open)


def mapped(
    fn: Callable[..., np.ndarray], how: str, type: Type, *bases: Tensor
) -> Tensor:
    """`fn` of tensors, element by element, these broadcast against each other by numpy's rules."""

    def open() -> Reader:
        readers = [(base.shape, base.reader()) for base in bases]

        def read(box: Box) -> np.ndarray:
            parts = [part(unbroadcast(box, shape)) for shape, part in readers]
            with np.errstate(all="ignore"):
                return fn(*parts)

        return read

    return view(how, type, bases, open)


def unbroadcast(box: Box, shape: StaticShape) -> Box:
    """The part of an array of that shape which a box of what it is broadcast to shows."""
    part = list(box[len(box) - len(shape) :])
    for axis, size in enumerate(shape):
        if size == 1:
            part[axis] = slice(0, 1)
    return tuple(part)


def casted(x: Tensor, dtype: DType) -> Tensor:
    """`x` converted as numpy does it."""

    def convert(array: np.ndarray) -> np.ndarray:
        return array.astype(dtype.numpy)

    return mapped(convert, f"cast[{dtype.value}]", Type(dtype, x.shape), x)


def transposed(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """`x` with its axes in the order `perm`."""
    back = [perm.index(axis) for axis in range(len(perm))]

    def read_transposed(read: Reader, box: Box) -> np.ndarray:
        source_box = tuple(box[axis] for axis in back)
        return read(source_box).transpose(perm)

    shape = [x.shape[axis] for axis in perm]
    return _of(f"transpose{list(perm)}", x, shape, read_transposed)


def broadcasted(x: Tensor, shape: StaticShape) -> Tensor:
    """`x` broadcast to `shape` by numpy's rules."""

    def read_broadcast(read: Reader, box: Box) -> np.ndarray:
        part = read(unbroadcast(box, x.shape))
        return np.broadcast_to(part, extents(box))

    return _of(f"broadcast{list(shape)}", x, shape, read_broadcast)


def padded(x: Tensor, widths: Sequence[Sequence[int]], value: Tensor) -> Tensor:
    """`x` with `widths` (before, after) elements of a scalar's value around it, along each axis."""
    for axis, (low, high) in enumerate(widths):
        if low or high:
            before = broadcasted(value, _resized(x.shape, axis, low))
            after = broadcasted(value, _resized(x.shape, axis, high))
            x = concatenated((before, x, after), axis)
    return x


def _resized(shape: StaticShape, axis: int, size: int) -> StaticShape:
    """A shape with another size in one place."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def _narrowed(box: Box, axis: int, span: slice) -> Box:
    """A box with another range along one axis."""
    return (*box[:axis], span, *box[axis + 1 :])


def concatenated(parts: tuple[Tensor, ...], axis: int) -> Tensor:
    """Tensors joined along an axis. A source is opened when the first box needs it."""
    ends = list(itertools.accumulate(part.shape[axis] for part in parts))
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
            """The elements of the box that the part `i` has."""
            start = max(0, box[axis].start - starts[i])
            stop = min(parts[i].shape[axis], box[axis].stop - starts[i])
            read_part = reader(i)
            return contiguous(read_part(_narrowed(box, axis, slice(start, stop))))

        def read(box: Box) -> np.ndarray:
            wanted = box[axis]
            pieces: list[np.ndarray] = []
            for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
                if start < min(end, wanted.stop) and end > wanted.start:
                    pieces.append(piece(i, box))
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)

        return read

    return view(f"concat[{axis}]", Type(parts[0].dtype, shape), parts, open)


# ---------------------------------------- through larger boxes of what they are made of


def _through(how: str, x: Tensor, shape: Sequence[int], cover: Cover) -> Tensor:
    """A view whose boxes are cut out of larger ones.

    `cover(box)` is the box of `x` that is read, and the function that cuts the wanted box out of
    what it holds.
    """
    itemsize = x.dtype.numpy.itemsize
    return _of(how, x, shape, functools.partial(_read_covered, cover, itemsize))


def _read_covered(cover: Cover, itemsize: int, source: Reader, box: Box) -> np.ndarray:
    """A box of a view of `_through`.

    One for which far more must be read than it holds is put together of two halves.
    """
    outer, cut = cover(box)
    axis = _axis_to_halve(box)
    outer_bytes = math.prod(extents(outer)) * itemsize
    box_bytes = math.prod(extents(box)) * itemsize
    if axis is None or outer_bytes <= max(COVER, 2 * box_bytes):
        return cut(source(outer))
    start = box[axis].start
    stop = box[axis].stop
    middle = (start + stop) // 2
    front = _narrowed(box, axis, slice(start, middle))
    back = _narrowed(box, axis, slice(middle, stop))
    first = _read_covered(cover, itemsize, source, front)
    second = _read_covered(cover, itemsize, source, back)
    return np.concatenate([first, second], axis)


def _axis_to_halve(box: Box) -> int | None:
    """The outermost axis along which a box is longer than 1, if there is one."""
    for axis, length in enumerate(extents(box)):
        if length > 1:
            return axis
    return None


class _Every:
    """The elements that a slice picks along one axis: `range(size)[slice]`."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def part(self, wanted: slice) -> tuple[slice, slice]:
        """The run of the source that has the wanted elements, and what picks them out of that run."""
        chosen = self.numbers[wanted]
        low = min(chosen[0], chosen[-1])
        high = max(chosen[0], chosen[-1])
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
        low = int(chosen.min())
        high = int(chosen.max())
        return slice(low, high + 1), chosen - low


def sliced(x: Tensor, where: tuple[slice, ...]) -> Tensor:
    """`x[where]`, one slice for each axis."""
    pairs = zip(where, x.shape, strict=True)
    ranges = [range(size)[span] for span, size in pairs]
    written = ",".join(f"{r.start}:{r.stop}:{r.step}" for r in ranges)
    return _picked(f"slice[{written}]", x, [_Every(numbers) for numbers in ranges])


def taken(x: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """`x[index]` along an axis; the index, of one axis, counts from either end and lies inside."""
    from_start = np.where(index < 0, index + x.shape[axis], index)
    picks: list[_Every | _Listed] = [_Every(range(size)) for size in x.shape]
    picks[axis] = _Listed(from_start)
    written = ArrayTensor(from_start).key
    return _picked(f"take[{axis},{written}]", x, picks)


def _picked(how: str, x: Tensor, picks: Sequence[_Every | _Listed]) -> Tensor:
    """A view of the elements that are picked of `x`, independently along each axis."""

    def cover(box: Box) -> tuple[Box, Cut]:
        pairs = zip(picks, box, strict=True)
        parts = [pick.part(wanted) for pick, wanted in pairs]
        outer = tuple(run for run, _ in parts)
        inner = tuple(inside for _, inside in parts)
        return outer, operator.itemgetter(inner)

    return _through(how, x, [len(pick) for pick in picks], cover)


def tiled(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """`np.tile(x, repeats)`, one number for each axis."""
    apart: list[int] = []  # each axis with one of size 1 before it, which is broadcast
    wide: list[int] = []
    shape: list[int] = []
    for count, size in zip(repeats, x.shape, strict=True):
        apart += [1, size]
        wide += [count, size]
        shape.append(count * size)
    repeated = broadcasted(reshaped(x, tuple(apart)), tuple(wide))
    return reshaped(repeated, tuple(shape))


class _Run(NamedTuple):
    """A run of `length` elements: what a box of a reshaped tensor needs of one group of axes.

    The wanted ones begin at the number `first` in the run, and lie `steps` apart along the box's axes.
    """

    length: int
    first: int
    wanted: StaticShape
    steps: list[int]


def reshaped(x: Tensor, shape: StaticShape) -> Tensor:
    """`x` with its elements, in row-major order, in another shape."""
    if x.is_small:
        return ArrayTensor(contiguous(x.load()).reshape(shape), name=x.name)
    groups = axis_groups(x.shape, shape) if x.size else []

    def cover(box: Box) -> tuple[Box, Cut]:
        outer: list[slice] = []
        runs: list[_Run] = []
        for old, new in groups:
            part, run = _run(x.shape[old], shape[new], box[new])
            outer += part
            runs.append(run)
        return tuple(outer), functools.partial(_cut_runs, runs)

    return _through(f"reshape{list(shape)}", x, shape, cover)


def _run(old: StaticShape, new: StaticShape, wanted: Box) -> tuple[Box, _Run]:
    """The part of the old axes of a group that holds a box of the new ones, and the run of elements in it."""
    steps = [math.prod(new[axis + 1 :]) for axis in range(len(new))]
    first = 0
    last = 0
    for span, step in zip(wanted, steps, strict=True):
        first += span.start * step
        last += (span.stop - 1) * step
    part, start = _flat_cover(old, first, last)
    length = math.prod(extents(part))
    return part, _Run(length, first - start, extents(wanted), steps)


def _cut_runs(runs: Sequence[_Run], array: np.ndarray) -> np.ndarray:
    """The wanted elements of an array that holds one run for each group of axes, without a copy."""
    flat = contiguous(array).reshape(-1)
    unit = flat.itemsize  # bytes between neighbours of the group
    first = 0  # the first wanted byte
    size: list[int] = []
    strides: list[int] = []
    for run in reversed(runs):
        first += run.first * unit
        size = [*run.wanted, *size]
        own = [unit * step for step in run.steps]
        strides = [*own, *strides]
        unit *= run.length
    wanted = flat[first // flat.itemsize :]
    return np.lib.stride_tricks.as_strided(wanted, size, strides, writeable=False)


def axis_groups(old: StaticShape, new: StaticShape) -> list[tuple[slice, slice]]:
    """Runs of axes of two shapes of the same size, none of it 0, that hold the same elements."""
    groups: list[tuple[slice, slice]] = []
    old_end = 0
    new_end = 0
    while old_end < len(old) or new_end < len(new):
        old_start = old_end
        new_start = new_end
        old_end = min(old_end + 1, len(old))
        new_end = min(new_end + 1, len(new))
        have = math.prod(old[old_start:old_end])
        want = math.prod(new[new_start:new_end])
        while have != want:  # the side that has fewer elements takes one axis more
            if have < want:
                have *= old[old_end]
                old_end += 1
            else:
                want *= new[new_end]
                new_end += 1
        groups.append((slice(old_start, old_end), slice(new_start, new_end)))
    return groups


def _flat_cover(shape: StaticShape, first: int, last: int) -> tuple[Box, int]:
    """The smallest box that is one run of elements and has those from `first` to `last`.

    The number of the first element of that run comes with it.
    """
    low = [int(number) for number in np.unravel_index(first, shape)]
    high = [int(number) for number in np.unravel_index(last, shape)]
    outer: list[slice] = []
    for from_, to in zip(low, high, strict=True):
        outer.append(slice(from_, to + 1))
        if from_ != to:  # the box is longer than 1 from here on: all that is inside
            break
    inner = shape[len(outer) :]
    return (*outer, *whole(inner)), first - first % math.prod(inner)
