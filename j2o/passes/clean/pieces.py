"""Rules of `shapes` for what takes tensors apart and puts pieces together: Pad, Slice, Concat, Gather."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.inference.shapes import END as PAST_ANY_END
from j2o.ir.ops import TO_THE_END
from j2o.ir.types import Dim, is_one, same_dim
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

Ints: TypeAlias = tuple[int, ...]


def type_stays(node: Node) -> bool:
    """Return True where the result has the type of the first operand."""
    return node.operand(0).type == node.out.type


# ------------------------------------------------------------------------------------------ Pad


@rewrite("pad_nothing", level=1)
def pad_nothing(op, x, pads):
    return op.Pad(x, pads, ..., mode=...)


@pad_nothing.becomes
def _(op, x, pads):
    """The type is no sign of it: one more in front and one less behind leave it as it was."""
    amounts = pads.known_ints
    if amounts is None or any(amounts):
        return None
    return x


@rewrite("pad_pad", level=1)
def pad_pad(op, x, first, second, mode):
    """Borders of one kind in a row are one; each is of the tensor that the one before gives."""
    return op.Pad(op.Pad(x, first, mode=mode), second, mode=mode)


@pad_pad.becomes
def _(op, x, first, second, mode):
    inner = first.known_ints
    outer = second.known_ints
    if inner is None or outer is None or min(*inner, *outer) < 0:
        return None
    rank = x.type.rank
    if len(inner) != 2 * rank or len(outer) != 2 * rank:
        return None
    for axis, size in enumerate(x.type.shape):
        low = inner[axis], outer[axis]
        high = inner[axis + rank], outer[axis + rank]
        if not _is_one_border(mode, size, low, high):
            return None
    both = tuple(map(sum, zip(inner, outer, strict=True)))
    return op.Pad(x, op.dims(both), mode=mode)


def _is_one_border(mode: str, size: Dim, low: Ints, high: Ints) -> bool:
    """Return True where borders along an axis, the inner and the outer one at each end, are one.

    Reflected are only elements of the tensor: those that the inner border has added are none of them.
    """
    inner = low[0], high[0]
    outer = low[1], high[1]
    if mode == "edge" or not any(inner) or not any(outer):
        return True
    is_one_each = 0 in low and 0 in high  # at each end
    if mode != "reflect" or not is_one_each:
        return False
    return dims.known_ge(size, max(outer) + 1)


# ---------------------------------------------------------------------------------------- Slice


@rewrite("known_end", level=1)
def known_end(op, x, starts, a, b):
    """Where a window ends: its start and its size are known."""
    return op.Slice(x, starts, op.Add(a, b), ...)


@known_end.becomes
def _(op, x, starts, a, b):
    start, size = a.known, b.known
    if start is None or size is None or len(start) != len(size):
        return None
    ends = op.dims(list(map(dims.add, start, size)))
    return op.Slice(x, starts, ends, *op.root.inputs[3:])


@rewrite("slice_nothing", level=1, where=type_stays)
def slice_nothing(op, x):
    return op.Slice(x, ...)


@slice_nothing.becomes
def _(op, x):
    """With steps of 1, what is as large as all of it is all of it."""
    steps = _entries(op.root, 4, ())
    if steps is None or any(step != 1 for step in steps):
        return None
    return x


@rewrite("slice_slice", level=1)
def slice_slice(op, x):
    """A slice of a slice is one."""
    return op.Slice(op.Slice(x, ...), ...)


@slice_slice.becomes
def _(op, x):
    inner = op.root.operand(0)
    cuts = cuts_of(inner.producer)
    outer = cuts_of(op.root)
    if cuts is None or outer is None:
        return op.decline("where they cut is not known")
    for axis, cut in outer.items():
        if axis in cuts:
            sizes = (x.type.shape[axis], inner.type.shape[axis])
            cut = _cut_of_cut(cuts[axis], cut, *sizes)
        if cut is None:
            return op.decline("what both leave of an axis is not known")
        cuts[axis] = cut
    starts, ends, steps = zip(*cuts.values(), strict=True)
    return op.Slice(x, *(op.dims(row) for row in (starts, ends, list(cuts), steps)))


class Cut(NamedTuple):
    """What Slice takes of one axis: `[start:end:step]`."""

    start: Dim
    end: Dim
    step: int

    def goes_on(self, size: Dim) -> bool:
        """Return True where it takes all from a place on, counted from the front, to the end."""
        is_from_front = type(self.start) is int and self.start >= 0 and self.step > 0
        is_past = type(self.end) is int and self.end >= PAST_ANY_END
        return is_from_front and (is_past or same_dim(self.end, size))


def cuts_of(node: Node) -> dict[int, Cut] | None:
    """What a Slice takes of each axis that it cuts; None where that is not known."""
    starts, ends = node.operand(1).known, node.operand(2).known
    if starts is None or ends is None:
        return None
    axes = _entries(node, 3, range(len(starts)))
    steps = _entries(node, 4, [1] * len(starts))
    if axes is None or steps is None or not dims.is_static(tuple(steps)):
        return None
    rank = node.operand(0).type.rank
    cuts: dict[int, Cut] = {}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        cuts[int(axis) % rank] = Cut(start, end, int(step))
    return cuts


def _entries(node: Node, index: int, default: Sequence[Dim]) -> Sequence[Dim] | None:
    """The entries of an operand, `default` where it is left out; None where they are not known."""
    operand = node.optional(index)
    return default if operand is None else operand.known


def _cut_of_cut(inner: Cut, outer: Cut, size: Dim, between: Dim) -> Cut | None:
    """What two slices leave of an axis; None where that is not known.

    It has `size` elements, and `between` behind the inner one.
    """
    if dims.is_static((size, *inner, *outer)) and inner.step > 0 and outer.step > 0:
        places = range(size)[slice(*inner)][slice(*outer)]
        return Cut(places.start, places.stop, places.step)
    if not inner.goes_on(size) or not outer.goes_on(between):
        return None
    start = dims.add(inner.start, dims.mul(outer.start, inner.step))
    return Cut(start, TO_THE_END, inner.step * outer.step)


# ------------------------------------------------------------------------------ Concat, Gather


@rewrite("concat_empty", level=1)
def concat_empty(op, x):
    """What has no elements adds none: the rest that a rotary embedding leaves may be empty."""
    return op.Concat(x, ..., axis=...)


@concat_empty.becomes
def _(op, x):
    axis = op.root.int_attr("axis") % x.type.rank
    parts = op.root.operands
    kept = [part for part in parts if not same_dim(part.type.shape[axis], 0)]
    if len(kept) in (0, len(parts)):
        return None
    return op.Concat(*kept, axis=axis) if len(kept) > 1 else kept[0]


@rewrite("gather_of_concat", level=1, shared=True)
def gather_of_concat(op, x, index: Const, axis, along):
    """What is taken of one of several tensors that were put together."""
    return op.Gather(op.Concat(x, ..., axis=along), index, axis=axis)


@gather_of_concat.becomes
def _(op, x, index, axis, along):
    parts = op.root.operand(0).producer.operands
    places = index.known_ints
    axis %= x.type.rank
    if not places or index.type.rank > 1 or axis != along % x.type.rank:
        return None
    start = 0
    for part in parts:
        size = part.type.shape[axis]
        if type(size) is not int:
            return None
        inside = [place - start for place in places]
        if min(inside) >= 0 and max(inside) < size:
            return _taken(op, part, inside, axis, index.type.rank)
        start += size
    return None


def _taken(
    op: RuleBuilder, part: Value, places: list[int], axis: int, rank: int
) -> Value:
    """The elements at some places along an axis; all of them are the tensor itself."""
    if places == list(range(part.type.shape[axis])):
        return part if rank else op.squeeze(part, [axis])
    return op.Gather(part, np.array(places).reshape([-1] * rank), axis=axis)


@rewrite("gather_of_one", level=1)
def gather_of_one(op, x, index: Const, axis):
    """The one element along an axis, as a scalar index takes it."""
    return op.Gather(x, index, axis=axis)


@gather_of_one.becomes
def _(op, x, index, axis):
    if index.type.rank or index.known_ints not in ((0,), (-1,)):
        return None
    axis %= x.type.rank
    return op.squeeze(x, [axis]) if is_one(x.type.shape[axis]) else None


PIECES = (
    pad_nothing,
    pad_pad,
    known_end,
    slice_nothing,
    slice_slice,
    concat_empty,
    gather_of_concat,
    gather_of_one,
)
