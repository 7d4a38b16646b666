"""Sliding windows: pooling, and `reduce_window` with any computation.

A window lies over the operand with padding around (and, by `base_dilation`, between) its elements. Sums and
extremes are AveragePool and MaxPool where those have kernels; else each axis in its turn is reduced by
combining shifted slices. Sources: `jax.lax.reduce_window` and XLA's ReduceWindow, ONNX's
MaxPool and AveragePool.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir import dims
from j2o.ir.graph import Graph, Value
from j2o.ir.types import Dim, DType, Shape, same_dim
from j2o.passes.lower.conv import same_padding, wide_enough
from j2o.passes.lower.dot import pick
from j2o.passes.lower.elementwise import max_, min_
from j2o.passes.lower.reduce import (
    apply_elementwise,
    limits,
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
from j2o.passes.lower.shape import Padding, pad_with, slice_axes
from j2o.passes.lower.table import Lowering, lower

Combine: TypeAlias = Callable[[Lowering, Value, Value], Value]
# a builder, the results so far, the elements at one place of the windows -> the new results
Computation: TypeAlias = Callable[[Lowering, list[Value], list[Value]], list[Value]]


@dataclass(frozen=True, eq=False)
class Windows:
    """How windows lie: one entry an axis. `counts` is the shape of the result."""

    sizes: Shape
    strides: Sequence[int]
    padding: Sequence[tuple[Dim, Dim]]
    base: Sequence[int]
    dilations: Sequence[int]
    counts: Shape

    def spread(self, op: Lowering, x: Value, value: Any) -> Value:
        """`x` with `value` as padding."""
        config: list[Padding] = []
        for (low, high), base in zip(self.padding, self.base, strict=True):
            config.append((low, high, base - 1))
        return pad_with(op, x, op.const(value, x.type.dtype), config)

    @property
    def is_padded(self) -> bool:
        """True where there is padding around the operand, or between its elements."""
        around = any(not same_dim(p, 0) for pair in self.padding for p in pair)
        return around or any(b != 1 for b in self.base)

    def keeps(self, axis: int) -> bool:
        """Return True where the windows leave an axis as it is."""
        has_windows = not same_dim(self.sizes[axis], 1) or self.strides[axis] != 1
        if has_windows or self.base[axis] != 1:
            return False
        return all(same_dim(p, 0) for p in self.padding[axis])

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """The places in a window, in row-major order. UnsupportedError for a symbolic size."""
        places = []
        for size, dilation in zip(self.sizes, self.dilations, strict=True):
            if type(size) is not int:
                raise UnsupportedError(["gradients of a window of symbolic size"])
            places.append(range(0, size * dilation, dilation))
        return itertools.product(*places)

    def at(self, op: Lowering, x: Value, offset: Sequence[int] | Value) -> Value:
        """What the windows have at one place, of the padded operand.

        The place is known, or an `i64[rank]`.
        """
        if isinstance(offset, Value):
            return self._at_computed_place(op, x, offset)
        for axis, start in enumerate(offset):
            x = _every(op, x, axis, start, self.counts[axis], self.strides[axis])
        return x

    def _at_computed_place(self, op: Lowering, x: Value, offset: Value) -> Value:
        lengths = list(map(dims.mul, self.counts, self.strides))
        end = op.Add(offset, op.dims(lengths))
        axes, steps = np.arange(x.type.rank), np.asarray(self.strides)
        result = x.type.with_shape(self.counts)
        return op.apply("onnx.Slice", x, offset, end, axes, steps, types=[result])


def _every(
    op: Lowering, x: Value, axis: int, start: int, count: Dim, stride: int
) -> Value:
    """`count` elements along an axis, `stride` apart."""
    shape = x.type.shape
    if start == 0 and stride == 1 and same_dim(count, shape[axis]):
        return x
    # the end may lie past the axis: ONNX clamps it
    end = dims.add(start, dims.mul(count, stride))
    result = x.type.with_shape((*shape[:axis], count, *shape[axis + 1 :]))
    return op.apply(
        "onnx.Slice",
        x,
        op.dims((start,)),
        op.dims((end,)),
        np.array([axis]),
        np.array([stride]),
        types=[result],
    )


def windows_of(
    op: Lowering,
    *,
    window_dimensions: Shape,
    window_strides: Sequence[int],
    padding: Sequence[tuple[Dim, Dim]],
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
    **_: Any,
) -> Windows:
    """The windows that the parameters of JAX's primitives describe."""
    ones = (1,) * len(window_dimensions)
    return Windows(
        sizes=window_dimensions,
        strides=window_strides,
        padding=padding,
        base=base_dilation or ones,
        dilations=window_dilation or ones,
        counts=op.out_types[0].shape,
    )


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
    return _reduce_windows(op, x, "add", windows_of(op, **windows))


