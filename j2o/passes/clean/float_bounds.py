"""What `ranges` knows of floats that are computed from integers: bounds, and that none is NaN.

Conversions to integers are wrapped in what JAX makes of NaN and of numbers that are too large. Buckets of
distances, which are logarithms of integers, need none of it.

A bound is rounded outwards by far more than a kernel errs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.ir.ops import MOVES
from j2o.ir.types import DType
from j2o.passes.clean.intervals import Interval, has_interval

DEPTH = 16  # nodes behind a value
SLACK = 1e-5  # the part of a bound by which it is rounded outwards
DTYPES = (DType.F32, DType.F64)
LARGEST = 1e38  # bounds beyond this are infinite: float32 overflows there


class Bounds(NamedTuple):
    """All elements lie from `low` to `high`, which may be infinite; none is NaN."""

    low: float
    high: float

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


# the interval of integers, and that where a condition holds or does not
Of: TypeAlias = "Callable[[Value], Interval]"
Given: TypeAlias = "Callable[[Value, Value, bool], Interval]"


class FloatBounds:
    """The bounds of floats, each worked out once, from the intervals of integers.

    `known` has those that were worked out before. What a Where chooses is looked at under its condition,
    where `given` tells these intervals.
    """

    def __init__(
        self,
        known: dict[Value, Bounds | None],
        integers: Of,
        given: Given | None = None,
    ) -> None:
        self._known = known
        self._integers = integers
        self._given = given

    def of(self, value: Value, depth: int = DEPTH) -> Bounds | None:
        """The bounds of a value; None where none are known."""
        if value not in self._known:
            is_float = value.type.dtype in DTYPES
            self._known[value] = self._work_out(value, depth) if is_float else None
        return self._known[value]

    def _work_out(self, value: Value, depth: int) -> Bounds | None:
        """The bounds of a value from those of the operands of its node."""
        node = value.node
        if node is None or depth == 0:
            return None
        if value.const is not None:
            return _of_constant(value)
        if node.op == "onnx.Cast" and has_interval(node.operand(0)):
            interval = self._integers(node.operand(0))
            return _rounded(interval.low, interval.high)
        rule = RULES.get(node.op)
        if rule is None:
            return None
        if node.op == "onnx.Where" and _replaces_nan(node):
            return self._without_nan(node, depth)
        if node.op == "onnx.Clip" and len(node.operands) < 3:
            return None
        known: list[Bounds] = []
        for place, operand in enumerate(node.operands[: _operand_count(node)]):
            if node.op == "onnx.Where" and place == 0:
                continue
            found = self._within(node, place).of(operand, depth - 1)
            if found is None:
                return None
            known.append(found)
        return rule(*known)

    def _without_nan(self, node: Node, depth: int) -> Bounds | None:
        """The bounds of Where(IsNaN(x), y, x)."""
        _, y, x = node.operands
        instead = self.of(y, depth - 1)
        if instead is None:
            return None
        others = self.of(x, depth - 1) or _apart_from_nan(x)
        return _union(instead, others)

    def _within(self, node: Node, place: int) -> FloatBounds:
        """What tells the bounds of an operand: of what a Where chooses, under its condition."""
        if node.op != "onnx.Where" or self._given is None:
            return self
        given, condition, holds = self._given, node.operand(0), place == 1
        return FloatBounds({}, lambda value: given(value, condition, holds))


def _operand_count(node: Node) -> int:
    """How many operands are looked at: what moves elements has one, and then places and sizes."""
    return 1 if node.op in MOVES else len(node.operands)


def _replaces_nan(node: Node) -> bool:
    """Return True for Where(IsNaN(x), …, x), as conversions to integers have it."""
    condition, _, x = node.operands
    return condition.op == "onnx.IsNaN" and condition.producer.operand(0) is x


def _apart_from_nan(x: Value) -> Bounds:
    """The bounds of those elements that are not NaN."""
    everything = Bounds(-math.inf, math.inf)
    if x.op != "onnx.Clip" or len(x.producer.operands) < 3:
        return everything
    low, high = (_of_constant(x.producer.operand(place)) for place in (1, 2))
    if low is None or high is None:
        return everything
    return _clip(everything, low, high)


def _of_constant(value: Value) -> Bounds | None:
    """The least and the greatest number of a small constant; None where one is NaN, or there are none."""
    tensor = value.const
    if tensor is None or not tensor.is_small:
        return None
    numbers = tensor.load()
    if not numbers.size or np.isnan(numbers).any():
        return None
    return Bounds(float(numbers.min()), float(numbers.max()))


def _rounded(low: float, high: float) -> Bounds:
    """Bounds, rounded outwards."""
    low -= abs(low) * SLACK
    high += abs(high) * SLACK
    return Bounds(
        low if low > -LARGEST else -math.inf, high if high < LARGEST else math.inf
    )


# -------------------------------------------------------------------------------- the rules


def _same(x: Bounds) -> Bounds:
    return x


def _union(*parts: Bounds) -> Bounds:
    return Bounds(min(one.low for one in parts), max(one.high for one in parts))


def _add(a: Bounds, b: Bounds) -> Bounds | None:
    """∞ - ∞ is NaN."""
    if not (a.is_finite or b.is_finite):
        return None
    return _rounded(a.low + b.low, a.high + b.high)


def _sub(a: Bounds, b: Bounds) -> Bounds | None:
    return _add(a, Bounds(-b.high, -b.low))


def _mul(a: Bounds, b: Bounds) -> Bounds | None:
    """0 · ∞ is NaN: beside an infinite bound stand positive, or negative, finite numbers alone."""
    if not b.is_finite:
        a, b = b, a
    is_away = b.is_finite and (b.low > 0 or b.high < 0)
    if not (is_away or (a.is_finite and b.is_finite)):
        return None
    corners = [x * y for x in a for y in b]
    return _rounded(min(corners), max(corners))


def _div(a: Bounds, b: Bounds) -> Bounds | None:
    """By divisors that are all above 0; None for others."""
    if not b.is_finite or b.low <= 0:
        return None
    return _mul(a, Bounds(1 / b.high, 1 / b.low))


def _log(x: Bounds) -> Bounds | None:
    """The logarithm of 0 is -∞, of what is below it NaN."""
    if x.low < 0 or x.high <= 0:
        return None
    low = math.log(x.low) if x.low > 0 else -math.inf
    high = math.log(x.high) if math.isfinite(x.high) else math.inf
    return _rounded(low - SLACK, high + SLACK)


def _sqrt(x: Bounds) -> Bounds | None:
    if x.low < 0:
        return None
    return _rounded(math.sqrt(x.low), math.sqrt(x.high))


def _whole(x: Bounds) -> Bounds:
    """Rounded to an integer, in any direction."""
    return Bounds(x.low - 1, x.high + 1)


def _least(*parts: Bounds) -> Bounds:
    return Bounds(min(one.low for one in parts), min(one.high for one in parts))


def _greatest(*parts: Bounds) -> Bounds:
    return Bounds(max(one.low for one in parts), max(one.high for one in parts))


def _clip(x: Bounds, low: Bounds, high: Bounds) -> Bounds:
    return _least(_greatest(x, low), high)


Rule: TypeAlias = "Callable[..., Bounds | None]"
RULES: dict[str, Rule] = {
    **dict.fromkeys(MOVES, _same),
    "onnx.Add": _add,
    "onnx.Ceil": _whole,
    "onnx.Clip": _clip,
    "onnx.Div": _div,
    "onnx.Floor": _whole,
    "onnx.Log": _log,
    "onnx.Max": _greatest,
    "onnx.Min": _least,
    "onnx.Mul": _mul,
    "onnx.Round": _whole,
    "onnx.Sqrt": _sqrt,
    "onnx.Sub": _sub,
    "onnx.Where": _union,
}
