"""The order of equal elements, as kernels do not have it: the one with the lower place comes first.

ONNX says so of TopK, and lowering relies on it: JAX's sorts are stable. OpenVINO's TopK leaves the order
open. There the elements are sorted as they come, and equal ones are a group. Then TopK sorts keys of which no
two are equal: the number of the group first, the place second.

    [3, 1, 3]: values [1, 3, 3] at places [1, 2, 0], in groups [0, 1, 1]
               keys 3 * group + place [1, 5, 3]: the places are [1, 0, 2]
"""

from __future__ import annotations

import math

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.target import Target
from j2o.ir.types import DType
from j2o.passes.clean.nans import never_nan
from j2o.passes.target.nan_order import sorted_with_nan


def sorted_in_order(node: Node, target: Target) -> bool:
    """Let TopK sort as ONNX and JAX have it: equal elements by their places, NaN behind infinity."""
    if target.orders_ties:
        return sorted_with_nan(node, target)
    x = node.operand(0)
    values, places = node.outputs
    if not places.uses and never_nan(x):
        return False  # equal elements are alike, whichever comes first
    axis = node.int_attr("axis", -1) % x.type.rank
    op = Builder(node.home, node, node.loc, values.hint)
    order = _order(op, node, axis)
    if values.uses:
        values.replace_by(op.GatherElements(x, order, axis=axis))
    places.replace_by(order)
    node.erase()
    return True


def _order(op: Builder, node: Node, axis: int) -> Value:
    """The places that TopK finds, equal elements by their places, NaN as the greatest number."""
    x, count = node.operands
    number, is_nan = x, None
    if not never_nan(x):
        is_nan = op.IsNaN(x)
        number = op.Where(is_nan, op.const(math.inf, x.type.dtype), x)
    # sizes are nodes by now
    size = op.Shape(x, start=axis, end=axis + 1)
    types = [number.type, number.type.with_dtype(DType.I64)]
    found = op.node("onnx.TopK", [number, size], node.attrs, types)
    in_order, places = found.outputs
    group = _groups(op, in_order, axis)
    if is_nan is not None:
        # NaN stands among the infinities, at the end that is the last, or the first
        beyond = op.GatherElements(op.cast(is_nan, DType.I64), places, axis=axis)
        is_first = node.int_attr("largest", 1) == 1
        group = op.Sub(group, beyond) if is_first else op.Add(group, beyond)
    key = op.Add(op.Mul(group, size), places)
    types = [t.type.with_dtype(DType.I64) for t in node.outputs]
    attrs = {"axis": axis, "largest": 0}
    _, chosen = op.node("onnx.TopK", [key, count], attrs, types).outputs
    return op.GatherElements(places, chosen, axis=axis)


def _groups(op: Builder, in_order: Value, axis: int) -> Value:
    """The number of the group of equal elements that each element is in, of elements in order."""
    front, axes = op.const([0]), op.const([axis])
    first = op.Slice(in_order, front, op.const([1]), axes)
    others = op.Slice(in_order, front, op.const([-1]), axes)
    parts, attrs = [first, others], {"axis": axis}
    before = op.node("onnx.Concat", parts, attrs, [in_order.type]).out
    starts = op.cast(op.Not(op.Equal(before, in_order)), DType.I64)
    return op.CumSum(starts, op.const(axis, DType.I64))
