"""The order of NaN, as kernels do not have it: it is sorted behind infinity, and the extreme of its row.

ONNX leaves the order of NaN open, JAX does not. A target tells whether its TopK takes NaN for greater than
all numbers, as onnxruntime does from 1.32 on. There TopK finds the greatest of a row, too, in half the time.
Elsewhere TopK gets keys, and the NaNs of a row are counted.
"""

from __future__ import annotations

import math

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.target import Target
from j2o.ir.types import DType, Type
from j2o.passes.clean.nans import never_nan
from j2o.passes.lower.sort import greatest_by_order

# ------------------------------------------------------------------- the greatest and the least


def extreme_with_nan(node: Node, target: Target) -> bool:
    """Make the greatest or the least of a row NaN where the row has one.

    Onnxruntime's ReduceMax and ReduceMin overlook every NaN that does not come first.
    """
    x = node.operand(0)
    if never_nan(x) or _is_of_log_sum_exp(node):
        return False
    op = Builder(node.home, node, node.loc, node.out.hint)
    axis = _only_axis(node)
    if target.orders_nan and axis is not None and dims.known_ge(x.type.shape[axis], 1):
        extreme = _extreme_by_order(op, node, axis)
    else:
        extreme = _extreme_or_nan(op, node)
    node.replace_by(extreme)
    return True


def _extreme_by_order(op: Builder, node: Node, axis: int) -> Value:
    """The greatest or the least along one axis, by a TopK that orders NaN."""
    is_least = node.op == "onnx.ReduceMin"
    extreme, _ = greatest_by_order(op, node.operand(0), axis, is_least=is_least)
    keeps_axis = node.int_attr("keepdims", 1)
    return extreme if keeps_axis else op.squeeze(extreme, [axis])


def _extreme_or_nan(op: Builder, node: Node) -> Value:
    """The greatest or the least of all numbers, and NaN for rows in which a NaN is counted."""
    axes = node.inputs[1:]
    is_nan = op.IsNaN(node.operand(0))
    nan_count = op.ReduceSum(op.cast(is_nan, DType.F32), *axes, **node.attrs)
    extreme = op.node(node.op, node.inputs, node.attrs).out
    nan = op.const(math.nan, extreme.type.dtype)
    return op.Where(op.cast(nan_count, DType.BOOL), nan, extreme)


def _only_axis(node: Node) -> int | None:
    """The axis of a reduction along one alone; None for another reduction."""
    axes = node.optional(1)
    rank = node.operand(0).type.rank
    if axes is None:
        return 0 if rank == 1 else None
    place = axes.known_int
    return None if place is None else place % rank


def _is_of_log_sum_exp(node: Node) -> bool:
    """Return True for the m in log Σ exp(x - m) + m that nothing else uses: for any m that is NaN where x is.

    The m that is taken off may be kept finite by a Clip.
    """
    m = _only_made_into(node.out, "onnx.Clip") or node.out
    users = list(m.users())
    if [user.op for user in users] != ["onnx.Sub", "onnx.Add"]:
        return False
    difference, result = users
    powers = _only_made_into(difference.out, "onnx.Exp")
    total = _only_made_into(powers, "onnx.ReduceSum")
    log = _only_made_into(total, "onnx.Log")
    if total is None or log is None:
        return False
    axes = _axes_kept(node)
    sums_same_axes = axes is not None and _axes_kept(total.producer) == axes
    takes_m_off = difference.operands == (node.operand(0), m)
    adds_m_again = set(result.operands) == {log, m}
    return sums_same_axes and takes_m_off and adds_m_again


def _only_made_into(value: Value | None, op: str) -> Value | None:
    """What the one operation that uses a value makes of it; None where there are more, or another."""
    users = [] if value is None else list(value.users())
    if len(users) != 1 or users[0].op != op:
        return None
    return users[0].out


def _axes_kept(node: Node) -> tuple[int, ...] | None:
    """The axes of a reduction that keeps them; None where they are not known, or go."""
    axes = node.optional(1)
    keeps = node.int_attr("keepdims", 1) == 1
    return axes.known_ints if axes is not None and keeps else None


# ----------------------------------------------------------------------------------- the order

# the operators that keys in f64 need kernels for
OF_KEYS = ("onnx.TopK", "onnx.Min", "onnx.Where")


def sorted_with_nan(node: Node, target: Target) -> bool:
    """Let TopK sort without NaN, where its kernel takes NaN for any number."""
    x = node.operand(0)
    if target.orders_nan or not x.type.dtype.is_float or never_nan(x):
        return False
    op = Builder(node.home, node, node.loc, node.outputs[0].hint)
    if all(target.supports(kind, DType.F64) for kind in OF_KEYS):
        order = _order_of_keys(op, node)
    else:
        order = _order_in_two_steps(op, node)
    values, places = node.outputs
    if values.uses:
        axis = node.int_attr("axis", -1)
        values.replace_by(op.GatherElements(x, order, axis=axis))
    places.replace_by(order)
    node.erase()
    return True


def _order_of_keys(op: Builder, node: Node) -> Value:
    """The places by keys in f64: NaN is infinity there, and infinity the greatest number.

    Floats of other dtypes do not reach that number.
    """
    x = node.operand(0)
    greatest = float(np.finfo(np.float64).max)
    number = op.Min(op.cast(x, DType.F64), greatest)
    key = op.Where(op.IsNaN(x), op.const(math.inf, DType.F64), number)
    return _places(op, node, key, node.operand(1), node.outputs[1].type)


def _order_in_two_steps(op: Builder, node: Node) -> Value:
    """The places by numbers, NaN as infinity among them, and then by what is NaN: sorting is stable."""
    x, places = node.operand(0), node.outputs[1]
    axis = node.int_attr("axis", -1) % x.type.rank
    is_nan = op.IsNaN(x)
    number = op.Where(is_nan, op.const(math.inf, x.type.dtype), x)
    # sizes are nodes by now
    size = op.Shape(x, start=axis, end=axis + 1)
    all_places = x.type.with_dtype(places.type.dtype)
    by_number = _places(op, node, number, size, all_places)
    moved = op.GatherElements(op.cast(is_nan, DType.F32), by_number, axis=axis)
    by_nan = _places(op, node, moved, node.operand(1), places.type)
    return op.GatherElements(by_number, by_nan, axis=axis)


def _places(op: Builder, node: Node, key: Value, count: Value, type: Type) -> Value:
    """The places, of a given type, at which a TopK like `node` finds as many of a key as are asked for."""
    types = [type.with_dtype(key.type.dtype), type]
    _, places = op.node("onnx.TopK", [key, count], node.attrs, types).outputs
    return places
