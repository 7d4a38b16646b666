"""`top_k`: numbers that are never -0 are their own keys.

`jax.lax.top_k` tells -0 from 0, TopK does not. So lowering compares keys in float64 (in float32 where that is
not sorted), in which a subnormal number stands for 0, and gathers the numbers themselves. Weights of Softmax,
and scores that a bias was added to, as routers have them, need none of that: among them is no -0. Nor do
negated distances, whose zeros are all -0. NaN is the greatest either way.
"""

from __future__ import annotations

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.ops import MOVES
from j2o.ir.types import DType
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass
from j2o.passes.recover.constants import uniform_of

# what gives 0 as +0 alone
NEVER_NEGATIVE_ZERO = frozenset(
    [
        "onnx.Abs",
        "onnx.Exp",
        "onnx.ReduceL1",
        "onnx.ReduceL2",
        "onnx.ReduceSumSquare",
        "onnx.Softmax",
    ]
)
# what gives -0 of -0 alone: a sum of other numbers that is 0 is +0, and so is a - a
KEEPING = frozenset(["onnx.ReduceSum", "onnx.Sqrt", "onnx.Sub"])
DEPTH = 4  # so many of these are looked behind


@graph_pass("top_k", at="onnx", level=2)
def top_k(graph: Graph, context: Context) -> int:
    """TopK of keys for the total order → TopK of the numbers, where none of them is -0, or none +0."""
    count = 0
    for node in graph.nodes_of("onnx.TopK"):
        x = _numbers_of_sorted(node.operand(0))
        if x is None or not _has_one_zero(x):
            continue
        if context.prefers("onnx.TopK", x.type.dtype):
            _sort_numbers(node, x)
            count += 1
    return count


def _numbers_of_sorted(key: Value) -> Value | None:
    """The numbers that keys stand for, which `unit_axes` may have squeezed, as it has the numbers."""
    if key.op != "onnx.Squeeze":
        return _numbers_of_keys(key)
    with_units, *axes = key.producer.operands
    x = _numbers_of_keys(with_units)
    for user in () if x is None else x.users():
        if user.op == "onnx.Squeeze" and list(user.operands) == [x, *axes]:
            return user.out
    return None


def _numbers_of_keys(key: Value) -> Value | None:
    """The numbers that a key tells 0 from -0 of; None for another value.

    It is Where(1 / Cast(x) = ∞, the least number above 0, Cast(x)) in f64. Where f64 is not sorted it is
    Where(x = 0 and 1 / x = ∞, …, x).
    """
    dtype = key.type.dtype
    if key.op != "onnx.Where" or dtype not in (DType.F32, DType.F64):
        return None
    is_positive_zero, least, wide = key.producer.operands
    smallest = np.finfo(dtype.numpy).smallest_subnormal
    if uniform_of(least) != smallest:
        return None
    if is_positive_zero.op == "onnx.And":
        is_zero, is_positive_zero = is_positive_zero.producer.operands
        if not _compares(is_zero, wide, 0):
            return None
    reciprocal = _compared_with(is_positive_zero, np.inf)
    if reciprocal is None or reciprocal.op != "onnx.Reciprocal":
        return None
    if reciprocal.producer.operand(0) is not wide:
        return None
    is_widened = dtype == DType.F64 and wide.op == "onnx.Cast"
    x = wide.producer.operand(0) if is_widened else wide
    return x if x.type.dtype == DType.F32 else None


def _compares(value: Value, x: Value, number: float) -> bool:
    """Return True for `x` = number."""
    return _compared_with(value, number) is x


def _compared_with(value: Value, number: float) -> Value | None:
    """The x of x = number; None for another value."""
    if value.op != "onnx.Equal":
        return None
    x, other = value.producer.operands
    return x if uniform_of(other) == number else None


def _has_one_zero(x: Value) -> bool:
    """Return True where zeros among the numbers are all +0, or all -0."""
    source = x.origin(MOVES)
    if source.op == "onnx.Neg":
        source = source.producer.operand(0)
    return _is_never_negative_zero(source)


def _is_never_negative_zero(x: Value, depth: int = DEPTH) -> bool:
    """Return True where each 0 among the numbers is +0; of a sum, it is where one of the two is never -0."""
    source = x.origin(MOVES)
    if source.op == "onnx.Add":
        return any(map(_is_positive_where_zero, source.producer.operands))
    if source.op in KEEPING and depth:
        return _is_never_negative_zero(source.producer.operand(0), depth - 1)
    return source.op in NEVER_NEGATIVE_ZERO or _is_square(source)


def _is_square(x: Value) -> bool:
    """Return True for a product of a value and itself."""
    if x.op != "onnx.Mul":
        return False
    a, b = x.producer.operands
    return a is b


def _is_positive_where_zero(term: Value) -> bool:
    """Return True for a term of a sum whose zeros are all +0, as the bias of a router is."""
    tensor = term.const
    if tensor is None:
        return term.origin(MOVES).op in NEVER_NEGATIVE_ZERO
    if not tensor.is_small:
        return False
    numbers = tensor.load()
    return not np.signbit(numbers[numbers == 0]).any()


def _sort_numbers(node: Node, x: Value) -> None:
    """Let TopK compare the numbers, and give those that were gathered by their places."""
    places = node.outputs[1]
    op = Builder(node.home, node, node.loc, places.hint)
    types = [places.type.with_dtype(x.type.dtype), places.type]
    operands = [x, *node.inputs[1:]]
    greatest, at = op.node("onnx.TopK", operands, node.attrs, types).outputs
    for user in list(places.users()):
        if _gathers_them(user, x, places, node):
            user.replace_by(greatest)
    places.replace_by(at)
    erase_dead(node)


def _gathers_them(user: Node, x: Value, places: Value, node: Node) -> bool:
    """Return True for a GatherElements of `x` at these places, along the axis of TopK."""
    if user.op != "onnx.GatherElements" or list(user.operands) != [x, places]:
        return False
    rank = x.type.rank
    return user.int_attr("axis", 0) % rank == node.int_attr("axis", -1) % rank
