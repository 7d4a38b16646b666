"""Indices of gathers and scatters, as `ranges` rewrites them: ONNX counts negative ones from the end itself.

JAX's `x[i]` of an axis of n elements is, of an index that is not known,

    w = Where(i < 0, i + n, i)     the wrap-around
    c = Max(Min(w, n - 1), 0)      the clamp
    Gather(x, c)                   and, where what lies outside is filled, Where(Equal(w, c), …, NaN)

With d = Clip(i, -n, n - 1) this is Gather(x, d) and Where(Equal(i, d), …): from -n to -1 and from 0
to n - 1 both are the same place, below -n both are the first place, above n - 1 both are the last.
`i + n` cannot overflow where i < 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, DType, from_zero, is_one, same_dim, same_shape
from j2o.passes.clean.facts import Facts
from j2o.passes.clean.intervals import (
    fits,
    has_interval,
    never_less,
    of_dim,
    plus,
    single,
)

# the dtypes of indices that ONNX takes
INDEX_DTYPES = (DType.I32, DType.I64)


class Index(NamedTuple):
    """An index as it is made from `source`: wrapped around an axis of `wrap` elements, then clamped.

    `wrapped` is the value between the two. What is None does not happen.
    """

    source: Value
    wrapped: Value
    wrap: Dim | None = None
    low: Dim | None = None
    high: Dim | None = None
    steps: int = 0  # nodes between

    @property
    def is_clamped(self) -> bool:
        return self.low is not None or self.high is not None


class Bounds(NamedTuple):
    """The numbers, or sizes, that an index is clamped to; None where it is not."""

    low: Dim | None = None
    high: Dim | None = None


# ------------------------------------------------------------------------------ reading


def read_index(value: Value, facts: Facts) -> Index:
    """Walk back over clamps, conversions and the wrap-around."""
    index = Index(value, value)
    while (before := _clamped(index, facts)) is not None:
        index = before
    wrap = _wrapped(index.source, facts)
    if wrap is None:
        return index._replace(wrapped=index.source)
    source, size = wrap
    return index._replace(
        source=source, wrapped=index.source, wrap=size, steps=index.steps + 1
    )


def read_clamp(value: Value, facts: Facts) -> Index | None:
    """What two operators clamp between numbers, of which the inner one serves nothing else."""
    outer = _clamped(Index(value, value), facts)
    if outer is None or not outer.is_clamped or len(outer.source.uses) > 1:
        return None
    both = _clamped(outer, facts)
    if both is None or both.low is None or both.high is None:
        return None
    return both


def _clamped(index: Index, facts: Facts) -> Index | None:
    """An index with its source one step earlier; None where that is no clamp or conversion."""
    node = index.source.node
    if node is None:
        return None
    steps = index.steps + 1
    if node.op in RESHAPES or _is_exact_cast(node, facts):
        return index._replace(source=node.operand(0), steps=steps)
    inner = _clamp_of(node, facts)
    if inner is None:
        return None
    source, bounds = inner
    if not same_dim(source.type.size, node.out.type.size):
        return None
    both = _joined(bounds, Bounds(index.low, index.high))
    if both is None:
        return None
    return Index(source, source, None, both.low, both.high, steps)


def _joined(one: Bounds, other: Bounds) -> Bounds | None:
    """The bounds of two clamps together, each of another side; None where they may be out of order."""
    if one.low is not None and other.low is not None:
        return None
    if one.high is not None and other.high is not None:
        return None
    low = other.low if one.low is None else one.low
    high = other.high if one.high is None else one.high
    if low is not None and high is not None and not dims.known_ge(high, low):
        return None
    return Bounds(low, high)


def _is_exact_cast(node: Node, facts: Facts) -> bool:
    """Return True for a conversion of integers that changes none."""
    if node.op != "onnx.Cast" or not node.out.type.dtype.is_int:
        return False
    x = node.operand(0)
    if not x.type.dtype.is_int:
        return False
    return fits(facts.of(x), node.out.type.dtype)


def _clamp_of(node: Node, facts: Facts) -> tuple[Value, Bounds] | None:
    """What a Min, Max or Clip clamps, and to which numbers; None where these are not known."""
    if node.op == "onnx.Clip":
        return _clip_of(node, facts)
    if node.op not in ("onnx.Max", "onnx.Min") or len(node.operands) != 2:
        return None
    a, b = node.operands
    for value, bound in ((a, b), (b, a)):
        number = uniform_dim(bound, facts)
        if number is not None and node.op == "onnx.Max":
            return value, Bounds(low=number)
        if number is not None:
            return value, Bounds(high=number)
    return None


def _clip_of(node: Node, facts: Facts) -> tuple[Value, Bounds] | None:
    """The operand of a Clip, and its bounds; None where one of these is not one number."""
    numbers: list[Dim | None] = []
    for bound in (node.optional(1), node.optional(2)):
        number = None if bound is None else uniform_dim(bound, facts)
        if bound is not None and number is None:
            return None
        numbers.append(number)
    low, high = numbers
    return node.operand(0), Bounds(low, high)


def uniform_dim(value: Value, facts: Facts) -> Dim | None:
    """The number, or the size, that all elements of a value are; None where it is not known."""
    interval = facts.of(value)
    if interval.is_single:
        return interval.low
    least, most = interval.least, interval.most
    if least is None or most is None:
        return None
    return least if same_dim(least, most) else None


def _wrapped(value: Value, facts: Facts) -> tuple[Value, Dim] | None:
    """`i` and `n` of `Where(i < 0, i + n, i)` and of `Where(i >= 0, i, i + n)`."""
    if value.op != "onnx.Where":
        return None
    condition, a, b = value.producer.operands
    if condition.op == "onnx.Less":
        index, moved = b, a
    elif condition.op == "onnx.GreaterOrEqual":
        index, moved = a, b
    else:
        return None
    subject, zero = condition.producer.operands
    if subject is not index or not has_interval(index):
        return None
    if uniform_dim(zero, facts) != 0 or index.type != value.type:
        return None
    size = _number_added(moved, index, facts)
    if size is None or not dims.known_ge(size, 0):
        return None
    return index, size


def _number_added(total: Value, index: Value, facts: Facts) -> Dim | None:
    """The number, or the size, that is added to an index to give `total`."""
    if total.op != "onnx.Add":
        return None
    first, second = total.producer.operands
    if first is index:
        return uniform_dim(second, facts)
    return uniform_dim(first, facts) if second is index else None


# ------------------------------------------------------------------------------ writing


def _plain_bounds(index: Index, size: Dim, facts: Facts) -> Bounds | None:
    """Between which numbers the source of an index is clamped, of places that are counted from the end too.

    None where the index is wrapped around or clamped as no axis of `size` elements asks for.
    """
    if index.wrap is None:
        return Bounds(index.low, index.high)
    last = dims.sub(size, 1)
    wrapped = facts.of(index.wrapped)
    if index.low is None:
        is_from_first = wrapped.low >= 0
    else:
        is_from_first = index.low == 0
    if index.high is None:
        is_to_last = never_less(of_dim(last), wrapped)
    else:
        is_to_last = same_dim(index.high, last)
    if not (same_dim(index.wrap, size) and is_from_first and is_to_last):
        return None
    if not index.is_clamped:
        return Bounds()
    return Bounds(dims.sub(0, size), last)


def _index_dtype(source: Value, bounds: Bounds) -> DType:
    """A dtype of indices that holds an index and its bounds: its own, or i64, which sizes are in."""
    dtype = source.type.dtype
    if dtype not in INDEX_DTYPES:
        return DType.I64
    for number in bounds:
        is_symbolic = number is not None and type(number) is not int
        if is_symbolic or (number is not None and not fits(of_dim(number), dtype)):
            return DType.I64
    return dtype


def _clamp(op: Builder, x: Value, bounds: Bounds) -> Value:
    """An index between two numbers, or sizes."""
    if all(type(n) is int for n in bounds):
        return op.Clip(x, *bounds)
    if bounds.high is not None:
        x = op.Min(x, _number(op, bounds.high, x))
    if bounds.low is not None:
        x = op.Max(x, _number(op, bounds.low, x))
    return x


def _number(op: Builder, number: Dim, like: Value) -> Value:
    """A number, or a size in i64, to calculate with a value: no more axes than that has."""
    if type(number) is int:
        return op.const(number, like.type.dtype)
    return op.dims((number,)) if like.type.rank else op.dim(number)


# ----------------------------------------------------------------- gathers and scatters


def _count_from_the_end(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A gather or scatter at places that are not wrapped around, and in one clamp at most."""
    axis = node.int_attr("axis", 0)
    size = node.operand(0).type.shape[axis]
    places = _plain(op, node.operand(1), Axis(size), facts)
    return None if places is None else _with_places(op, node, places)


