"""Sliding windows: pooling, its gradients, and `reduce_window` with any computation.

A window lies over the operand with padding around (and, by `base_dilation`, between) its elements. Sums and extremes are
AveragePool and MaxPool where those have kernels; else each axis in its turn is reduced by combining shifted slices. Sources:
`jax.lax.reduce_window` and XLA's ReduceWindow and SelectAndScatter, ONNX's MaxPool and AveragePool.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.errors import UnsupportedError
from j2o.ir import dims
from j2o.ir.graph import Graph, Value
from j2o.ir.types import Dim, DType, Shape, dtype_of, same_dim
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
)
from j2o.passes.lower.shape import arange, pad_with, slice_axes
from j2o.passes.lower.table import Lowering, lower, lower_with

Combine: TypeAlias = Callable[[Lowering, Value, Value], Value]


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
        config = [
            (low, high, b - 1)
            for (low, high), b in zip(self.padding, self.base, strict=True)
        ]
        return pad_with(op, x, op.const(value, x.type.dtype), config)

    @property
    def is_padded(self) -> bool:
        return any(not same_dim(p, 0) for pair in self.padding for p in pair) or any(
            b != 1 for b in self.base
        )

    def keeps(self, axis: int) -> bool:
        """Whether the windows leave an axis as it is."""
        still = (
            same_dim(self.sizes[axis], 1)
            and self.strides[axis] == 1
            and self.base[axis] == 1
        )
        return still and all(same_dim(p, 0) for p in self.padding[axis])

    def offsets(self) -> Iterator[tuple[int, ...]]:
        """The places in a window, in row-major order."""
        if not dims.is_static(self.sizes):
            raise UnsupportedError(["gradients of a window of symbolic size"])
        return itertools.product(
            *(
                range(0, s * d, d)
                for s, d in zip(self.sizes, self.dilations, strict=True)
            )
        )  # type: ignore[operator]

    def at(self, op: Lowering, x: Value, offset: Sequence[int] | Value) -> Value:
        """What the windows have at one place, of the padded operand."""
        if isinstance(offset, Value):
            end = op.Add(
                offset,
                op.dims(
                    [
                        dims.mul(n, s)
                        for n, s in zip(self.counts, self.strides, strict=True)
                    ]
                ),
            )
            axes, kept = np.arange(x.type.rank), [x.type.with_shape(self.counts)]
            return op.apply(
                "onnx.Slice", x, offset, end, axes, np.asarray(self.strides), types=kept
            )
        for axis, start in enumerate(offset):
            x = _every(op, x, axis, start, self.counts[axis], self.strides[axis])
        return x


def _every(
    op: Lowering, x: Value, axis: int, start: int, count: Dim, stride: int
) -> Value:
    """`count` elements along an axis, `stride` apart."""
    shape = x.type.shape
    if start == 0 and stride == 1 and same_dim(count, shape[axis]):
        return x
    end = dims.add(
        start, dims.mul(count, stride)
    )  # may lie past the axis: ONNX clamps it
    kept = x.type.with_shape((*shape[:axis], count, *shape[axis + 1 :]))
    return op.apply(
        "onnx.Slice",
        x,
        op.dims((start,)),
        op.dims((end,)),
        np.array([axis]),
        np.array([stride]),
        types=[kept],
    )


def _windows(
    op: Lowering, *, window_dimensions: Shape, window_strides: Any, padding: Any, base_dilation: Any = None,
    window_dilation: Any = None, **_: Any,
) -> Windows:  # fmt: skip
    """From the parameters of JAX's primitives."""
    ones = (1,) * len(window_dimensions)
    base, dilations = base_dilation or ones, window_dilation or ones
    return Windows(
        window_dimensions,
        window_strides,
        padding,
        base,
        dilations,
        op.out_types[0].shape,
    )


# -------------------------------------------------------------------------------------- known monoids


@dataclass(frozen=True)
class Monoid:
    """A computation that may be done one axis after the other: how two are combined, how a whole axis is."""

    combine: Combine
    whole: Callable[..., Value]
    unit: Callable[[DType], Any]


