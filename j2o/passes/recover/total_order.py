"""Comparisons in the total order, of floats that a program has made plain before.

`jnp.searchsorted`, and with it `digitize`, `histogram` and `interp`, takes every zero for +0 and every NaN
for the positive one, and then compares in the order of sort: NaN is the greatest, and equal to itself. Of
such floats that is a comparison of numbers and a look for NaN; no operator is needed that sees their bits:

    plain(x) = select(x != x, nan, select(x == 0, 0, x))
    lt_to(plain(x), plain(y))   becomes   x < y or (x is a number and y is NaN)
"""

from __future__ import annotations

import math

from j2o.ir.graph import Value
from j2o.passes.recover.constants import BROADCAST, float_of
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


@rewrite("less_in_total_order", at="lax")
def less_in_total_order(op, x, y):
    """x < y."""
    return op.lax.lt_to(x, y)


@less_in_total_order.becomes
def _(op, x, y):
    """A number is less than NaN."""
    pair = _as_they_were(op, x, y)
    if pair is None:
        return None
    first, second = pair
    is_number = op.Not(op.IsNaN(first))
    is_below_nan = op.And(is_number, op.IsNaN(second))
    return op.Or(op.Less(first, second), is_below_nan)


@rewrite("at_most_in_total_order", at="lax")
def at_most_in_total_order(op, x, y):
    """x <= y."""
    return op.lax.le_to(x, y)


@at_most_in_total_order.becomes
def _(op, x, y):
    """Everything is at most NaN."""
    pair = _as_they_were(op, x, y)
    if pair is None:
        return None
    first, second = pair
    return op.Or(op.LessOrEqual(first, second), op.IsNaN(second))


def _as_they_were(op: RuleBuilder, x: Value, y: Value) -> tuple[Value, Value] | None:
    """What two values were made plain of; declines and gives None where one was not."""
    first, second = _as_it_was(op, x), _as_it_was(op, y)
    if first is None or second is None:
        return op.decline("zeros and NaN keep their signs")
    return first, second


def _as_it_was(op: RuleBuilder, value: Value) -> Value | None:
    """What the zeros and the NaN of a value were made plain of; None where they were not."""
    if value.op == "lax.broadcast_in_dim":
        node = value.producer
        source = _as_it_was(op, node.operand(0))
        if source is None:
            return None
        return op.node(node.op, (source,), node.attrs, (value.type,)).out
    with_zeros = _replaced(value, "lax.ne", math.nan)
    if with_zeros is None:
        return None
    x = _replaced(with_zeros, "lax.eq", 0.0)
    if x is None or _condition(value) != [x, x]:
        return None
    tested, zero = _condition(with_zeros)
    return x if tested is x and float_of(zero) == 0 else None


def _replaced(value: Value, comparison: str, number: float) -> Value | None:
    """The operand of which a `select_n` replaces elements by a number, where they compare so; else None."""
    if value.op != "lax.select_n" or len(value.producer.operands) != 3:
        return None
    condition, kept, taken = value.producer.operands
    if condition.op != comparison:
        return None
    found = float_of(taken.origin(BROADCAST))
    if found is None or math.copysign(1, found) < 0:
        return None
    is_number = math.isnan(found) if math.isnan(number) else found == number
    return kept if is_number else None


def _condition(selection: Value) -> list[Value]:
    """The two values that the condition of a `select_n` compares."""
    return list(selection.producer.operand(0).producer.operands)


TOTAL_ORDER = (less_in_total_order, at_most_in_total_order)
