"""Averages of windows that do not count padding: AveragePool with `count_include_pad` = 0.

JAX has no such operation. Frameworks divide the sums of the windows by those of ones (`flax.linen.avg_pool`
with `count_include_pad=False`, padded `AveragePooling2D` of Keras).
"""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, Shape, is_one, same_shape
from j2o.passes.clean.shapes import ANY, RESHAPES
from j2o.passes.recover.gates import number_of
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import rewrite

WINDOW = ("kernel_shape", "strides", "pads", "auto_pad", "dilations", "ceil_mode")
UNPOOLED = 2  # the axes of batch and channel
REARRANGED = RESHAPES | {"onnx.Expand", "onnx.Transpose"}


@rewrite("average_inside")
def average_inside(op, x, number: Const, count, perm):
    """Sums of windows, divided by how many elements of the windows are none of the padding."""
    pooled = op.AveragePool(x, **ANY["AveragePool"])
    either = op.either(op.Transpose(pooled, perm=perm), pooled)
    return op.Div(op.Mul(either, number), count)


@average_inside.becomes
def _(op, x, number, count, perm):
    size = number_of(number)
    left, right = op.root.operand(0).producer.operands
    sums = left if right.const is not None else right
    pool = sums.producer if perm is None else sums.producer.operand(0).producer
    counting = _pool_behind(count, size)
    if counting is None or not _are_alike(pool, counting):
        return None
    if not _is_all_ones(counting.operand(0)) or not _fits(sums, perm, count):
        return None
    attrs = {**pool.attrs, "count_include_pad": 0}
    average = op.node(pool.op, pool.inputs, attrs).out
    return average if perm is None else op.transpose(average, perm)


def _pool_behind(value: Value, size: float | None) -> Node | None:
    """The AveragePool that gives the elements of a value in their order, times `size` once; or None."""
    factors = []
    while value.node is not None and value.op != "onnx.AveragePool":
        if value.op == "onnx.Mul":
            value, factor = _factor_of(value.node)
            factors.append(factor)
        elif _keeps_order(value.node):
            value = value.node.operand(0)
        else:
            return None
    return value.node if size is not None and factors == [size] else None


def _factor_of(product: Node) -> tuple[Value, float | None]:
    """The operands of a product with a number; None where there is no such number."""
    left, right = product.operands
    factor = number_of(right)
    if factor is not None:
        return left, factor
    return right, number_of(left)


def _keeps_order(node: Node) -> bool:
    """Return True where a node only adds, removes or moves axes of size 1."""
    if node.op in RESHAPES:
        before = _without_ones(node.operand(0).type.shape)
        return same_shape(before, _without_ones(node.out.type.shape))
    if node.op != "onnx.Transpose":
        return False
    shape = node.operand(0).type.shape
    moved = [axis for axis in node.ints_attr("perm") if not is_one(shape[axis])]
    return moved == sorted(moved)


def _without_ones(shape: Shape) -> Shape:
    """The sizes other than 1."""
    return tuple(size for size in shape if not is_one(size))


def _are_alike(one: Node, other: Node) -> bool:
    """Return True where two pools have the same windows over the same sizes, and count padding."""
    if one.attrs.get("dilations") is not None:
        return False
    for name in WINDOW:
        if one.attrs.get(name) != other.attrs.get(name):
            return False
    for node in (one, other):
        if node.int_attr("count_include_pad", 0) != 1:
            return False
    sizes = one.operand(0).type.shape[UNPOOLED:]
    return same_shape(sizes, other.operand(0).type.shape[UNPOOLED:])


def _is_all_ones(value: Value) -> bool:
    """Return True for ones, also where they are broadcast or laid out otherwise."""
    while value.node is not None and value.op in REARRANGED:
        value = value.node.operand(0)
    tensor = value.const
    if tensor is None or not tensor.is_small:
        return False
    return bool(np.all(tensor.load() == 1))


def _fits(sums: Value, perm: tuple[int, ...] | None, count: Value) -> bool:
    """Return True where the counts broadcast with the sums so that each window meets its own."""
    rank = sums.type.rank
    places = list(range(UNPOOLED, rank))
    if perm is not None:
        places = [perm.index(axis) for axis in places]
    if places != sorted(places) or count.type.rank > rank:
        return False
    wanted: list[Dim] = [1] * rank
    for axis in places:
        wanted[axis] = sums.type.shape[axis]
    front = (1,) * (rank - count.type.rank)
    return same_shape((*front, *count.type.shape), tuple(wanted))


POOLS = (average_inside,)