MONOIDS = {
    "add": Monoid(lambda op, a, b: op.Add(a, b), reduce_sum, lambda dtype: 0),
    "mul": Monoid(lambda op, a, b: op.Mul(a, b), reduce_prod, lambda dtype: 1),
    "max": Monoid(max_, reduce_max, lambda dtype: limits(dtype)[0]),
    "min": Monoid(min_, reduce_min, lambda dtype: limits(dtype)[1]),
}
# what the computations of `reduce_window` are after lowering; booleans are combined as 0 and 1
BY_OPERATOR = {
    "Add": "add",
    "Mul": "mul",
    "Max": "max",
    "Min": "min",
    "Or": "max",
    "And": "min",
}


@lower("reduce_window_sum", "reduce_window_max", "reduce_window_min")
def reduce_window_monoid(op: Lowering, x: Value, **windows: Any) -> Value:
    """One of the reductions that JAX has a primitive of its own for."""
    kind = {"sum": "add"}.get(name := op.source.kind.rpartition("_")[2], name)
    return _reduce(op, x, kind, _windows(op, **windows))


def _reduce(op: Lowering, x: Value, kind: str, w: Windows) -> Value:
    """A monoid over windows, in the dtype of `x`. Padding counts for nothing."""
    dtype = x.type.dtype
    if any(same_dim(d, 0) for d in w.counts):
        return op.full(w.counts, 0, dtype)
    if dtype == DType.BOOL:
        return op.cast(_reduce(op, op.cast(x, DType.I32), kind, w), DType.BOOL)
    if all(same_dim(d, 1) for d in w.sizes):
        return w.at(op, w.spread(op, x, MONOIDS[kind].unit(dtype)), [0] * len(w.sizes))
    return _pool(op, x, kind, w) or _shifted(op, x, MONOIDS[kind], w)


# ------------------------------------------------------------------------------ MaxPool and AveragePool


def _pool(op: Lowering, x: Value, kind: str, w: Windows) -> Value | None:
    """The pooling operator of the monoid; None where it has no kernel.

    onnxruntime's MaxPool differs from JAX, which gives NaN and -inf, in two places: a NaN may be passed over, and a window
    of nothing but -inf that has padding gives the lowest finite number.
    """
    dtype = x.type.dtype
    narrow = dtype in (DType.F16, DType.BF16)
    operator = {"add": "AveragePool", "max": "MaxPool", "min": "MaxPool"}.get(kind)
    still = [
        same_dim(s, 1) and w.strides[i] == 1 and w.counts[i] == x.type.shape[i]
        for i, s in enumerate(w.sizes)
    ]
    axes = [i for i, alone in enumerate(still) if not alone]
    static = all(type(w.sizes[i]) is int for i in axes)
    if (
        operator is None
        or not static
        or not 1 <= len(axes) <= 3
        or any(same_dim(d, 0) for d in x.type.shape)
    ):
        return None
    if not op.supports(operator, DType.F32 if narrow else dtype) or (
        kind == "min" and not dtype.is_float
    ):
        return None
    if kind == "add" and op.opset < 19 and any(w.dilations[i] != 1 for i in axes):
        return None
    if narrow:
        return op.cast(_pool(op, op.cast(x, DType.F32), kind, w), dtype)  # type: ignore[arg-type]
    if kind == "min":
        x = op.Neg(x)
    unit = limits(dtype)[0] if operator == "MaxPool" else 0
    auto, pads, counts = _auto_padding(x, w, axes), None, w.counts
    if auto is None:
        pads, rest = _split_padding(w, axes)
        padded = rest.spread(op, x, unit)
        x = wide_enough(
            op, padded, axes, pads, pick(w.sizes, axes), pick(w.dilations, axes), unit
        )
        if x is not padded:
            counts = tuple(
                dims.maximum(d, 1) if i in axes else d for i, d in enumerate(counts)
            )
    others = [i for i in range(x.type.rank) if i not in axes]
    order = [*others, *axes]
    shape = pick(counts, order)
    flat = _to_batch_and_channel(op, op.transpose(x, order), len(others))
    y = op.apply(
        f"onnx.{operator}", flat, kernel_shape=pick(w.sizes, axes), strides=pick(w.strides, axes), pads=pads, auto_pad=auto,
        dilations=pick(w.dilations, axes) if any(w.dilations[i] != 1 for i in axes) else None,
        count_include_pad=1 if kind == "add" else None,
        types=[flat.type.with_shape((*flat.type.shape[:2], *shape[len(others) :]))],
    )  # fmt: skip
    y = op.transpose(op.reshape(y, shape), np.argsort(order).tolist())
    y = slice_axes(op, y, (0,) * len(order), w.counts, (1,) * len(order))
    if kind == "add":
        return op.Mul(y, float(np.prod(pick(w.sizes, axes))))
    return op.Neg(y) if kind == "min" else y