@lower("reduce_window_max")
def reduce_window_max(op: Lowering, x: Value, **windows: Any) -> Value:
    return _reduce_windows(op, x, "max", windows_of(op, **windows))


@lower("reduce_window_min")
def reduce_window_min(op: Lowering, x: Value, **windows: Any) -> Value:
    return _reduce_windows(op, x, "min", windows_of(op, **windows))


def _reduce_windows(op: Lowering, x: Value, kind: str, w: Windows) -> Value:
    """A monoid over windows, in the dtype of `x`. Padding counts for nothing."""
    monoid, dtype = MONOIDS[kind], x.type.dtype
    if any(same_dim(d, 0) for d in w.counts):
        return op.full(w.counts, 0, dtype)
    if dtype == DType.BOOL:
        numbers = op.cast(x, DType.I32)
        return op.cast(_reduce_windows(op, numbers, kind, w), DType.BOOL)
    if all(same_dim(d, 1) for d in w.sizes):
        return w.at(op, w.spread(op, x, monoid.unit(dtype)), [0] * len(w.sizes))
    plan = _pool_plan(op, x, kind, w)
    if plan is None:
        return _shifted(op, x, monoid, w)
    return _pool(op, x, kind, w, plan)


# ------------------------------------------------------------------------------ MaxPool and AveragePool


POOLING_OPERATORS = {"add": "AveragePool", "max": "MaxPool", "min": "MaxPool"}


class PoolPlan(NamedTuple):
    """How the reduction of windows becomes one pooling operator: over these axes, 1 to 3, in this dtype."""

    operator: str
    axes: list[int]
    dtype: DType


def _pool_plan(op: Lowering, x: Value, kind: str, w: Windows) -> PoolPlan | None:
    """The plan; None where there is no such operator, or no kernel for these windows and dtype."""
    dtype = x.type.dtype
    axes = _pooled_axes(x, w)
    if kind not in POOLING_OPERATORS or not 1 <= len(axes) <= 3:
        return None
    if not all(type(w.sizes[i]) is int for i in axes):
        return None
    if any(same_dim(d, 0) for d in x.type.shape):
        return None
    if kind == "min" and not dtype.is_float:  # it is the max of negated numbers
        return None
    is_dilated = any(w.dilations[i] != 1 for i in axes)
    if kind == "add" and is_dilated and op.opset < 19:
        return None
    wide = DType.F32 if dtype in (DType.F16, DType.BF16) else dtype
    operator = POOLING_OPERATORS[kind]
    return PoolPlan(operator, axes, wide) if op.supports(operator, wide) else None


def _pooled_axes(x: Value, w: Windows) -> list[int]:
    """The axes that the windows do not leave as they are."""
    axes = []
    for i, size in enumerate(w.sizes):
        is_single = same_dim(size, 1) and w.strides[i] == 1
        if not (is_single and w.counts[i] == x.type.shape[i]):
            axes.append(i)
    return axes


def _pool(op: Lowering, x: Value, kind: str, w: Windows, plan: PoolPlan) -> Value:
    """The monoid by the operator of the plan.

    onnxruntime's MaxPool differs from JAX, which gives NaN and -inf, in two places: a NaN may be passed over,
    and a window of nothing but -inf that has padding gives the lowest finite number.
    """
    values = op.cast(x, plan.dtype)
    if kind == "min":
        values = op.Neg(values)
    y = _pooled(op, values, w, plan)
    if kind == "add":
        y = op.Mul(y, float(np.prod(pick(w.sizes, plan.axes))))
    elif kind == "min":
        y = op.Neg(y)
    return op.cast(y, x.type.dtype)


def _pooled(op: Lowering, x: Value, w: Windows, plan: PoolPlan) -> Value:
    """The operator, with padding that it cannot do done before it, and the axes that it takes last."""
    axes, is_average = plan.axes, plan.operator == "AveragePool"
    unit = 0 if is_average else limits(plan.dtype).least
    sizes, dilations = pick(w.sizes, axes), pick(w.dilations, axes)
    auto, pads, counts = _auto_padding(x, w, axes), None, w.counts
    if auto is None:
        pads, rest = _split_padding(w, axes)
        padded = rest.spread(op, x, unit)
        x = wide_enough(op, padded, axes, pads, sizes, dilations, unit)
        if x is not padded:
            counts = _at_least_one(counts, axes)
    others = [i for i in range(x.type.rank) if i not in axes]
    order = [*others, *axes]
    turned = op.transpose(x, order)
    flat = _to_batch_and_channel(op, turned, len(others))
    result = flat.type.with_shape((*flat.type.shape[:2], *pick(counts, axes)))
    y = op.apply(
        f"onnx.{plan.operator}",
        flat,
        kernel_shape=sizes,
        strides=pick(w.strides, axes),
        pads=pads,
        auto_pad=auto,
        dilations=dilations if any(d != 1 for d in dilations) else None,
        count_include_pad=1 if is_average else None,
        types=[result],
    )
    back = op.reshape(y, pick(counts, order))
    y = op.transpose(back, np.argsort(order).tolist())
    return slice_axes(op, y, (0,) * len(order), w.counts, (1,) * len(order))


