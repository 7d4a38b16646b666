"""Sorting, by ONNX TopK: of equal elements the one with the lower index comes first. So every sort is stable.

TopK's order of floats is numpy's here: -0 equals 0, and NaN is greater than all else (for kernels that have
another order, `target/nan_order.py` sees to it). That is the order of JAX's `sort`. `top_k` follows the total
order, where -0 < 0 and -NaN < -inf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, DType
from j2o.passes.lower.elementwise import total_order
from j2o.passes.lower.table import Lowering, lower


@lower("sort")
def sort(
    op: Lowering, *operands: Value, dimension: int, num_keys: int = 1, **_: object
) -> Sequence[Value]:
    """All operands in the lexicographic order of the first `num_keys`.

    Sorted by the last key first, then by those before: as each sort is stable, the first one counts most.
    """
    if len(operands) == 1 and _sorts_as_it_is(operands[0]):
        return [_ascending(op, operands[0], dimension)[0]]
    keys = list(operands[:num_keys])
    while len(keys) > 1 and _counts(keys[-1], dimension):
        keys.pop()  # a last key of positions says no more than that the sort is stable
    order = _order(op, keys, dimension)
    return [_in_order(op, x, order, dimension) for x in operands]


def _order(op: Lowering, keys: Sequence[Value], axis: int) -> Value:
    """The positions of the elements, in the order of the keys."""
    *others, last = keys
    _, order = _ascending(op, _sort_key(op, last), axis)
    for key in reversed(others):
        moved = op.GatherElements(_sort_key(op, key), order, axis=axis)
        _, index = _ascending(op, moved, axis)
        order = op.GatherElements(order, index, axis=axis)
    return order


def _ascending(op: Lowering, key: Value, axis: int) -> tuple[Value, Value]:
    """The least first: the values of a key, and their positions."""
    return op.TopK(key, op.dims((key.type.shape[axis],)), axis=axis, largest=0)


def _in_order(op: Lowering, x: Value, order: Value, axis: int) -> Value:
    """`x` in that order; of positions, that is the order itself."""
    if _counts(x, axis):
        return op.cast(order, x.type.dtype)
    return op.GatherElements(x, order, axis=axis)


def _sorts_as_it_is(x: Value) -> bool:
    """Return True for a dtype that TopK has, or that a wider one holds."""
    return x.type.dtype != DType.U64


def _sort_key(op: Lowering, x: Value) -> Value:
    """A key that TopK sorts in the order of `x`. No dtype is wider than u64: its highest bit is flipped."""
    if _sorts_as_it_is(x):
        return x
    return op.BitwiseXor(op.cast(x, DType.I64), np.iinfo(np.int64).min)


SPREADS = frozenset(["onnx.Expand", "onnx.Reshape", "onnx.Unsqueeze", "onnx.Cast"])


def _counts(x: Value, axis: int) -> bool:
    """Return True where `x` is 0, 1, 2, … along `axis`.

    As `lax.iota` makes it: a range or a constant, reshaped and expanded, of a dtype that does not wrap.
    """
    line = tuple(d if i == axis else 1 for i, d in enumerate(x.type.shape))
    # was the line that everything comes from seen to lie along `axis`?
    lies_along = False
    while (node := x.node) is not None:
        lies_along = lies_along or x.type.shape == line
        if not lies_along and node.op != "onnx.Expand":
            return False
        if x.const is not None or node.op == "onnx.Range":
            return _is_range(node)
        is_wide = x.type.dtype.is_int and x.type.dtype.bits >= 32
        if node.op not in SPREADS or not is_wide:
            return False
        x = node.operand(0)
    return False


def _is_range(node: Node) -> bool:
    """Return True for a constant, or a Range, that is 0, 1, 2, …"""
    constant = node.out.const
    if constant is not None:
        if node.out.type.rank != 1:
            return False
        elements = constant.load()
        return bool((elements == np.arange(elements.size)).all())
    start, step = node.operand(0).const, node.operand(2).const
    return (
        start is not None and step is not None and (start.scalar, step.scalar) == (0, 1)
    )


@lower("top_k")
def top_k(
    op: Lowering, x: Value, *, k: Dim, axis: int = -1, is_stable: bool = True
) -> Sequence[Value]:
    """The `k` greatest in the total order of floats, and their positions as i32.

    It is stable, whether JAX (from 0.11 on) asks for it or not.
    """
    return _extremes(op, x, _total_key(op, x), k, axis, largest=True)


@lower("approx_top_k")
def approx_top_k(
    op: Lowering, x: Value, *, reduction_dimension: int, is_max_k: bool, **_: object
) -> Sequence[Value]:
    """Exactly the greatest or least; as many as the result has room for.

    That is more than `k` before aggregation.
    """
    axis = reduction_dimension % x.type.rank
    return _extremes(op, x, x, op.out_types[0].shape[axis], axis, largest=is_max_k)


def _extremes(
    op: Lowering, x: Value, key: Value, k: Dim, axis: int, *, largest: bool
) -> Sequence[Value]:
    """The elements with the greatest or least keys along an axis, and their places in i32."""
    values, index = op.TopK(key, op.dims((k,)), axis=axis, largest=int(largest))
    found = values if key is x else op.GatherElements(x, index, axis=axis)
    return found, op.cast(index, DType.I32)


def greatest_by_order(
    op: Builder, x: Value, axis: int, *, is_least: bool
) -> tuple[Value, Value]:
    """The greatest or least along an axis that stays, and its place, by a TopK that orders NaN behind all.

    The least is the greatest of the numbers with the other sign: NaN wins there, too.
    """
    numbers = op.Neg(x) if is_least else x
    values, places = op.TopK(numbers, op.dims((1,)), axis=axis)
    return op.Neg(values) if is_least else values, places


def _total_key(op: Lowering, x: Value) -> Value:
    """A key that TopK sorts in the total order of `x`.

    Floats are told apart in f64, where 0 makes way for -0 by the smallest number there is: that runs faster
    than BitCast, and at every opset. Where f64 is not sorted it is f32, in which that number is then equal to
    0. NaNs are all above infinity, for their sign cannot be seen; a user who asks for an opset with BitCast
    gets them in order, too.
    """
    dtype = x.type.dtype
    if not dtype.is_float:
        return _sort_key(op, x)
    if op.is_asked_for(26):
        return op.jax(total_order, x if dtype.bits >= 32 else op.cast(x, DType.F32))
    has_wide = op.target is None or op.target.supports("onnx.TopK", DType.F64)
    wide = op.cast(x, DType.F64 if has_wide or dtype == DType.F64 else DType.F32)
    positive_zero = op.Equal(op.Reciprocal(wide), np.inf)
    if dtype == DType.F64 or not has_wide:
        # there are numbers next to 0 whose reciprocal is infinite
        positive_zero = op.And(op.Equal(wide, 0.0), positive_zero)
    smallest = np.finfo(wide.type.dtype.numpy).smallest_subnormal
    return op.Where(positive_zero, smallest, wide)