def _auto_padding(x: Value, w: Windows, axes: Sequence[int]) -> str | None:
    """`auto_pad`, where it says the padding of all axes."""
    plain = all(w.base[i] == 1 and w.dilations[i] == 1 for i in range(len(w.base)))
    if not plain or any(
        not same_dim(p, 0)
        for i, pair in enumerate(w.padding)
        if i not in axes
        for p in pair
    ):
        return None
    return same_padding(
        *(pick(v, axes) for v in (x.type.shape, w.sizes, w.strides, w.padding))
    )


def _split_padding(w: Windows, axes: Sequence[int]) -> tuple[tuple[int, ...], Windows]:
    """`pads` of a pooling operator (static, from 0 to less than the kernel), and the padding to be done before it."""
    low, high, rest = [], [], list(w.padding)
    for i in axes:
        pair = w.padding[i]
        fits = w.base[i] == 1 and all(
            type(p) is int and 0 <= p < w.sizes[i] for p in pair
        )
        low.append(int(pair[0]) if fits else 0)
        high.append(int(pair[1]) if fits else 0)
        rest[i] = (0, 0) if fits else pair
    return (*low, *high), dataclasses.replace(w, padding=rest)


def _to_batch_and_channel(op: Lowering, x: Value, others: int) -> Value:
    """The axes that are not pooled, which come first, as exactly two."""
    shape = x.type.shape
    if others < 2:
        return op.unsqueeze(x, list(range(others, 2)))
    if not dims.known_ge(
        shape[others - 1], 1
    ):  # of all axes only the first may have no elements
        return op.reshape(x, (dims.prod(shape[:others]), 1, *shape[others:]))
    return (
        x
        if others == 2
        else op.reshape(x, (dims.prod(shape[: others - 1]), *shape[others - 1 :]))
    )


# ---------------------------------------------------------------------------------- shifted slices


def _shifted(op: Lowering, x: Value, monoid: Monoid, w: Windows) -> Value:
    """One axis after the other, those that shrink most first."""
    x = w.spread(op, x, monoid.unit(x.type.dtype))
    for axis in sorted(range(x.type.rank), key=lambda i: -w.strides[i]):
        x = _slide(op, x, monoid, axis, w)
    return x


def _slide(op: Lowering, x: Value, monoid: Monoid, axis: int, w: Windows) -> Value:
    size, stride, dilation, count = (
        w.sizes[axis],
        w.strides[axis],
        w.dilations[axis],
        w.counts[axis],
    )
    length = x.type.shape[axis]
    if (
        same_dim(size, length)
        and not same_dim(size, 1)
        and same_dim(count, 1)
        and dilation == 1
    ):
        return op.unsqueeze(monoid.whole(op, x, axes=[axis]), [axis])
    if type(size) is not int:
        one = [
            [v if i == axis else 1 for i in range(x.type.rank)]
            for v in (size, stride, dilation)
        ]
        counts = (*x.type.shape[:axis], count, *x.type.shape[axis + 1 :])
        alone = Windows(
            tuple(one[0]),
            one[1],
            [(0, 0)] * x.type.rank,
            [1] * x.type.rank,
            one[2],
            counts,
        )
        unit = op.const(monoid.unit(x.type.dtype), x.type.dtype)
        return _fold(
            op,
            [x],
            [unit],
            alone,
            lambda op, acc, items: [monoid.combine(op, *acc, *items)],
        )[0]
    if size <= 4 or stride * 2 >= size:
        parts = [_every(op, x, axis, k * dilation, count, stride) for k in range(size)]
        return functools.reduce(functools.partial(monoid.combine, op), parts)
    return _every(
        op, _doubled(op, x, monoid, axis, size, dilation), axis, 0, count, stride
    )