def _at_least_one(counts: Shape, axes: Sequence[int]) -> Shape:
    """The number of windows on each axis, where there is one at least on some of them."""
    return tuple(dims.maximum(d, 1) if i in axes else d for i, d in enumerate(counts))


def _auto_padding(x: Value, w: Windows, axes: Sequence[int]) -> str | None:
    """`auto_pad`, where it says the padding of all axes."""
    if any(d != 1 for d in (*w.base, *w.dilations)):
        return None
    others = [pair for i, pair in enumerate(w.padding) if i not in axes]
    if any(not same_dim(p, 0) for pair in others for p in pair):
        return None
    sizes, kernel = pick(x.type.shape, axes), pick(w.sizes, axes)
    return same_padding(sizes, kernel, pick(w.strides, axes), pick(w.padding, axes))


def _split_padding(w: Windows, axes: Sequence[int]) -> tuple[tuple[int, ...], Windows]:
    """`pads` of a pooling operator, and the windows with the padding that is left, to be done before it.

    `pads` are static, and from 0 to less than the kernel.
    """
    low, high = [], []
    rest = list(w.padding)
    for i in axes:
        fits = w.base[i] == 1 and all(_fits(p, w.sizes[i]) for p in w.padding[i])
        before, after = w.padding[i] if fits else (0, 0)
        low.append(before)
        high.append(after)
        if fits:
            rest[i] = (0, 0)
    return (*low, *high), dataclasses.replace(w, padding=rest)


def _fits(amount: Dim, size: Dim) -> bool:
    """Return True for an amount of padding that a pooling operator takes, over a window of this size."""
    return type(amount) is int and type(size) is int and 0 <= amount < size


def _to_batch_and_channel(op: Lowering, x: Value, others: int) -> Value:
    """The axes that are not pooled, which come first, as exactly two."""
    shape = x.type.shape
    if others < 2:
        return op.unsqueeze(x, list(range(others, 2)))
    last = shape[others - 1]
    # of all axes only the first may have no elements
    if not dims.known_ge(last, 1):
        return op.reshape(x, (dims.prod(shape[:others]), 1, *shape[others:]))
    if others == 2:
        return x
    return op.reshape(x, (dims.prod(shape[: others - 1]), last, *shape[others:]))


# ---------------------------------------------------------------------------------- shifted slices


def _shifted(op: Lowering, x: Value, monoid: Monoid, w: Windows) -> Value:
    """One axis after the other, those that shrink most first."""
    x = w.spread(op, x, monoid.unit(x.type.dtype))
    for axis in sorted(range(x.type.rank), key=lambda i: -w.strides[i]):
        x = _slide(op, x, monoid, axis, w)
    return x


def _slide(op: Lowering, x: Value, monoid: Monoid, axis: int, w: Windows) -> Value:
    """Reduce along one axis: as a whole, in a loop, or by shifted slices, as its size asks for."""
    size, stride, dilation = w.sizes[axis], w.strides[axis], w.dilations[axis]
    count = w.counts[axis]
    covers_all = same_dim(size, x.type.shape[axis]) and same_dim(count, 1)
    if covers_all and not same_dim(size, 1) and dilation == 1:
        return op.unsqueeze(monoid.whole(op, x, axes=[axis]), [axis])
    if type(size) is not int:
        return _slide_in_a_loop(op, x, monoid, axis, w)
    if size <= 4 or stride * 2 >= size:
        parts = [_every(op, x, axis, k * dilation, count, stride) for k in range(size)]
        return functools.reduce(functools.partial(monoid.combine, op), parts)
    each = _doubled(op, x, monoid, axis, size, dilation)
    return _every(op, each, axis, 0, count, stride)


