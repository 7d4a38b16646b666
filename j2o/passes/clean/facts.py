"""What a graph tells of its values: their intervals, also where a condition holds.

    facts = Facts()
    facts.of(x)                    # Interval(-2**31, 2**31 - 1): all that an i32 holds
    facts.given(x, c, True)        # Interval(0, 7), where c is And(GreaterOrEqual(x, 0), Less(x, 8))

`interval_rules.py` tells what each operator makes of the intervals of its operands.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, DType
from j2o.passes.clean.float_bounds import Bounds, FloatBounds
from j2o.passes.clean.interval_rules import RULES
from j2o.passes.clean.intervals import (
    NO,
    YES,
    Interval,
    all_of,
    both,
    fits,
    has_interval,
    of_dim,
    of_tensor,
    plus,
    single,
    times,
    union,
)
from j2o.passes.clean.loops import CARRIED, end_of_carried

CONVERSIONS = 4  # so many of floats are looked behind, one behind the other
DEPTH = 6  # so many nodes behind a value are looked at again under a condition
# a comparison as `a < b + n`: which operands are a and b, and n
BELOW = {
    "onnx.Less": (0, 1, 0),
    "onnx.LessOrEqual": (0, 1, 1),
    "onnx.Greater": (1, 0, 0),
    "onnx.GreaterOrEqual": (1, 0, 1),
}
Known = dict[Value, Interval]


class Facts:
    """The intervals of integers and Booleans, each worked out once."""

    def __init__(self) -> None:
        self._known: Known = {}
        self._floats: dict[Value, Bounds | None] = {}
        self._conversions = 0  # from floats that are being looked behind

    def of(self, value: Value) -> Interval:
        """The interval of a value of integers or Booleans."""
        known = self._known
        stack = [value]
        while value not in known:
            top = stack[-1]
            waiting = [v for v in _needed(top) if v not in known]
            if waiting:
                stack += waiting
                continue
            stack.pop()
            if top not in known:
                known[top] = _fitting(top, self._work_out(top))
        return known[value]

    def if_any(self, value: Value | None) -> Interval | None:
        """The interval of a value; None of floats, and of an operand that is left out."""
        return self.of(value) if value is not None and has_interval(value) else None

    def _work_out(self, value: Value) -> Interval | None:
        """The interval of a value from those that it needs, which are known; None for all that there is."""
        node = value.node
        if node is None:
            return self._of_input(value)
        if value.const is not None:
            return of_tensor(value.const)
        if node.op == "dims":
            return _of_sizes(value.known or ())
        if node.op == "onnx.Where":
            return self._where(node)
        if node.op == "onnx.And":
            return self._and(node)
        if node.op == "onnx.Or":
            return self._or(node)
        if node.op == "onnx.Cast" and not has_interval(node.operand(0)):
            return self._converted(node.operand(0))
        rule = RULES.get(node.op)
        return None if rule is None else rule(value, *map(self.if_any, node.inputs))

    def bounds(self, value: Value) -> Bounds | None:
        """The bounds of a value of floats of which none is NaN; None where none are known."""
        return FloatBounds(self._floats, self.of, self.given).of(value)

    def _converted(self, x: Value) -> Interval | None:
        """The interval of floats that are converted, which rounds them towards 0."""
        if self._conversions == CONVERSIONS:
            return None
        self._conversions += 1
        bounds = self.bounds(x)
        self._conversions -= 1
        if bounds is None or not bounds.is_finite:
            return None
        return Interval(int(bounds.low), int(bounds.high))

    # ---------------------------------------------------------------- under a condition

    def given(self, value: Value, condition: Value, holds: bool) -> Interval:
        """The interval of those elements at whose (broadcast) place a condition holds, or does not."""
        known: Known = {}
        for subject, interval in self._consequences(condition, holds, DEPTH):
            known[subject] = both(known.get(subject, interval), interval)
        return self._under(value, known, DEPTH)

    def _under(self, value: Value, known: Known, depth: int) -> Interval:
        """The interval of a value where `known`, which it adds to, holds besides."""
        plain = self.of(value)
        if value in known:
            return both(plain, known[value])
        rule = RULES.get(value.op)
        if rule is None or depth == 0 or plain.is_single:
            return plain
        node = value.producer
        if not node.spec.elementwise or not all(map(has_interval, node.operands)):
            return plain
        operands = [
            None if v is None else self._under(v, known, depth - 1) for v in node.inputs
        ]
        interval = _fitting(value, rule(value, *operands))
        known[value] = both(plain, interval)
        return known[value]

    def _consequences(
        self, condition: Value, holds: bool, depth: int
    ) -> Iterator[tuple[Value, Interval]]:
        """What else is known of values where a condition holds, or does not."""
        yield condition, YES if holds else NO
        node = condition.node
        if node is None or depth == 0:
            return
        if node.op == "onnx.Not":
            yield from self._consequences(node.operand(0), not holds, depth - 1)
        elif node.op == ("onnx.And" if holds else "onnx.Or"):
            for value in node.operands:
                yield from self._consequences(value, holds, depth - 1)
        elif all(map(has_interval, node.operands)):
            for value, interval in self._compared(node, holds):
                yield value, interval
                yield from self._of_sign(value, interval)

    def _compared(self, node: Node, holds: bool) -> Iterator[tuple[Value, Interval]]:
        """What a comparison that holds, or does not, tells of its operands."""
        if node.op == "onnx.Equal":
            a, b = node.operands
            yield a, self._equal_to(a, b, holds)
            yield b, self._equal_to(b, a, holds)
        elif node.op in BELOW:
            first, second, offset = BELOW[node.op]
            less, more = node.operand(first), node.operand(second)
            if not holds:  # `a < b + n` is false: `b < a + 1 - n`
                less, more, offset = more, less, 1 - offset
            yield less, self._below(less, more, offset - 1)
            yield more, self._above(more, less, 1 - offset)

    def _equal_to(self, a: Value, b: Value, holds: bool) -> Interval:
        """The interval of `a` where it equals `b`, or does not: an end that it does not have falls off."""
        own, other = self.of(a), self.of(b)
        if holds:
            return both(own, other)
        if not other.is_single or own.is_single:
            return own
        if own.low == other.low:
            return own._replace(low=own.low + 1)
        return own._replace(high=own.high - 1) if own.high == other.low else own

    def _below(self, a: Value, b: Value, offset: int) -> Interval:
        """The interval of `a` where it is at most `b + offset`."""
        limit = plus(self.of(b), single(offset))
        whole = all_of(a.type.dtype)
        return both(self.of(a), Interval(whole.low, limit.high, None, limit.most))

    def _above(self, a: Value, b: Value, offset: int) -> Interval:
        """The interval of `a` where it is at least `b + offset`."""
        limit = plus(self.of(b), single(offset))
        whole = all_of(a.type.dtype)
        return both(self.of(a), Interval(limit.low, whole.high, limit.least, None))

    def _of_sign(
        self, sign: Value, known: Interval
    ) -> Iterator[tuple[Value, Interval]]:
        """What is known of x where the interval of Sign(x) is."""
        if sign.op != "onnx.Sign":
            return
        x = sign.producer.operand(0)
        own = self.of(x)
        low = {0: 0, 1: 1}.get(known.low, own.low)
        high = {0: 0, -1: -1}.get(known.high, own.high)
        yield x, both(own, Interval(low, high))

    def _where(self, node: Node) -> Interval | None:
        """What a known condition chooses, else what each operand has where it is chosen."""
        condition, a, b = node.operands
        if not has_interval(a):
            return None
        chosen = self.of(condition)
        if chosen.is_single:
            return self.of(a if chosen.low else b)
        return union(self.given(a, condition, True), self.given(b, condition, False))

    def _and(self, node: Node) -> Interval | None:
        """False where the one is false under the other."""
        a, b = node.operands
        one, other = self.of(a), self.of(b)
        if not self.given(a, b, True).high or not self.given(b, a, True).high:
            return NO
        return RULES["onnx.And"](node.out, one, other)

    def _or(self, node: Node) -> Interval | None:
        """True where the one is true without the other."""
        a, b = node.operands
        one, other = self.of(a), self.of(b)
        if self.given(a, b, False).low or self.given(b, a, False).low:
            return YES
        return RULES["onnx.Or"](node.out, one, other)

    # ----------------------------------------------------------------- inputs of bodies

    def _of_input(self, value: Value) -> Interval | None:
        """The number of a round, a row of what a Scan reads, or a counter.

        A counter is a carried value to which a body only adds a number.
        """
        loop = value.input_of.parent if value.input_of is not None else None
        if loop is None or loop.op not in CARRIED:
            return None
        before = self._rounds_before(loop)
        if loop.op == "onnx.Loop" and value.index == 0:
            return before
        rows = _rows_read(loop, value)
        if rows is not None:
            return self.if_any(rows)
        start = _start(loop, value)
        step = None if start is None else _step(loop, value)
        if start is None or step is None:
            return None
        return plus(self.of(start), times(before, single(step)))

    def _rounds_before(self, loop: Node) -> Interval:
        """How many rounds of a loop have run when one begins."""
        if loop.op == "onnx.Scan":
            axis = loop.ints_attr("scan_input_axes", [0])[-1]
            rows = loop.operands[-1].type.shape[axis]
            rounds = of_dim(rows)._replace(low=0)
        else:
            limit = loop.optional(0)
            rounds = all_of(DType.I64) if limit is None else self.of(limit)
        last = plus(rounds, single(-1))
        return Interval(0, max(last.high, 0), None, last.most)


def _rows_read(loop: Node, value: Value) -> Value | None:
    """The stack that a Scan reads an input of its body from; None of another input."""
    is_row = loop.op == "onnx.Scan" and value.index >= end_of_carried(loop)
    return loop.operand(value.index) if is_row else None


def _start(loop: Node, value: Value) -> Value | None:
    """What a carried value of a body is in the first round; None for another input of the body."""
    first = CARRIED[loop.op].input
    if not first <= value.index < end_of_carried(loop) or not has_interval(value):
        return None
    return loop.optional(value.index)


def _step(loop: Node, value: Value) -> int | None:
    """The number that a body adds to a carried value in each round; None where it does something else."""
    places = CARRIED[loop.op]
    body = loop.graphs[0]
    after = body.outputs[value.index - places.input + places.result]
    if after is value:
        return 0
    if after.op != "onnx.Add" or value not in after.producer.operands:
        return None
    a, b = after.producer.operands
    number = (b if a is value else a).number
    return None if number is None else int(number)


def _needed(value: Value) -> Sequence[Value]:
    """The values of which the intervals are asked for to tell that of a value."""
    node = value.node
    if node is not None:
        known = node.op in RULES
        return [v for v in node.operands if has_interval(v)] if known else ()
    loop = value.input_of.parent if value.input_of is not None else None
    if loop is None or loop.op not in CARRIED:
        return ()
    operands = [loop.optional(0), _start(loop, value), _rows_read(loop, value)]
    return [v for v in operands if v is not None and has_interval(v)]


def _of_sizes(sizes: Sequence[Dim]) -> Interval:
    """The interval of a shape vector."""
    intervals = list(map(of_dim, sizes))
    return functools.reduce(union, intervals) if intervals else NO


def _fitting(value: Value, interval: Interval | None) -> Interval:
    """An interval, or all that the dtype holds where elements may have wrapped around."""
    dtype = value.type.dtype
    if interval is None or not fits(interval, dtype):
        return all_of(dtype)
    return interval
