"""Which interval the elements of a result lie in, operator by operator, from those of the operands.

    i = Mod(x, 8)            from 0 to 7: it has the sign of the divisor
    j = Add(i, 1)            from 1 to 8
    c = Less(i, 8)           True
    k = Where(c, j, 100)     from 1 to 8, since nothing else is chosen

A rule tells what follows in exact integers; `facts.py` asks whether the dtype holds that. A rule is given a
value and the intervals of the operands of its node, None for floats and for what is left out. It gives None
where it knows nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import TypeAlias, TypeVar

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.ops import MOVES
from j2o.ir.types import Dim, DType
from j2o.passes.clean.intervals import (
    EITHER,
    LONGEST,
    NO,
    YES,
    Interval,
    always_greater,
    extreme_of,
    negated,
    never_less,
    of_dim,
    plus,
    quotient,
    single,
    times,
    union,
)
from j2o.passes.clean.nans import never_nan

IntervalRule: TypeAlias = "Callable[..., Interval | None]"
Rule = TypeVar("Rule", bound=IntervalRule)
RULES: dict[str, IntervalRule] = {}


def interval_of(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function tells the interval of what these operators give."""

    def enter(rule: Rule) -> Rule:
        RULES.update({f"onnx.{kind}": rule for kind in kinds})
        return rule

    return enter


# ----------------------------------------------------------------------------- movement


