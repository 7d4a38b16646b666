"""Primitives that only move elements: reshape, broadcast, transpose, slice, pad, concatenate, iota."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.dims_agree import agree
from j2o.ir.graph import Value
from j2o.ir.ops import TO_THE_END, TO_THE_FRONT
from j2o.ir.types import Dim, DType, Shape, Type, same_dim, same_shape
from j2o.passes.lower.table import Lowering, lower

MOST_WRITTEN_OUT = 4096  # numbers that a constant counts; more are a Range
Padding: TypeAlias = tuple[Dim, Dim, int]  # before, after, between the elements


# --------------------------------------------------------------------------------------------- shapes


@lower("broadcast_in_dim")
def broadcast_in_dim(
    op: Lowering, x: Value, *, shape: Shape, broadcast_dimensions: Sequence[int]
) -> Value:
    """Axis `i` of the operand becomes axis `broadcast_dimensions[i]` of the result."""
    spread: list[Dim] = [1] * len(shape)
    for size, axis in zip(x.type.shape, broadcast_dimensions, strict=True):
        spread[axis] = size
    return op.expand(op.reshape(x, tuple(spread)), shape)


@lower("reshape")
def reshape(
    op: Lowering, x: Value, *, new_sizes: Shape, dimensions: Sequence[int] = ()
) -> Value:
    """The elements in another shape.

    `dimensions` is the order in which the axes are read, by default as they are. DimensionError where the
    number of elements is not the same for every size of the symbolic axes.
    """
    if dimensions:
        x = op.transpose(x, dimensions)
    view = op.view(x, new_sizes)
    if view is not None:
        return view
    own_size = x.type.size
    size = dims.prod(new_sizes)
    if not agree(own_size, size, divisible=True):
        shape = ", ".join(map(str, new_sizes))
        raise DimensionError(
            f"{op.loc}: {x.type} does not fit into the shape {shape} for every size; "
            f"constraints=['{own_size} == {size}'] would settle it"
        )
    return op.result("Reshape", x, op.dims(new_sizes), allowzero=1)


@lower("squeeze")
def squeeze(op: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    return op.squeeze(x, dimensions)


@lower("expand_dims")
def expand_dims(op: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    return op.unsqueeze(x, dimensions)


@lower("transpose")
def transpose(op: Lowering, x: Value, *, permutation: Sequence[int]) -> Value:
    return op.transpose(x, permutation)


@lower("tile")
def tile(op: Lowering, x: Value, *, reps: Shape) -> Value:
    return op.Tile(x, op.dims(reps))


# ------------------------------------------------------------------------------ joining and parting


@lower("concatenate")
def concatenate(op: Lowering, *operands: Value, dimension: int) -> Value:
    if len(operands) == 1:
        return operands[0]
    return op.Concat(*operands, axis=dimension)


@lower("stack")
def stack(op: Lowering, *operands: Value, axis: int) -> Value:
    rows = [op.unsqueeze(x, [axis]) for x in operands]
    return op.Concat(*rows, axis=axis)


@lower("split")
def split(op: Lowering, x: Value, *, sizes: Shape, axis: int) -> Any:
    if len(sizes) == 1:
        return x
    return op.Split(x, op.dims(sizes), axis=axis)


@lower("unstack")
def unstack(op: Lowering, x: Value, *, axis: int) -> list[Value]:
    places = range(len(op.out_types))
    return [op.Gather(x, np.array(i, np.int64), axis=axis) for i in places]


# ---------------------------------------------------------------------------------------------- slices


@lower("rev")
def rev(op: Lowering, x: Value, *, dimensions: Sequence[int]) -> Value:
    """`x` with these axes turned around."""
    if not dimensions:
        return x
    n = len(dimensions)
    axes = np.asarray(dimensions, np.int64)
    from_last = np.full(n, -1)
    past_first = np.full(n, TO_THE_FRONT)
    backwards = np.full(n, -1)
    return op.Slice(x, from_last, past_first, axes, backwards)


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
    shape = list(x.type.shape)
    axes: list[int] = []
    ends: list[Dim] = []
    for axis, start in enumerate(starts):
        limit = limits[axis]
        step = steps[axis]
        to_the_end = same_dim(limit, shape[axis])
        if to_the_end and same_dim(start, 0) and same_dim(step, 1):
            continue
        axes.append(axis)
        ends.append(TO_THE_END if to_the_end else limit)
        shape[axis] = _count(start, limit, step)
    if not axes:
        return x
    return op.apply(
        "onnx.Slice",
        x,
        op.dims([starts[axis] for axis in axes]),
        op.dims(ends),
        np.asarray(axes, np.int64),
        op.dims([steps[axis] for axis in axes]),
        types=[x.type.with_shape(tuple(shape))],
    )


def first_of_each(op: Lowering, x: Value, sizes: Shape) -> Value:
    """As many elements along each axis, from the first on."""
    if same_shape(x.type.shape, sizes):
        return x
    rank = len(sizes)
    return slice_axes(op, x, (0,) * rank, sizes, (1,) * rank)


def _count(start: Dim, limit: Dim, step: Dim) -> Dim:
    """The number of elements of a slice. JAX has checked that the bounds lie inside."""
    span = dims.sub(limit, start)
    if same_dim(step, 1):
        return span
    rounded_up = dims.sub(dims.add(span, step), 1)
    return dims.floordiv(rounded_up, step)


# --------------------------------------------------------------------------------------------- padding


@lower("pad")
def pad(
    op: Lowering, x: Value, value: Value, *, padding_config: Sequence[Padding]
) -> Value:
    return pad_with(op, x, value, padding_config)


def pad_with(op: Lowering, x: Value, value: Value, config: Sequence[Padding]) -> Value:
    """lax.pad: `(low, high, interior)` for each axis.

    Negative amounts cut; interior ones stand between the elements, and come first.
    """
    if list(config).count((0, 0, 0)) == len(config):
        return x
    for axis, (_, _, interior) in enumerate(config):
        if not same_dim(interior, 0):
            x = _pad_inside(op, x, value, axis, interior)
    lows = [low for low, _, _ in config]
    highs = [high for _, high, _ in config]
    # pad, then cut: a cut may reach into what the other side added
    added_low = _at_least_0(lows)
    added_high = _at_least_0(highs)
    adds = any(not same_dim(d, 0) for d in added_low + added_high)
    if adds:
        x = _pad_outside(op, x, value, added_low, added_high)
    cut_low = _at_least_0(_negated(lows))
    cut_high = _at_least_0(_negated(highs))
    limits = tuple(map(dims.sub, x.type.shape, cut_high))
    return slice_axes(op, x, tuple(cut_low), limits, (1,) * len(config))


def _at_least_0(amounts: Sequence[Dim]) -> list[Dim]:
    """Amounts, with 0 for negative ones."""
    return [dims.maximum(v, 0) for v in amounts]


def _negated(amounts: Sequence[Dim]) -> list[Dim]:
    """Amounts with the other sign."""
    return [dims.sub(0, v) for v in amounts]


def _pad_outside(
    op: Lowering, x: Value, value: Value, low: Sequence[Dim], high: Sequence[Dim]
) -> Value:
    """ONNX's Pad, by amounts that are not negative."""
    if x.type.dtype == DType.BOOL:
        # as integers: a bool pad value is not taken everywhere
        numbers = op.cast(x, DType.U8)
        number = op.cast(value, DType.U8)
        padded = _pad_outside(op, numbers, number, low, high)
        return op.cast(padded, DType.BOOL)
    shape = []
    for size, before, after in zip(x.type.shape, low, high, strict=True):
        shape.append(dims.total((size, before, after)))
    result = x.type.with_shape(tuple(shape))
    pads = op.dims([*low, *high])
    return op.apply("onnx.Pad", x, pads, value, types=[result])


