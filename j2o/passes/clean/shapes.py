"""`shapes`: changes of shape and layout that need not be there, as rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.build import ones_added
from j2o.ir.graph import Node, Value
from j2o.ir.inference.shapes import END as PAST_ANY_END
from j2o.ir.types import Dim, DType, Shape, from_zero, is_one, same_dim, same_shape
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import Rule, RuleBuilder, RuleSet, rewrite

# these hand the elements of their first operand on, in another shape
RESHAPES = frozenset(["onnx.Reshape", "onnx.Squeeze", "onnx.Unsqueeze"])
# of two in a row, one is left
MERGED = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
SQUEEZABLE = ("Sum", "Mean", "Max", "Min", "Prod")
# a chain of these hands the number in a scalar on
HANDING_ON = RESHAPES | {"onnx.Cast"}
TO_THE_END = np.iinfo(np.int64).max  # as Slice says it
# attributes that do not matter to a rule
ANY = {
    "AveragePool": dict.fromkeys(
        (
            "auto_pad",
            "ceil_mode",
            "count_include_pad",
            "dilations",
            "kernel_shape",
            "pads",
            "strides",
        ),
        ...,
    ),
    "Concat": {"axis": ...},
    "Flatten": {"axis": ...},
    "Reshape": {"allowzero": ...},
}

Ints: TypeAlias = tuple[int, ...]


# ----------------------------------------------------------------------------------------------------- rules


def type_stays(node: Node) -> bool:
    """Return True where the result has the type of the first operand."""
    return node.operand(0).type == node.out.type


def _nothing(kind: str) -> Rule:
    """An operator that gives its first operand back where the type is the same, whatever its attributes."""

    @rewrite(f"{kind.lower()}_nothing", level=1, where=type_stays)
    def nothing(op, x):
        return getattr(op, kind)(x, ..., **ANY.get(kind, {}))

    @nothing.becomes
    def _(op, x):
        return x

    return nothing


@rewrite("tile_ones", level=1)
def tile_ones(op, x, repeats):
    """Axes of size 1 that are repeated are broadcast: other rules take an Expand away."""
    return op.Tile(x, repeats)


@tile_ones.becomes
def _(op, x, repeats):
    shape = op.out_type.shape
    pairs = zip(x.type.shape, shape, strict=True)
    if not all(is_one(size) or same_dim(size, wide) for size, wide in pairs):
        return None
    return op.expand(x, shape)


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
    if mode == "edge" or not any((low[0], high[0])) or not any((low[1], high[1])):
        return True
    is_of_two_ends = not (low[0] and low[1]) and not (high[0] and high[1])
    if mode != "reflect" or not is_of_two_ends:
        return False
    return dims.known_ge(size, max(low[1], high[1]) + 1)


@rewrite("slice_nothing", level=1)
def slice_nothing(op, x, start, end, axes, steps):
    return op.Slice(x, start, end, axes, steps)


@slice_nothing.becomes
def _(op, x, start, end, axes, steps):
    """With steps of 1, x has another type unless the slice is all of it; the rewriter then declines."""
    if not steps.known or any(step != 1 for step in steps.known):
        return None
    return x


def _merged(outer: str, inner: str) -> Rule:
    """Two changes of shape in a row are one."""

    @rewrite(f"{outer.lower()}_{inner.lower()}", level=1, shared=True)
    def merged(op, x):
        first = getattr(op, inner)(x, ..., **ANY.get(inner, {}))
        return getattr(op, outer)(first, ..., **ANY.get(outer, {}))

    @merged.becomes
    def _(op, x):
        shape = op.out_type.shape
        cheap = "Reshape" in (outer, inner) or _needs_no_sizes(shape)
        return op.reshape(x, shape) if cheap else op.view(x, shape)

    return merged


@rewrite("transpose_transpose", level=1, shared=True)
def transpose_transpose(op, x, first, second):
    return op.Transpose(op.Transpose(x, perm=first), perm=second)


@transpose_transpose.becomes
def _(op, x, first, second):
    inner = _permutation(first, x.type.rank)
    outer = _permutation(second, x.type.rank)
    return op.transpose(x, [inner[i] for i in outer])


def _permutation(perm: Sequence[int] | None, rank: int) -> Sequence[int]:
    """The axes that `perm` of a Transpose lists: all in reverse where it is left out."""
    return range(rank)[::-1] if perm is None else perm


def only_ones_move(node: Node) -> bool:
    """Return True where the axes of other sizes than 1 keep their order."""
    shape = node.operand(0).type.shape
    perm: Any = node.attrs.get("perm")
    last = -1
    for axis in _permutation(perm, len(shape)):
        if is_one(shape[axis]):
            continue
        if axis < last:
            return False
        last = axis
    return True


@rewrite("transpose_ones", level=1, where=only_ones_move)
def transpose_ones(op, x, perm):
    """A transpose that only moves axes of size 1 is a reshape."""
    return op.Transpose(x, perm=perm)


@transpose_ones.becomes
def _(op, x, perm):
    shape = x.type.shape
    if _needs_no_sizes(shape):
        return op.reshape(x, op.out_type.shape)
    flat = op.squeeze(x, _unit_axes(shape))
    return op.unsqueeze(flat, _unit_axes(op.out_type.shape))


def _unit_axes(shape: Shape) -> list[int]:
    """The axes of size 1."""
    return [axis for axis, size in enumerate(shape) if is_one(size)]


def _needs_no_sizes(shape: Shape) -> bool:
    """Return True where a Reshape to `shape` can leave its one unknown size to the runtime."""
    return sum(type(d) is not int for d in shape) <= 1


@rewrite("expand_expand", level=1)
def expand_expand(op, x, first, second):
    return op.Expand(op.Expand(x, first), second)


@expand_expand.becomes
def _(op, x, first, second):
    return op.expand(x, op.out_type.shape)


@rewrite("reshape_expand", level=1)
def reshape_expand(op, x, wide, shape_or_axes):
    """An Expand goes behind what only moves axes of size 1: what broadcasts by itself does not need it."""
    everywhere = op.Expand(x, wide)
    return op.either(
        op.Reshape(everywhere, shape_or_axes, allowzero=...),
        op.Unsqueeze(everywhere, shape_or_axes),
        op.Squeeze(everywhere, shape_or_axes),
    )


@reshape_expand.becomes
def _(op, x, wide, shape_or_axes):
    before, after = op.root.operand(0).type.shape, op.out_type.shape
    kept = [axis for axis, size in enumerate(before) if not is_one(size)]
    places = [axis for axis, size in enumerate(after) if not is_one(size)]
    sizes = tuple(before[axis] for axis in kept)
    if not same_shape(sizes, tuple(after[axis] for axis in places)):
        return None
    own = (*[1] * (len(before) - x.type.rank), *x.type.shape)
    shape: list[Dim] = [1] * len(after)
    for axis, place in zip(kept, places, strict=True):
        shape[place] = own[axis]
    return op.expand(op.reshape(x, shape), after)


@rewrite("rows_expand", level=1)
def rows_expand(op, x, wide, shape):
    """An Expand along axes in front goes behind a Reshape of those behind them: fewer elements are copied."""
    return op.Reshape(op.Expand(x, wide), shape, allowzero=...)


@rows_expand.becomes
def _(op, x, wide, shape):
    before, after = op.root.operand(0).type.shape, op.out_type.shape
    own = (*[1] * (len(before) - x.type.rank), *x.type.shape)
    front = 0
    while front < min(len(before), len(after)) and same_dim(
        before[front], after[front]
    ):
        front += 1
    if not same_shape(own[front:], before[front:]):
        return None
    return op.expand(op.reshape(x, (*own[:front], *after[front:])), after)


@rewrite("transpose_expand", level=1)
def transpose_expand(op, x, wide, perm):
    """An Expand goes behind a Transpose: fewer elements are moved."""
    return op.Transpose(op.Expand(x, wide), perm=perm)


@transpose_expand.becomes
def _(op, x, wide, perm):
    rank = op.out_type.rank
    whole = op.unsqueeze(x, range(rank - x.type.rank))
    moved = op.transpose(whole, _permutation(perm, rank))
    return op.expand(moved, op.out_type.shape)


@rewrite("slice_slice", level=1)
def slice_slice(op, x):
    """A slice of a slice is one."""
    return op.Slice(op.Slice(x, ...), ...)


@slice_slice.becomes
def _(op, x):
    inner = op.root.operand(0)
    cuts = _cuts(inner.producer)
    outer = _cuts(op.root)
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


def _cuts(node: Node) -> dict[int, Cut] | None:
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


@rewrite("reduce_transposed", level=2, shared=True)
def reduce_transposed(op, x, perm, axes, keep):
    """A tensor that only reductions take transposed is reduced first: what is transposed then is smaller."""
    transposed = op.Transpose(x, perm=perm)
    return op.either(
        *[
            getattr(op, f"Reduce{kind}")(transposed, axes, keepdims=keep)
            for kind in SQUEEZABLE
        ]
    )


@reduce_transposed.becomes
def _(op, x, perm, axes, keep):
    reduction = op.root
    users = reduction.operand(0).users()
    is_only_reduced = all(user.kind.startswith("Reduce") for user in users)
    if not is_only_reduced or not axes.known_ints:
        return None
    rank = x.type.rank
    perm = _permutation(perm, rank)
    over = from_zero(axes.known_ints, rank)
    moved = op.dims([perm[axis] for axis in over])
    reduced = op.node(reduction.op, [x, moved], reduction.attrs).out
    if keep != 0:
        return op.transpose(reduced, perm)
    kept = [perm[axis] for axis in range(rank) if axis not in over]
    return op.transpose(reduced, [sorted(kept).index(axis) for axis in kept])


@rewrite("mean", level=2)
def mean(op, x, axes, keep, n):
    """A sum divided by how many there are."""
    total = op.ReduceSum(x, axes, keepdims=keep)
    return op.either(op.Div(total, n), op.Mul(total, n))


@mean.becomes
def _(op, x, axes, keep, n):
    # a float16 sum overflows where ReduceMean, which adds in float32, does not; no axes mean all of them
    if not axes.known or x.type.dtype not in (DType.F32, DType.F64):
        return None
    count = dims.prod(x.type.shape[a] for a in from_zero(axes.known, x.type.rank))
    if not dims.known_ge(count, 1):  # the mean of nothing is NaN, ReduceMean's is 0
        return None
    multiplies = op.root.op == "onnx.Mul"
    if not (_is_inverse_of(n, count) if multiplies else _is_count(n, count)):
        return None
    return op.ReduceMean(x, axes, keepdims=keep)


@rewrite("average", level=2)
def average(op, x, number: Const, again: Const, perm):
    """An average times how many there are, divided by how many: as `flax.linen.avg_pool` divides a sum."""
    pooled = op.AveragePool(x, **ANY["AveragePool"])
    either = op.either(op.Transpose(pooled, perm=perm), pooled)
    return op.Div(op.Mul(either, number), again)


@average.becomes
def _(op, x, number, again, perm):
    """It is rounded once, not three times; a sum may overflow where the average does not."""
    if number.type.size != 1 or again.type.size != 1:
        return None
    n = float(number.const.scalar)
    if n != float(again.const.scalar) or not np.isfinite(n) or n < 1:
        return None
    left, right = op.root.operand(0).producer.operands
    return right if left.const is not None else left


@rewrite("count_is_positive", level=1)
def count_is_positive(op, n, x, y):
    """What is taken where there are elements, as `jnp.var` asks before it divides by their number."""
    return op.Where(op.Greater(n, 0.0), x, y)


@count_is_positive.becomes
def _(op, n, x, _y):
    # JAX counts in int32, and so takes a tensor to have fewer than 2³¹ elements
    count = size_of(n)
    if count is None or not dims.known_ge(count, 1):
        return None
    return op.expand(x, op.out_type.shape)


def _is_inverse_of(factor: Value, count: Dim) -> bool:
    """Return True where a constant is 1 / `count`, rounded to its dtype."""
    return type(count) is int and _is_number(factor, 1 / count)


def _is_count(divisor: Value, count: Dim) -> bool:
    """Return True where a value is `count`, rounded to its dtype where that is a number."""
    if type(count) is int:
        return _is_number(divisor, count)
    return size_of(divisor) == count


def _is_number(value: Value, number: float) -> bool:
    """Return True where a value is a constant of one element, `number` rounded to its dtype."""
    if value.const is None or value.type.size != 1:
        return False
    rounded = np.asarray(number).astype(value.type.dtype.numpy)
    return bool(value.const.load().reshape(()) == rounded)


def size_of(value: Value) -> Dim | None:
    """The size that a scalar holds: `Cast(Reshape(dims [n]))`.

    None where it holds something else, or a narrow dtype on the way may not hold it.
    """
    node = value.node
    while node is not None and node.op in HANDING_ON:
        if node.out.type.dtype.bits < 32:
            return None
        source = node.operand(0)
        if source.known is not None:
            return source.known[0] if len(source.known) == 1 else None
        node = source.node
    return None


@rewrite("splat", level=1)
def splat(op, x: Const, wide, shape_or_axes, perm):
    """One number in every place keeps being that in any shape."""
    everywhere = op.Expand(x, wide)
    return op.either(
        op.Reshape(everywhere, shape_or_axes, allowzero=...),
        op.Unsqueeze(everywhere, shape_or_axes),
        op.Squeeze(everywhere, shape_or_axes),
        op.Transpose(everywhere, perm=perm),
    )


@splat.becomes
def _(op, x, wide, shape_or_axes, perm):
    if x.type.size != 1:
        return None
    return op.expand(op.reshape(x, ()), op.out_type.shape)


def only_ones_differ(node: Node) -> bool:
    """Return True where operand and result have the same axes but for some of size 1."""
    have = node.operand(0).type.shape
    want = node.out.type.shape
    if same_shape(have, want):
        return True
    short, long = (have, want) if len(have) < len(want) else (want, have)
    return ones_added(short, long) is not None


@rewrite("reshape_ones", level=1, where=only_ones_differ)
def reshape_ones(op, x, shape):
    """A Reshape to the same shape is nothing; one that only adds or removes axes of size 1 needs no shape."""
    return op.Reshape(x, shape, allowzero=...)


@reshape_ones.becomes
def _(op, x, shape):
    return op.view(x, op.out_type.shape)


shapes = RuleSet(
    "shapes",
    (
        *map(_nothing, ("Expand", "Concat", "Tile")),
        tile_ones,
        pad_nothing,
        pad_pad,
        slice_nothing,
        *(_merged(outer, inner) for outer in MERGED for inner in MERGED),
        transpose_transpose,
        transpose_ones,
        expand_expand,
        reshape_expand,
        rows_expand,
        transpose_expand,
        slice_slice,
        concat_empty,
        gather_of_concat,
        gather_of_one,
        reduce_transposed,
        mean,
        average,
        count_is_positive,
        splat,
        reshape_ones,
    ),
    doc="Changes of shape and layout that cancel, and means.",
)
