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
from j2o.passes.clean.shapes import RESHAPES

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
    is_clamp = both is not None and _are_both(both.low, both.high)
    return both if is_clamp else None


def _clamped(index: Index, facts: Facts) -> Index | None:
    """An index with its source one step earlier; None where that is no clamp or conversion."""
    node = index.source.node
    if node is None:
        return None
    steps = index.steps + 1
    if node.op in RESHAPES or _is_exact_cast(node, facts):
        return index._replace(source=node.operand(0), steps=steps)
    inner = _bounds(node, facts)
    if inner is None or not same_dim(inner.source.type.size, node.out.type.size):
        return None
    if _are_both(inner.low, index.low) or _are_both(inner.high, index.high):
        return None
    low = index.low if inner.low is None else inner.low
    high = index.high if inner.high is None else inner.high
    if low is not None and high is not None and not dims.known_ge(high, low):
        return None
    return Index(inner.source, inner.source, None, low, high, steps)


def _are_both(a: Dim | None, b: Dim | None) -> bool:
    return a is not None and b is not None


def _is_exact_cast(node: Node, facts: Facts) -> bool:
    """Return True for a conversion of integers that changes none."""
    if node.op != "onnx.Cast" or not node.out.type.dtype.is_int:
        return False
    x = node.operand(0)
    return x.type.dtype.is_int and fits(facts.of(x), node.out.type.dtype)


def _bounds(node: Node, facts: Facts) -> Index | None:
    """A Min, Max or Clip of a value and numbers that are known."""
    if node.op == "onnx.Clip":
        x, low, high = node.operand(0), node.optional(1), node.optional(2)
        first = None if low is None else number_of(low, facts)
        last = None if high is None else number_of(high, facts)
        is_read = (low is None) == (first is None) and (high is None) == (last is None)
        return Index(x, x, None, first, last) if is_read else None
    if node.op not in ("onnx.Max", "onnx.Min") or len(node.operands) != 2:
        return None
    for value, bound in (node.operands, node.operands[::-1]):
        number = number_of(bound, facts)
        if number is not None and node.op == "onnx.Max":
            return Index(value, value, low=number)
        if number is not None:
            return Index(value, value, high=number)
    return None


def number_of(value: Value, facts: Facts) -> Dim | None:
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
    if subject is not index or not has_interval(index) or moved.op != "onnx.Add":
        return None
    if number_of(zero, facts) != 0 or index not in moved.producer.operands:
        return None
    first, second = moved.producer.operands
    size = number_of(second if first is index else first, facts)
    is_size = size is not None and dims.known_ge(size, 0)
    return (index, size) if is_size and index.type == value.type else None


# ------------------------------------------------------------------------------ writing


def _plain_bounds(index: Index, size: Dim, facts: Facts) -> Bounds | None:
    """Between which numbers the source of an index is clamped, of places that are counted from the end too.

    None where the index is wrapped around or clamped as no axis of `size` elements asks for.
    """
    if index.wrap is None:
        return Bounds(index.low, index.high)
    last = dims.sub(size, 1)
    wrapped = facts.of(index.wrapped)
    is_from_first = index.low == 0 if index.low is not None else wrapped.low >= 0
    if index.high is None:
        is_to_last = never_less(of_dim(last), wrapped)
    else:
        is_to_last = same_dim(index.high, last)
    if not (same_dim(index.wrap, size) and is_from_first and is_to_last):
        return None
    return Bounds(dims.sub(0, size), last) if index.is_clamped else Bounds()


def _index_dtype(source: Value, bounds: Bounds) -> DType:
    """A dtype of indices that holds an index and its bounds: its own, or i64, which sizes are in."""
    dtype = source.type.dtype
    numbers = [n for n in bounds if n is not None]
    is_plain = all(type(n) is int and fits(of_dim(n), dtype) for n in numbers)
    return dtype if dtype in INDEX_DTYPES and is_plain else DType.I64


def _clamp(op: Builder, x: Value, bounds: Bounds) -> Value:
    """An index between two numbers, or sizes."""
    if all(type(n) is int for n in bounds):
        return op.Clip(x, *bounds)
    if bounds.high is not None:
        x = op.Min(x, _number(op, bounds.high, x))
    return x if bounds.low is None else op.Max(x, _number(op, bounds.low, x))


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
    new = [_plain(op, c, a, facts) for c, a in zip(columns, axes, strict=True)]
    if not any(new):
        return None
    parts = [c if n is None else n for c, n in zip(columns, new, strict=True)]
    joined = parts[0] if len(parts) == 1 else op.Concat(*parts, axis=-1)
    return _with_places(op, node, joined)


def _columns(places: Value) -> Sequence[Value]:
    """The values that places are put together of, one a column; the places themselves where they are not."""
    if places.op != "onnx.Concat":
        return [places]
    node = places.producer
    along_last = node.int_attr("axis") in (-1, places.type.rank - 1)
    is_split = along_last and all(is_one(v.type.shape[-1]) for v in node.operands)
    return node.operands if is_split else [places]


def _with_places(op: Builder, node: Node, places: Value) -> Value:
    operands = [node.operand(0), places, *node.inputs[2:]]
    return op.node(node.op, operands, node.attrs, [node.out.type]).out


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
    for free, clamped in ((a, b), (b, a)):
        if len(clamped.uses) > 1:
            continue
        new = _inside_of(op, read_index(free, facts), read_index(clamped, facts), facts)
        if new is not None and same_dim(new.type.size, node.out.type.size):
            return op.reshape(new, node.out.type.shape)
    return None


def _inside_of(op: Builder, index: Index, clamped: Index, facts: Facts) -> Value | None:
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
    steps = node.optional(4)
    if start.known is not None or end.op != "onnx.Add" or axes.known_ints is None:
        return None
    if len(axes.known_ints) != 1 or (steps is not None and steps.known_ints != (1,)):
        return None
    first, one = end.producer.operands
    if first is not start or one.known_ints != (1,):
        return None
    (axis,) = from_zero(axes.known_ints, x.type.rank)
    last = plus(of_dim(x.type.shape[axis]), single(-1))
    place = facts.of(start)
    if place.low < 0 or not never_less(last, place):
        return None
    return op.Gather(x, start, axis=axis)


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