def _pad_inside(
    op: Lowering, x: Value, value: Value, axis: int, interior: int
) -> Value:
    """Put `interior` copies of the value after each element, then cut those after the last."""
    shape = list(x.type.shape)
    column = op.unsqueeze(x, [axis + 1])
    nothing = [0] * column.type.rank
    after = list(nothing)
    after[axis + 1] = interior
    spread = _pad_outside(op, column, value, nothing, after)
    size = dims.mul(shape[axis], interior + 1)
    shape[axis] = size
    flat = op.reshape(spread, tuple(shape))
    shape[axis] = dims.maximum(dims.sub(size, interior), 0)
    return first_of_each(op, flat, tuple(shape))


# ------------------------------------------------------------------------------------------- new arrays


@lower("iota")
def iota(op: Lowering, *_: Value, dtype: DType, shape: Shape, dimension: int) -> Value:
    """The position along one axis, of every element."""
    line = arange(op, shape[dimension], dtype)
    spread: list[Dim] = [1] * len(shape)
    spread[dimension] = shape[dimension]
    along_axis = op.reshape(line, tuple(spread))
    return op.expand(along_axis, shape)


def arange(op: Lowering, size: Dim, dtype: DType) -> Value:
    """0, 1, …, size - 1 in `dtype`."""
    if type(size) is int and size <= MOST_WRITTEN_OUT:
        return op.const(np.arange(size).astype(dtype.numpy))
    result = Type(DType.I64, (size,))
    start = op.const(0)
    end = op.dim(size)
    step = op.const(1)
    numbers = op.apply("onnx.Range", start, end, step, types=[result])
    return op.cast(numbers, dtype)


@lower("empty", "empty2")
def empty(op: Lowering, *_: Value, dtype: DType, **__: Any) -> Value:
    """What need not hold anything holds zeros."""
    return op.full(op.out_shape, 0, dtype)