def _moved(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """The elements of the first operand, or some of them."""
    return x


RULES.update(dict.fromkeys(MOVES, _moved))


@interval_of("Concat")
def _concat(value: Value, *parts: Interval) -> Interval:
    return functools.reduce(union, parts)


@interval_of("Pad")
def _pad(
    value: Value,
    x: Interval,
    pads: Interval,
    fill: Interval | None = None,
    *_: Interval | None,
) -> Interval | None:
    """Elements and, of a constant mode, what is put around them."""
    if value.producer.str_attr("mode", "constant") != "constant":
        return x
    return union(x, NO if fill is None else fill)


@interval_of("Trilu")
def _trilu(value: Value, x: Interval, *_: Interval | None) -> Interval:
    """Elements, and zeros in the other triangle."""
    return union(x, NO)


@interval_of("ScatterElements", "ScatterND")
def _scatter(
    value: Value, x: Interval, indices: Interval, updates: Interval
) -> Interval | None:
    """Elements and updates; sums and products of them are not counted."""
    reduction = value.producer.str_attr("reduction", "none")
    return union(x, updates) if reduction in ("none", "max", "min") else None


@interval_of("OneHot")
def _one_hot(
    value: Value, indices: Interval, depth: Interval, values: Interval
) -> Interval:
    """The two numbers that it is made of, off and on."""
    return values


# --------------------------------------------------------------------- places and sizes


@interval_of("Range")
def _range(
    value: Value, start: Interval, end: Interval, step: Interval
) -> Interval | None:
    """From a known start upwards: the n-th number is start + n step."""
    if not start.is_single or not step.is_single or step.low <= 0:
        return None
    (count,) = value.type.shape
    places = _places(count)  # of an axis, whatever its size is computed from
    return plus(start, times(places, step))._replace(low=start.low, least=None)


@interval_of("ArgMax", "ArgMin")
def _arg(value: Value, *_: Interval | None) -> Interval:
    """Places along the axis that is reduced."""
    node = value.producer
    x = node.operand(0)
    return _places(x.type.shape[node.int_attr("axis", 0) % x.type.rank])


@interval_of("TopK")
def _top_k(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """Elements, and as a second result their places along the axis."""
    if value.index == 0:
        return x
    node = value.producer
    shape = node.operand(0).type.shape
    return _places(shape[node.int_attr("axis", -1) % len(shape)])


def _places(size: Dim) -> Interval:
    """The numbers of the places along an axis: 0 to its size less 1."""
    last = plus(of_dim(size), single(-1))
    return last._replace(low=0, high=min(max(last.high, 0), LONGEST - 1), least=None)


@interval_of("Shape")
def _shape(value: Value, *_: Interval | None) -> Interval:
    """Sizes of axes."""
    return Interval(0, LONGEST)


# --------------------------------------------------------------------------- arithmetic


@interval_of("Add")
def _add(value: Value, a: Interval, b: Interval) -> Interval:
    return plus(a, b)


@interval_of("Sub")
def _sub(value: Value, a: Interval, b: Interval) -> Interval:
    return plus(a, negated(b))


@interval_of("Mul")
def _mul(value: Value, a: Interval, b: Interval) -> Interval:
    return times(a, b)


@interval_of("Neg")
def _neg(value: Value, x: Interval) -> Interval:
    return negated(x)


@interval_of("Abs")
def _abs(value: Value, x: Interval) -> Interval:
    """From 0 where both signs may be there, else from the end that is nearer to 0."""
    if x.low >= 0:
        return x
    low = 0 if x.high >= 0 else -x.high
    return Interval(low, max(-x.low, x.high))


@interval_of("Sign")
def _sign(value: Value, x: Interval) -> Interval:
    """-1, 0 or 1, which grows with x."""
    return Interval(_sign_of(x.low), _sign_of(x.high))


def _sign_of(number: int) -> int:
    """-1, 0 or 1."""
    return (number > 0) - (number < 0)


@interval_of("Div")
def _div(value: Value, a: Interval, b: Interval) -> Interval | None:
    return quotient(a, b)


@interval_of("Mod")
def _mod(value: Value, a: Interval, b: Interval) -> Interval | None:
    """The rest is nearer to 0 than the divisor, and has its sign, or with `fmod` that of the dividend."""
    if b.low <= 0:
        return None
    below = plus(b, single(-1))
    if a.low >= 0:  # it is no more than the dividend either
        return extreme_of([a, below], least=True)._replace(low=0, least=None)
    if value.producer.int_attr("fmod", 0):
        return Interval(-below.high, below.high)
    return below._replace(low=0, least=None)


@interval_of("Max")
def _max(value: Value, *operands: Interval) -> Interval:
    return extreme_of(operands, least=False)


@interval_of("Min")
def _min(value: Value, *operands: Interval) -> Interval:
    return extreme_of(operands, least=True)


@interval_of("Clip")
def _clip(
    value: Value, x: Interval, low: Interval | None = None, high: Interval | None = None
) -> Interval:
    """The lower bound first: where the two cross, the upper one counts."""
    raised = x if low is None else extreme_of([x, low], least=False)
    return raised if high is None else extreme_of([raised, high], least=True)


@interval_of("Cast")
def _cast(value: Value, x: Interval | None) -> Interval | None:
    """The same numbers, where the dtype holds them; as a Boolean, what is not 0 is True."""
    if x is None or value.type.dtype is not DType.BOOL:
        return x
    if x.low > 0 or x.high < 0:
        return YES
    return NO if x.is_single else EITHER


# --------------------------------------------------------------------------- reductions


@interval_of("ReduceMax", "ReduceMin")
def _extreme(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """An element, where there is one: of none, the result is an end of what the dtype holds."""
    sizes = value.producer.operand(0).type.shape
    return x if all(dims.known_ge(size, 1) for size in sizes) else None


@interval_of("ReduceSum", "CumSum")
def _sum(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """The sum of up to as many elements as there are; CumSum adds fewer."""
    type = value.producer.operand(0).type
    if x is None or not type.is_static:
        return None
    count = math.prod(type.static_shape)
    return union(NO, times(x, Interval(0, count)))


# ----------------------------------------------------------------------------- Booleans


@interval_of("Less")
def _less(value: Value, a: Interval | None, b: Interval | None) -> Interval | None:
    """a < b: never of a value and itself."""
    if a is None or b is None:
        return None
    if always_greater(b, a):
        return YES
    return NO if _is_same(value) or never_less(a, b) else EITHER


@interval_of("LessOrEqual")
def _less_or_equal(
    value: Value, a: Interval | None, b: Interval | None
) -> Interval | None:
    """a <= b: always of a value and itself."""
    if a is None or b is None:
        return None
    if _is_same(value) or never_less(b, a):
        return YES
    return NO if always_greater(a, b) else EITHER


@interval_of("Greater")
def _greater(value: Value, a: Interval | None, b: Interval | None) -> Interval | None:
    return _less(value, b, a)


@interval_of("GreaterOrEqual")
def _greater_or_equal(
    value: Value, a: Interval | None, b: Interval | None
) -> Interval | None:
    return _less_or_equal(value, b, a)


@interval_of("Equal")
def _equal(value: Value, a: Interval | None, b: Interval | None) -> Interval | None:
    """a == b: also where both are the same single number."""
    if a is None or b is None:
        return None
    if _is_same(value) or (a.is_single and b.is_single and a.low == b.low):
        return YES
    return NO if always_greater(a, b) or always_greater(b, a) else EITHER


def _is_same(value: Value) -> bool:
    """Return True where the two operands are one."""
    a, b = value.producer.inputs
    return a is b


@interval_of("IsNaN")
def _is_nan(value: Value, _: Interval | None) -> Interval:
    """False of floats that are never NaN."""
    return NO if never_nan(value.producer.operand(0)) else EITHER


@interval_of("Not")
def _not(value: Value, x: Interval) -> Interval:
    """1 - x, False being 0 and True 1."""
    return Interval(1 - x.high, 1 - x.low)


@interval_of("And")
def _and(value: Value, a: Interval, b: Interval) -> Interval:
    """The smaller of the two, False being 0 and True 1."""
    return Interval(min(a.low, b.low), min(a.high, b.high))


@interval_of("Or")
def _or(value: Value, a: Interval, b: Interval) -> Interval:
    """The greater of the two."""
    return Interval(max(a.low, b.low), max(a.high, b.high))


@interval_of("Xor")
def _xor(value: Value, a: Interval, b: Interval) -> Interval:
    known = a.is_single and b.is_single
    return single(a.low ^ b.low) if known else EITHER


@interval_of("Where")
def _where(
    value: Value, condition: Interval, a: Interval | None, b: Interval | None
) -> Interval | None:
    """What a known condition chooses, else what both have."""
    if a is None or b is None:
        return None
    if condition.is_single:
        return a if condition.low else b
    return union(a, b)
