"""Limits of floats: Clip, and what is done again to values that are known to lie between two numbers.

Pixels are limited, scaled, and made integers: what that conversion does to numbers beyond the integers is
then for nothing. `clean/ranges.py` does the same for integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.passes.recover.constants import finite_float_of
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import rewrite

# ------------------------------------------------------------------------------------- two limits


@rewrite("limited")
def limited(op, x, low: Const, high: Const):
    """min(max(x, low), high), or the other way round, which is the same where low ≤ high."""
    return op.either(
        op.Min(op.Max(x, low), high),
        op.Max(op.Min(x, high), low),
        op.Min(op.Relu(x), high),
        op.Relu(op.Min(x, high)),
    )


@limited.becomes
def _(op, x, low, high):
    least = 0.0 if low is None else finite_float_of(low)
    most = finite_float_of(high)
    if least is None or most is None or not op.prefers("Clip", x):
        return None
    if least > most:
        return op.decline("the lower limit is above the upper one")
    dtype = x.type.dtype
    return op.Clip(x, op.const(least, dtype), op.const(most, dtype))


# ----------------------------------------------------------------------------------- known limits
#
# A product and a sum with a number round, but never turn the order of two results: the ends of an interval,
# computed in the same dtype, are the least and the greatest result.


class FloatInterval(NamedTuple):
    """The least and the greatest number that a value may have, in its own dtype. It may be NaN as well."""

    low: Any
    high: Any

    def with_ends(self, *ends: Any) -> FloatInterval:
        """The smallest interval that has the ends, and nothing else of this one."""
        return FloatInterval(min(ends), max(ends))


LONGEST = 8  # how many operations are followed
ROUND: dict[str, Callable[[Any], Any]] = {
    "onnx.Ceil": np.ceil,
    "onnx.Floor": np.floor,
    "onnx.Round": np.rint,
}
COMPUTE: dict[str, Callable[[Any, Any], Any]] = {
    "onnx.Add": np.add,
    "onnx.Div": np.divide,
    "onnx.Mul": np.multiply,
    "onnx.Sub": np.subtract,
}


@np.errstate(all="ignore")  # what is not finite is not known
def float_interval_of(value: Value) -> FloatInterval | None:
    """The limits of a value that was limited, then scaled, shifted or rounded; None where not known."""
    if not value.type.dtype.is_float:
        return None
    passed: list[Node] = []
    while (limits := _set_limits(value)) is None:
        before = _read_by(value.node)
        if value.node is None or before is None or len(passed) == LONGEST:
            return None
        passed.append(value.node)
        value = before
    for node in reversed(passed):
        limits = _behind(node, limits)
    return limits if np.isfinite(limits).all() else None


def _set_limits(value: Value) -> FloatInterval | None:
    """The limits that the operation itself gives: Clip, HardSigmoid, and a Cast of small integers."""
    node = value.node
    if node is None:
        return None
    number = value.type.dtype.numpy.type
    if node.op == "onnx.HardSigmoid":
        return FloatInterval(number(0), number(1))
    if node.op == "onnx.Cast":
        source = node.operand(0).type.dtype
        if not source.is_int or source.bits > 8:
            return None
        least, most = source.integers
        return FloatInterval(number(least), number(most))
    if node.op != "onnx.Clip":
        return None
    low = finite_float_of(node.optional(1))
    high = finite_float_of(node.optional(2))
    if low is None or high is None or low > high:
        return None
    return FloatInterval(number(low), number(high))


def _read_by(node: Node | None) -> Value | None:
    """What an operation scales, shifts or rounds by numbers, or takes NaN out of; None for others."""
    if node is None:
        return None
    if node.op in ROUND:
        return node.operand(0)
    if node.op == "onnx.Where":
        return _without_nan(node)
    if node.op not in COMPUTE:
        return None
    left, right = node.operands
    if finite_float_of(right) is not None:
        return left
    is_divisor = node.op == "onnx.Div"
    return right if finite_float_of(left) is not None and not is_divisor else None


def _without_nan(node: Node) -> Value | None:
    """The value in which a Where puts a number in the place of NaN."""
    chosen, number, other = node.operands
    if chosen.node is None or chosen.node.op != "onnx.IsNaN":
        return None
    is_same = chosen.node.operand(0) is other
    return other if is_same and finite_float_of(number) is not None else None


def _behind(node: Node, limits: FloatInterval) -> FloatInterval:
    """The limits of what an operation makes of a value that has limits."""
    if node.op in ROUND:
        return limits.with_ends(*map(ROUND[node.op], limits))
    constants = [finite_float_of(value) for value in node.operands]
    number = next(each for each in constants if each is not None)
    number = node.out.type.dtype.numpy.type(number)
    if node.op == "onnx.Where":
        return limits.with_ends(*limits, number)
    compute = COMPUTE[node.op]
    if constants[0] is not None:
        return limits.with_ends(*(compute(number, end) for end in limits))
    return limits.with_ends(*(compute(end, number) for end in limits))


@rewrite("limited_before")
def limited_before(op, x, low: Const, high: Const):
    """A limit that no value reaches."""
    return op.Clip(x, low, high)


@limited_before.becomes
def _(op, x, low, high):
    limits = float_interval_of(x)
    least = finite_float_of(low)
    most = finite_float_of(high)
    if limits is None or least is None or most is None:
        return None
    return x if least <= limits.low and limits.high <= most else None


@rewrite("never_beyond")
def never_beyond(op, x, top: Const, other, y):
    """What is chosen beyond a number that no value reaches; NaN is not beyond it either."""
    return op.Where(op.GreaterOrEqual(x, top), other, y)


@never_beyond.becomes
def _(op, x, top, other, y):
    limits = float_interval_of(x)
    number = finite_float_of(top)
    if limits is None or number is None:
        return None
    return y if limits.high < number else None


LIMITS = (limited, limited_before, never_beyond)