def _slide_in_a_loop(
    op: Lowering, x: Value, monoid: Monoid, axis: int, w: Windows
) -> Value:
    """Reduce along one axis by windows whose size is known at run time alone."""
    rank = x.type.rank

    def on_this_axis(value: Any) -> tuple[Any, ...]:
        return tuple(value if i == axis else 1 for i in range(rank))

    def combine(op: Lowering, so_far: list[Value], items: list[Value]) -> list[Value]:
        return [monoid.combine(op, *so_far, *items)]

    shape, dtype = x.type.shape, x.type.dtype
    alone = Windows(
        sizes=on_this_axis(w.sizes[axis]),
        strides=on_this_axis(w.strides[axis]),
        padding=[(0, 0)] * rank,
        base=[1] * rank,
        dilations=on_this_axis(w.dilations[axis]),
        counts=(*shape[:axis], w.counts[axis], *shape[axis + 1 :]),
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
        first = _every(op, a, axis, 0, count, 1)
        second = _every(op, b, axis, shift, count, 1)
        return monoid.combine(op, first, second)

    power = x  # windows of 2**bit elements
    out, covered = None, 0  # windows of `covered` elements, so far
    for bit in range(size.bit_length()):
        if size >> bit & 1:
            out = power if out is None else joined(out, power, covered * dilation)
            covered += 1 << bit
        if size >> (bit + 1):
            power = joined(power, power, (1 << bit) * dilation)
    assert out is not None
    return out


# ---------------------------------------------------------------------------------- any computation


@lower("reduce_window")
def reduce_window(op: Lowering, *operands: Value, **windows: Any) -> Sequence[Value]:
    """Any computation over windows, from the initial values on.

    It is a reduction where the computation is a monoid, else the computation for each place in the window.
    """
    n = len(operands) // 2
    xs, inits = operands[:n], operands[n:]
    w = windows_of(op, **windows)
    region = op.source.graphs[0]
    kind = _monoid_of(region) if n == 1 else None
    if kind is not None:
        out = _reduce_windows(op, xs[0], kind, w)
        if _is_unit(inits[0], MONOIDS[kind]):
            return [out]
        start = op.expand(inits[0], w.counts)
        (combined,) = apply_elementwise(op, region, [out, start])
        return [op.expand(combined, w.counts)]
    if any(same_dim(d, 0) for d in w.counts):
        return [op.full(w.counts, 0, v.type.dtype) for v in xs]

    def compute(op: Lowering, so_far: list[Value], items: list[Value]) -> list[Value]:
        return apply_elementwise(op, region, [*so_far, *items])

    return _fold(op, xs, inits, w, compute)


def _monoid_of(region: Graph) -> str | None:
    """The monoid that a lowered computation is: one node, of both of its inputs."""
    body = [node for node in region if node.op != "return"]
    if len(body) != 1 or body[0].dialect != "onnx":
        return None
    (node,) = body
    if region.outputs != node.outputs or set(node.inputs) != set(region.inputs):
        return None
    return MONOID_OF_OPERATOR.get(node.kind)


def _is_unit(init: Value, monoid: Monoid) -> bool:
    """Return True where an initial value is known to change nothing."""
    dtype = init.type.dtype
    if init.const is None or dtype == DType.BOOL:
        return False
    return bool(init.const.scalar == monoid.unit(dtype))


class Mask(NamedTuple):
    """Which elements of a padded operand are real, and how windows lie over these flags.

    Axes without windows have size 1.
    """

    is_real: Value
    windows: Windows


def _mask(op: Lowering, shape: Shape, w: Windows) -> Mask:
    """The mask of an operand of this shape."""
    keeps = [w.keeps(axis) for axis in range(len(shape))]
    flags_shape = tuple(1 if keeps[i] else d for i, d in enumerate(shape))
    counts = tuple(1 if keeps[i] else d for i, d in enumerate(w.counts))
    is_real = w.spread(op, op.full(flags_shape, True, DType.BOOL), False)
    return Mask(is_real, dataclasses.replace(w, counts=counts))


def _fold(
    op: Lowering,
    xs: Sequence[Value],
    inits: Sequence[Value],
    w: Windows,
    compute: Computation,
) -> list[Value]:
    """The computation over the places of a window, one after the other; padding is passed over.

    In a loop where the sizes of the windows are known at run time alone.
    """
    spread = [w.spread(op, x, 0) for x in xs]
    mask = _mask(op, xs[0].type.shape, w) if w.is_padded else None
    start = [op.expand(v, w.counts) for v in inits]

    def step(
        op: Lowering, so_far: Sequence[Value], offset: Sequence[int] | Value
    ) -> list[Value]:
        items = [w.at(op, x, offset) for x in spread]
        new = compute(op, list(so_far), items)
        if mask is None:
            return new
        here = mask.windows.at(op, mask.is_real, offset)
        return [op.Where(here, v, old) for v, old in zip(new, so_far, strict=True)]

    if dims.is_static(w.sizes):
        return functools.reduce(functools.partial(step, op), w.offsets(), start)
    sizes = op.dims(w.sizes)
    strides = op.dims([dims.prod(w.sizes[i + 1 :]) for i in range(len(w.sizes))])

    def body(op: Lowering, place: Value, *so_far: Value) -> list[Value]:
        position = op.Mod(op.Div(place, strides), sizes)
        return step(op, so_far, op.Mul(position, np.asarray(w.dilations)))

    return list(loop(op, dims.prod(w.sizes), start, body))
