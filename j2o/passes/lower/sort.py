"""Sorting, by ONNX TopK: of equal elements the one with the lower index comes first, so that every sort is stable.

TopK's order of floats is numpy's (onnxruntime's kernel and the ONNX reference agree): -0 equals 0, and NaN is greater
than all else. That is the order of JAX's `sort`; `top_k` follows the total order instead, where -0 < 0 and -NaN < -inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType
from j2o.passes.lower.elementwise import total_order
from j2o.passes.lower.table import Lowering, lower


@lower("sort")
def sort(
    op: Lowering, *operands: Value, dimension: int, num_keys: int = 1, **_: object
) -> Sequence[Value]:
    """All operands in the lexicographic order of the first `num_keys`: sorted by the last key first, then by those before."""
    size = operands[0].type.shape[dimension]
    order: Value | None = None
    for operand in reversed(operands[:num_keys]):
        if order is None and num_keys > 1 and _counts(operand, dimension):
            continue  # a last key of positions says no more than that the sort is stable
        key = _sort_key(op, operand)
        key = key if order is None else op.GatherElements(key, order, axis=dimension)
        values, index = op.TopK(key, op.dims((size,)), axis=dimension, largest=0)
        if len(operands) == 1 and key is operand:
            return [values]
        order = (
            index if order is None else op.GatherElements(order, index, axis=dimension)
        )
    assert order is not None
    return [
        op.cast(order, v.type.dtype)
        if _counts(v, dimension)
        else op.GatherElements(v, order, axis=dimension)
        for v in operands
    ]


def _sort_key(op: Lowering, x: Value) -> Value:
    """What TopK sorts in the order of `x`. There is no wider dtype than u64: its highest bit is flipped."""
    if x.type.dtype != DType.U64:
        return x
    return op.BitwiseXor(op.cast(x, DType.I64), np.iinfo(np.int64).min)


def _counts(x: Value, axis: int) -> bool:
    """Whether `x` is 0, 1, 2, … along `axis`, as `lax.iota` makes it: a range or constant, reshaped and expanded."""
    line = tuple(d if i == axis else 1 for i, d in enumerate(x.type.shape))
    along = False  # whether the one line that everything comes from was seen to lie along `axis`
    while (node := x.node) is not None:
        along = along or x.type.shape == line
        if not along and node.op != "onnx.Expand":
            return False
        if x.const is not None:
            return x.type.rank == 1 and bool(
                (x.const.load() == np.arange(x.const.type.shape[0])).all()
            )
        if node.op == "onnx.Range":
            ends = [v.const for v in (node.inputs[0], node.inputs[2]) if v is not None]
            return [c.scalar for c in ends if c is not None] == [0, 1]
        wide = (
            x.type.dtype.is_int and x.type.dtype.bits >= 32
        )  # a narrow one might have wrapped around
        if (
            node.op
            not in ("onnx.Expand", "onnx.Reshape", "onnx.Unsqueeze", "onnx.Cast")
            or node.inputs[0] is None
            or not wide
        ):
            return False
        x = node.inputs[0]
    return False


@lower("top_k")
def top_k(op: Lowering, x: Value, *, k: Dim, axis: int = -1) -> Sequence[Value]:
    """The `k` greatest in the total order of floats, and their positions as i32."""
    return _extremes(op, x, _total_key(op, x), k, axis, largest=True)


@lower("approx_top_k")
def approx_top_k(
    op: Lowering, x: Value, *, reduction_dimension: int, is_max_k: bool, **_: object
) -> Sequence[Value]:
    """Exactly the greatest or least; as many as the result has room for, which is more than `k` before aggregation."""
    axis = reduction_dimension % x.type.rank
    return _extremes(op, x, x, op.out_types[0].shape[axis], axis, largest=is_max_k)


def _extremes(
    op: Lowering, x: Value, key: Value, k: Dim, axis: int, *, largest: bool
) -> Sequence[Value]:
    values, index = op.TopK(key, op.dims((k,)), axis=axis, largest=int(largest))
    found = values if key is x else op.GatherElements(x, index, axis=axis)
    return found, op.cast(index, DType.I32)


def _total_key(op: Lowering, x: Value) -> Value:
    """What TopK sorts in the total order of `x`.

    Without BitCast floats are told apart in f64, where 0 makes way for -0 by the smallest number there is; NaNs
    are then all above infinity, for their sign cannot be seen.
    """
    dtype = x.type.dtype
    if not dtype.is_float:
        return _sort_key(op, x)
    if op.opset >= 26:
        return op.jax(total_order, x if dtype.bits >= 32 else op.cast(x, DType.F32))
    wide = op.cast(x, DType.F64)
    positive_zero = op.And(op.Equal(wide, 0.0), op.Greater(op.Reciprocal(wide), 0.0))
    return op.Where(positive_zero, np.finfo(np.float64).smallest_subnormal, wide)
