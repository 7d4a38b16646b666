"""Sliding windows: pooling, and `reduce_window` with any computation.

Sums and extremes are AveragePool and MaxPool where those have kernels (`pooling.py`); else each axis in its
turn is reduced by combining shifted slices. `window_places.py` says how windows lie. Sources:
`jax.lax.reduce_window` and XLA's ReduceWindow.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import DType, Shape, same_dim
from j2o.passes.lower.elementwise import max_, min_
from j2o.passes.lower.pooling import pool, pool_plan
from j2o.passes.lower.reduce import (
    apply_elementwise,
    loop,
    reduce_max,
    reduce_min,
    reduce_prod,
    reduce_sum,
    unit_of_add,
    unit_of_max,
    unit_of_min,
    unit_of_mul,
)
from j2o.passes.lower.table import Lowering, lower
from j2o.passes.lower.window_places import (
    Place,
    Windows,
    every,
    row_major_strides,
    windows_of,
    with_size,
)

Combine: TypeAlias = Callable[[Lowering, Value, Value], Value]
Values: TypeAlias = list[Value]
# a builder, the results so far, the elements at one place of the windows -> the new results
Computation: TypeAlias = Callable[[Lowering, Values, Values], Values]


# -------------------------------------------------------------------------------------- known monoids


@dataclass(frozen=True)
class Monoid:
    """A computation that may be done one axis after the other.

    It has a way to combine two, one to reduce a whole axis, and a unit, which changes nothing.
    """

    combine: Combine
    whole: Callable[..., Value]
    unit: Callable[[DType], Any]


def _add(op: Lowering, x: Value, y: Value) -> Value:
    return op.Add(x, y)


def _mul(op: Lowering, x: Value, y: Value) -> Value:
    return op.Mul(x, y)


MONOIDS = {
    "add": Monoid(_add, reduce_sum, unit_of_add),
    "max": Monoid(max_, reduce_max, unit_of_max),
    "min": Monoid(min_, reduce_min, unit_of_min),
    "mul": Monoid(_mul, reduce_prod, unit_of_mul),
}
# the monoids that the computations of `reduce_window` are, by their operator after lowering
MONOID_OF_OPERATOR = {
    "Add": "add",
    "Max": "max",
    "Min": "min",
    "Mul": "mul",
    # booleans are combined as 0 and 1
    "And": "min",
    "Or": "max",
}


@lower("reduce_window_sum")
def reduce_window_sum(op: Lowering, x: Value, **windows: Any) -> Value:
    return _reduce_windows(op, x, "add", windows_of(op.out_types[0].shape, **windows))


@lower("reduce_window_max")
def reduce_window_max(op: Lowering, x: Value, **windows: Any) -> Value:
    return _reduce_windows(op, x, "max", windows_of(op.out_types[0].shape, **windows))


@lower("reduce_window_min")
def reduce_window_min(op: Lowering, x: Value, **windows: Any) -> Value:
    return _reduce_windows(op, x, "min", windows_of(op.out_types[0].shape, **windows))


def _reduce_windows(op: Lowering, x: Value, kind: str, w: Windows) -> Value:
    """A monoid over windows, in the dtype of `x`. Padding counts for nothing."""
    monoid = MONOIDS[kind]
    dtype = x.type.dtype
    if any(same_dim(d, 0) for d in w.counts):
        return op.full(w.counts, 0, dtype)
    if dtype == DType.BOOL:
        numbers = op.cast(x, DType.I32)
        return op.cast(_reduce_windows(op, numbers, kind, w), DType.BOOL)
    if all(same_dim(d, 1) for d in w.sizes):
        padded = w.spread(op, x, monoid.unit(dtype))
        return w.at(op, padded, [0] * len(w.sizes))
    plan = pool_plan(op, x, kind, w)
    if plan is None:
        return _shifted(op, x, monoid, w)
    return pool(op, x, kind, w, plan)


# ---------------------------------------------------------------------------------- shifted slices


def _shifted(op: Lowering, x: Value, monoid: Monoid, w: Windows) -> Value:
    """One axis after the other, those that shrink most first."""
    x = w.spread(op, x, monoid.unit(x.type.dtype))
    axes = sorted(range(x.type.rank), key=lambda axis: -w.strides[axis])
    for axis in axes:
        x = _slide(op, x, monoid, axis, w)
    return x


def _slide(op: Lowering, x: Value, monoid: Monoid, axis: int, w: Windows) -> Value:
    """Reduce along one axis: as a whole, in a loop, or by shifted slices, as its size asks for."""
    size = w.sizes[axis]
    stride = w.strides[axis]
    dilation = w.dilations[axis]
    count = w.counts[axis]
    covers_all = same_dim(size, x.type.shape[axis]) and same_dim(count, 1)
    if covers_all and not same_dim(size, 1) and dilation == 1:
        whole = monoid.whole(op, x, axes=[axis])
        return op.unsqueeze(whole, [axis])
    if type(size) is not int:
        return _slide_in_a_loop(op, x, monoid, axis, w)
    if size <= 4 or stride * 2 >= size:
        starts = range(0, size * dilation, dilation)
        parts = [every(op, x, axis, start, count, stride) for start in starts]
        return functools.reduce(functools.partial(monoid.combine, op), parts)
    each = _doubled(op, x, monoid, axis, size, dilation)
    return every(op, each, axis, 0, count, stride)


def _slide_in_a_loop(
    op: Lowering, x: Value, monoid: Monoid, axis: int, w: Windows
) -> Value:
    """Reduce along one axis by windows whose size is known at run time alone."""
    rank = x.type.rank
    dtype = x.type.dtype
    ones = (1,) * rank

    def on_this_axis(value: Any) -> tuple[Any, ...]:
        return with_size(ones, axis, value)

    def combine(op: Lowering, so_far: Values, items: Values) -> Values:
        return [monoid.combine(op, *so_far, *items)]

    alone = Windows(
        sizes=on_this_axis(w.sizes[axis]),
        strides=on_this_axis(w.strides[axis]),
        padding=[(0, 0)] * rank,
        base=ones,
        dilations=on_this_axis(w.dilations[axis]),
        counts=with_size(x.type.shape, axis, w.counts[axis]),
    )
    unit = op.const(monoid.unit(dtype), dtype)
    (out,) = _fold(op, [x], [unit], alone, combine)
    return out


def _doubled(
    op: Lowering, x: Value, monoid: Monoid, axis: int, size: int, dilation: int
) -> Value:
    """Windows of stride 1 from windows of 1, 2, 4, …: about 2 log₂(size) combinations."""

    def joined(a: Value, b: Value, shift: int) -> Value:
        """Windows of `a` with those of `b` that begin `shift` later."""
        count = dims.maximum(dims.sub(b.type.shape[axis], shift), 0)
        if b is not a:
            count = dims.minimum(count, a.type.shape[axis])
        first = every(op, a, axis, 0, count, 1)
        second = every(op, b, axis, shift, count, 1)
        return monoid.combine(op, first, second)

    power = x  # windows of `reach` elements
    reach = 1
    out = None  # windows of `covered` elements, so far
    covered = 0
    while True:
        if size & reach:
            out = power if out is None else joined(out, power, covered * dilation)
            covered += reach
        if covered == size:
            assert out is not None
            return out
        power = joined(power, power, reach * dilation)
        reach *= 2


# ---------------------------------------------------------------------------------- any computation


@lower("reduce_window")
def reduce_window(op: Lowering, *operands: Value, **windows: Any) -> Sequence[Value]:
    """Any computation over windows, from the initial values on.

    It is a reduction where the computation is a monoid, else the computation for each place in the window.
    """
    n = len(operands) // 2
    xs = operands[:n]
    inits = operands[n:]
    w = windows_of(op.out_types[0].shape, **windows)
    region = op.source.graphs[0]
    kind = _monoid_of(region) if n == 1 else None
    if kind is not None:
        return [_reduce_windows_from(op, xs[0], inits[0], kind, w)]
    if any(same_dim(d, 0) for d in w.counts):
        return [op.full(w.counts, 0, v.type.dtype) for v in xs]

    def compute(op: Lowering, so_far: Values, items: Values) -> Values:
        return apply_elementwise(op, region, [*so_far, *items])

    return _fold(op, xs, inits, w, compute)


def _reduce_windows_from(
    op: Lowering, x: Value, init: Value, kind: str, w: Windows
) -> Value:
    """A monoid over windows, and an initial value, by the region of the node."""
    out = _reduce_windows(op, x, kind, w)
    if _is_unit(init, MONOIDS[kind]):
        return out
    start = op.expand(init, w.counts)
    (combined,) = apply_elementwise(op, op.source.graphs[0], [out, start])
    return op.expand(combined, w.counts)


def _monoid_of(region: Graph) -> str | None:
    """The monoid that a lowered computation is."""
    node = only_combination(region)
    if node is None or node.dialect != "onnx":
        return None
    return MONOID_OF_OPERATOR.get(node.kind)


def only_combination(region: Graph) -> Node | None:
    """The one node of a region, where it takes all inputs and gives the results; else None."""
    body = [node for node in region if node.op != "return"]
    if len(body) != 1:
        return None
    (node,) = body
    takes_all = set(node.inputs) == set(region.inputs)
    return node if takes_all and region.outputs == node.outputs else None


def _is_unit(init: Value, monoid: Monoid) -> bool:
    """Return True where an initial value is known to change nothing."""
    dtype = init.type.dtype
    if init.const is None or dtype == DType.BOOL:
        return False
    return bool(init.const.scalar == monoid.unit(dtype))


class PaddingMask(NamedTuple):
    """Which elements of a padded operand are real, and how windows lie over these flags.

    Axes without windows have size 1.
    """

    is_real: Value
    windows: Windows


def _mask(op: Lowering, shape: Shape, w: Windows) -> PaddingMask:
    """The mask of an operand of this shape."""
    counts = w.counts
    for axis in range(len(shape)):
        if w.keeps(axis):
            shape = with_size(shape, axis, 1)
            counts = with_size(counts, axis, 1)
    flags = op.full(shape, True, DType.BOOL)
    is_real = w.spread(op, flags, False)
    return PaddingMask(is_real, dataclasses.replace(w, counts=counts))


def _fold(
    op: Lowering,
    xs: Sequence[Value],
    inits: Sequence[Value],
    w: Windows,
    compute: Computation,
) -> Values:
    """The computation over the places of a window, one after the other; padding is passed over.

    In a loop where the sizes of the windows are known at run time alone.
    """
    spread = [w.spread(op, x, 0) for x in xs]
    mask = _mask(op, xs[0].type.shape, w) if w.is_padded else None
    start = [op.expand(v, w.counts) for v in inits]

    def step(op: Lowering, so_far: Sequence[Value], offset: Place | Value) -> Values:
        items = [w.at(op, x, offset) for x in spread]
        new = compute(op, list(so_far), items)
        if mask is None:
            return new
        here = mask.windows.at(op, mask.is_real, offset)
        pairs = zip(new, so_far, strict=True)
        return [op.Where(here, v, old) for v, old in pairs]

    if dims.is_static(w.sizes):
        return functools.reduce(functools.partial(step, op), w.offsets(), start)
    sizes = op.dims(w.sizes)
    strides = op.dims(row_major_strides(w.sizes))

    def body(op: Lowering, number: Value, *so_far: Value) -> Values:
        position = op.Mod(op.Div(number, strides), sizes)
        offset = op.Mul(position, np.asarray(w.dilations))
        return step(op, so_far, offset)

    return list(loop(op, dims.prod(w.sizes), start, body))