def _doubled(
    op: Lowering, x: Value, monoid: Monoid, axis: int, size: int, dilation: int
) -> Value:
    """Windows of stride 1 from windows of 1, 2, 4, …: about 2 log₂(size) combinations."""

    def joined(a: Value, b: Value, shift: int) -> Value:
        rest = dims.maximum(dims.sub(b.type.shape[axis], shift), 0)
        count = rest if b is a else dims.minimum(rest, a.type.shape[axis])
        return monoid.combine(
            op, _every(op, a, axis, 0, count, 1), _every(op, b, axis, shift, count, 1)
        )

    power, covered, out = x, 0, None
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
    """A monoid where the computation is one, else the computation for each place in the window, from the initial values on."""
    n = len(operands) // 2
    xs, inits = operands[:n], operands[n:]
    w = _windows(op, **windows)
    region = op.source.graphs[0]
    kind = _monoid_of(region) if n == 1 else None
    if kind is not None:
        out, init = _reduce(op, xs[0], kind, w), inits[0]
        unit = MONOIDS[kind].unit(
            DType.I32 if init.type.dtype == DType.BOOL else init.type.dtype
        )
        known = (
            init.const is not None
            and init.type.dtype != DType.BOOL
            and bool(init.const.scalar == unit)
        )
        return [
            out
            if known
            else op.expand(
                apply_elementwise(op, region, [out, op.expand(init, w.counts)])[0],
                w.counts,
            )
        ]
    if any(same_dim(d, 0) for d in w.counts):
        return [op.full(w.counts, 0, v.type.dtype) for v in xs]
    return _fold(
        op,
        xs,
        inits,
        w,
        lambda op, acc, items: apply_elementwise(op, region, [*acc, *items]),
    )


def _monoid_of(region: Graph) -> str | None:
    """Which monoid a lowered computation is: one node, of both of its inputs."""
    body = [node for node in region if node.op != "return"]
    if len(body) != 1 or body[0].dialect != "onnx" or region.outputs != body[0].outputs:
        return None
    return (
        BY_OPERATOR.get(body[0].kind)
        if set(body[0].inputs) == set(region.inputs)
        else None
    )


def _fold(
    op: Lowering, xs: Sequence[Value], inits: Sequence[Value], w: Windows,
    computation: Callable[[Lowering, list[Value], list[Value]], list[Value]],
) -> list[Value]:  # fmt: skip
    """The computation over the places of a window, one after the other; padding is passed over.

    In a loop where the sizes of the windows are known at run time alone.
    """
    spread = [w.spread(op, x, 0) for x in xs]
    real, plain = None, w
    if w.is_padded:  # one mask for all that lies along the axes without windows
        still = [w.keeps(i) for i in range(len(w.counts))]
        shape = tuple(1 if still[i] else n for i, n in enumerate(xs[0].type.shape))
        plain = dataclasses.replace(
            w, counts=tuple(1 if still[i] else n for i, n in enumerate(w.counts))
        )
        real = w.spread(op, op.full(shape, True, DType.BOOL), False)
    start = [op.expand(v, w.counts) for v in inits]

    def step(
        op: Lowering, acc: Sequence[Value], offset: Sequence[int] | Value
    ) -> list[Value]:
        new = computation(op, list(acc), [w.at(op, x, offset) for x in spread])
        if real is None:
            return new
        here = plain.at(op, real, offset)
        return [op.Where(here, v, old) for v, old in zip(new, acc, strict=True)]

    if dims.is_static(w.sizes):
        return functools.reduce(functools.partial(step, op), w.offsets(), start)
    sizes, rows = (
        op.dims(w.sizes),
        op.dims([dims.prod(w.sizes[i + 1 :]) for i in range(len(w.sizes))]),
    )

    def body(op: Lowering, place: Value, *acc: Value) -> list[Value]:
        return step(
            op, acc, op.Mul(op.Mod(op.Div(place, rows), sizes), np.asarray(w.dilations))
        )

    return list(loop(op, dims.prod(w.sizes), start, body))