def _count_from_the_ends(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The same where the last axis of the places has a column for each axis that they count along."""
    places = node.operand(1)
    columns = _columns(places)
    first = node.int_attr("batch_dims", 0)
    sizes = node.operand(0).type.shape[first : first + len(columns)]
    # these two take no other dtype than i64
    axes = [Axis(size, is_wide=True) for size in sizes]
    if places.type.shape[-1] != len(columns):
        return None
    parts = []
    for column, axis in zip(columns, axes, strict=True):
        new = _plain(op, column, axis, facts)
        parts.append(column if new is None else new)
    if parts == list(columns):
        return None
    joined = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=-1)
    return _with_places(op, node, joined)


def _columns(places: Value) -> Sequence[Value]:
    """The values that places are put together of, one a column; the places themselves where they are not."""
    if places.op != "onnx.Concat":
        return [places]
    node = places.producer
    is_along_last = node.int_attr("axis") in (-1, places.type.rank - 1)
    are_single = all(is_one(v.type.shape[-1]) for v in node.operands)
    return node.operands if is_along_last and are_single else [places]


def _with_places(op: Builder, node: Node, places: Value) -> Value:
    """The same gather or scatter at other places."""
    operands = [node.operand(0), places, *node.inputs[2:]]
    made = op.node(node.op, operands, node.attrs, [node.out.type])
    return made.out


class Axis(NamedTuple):
    """How many elements an axis has that places count along, and whether the places must be i64."""

    size: Dim
    is_wide: bool = False


def _plain(op: Builder, value: Value, axis: Axis, facts: Facts) -> Value | None:
    """Places along an axis, of the source of `value`, clamped at most; None where `value` is that already."""
    if value.op == "onnx.Expand":
        inner = _plain(op, value.producer.operand(0), axis, facts)
        return None if inner is None else op.expand(inner, value.type.shape)
    index = read_index(value, facts)
    bounds = _plain_bounds(index, axis.size, facts)
    if bounds is None:
        return None
    own = index.source.type.dtype
    inside = _index_dtype(index.source, bounds)
    last = DType.I64 if axis.is_wide else inside
    conversions = (own is not inside) + (inside is not last)
    if not _pays(index, bounds, value, conversions):
        return None
    clamped = _clamp(op, op.cast(index.source, inside), bounds)
    return op.reshape(op.cast(clamped, last), value.type.shape)


def _pays(index: Index, bounds: Bounds, value: Value, conversions: int) -> bool:
    """Return True where an index takes more nodes than its source, clamped and converted, does."""
    if index.wrap is not None:
        return True
    numbers = [n for n in bounds if n is not None]
    is_clip = len(numbers) == 2 and all(type(n) is int for n in numbers)
    clamps = 1 if is_clip else len(numbers)
    is_other_shape = not same_shape(index.source.type.shape, value.type.shape)
    return index.steps > clamps + conversions + is_other_shape


def _inside(op: Builder, node: Node, facts: Facts) -> Value | None:
    """Whether an index lies inside: whether a clamp leaves it as it is, asked of its source.

    Not where something else uses the clamp: the wrap-around would stay for that.
    """
    a, b = node.operands
    if not a.type.dtype.is_int:
        return None
    result = node.out.type
    for free, clamped in ((a, b), (b, a)):
        if len(clamped.uses) > 1:
            continue
        index = read_index(free, facts)
        new = _inside_of(op, index, read_index(clamped, facts), facts)
        if new is not None and same_dim(new.type.size, result.size):
            return op.reshape(new, result.shape)
    return None


def _inside_of(op: Builder, index: Index, clamped: Index, facts: Facts) -> Value | None:
    """A comparison of an index with its clamp: it holds where the index lies inside."""
    if index.is_clamped or not clamped.is_clamped or not index.steps:
        return None
    if index.source is not clamped.source or index.wrap != clamped.wrap:
        return None
    size = 0 if clamped.wrap is None else clamped.wrap
    bounds = _plain_bounds(clamped, size, facts)
    if bounds is None:
        return None
    dtype = _index_dtype(index.source, bounds)
    if index.wrap is None and dtype is not index.source.type.dtype:
        return None
    x = op.cast(index.source, dtype)
    return op.Equal(x, _clamp(op, x, bounds))


def _row(op: Builder, node: Node, facts: Facts) -> Value | None:
    """`x[s : s + 1]` along one axis at a place s of the axis is a Gather of one row."""
    x, start, end, axes = (node.operand(i) for i in range(4))
    over = axes.known_ints
    if over is None or len(over) != 1 or not _is_one(node.optional(4)):
        return None
    if start.known is not None or end.op != "onnx.Add":
        return None
    first, one = end.producer.operands
    if first is not start or one.known_ints != (1,):
        return None
    (axis,) = from_zero(over, x.type.rank)
    size = of_dim(x.type.shape[axis])
    last = plus(size, single(-1))
    place = facts.of(start)
    if place.low < 0 or not never_less(last, place):
        return None
    return op.Gather(x, start, axis=axis)


def _is_one(steps: Value | None) -> bool:
    """Return True for a step of 1, which is also what none means."""
    return steps is None or steps.known_ints == (1,)


def _row_alone(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A Gather of one row, without the axis of the index."""
    gather = node.operand(0).node
    axes = node.optional(1)
    if gather is None or gather.op != "onnx.Gather" or len(gather.out.uses) > 1:
        return None
    if axes is None or axes.known_ints is None:
        return None
    x, index = gather.operands
    axis = gather.int_attr("axis", 0) % x.type.rank
    over = from_zero(axes.known_ints, gather.out.type.rank)
    own = [a - axis for a in over]
    if not all(0 <= a < index.type.rank for a in own):
        return None
    return op.Gather(x, op.squeeze(index, own), axis=axis)


INDEX_REWRITES = {
    "onnx.Equal": (_inside,),
    "onnx.Gather": (_count_from_the_end,),
    "onnx.GatherElements": (_count_from_the_end,),
    "onnx.GatherND": (_count_from_the_ends,),
    "onnx.ScatterElements": (_count_from_the_end,),
    "onnx.ScatterND": (_count_from_the_ends,),
    "onnx.Slice": (_row,),
    "onnx.Squeeze": (_row_alone,),
}
