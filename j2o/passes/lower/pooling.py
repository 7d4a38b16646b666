"""Reductions of windows as ONNX's MaxPool and AveragePool, where these have a form and a kernel.

Whether they do is the plan, `pool_plan`; `pool` carries it out. Sources: ONNX's MaxPool and AveragePool.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, same_dim
from j2o.passes.lower.dot import pick
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.table import Lowering
from j2o.passes.lower.window_padding import (
    Room,
    own_windows,
    pads_with_room,
    room_for,
    same_padding,
    with_room,
)
from j2o.passes.lower.window_places import Windows, is_unpadded

POOLING_OPERATORS = {"add": "AveragePool", "max": "MaxPool", "min": "MaxPool"}


class PoolPlan(NamedTuple):
    """How the reduction of windows becomes one pooling operator: over these axes, 1 to 3, in this dtype."""

    operator: str
    axes: list[int]
    dtype: DType


def pool_plan(op: Lowering, x: Value, kind: str, w: Windows) -> PoolPlan | None:
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
    pooled_dtype = dtype_of_pooling(dtype)
    operator = POOLING_OPERATORS[kind]
    if not op.supports(operator, pooled_dtype):
        return None
    return PoolPlan(operator, axes, pooled_dtype)


def dtype_of_pooling(dtype: DType) -> DType:
    """The dtype in which values of a dtype are pooled: f32 for floats of 16 bits."""
    return DType.F32 if dtype in (DType.F16, DType.BF16) else dtype


def _pooled_axes(x: Value, w: Windows) -> list[int]:
    """The axes that the windows do not leave as they are."""
    axes = []
    for i, size in enumerate(w.sizes):
        is_single = same_dim(size, 1) and w.strides[i] == 1
        keeps_size = w.counts[i] == x.type.shape[i]
        if not (is_single and keeps_size):
            axes.append(i)
    return axes


def pool(op: Lowering, x: Value, kind: str, w: Windows, plan: PoolPlan) -> Value:
    """The monoid by the operator of the plan.

    onnxruntime's MaxPool differs from JAX, which gives NaN and -inf, in two places: a NaN may be passed over,
    and a window of nothing but -inf that has padding gives the lowest finite number.
    """
    values = op.cast(x, plan.dtype)
    if kind == "min":
        values = op.Neg(values)
    y = _over_padded(op, values, w, plan)
    if kind == "add":
        elements = np.prod(pick(w.sizes, plan.axes))
        y = op.Mul(y, float(elements))
    elif kind == "min":
        y = op.Neg(y)
    return op.cast(y, x.type.dtype)


def _over_padded(op: Lowering, x: Value, w: Windows, plan: PoolPlan) -> Value:
    """The operator, with padding that it cannot do done before it."""
    axes = plan.axes
    is_average = plan.operator == "AveragePool"
    unit = 0 if is_average else limits(plan.dtype).least
    sizes = pick(w.sizes, axes)
    dilations = pick(w.dilations, axes)
    rooms = [Room(count) for count in w.counts]
    pads = None
    auto = _auto_padding(x, w, axes)
    if auto is None:
        left, rest = _split_padding(w, axes)
        x = rest.spread(op, x, unit)
        for pair, axis in zip(left, axes, strict=True):
            rooms[axis] = _room(x.type.shape[axis], pair, w, axis)
        x = with_room(op, x, range(x.type.rank), rooms, unit)
        pads = pads_with_room(left, pick(rooms, axes))
    counts = tuple([room.windows for room in rooms])
    y = pooled(
        op,
        x,
        plan.operator,
        axes,
        counts,
        kernel_shape=sizes,
        strides=pick(w.strides, axes),
        pads=pads,
        auto_pad=auto,
        dilations=dilations if any(d != 1 for d in dilations) else None,
        count_include_pad=1 if is_average else None,
    )
    return own_windows(op, y, rooms, w.counts)


def _room(size: Dim, pads: tuple[int, int], w: Windows, axis: int) -> Room:
    """The room for one window on an axis; operators pad by less than the kernel."""
    kernel = w.sizes[axis]
    assert type(kernel) is int
    window = (kernel - 1) * w.dilations[axis] + 1
    return room_for(size, pads, window, w.strides[axis], most=kernel - 1)


def pooled(
    op: Builder,
    x: Value,
    operator: str,
    axes: Sequence[int],
    counts: Shape,
    **attrs: Any,
) -> Value:
    """A pooling operator over some axes, which it takes last; its result has the shape `counts`."""
    others = [i for i in range(x.type.rank) if i not in axes]
    order = [*others, *axes]
    flat = _to_batch_and_channel(op, op.transpose(x, order), len(others))
    batch, channels, *_ = flat.type.shape
    result = flat.type.with_shape((batch, channels, *pick(counts, axes)))
    y = op.apply(f"onnx.{operator}", flat, types=[result], **attrs)
    back = op.reshape(y, pick(counts, order))
    return op.transpose(back, np.argsort(order).tolist())


def _auto_padding(x: Value, w: Windows, axes: Sequence[int]) -> str | None:
    """`auto_pad`, where it says the padding of all axes."""
    dilations = (*w.base, *w.dilations)
    if any(d != 1 for d in dilations):
        return None
    others = [pair for i, pair in enumerate(w.padding) if i not in axes]
    if not all(map(is_unpadded, others)):
        return None
    return same_padding(
        sizes=pick(x.type.shape, axes),
        kernel=pick(w.sizes, axes),
        strides=pick(w.strides, axes),
        padding=pick(w.padding, axes),
    )


def _split_padding(
    w: Windows, axes: Sequence[int]
) -> tuple[list[tuple[int, int]], Windows]:
    """The padding by a pooling operator, and the windows with what is left, to be padded before it.

    The amounts of the operator are static, and from 0 to less than the kernel.
    """
    taken: list[tuple[int, int]] = []
    rest = list(w.padding)
    for i in axes:
        low, high = w.padding[i]
        fits = fits_window(low, w.sizes[i]) and fits_window(high, w.sizes[i])
        if fits and w.base[i] == 1:
            taken.append((int(low), int(high)))
            rest[i] = (0, 0)
        else:
            taken.append((0, 0))
    return taken, dataclasses.replace(w, padding=rest)


def fits_window(amount: Dim, size: Dim) -> bool:
    """Return True for an amount of padding that a pooling operator takes, over a window of this size."""
    if type(amount) is not int or type(size) is not int:
        return False
    return 0 <= amount < size


def _to_batch_and_channel(op: Builder, x: Value, others: int) -> Value:
    """The axes that are not pooled, which come first, as exactly two."""
    if others < 2:
        return op.unsqueeze(x, list(range(others, 2)))
    not_pooled = x.type.shape[:others]
    pooled = x.type.shape[others:]
    *before, last = not_pooled
    # of all axes only the first may have no elements
    if not dims.known_ge(last, 1):
        return op.reshape(x, (dims.prod(not_pooled), 1, *pooled))
    if others == 2:
        return x
    return op.reshape(x, (dims.prod(before), last, *pooled))