# ------------------------------------------------------------------------------ gradients of max-pooling


@lower_with("select_and_gather_add")
def select_and_gather_add(
    tangents: jax.Array, x: jax.Array, *, select_prim: str, **windows: Any
) -> jax.Array:
    """The tangent at the extreme of each window; the first of equal ones."""

    def choose(
        best: tuple[jax.Array, ...], item: tuple[jax.Array, ...]
    ) -> tuple[jax.Array, ...]:
        keep = getattr(lax, select_prim)(best[0], item[0])
        return tuple(
            lax.select(keep, old, new) for old, new in zip(best, item, strict=True)
        )

    unit = limits(dtype_of(x.dtype))[select_prim == "le"]
    inits = tuple(jnp.asarray(v, x.dtype) for v in (unit, 0))
    return lax.reduce_window((x, tangents), inits, choose, **windows)[1]


@lower("select_and_scatter_add")
def select_and_scatter_add(
    op: Lowering, source: Value, x: Value, *, select_prim: str, **windows: Any
) -> Value:
    """Each element of `source` is added where the extreme of its window lies, the first of equal ones."""
    w = dataclasses.replace(_windows(op, **windows), counts=source.type.shape)
    dtype = x.type.dtype
    if any(same_dim(d, 0) for d in (*w.counts, *x.type.shape)):
        return op.full(op.out_shape, 0, dtype)
    operator = {"ge": "GreaterOrEqual", "le": "LessOrEqual"}[select_prim]
    padded = w.spread(op, x, limits(dtype)[select_prim == "le"])
    shape = padded.type.shape
    first, *others = w.offsets()
    best, place = (
        w.at(op, padded, first),
        op.full(w.counts, 0, DType.I64),
    )  # of the extreme, in the window
    for offset in others:
        value = w.at(op, padded, offset)
        here = op.dim(
            dims.total(
                dims.mul(start, dims.prod(shape[i + 1 :]))
                for i, start in enumerate(offset)
            )
        )
        keep = op.apply(f"onnx.{operator}", best, value)
        best, place = op.Where(keep, best, value), op.Where(keep, place, here)
    for axis in range(
        x.type.rank
    ):  # from places in the window to places in the padded operand
        step = op.dim(dims.mul(w.strides[axis], dims.prod(shape[axis + 1 :])))
        starts = op.Mul(arange(op, w.counts[axis], DType.I64), step)
        place = op.Add(
            place,
            op.reshape(
                starts, tuple(d if i == axis else 1 for i, d in enumerate(w.counts))
            ),
        )
    added = _scatter_add(
        op,
        op.reshape(place, (source.type.size,)),
        op.reshape(source, (source.type.size,)),
        shape,
    )
    return pad_with(
        op,
        added,
        op.const(0, dtype),
        [(dims.sub(0, a), dims.sub(0, b), 0) for a, b in w.padding],
    )


def _scatter_add(op: Lowering, places: Value, values: Value, shape: Shape) -> Value:
    """Zeros of `shape` with flat `values` added at flat `places`; 16-bit floats, which it does not add, in float32."""
    dtype = values.type.dtype
    wide = (
        DType.F32
        if dtype in (DType.F16, DType.BF16)
        else DType.U8
        if dtype == DType.BOOL
        else dtype
    )
    size = dims.prod(shape)
    zeros = op.full((size,), 0, wide)
    out = op.ScatterElements(
        zeros, places, op.cast(values, wide), axis=0, reduction="add"
    )
    return op.cast(op.reshape(out, shape), dtype)
