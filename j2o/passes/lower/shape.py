"""Primitives that only move elements: reshape, broadcast, transpose, slice, pad, concatenate, iota."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, Type, same_dim
from j2o.passes.lower.table import LOWERINGS, Lowering, lower

LAST = np.iinfo(np.int64).max


@lower("broadcast_in_dim")
def broadcast_in_dim(
    op: Lowering, x: Value, *, shape: Shape, broadcast_dimensions: Sequence[int]
) -> Value:
    spread = [1] * len(shape)
    for i, d in enumerate(broadcast_dimensions):
        spread[d] = x.type.shape[i]  # type: ignore[call-overload]
    return op.expand(op.reshape(x, tuple(spread)), shape)


@lower("reshape")
def reshape(
    op: Lowering, x: Value, *, new_sizes: Shape, dimensions: Sequence[int] = ()
) -> Value:
    """The elements in another shape; `dimensions` is the order in which the axes are read, by default as they are."""
    if not dims.agree(x.type.size, size := dims.prod(new_sizes), divisible=True):
        raise DimensionError(
            f"{op.loc}: {x.type} does not fit into the shape {', '.join(map(str, new_sizes))} for every size; "
            f"constraints=['{x.type.size} == {size}'] would settle it"
        )
    return op.reshape(op.transpose(x, dimensions) if dimensions else x, new_sizes)


@lower("rev")
def rev(op: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    """`x` with these axes turned around."""
    if not dimensions:
        return x
    n = len(dimensions)
    return op.Slice(
        x,
        np.full(n, -1),
        np.full(n, -LAST),
        np.asarray(dimensions, np.int64),
        np.full(n, -1),
    )


@lower("slice")
def slice_(
    op: Lowering,
    x: Value,
    *,
    start_indices: Shape,
    limit_indices: Shape,
    strides: Shape = (),
) -> Value:
    steps = tuple(strides) or (1,) * len(start_indices)
    return slice_axes(op, x, start_indices, limit_indices, steps)


def slice_axes(
    op: Lowering, x: Value, starts: Shape, limits: Shape, steps: Shape
) -> Value:
    """`x[start:limit:step]` on every axis; axes taken whole are left out."""
    axes = [
        i
        for i, d in enumerate(x.type.shape)
        if not (
            same_dim(starts[i], 0) and same_dim(limits[i], d) and same_dim(steps[i], 1)
        )
    ]
    if not axes:
        return x
    ends = [LAST if same_dim(limits[i], x.type.shape[i]) else limits[i] for i in axes]
    shape = list(x.type.shape)
    for i in axes:
        shape[i] = _count(starts[i], limits[i], steps[i])
    return op.apply(
        "onnx.Slice", x, op.dims([starts[i] for i in axes]), op.dims(ends), np.asarray(axes, np.int64),
        op.dims([steps[i] for i in axes]), types=[x.type.with_shape(tuple(shape))],
    )  # fmt: skip


def _count(start: Dim, limit: Dim, step: Dim) -> Dim:
    """JAX has checked that the bounds lie inside."""
    span = dims.sub(limit, start)
    return (
        span
        if same_dim(step, 1)
        else dims.floordiv(dims.sub(dims.add(span, step), 1), step)
    )


def pad_with(
    op: Lowering, x: Value, value: Value, config: Sequence[tuple[Dim, Dim, int]]
) -> Value:
    """lax.pad: `(low, high, interior)` for each axis; negative amounts cut, interior ones stand between the elements."""
    for axis, (_, _, interior) in enumerate(config):
        if not same_dim(interior, 0):
            x = _pad_inside(op, x, value, axis, interior)
    lows, highs = [low for low, _, _ in config], [high for _, high, _ in config]
    cut_low, cut_high = (
        [dims.maximum(dims.sub(0, v), 0) for v in side] for side in (lows, highs)
    )
    add_low, add_high = ([dims.maximum(v, 0) for v in side] for side in (lows, highs))
    # pad first: a cut may reach into what the other side added
    if any(not same_dim(v, 0) for v in (*add_low, *add_high)):
        x = _pad_outside(op, x, value, add_low, add_high)
    limits = [dims.sub(d, c) for d, c in zip(x.type.shape, cut_high, strict=True)]
    return slice_axes(op, x, tuple(cut_low), tuple(limits), (1,) * len(config))


def _pad_outside(
    op: Lowering, x: Value, value: Value, low: Sequence[Dim], high: Sequence[Dim]
) -> Value:
    if (
        x.type.dtype == DType.BOOL
    ):  # as integers: a bool pad value is not taken everywhere
        padded = _pad_outside(
            op, op.cast(x, DType.U8), op.cast(value, DType.U8), low, high
        )
        return op.cast(padded, DType.BOOL)
    shape = tuple(
        dims.add(dims.add(d, a), b)
        for d, a, b in zip(x.type.shape, low, high, strict=True)
    )
    return op.apply(
        "onnx.Pad", x, op.dims([*low, *high]), value, types=[x.type.with_shape(shape)]
    )


def _pad_inside(
    op: Lowering, x: Value, value: Value, axis: int, interior: int
) -> Value:
    """Put `interior` copies of the value after each element, then cut those after the last."""
    shape = x.type.shape
    size = shape[axis]
    column = op.unsqueeze(x, [axis + 1])
    zero = [0] * column.type.rank
    after = list(zero)
    after[axis + 1] = interior
    spread = _pad_outside(op, column, value, zero, after)
    flat = op.reshape(
        spread, (*shape[:axis], dims.mul(size, interior + 1), *shape[axis + 1 :])
    )
    limits = list(flat.type.shape)
    limits[axis] = dims.maximum(dims.sub(dims.mul(size, interior + 1), interior), 0)
    return slice_axes(op, flat, (0,) * len(shape), tuple(limits), (1,) * len(shape))


@lower("iota")
def iota(op: Lowering, *_: Value, dtype: DType, shape: Shape, dimension: int) -> Value:
    spread = tuple(d if i == dimension else 1 for i, d in enumerate(shape))
    line = arange(op, shape[dimension], dtype)
    return op.expand(op.reshape(line, spread), shape)


def arange(op: Lowering, size: Dim, dtype: DType) -> Value:
    """0, 1, …, size - 1 in `dtype`."""
    if type(size) is int and size <= 4096:
        return op.const(np.arange(size).astype(dtype.numpy))
    line = op.apply(
        "onnx.Range",
        op.const(0),
        op.dim(size),
        op.const(1),
        types=[Type(DType.I64, (size,))],
    )
    return op.cast(line, dtype)


LOWERINGS |= {
    "squeeze": lambda op, x, *, dimensions: op.squeeze(x, dimensions),
    "expand_dims": lambda op, x, *, dimensions: op.unsqueeze(x, dimensions),
    "transpose": lambda op, x, *, permutation: op.transpose(x, permutation),
    "tile": lambda op, x, *, reps: op.Tile(x, op.dims(reps)),
    "pad": lambda op, x, value, *, padding_config: pad_with(
        op, x, value, padding_config
    ),
    "concatenate": lambda op, x, *rest, dimension: (
        op.Concat(x, *rest, axis=dimension) if rest else x
    ),
    "split": lambda op, x, *, sizes, axis: (
        op.Split(x, op.dims(sizes), axis=axis) if len(sizes) > 1 else x
    ),
    "stack": lambda op, *xs, axis: op.Concat(
        *(op.unsqueeze(x, [axis]) for x in xs), axis=axis
    ),
    "unstack": lambda op, x, *, axis: [
        op.Gather(x, np.array(i, np.int64), axis=axis) for i in range(len(op.out_types))
    ],
    # what need not hold anything holds zeros
    **dict.fromkeys(
        ["empty", "empty2"], lambda op, *_, dtype, **__: op.full(op.out_shape, 0, dtype)
    ),
}
