"""What is known of integers and Booleans: the interval that the elements of a value lie in.

An interval is claimed only where no result wraps around in its dtype; where one could, all that the
dtype holds is the answer. It tells nothing of elements that are not there, and so is right for
empty arrays.

An axis is taken to have fewer than 2³¹ elements: JAX itself counts along axes in int32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.ops import MOVES
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType
from j2o.passes.clean.nans import never_nan

LONGEST = 2**31 - 1  # elements of an axis


class Interval(NamedTuple):
    """The elements of a value lie from `low` to `high`, both included; False is 0, True is 1.

    `least` and `most` are ends with symbols that hold too; None where none is known.
    """

    low: int
    high: int
    least: Dim | None = None
    most: Dim | None = None

    @property
    def is_single(self) -> bool:
        return self.low == self.high

    @property
    def lows(self) -> tuple[Dim, ...]:
        """What no element is less than."""
        return (self.low,) if self.least is None else (self.low, self.least)

    @property
    def highs(self) -> tuple[Dim, ...]:
        """What no element is greater than."""
        return (self.high,) if self.most is None else (self.high, self.most)


NO = Interval(0, 0)
YES = Interval(1, 1)
EITHER = Interval(0, 1)


def has_interval(value: Value) -> bool:
    return value.type.dtype.is_int or value.type.dtype is DType.BOOL


@functools.cache
def all_of(dtype: DType) -> Interval:
    """All that an integer dtype, or bool, holds."""
    return EITHER if dtype is DType.BOOL else Interval(*dtype.integers)


def fits(interval: Interval, dtype: DType) -> bool:
    """Return True where an integer dtype, or bool, holds every number of an interval."""
    whole = all_of(dtype)
    return whole.low <= interval.low and interval.high <= whole.high


def single(number: int) -> Interval:
    return Interval(number, number)


@functools.lru_cache(maxsize=4096)
def of_dim(dim: Dim) -> Interval:
    """A size, or a number that is computed from sizes, in i64."""
    if type(dim) is int:
        return single(dim)
    whole = all_of(DType.I64)
    low = next((n for n in (1, 0) if dims.known_ge(dim, n)), whole.low)
    scope = dims.DimScope.of_jax(dims.scope_of(dim))
    names = dims.symbols(dim)
    is_short = any(dims.known_ge(scope.symbol(name), dim) for name in names)
    return Interval(low, LONGEST if is_short else whole.high, dim, dim)


def of_tensor(tensor: Tensor) -> Interval | None:
    """The numbers of a constant that is small enough to look at."""
    if not tensor.is_small:
        return None
    array = tensor.load()
    if not array.size:
        return NO
    if tensor.dtype.bits < 8 or tensor.dtype is DType.BOOL:
        array = array.astype(np.int8)
    return Interval(int(array.min()), int(array.max()))


# ------------------------------------------------------------------------ comparing two


def never_less(a: Interval, b: Interval) -> bool:
    """Return True where each element of `a` is certainly as great as each of `b`."""
    if a.low >= b.high:
        return True
    if a.least is None and b.most is None:
        return False
    pairs = [(low, high) for low in a.lows for high in b.highs]
    return any(dims.known_ge(low, high) for low, high in pairs)


def always_greater(a: Interval, b: Interval) -> bool:
    """Return True where each element of `a` is certainly greater than each of `b`."""
    return never_less(a, plus(b, YES))


# ---------------------------------------------------------------------------- combining


def union(a: Interval, b: Interval) -> Interval:
    """What holds of the elements of both."""
    least = next((end for end in (a.least, b.least) if _is_under(end, a, b)), None)
    most = next((end for end in (a.most, b.most) if _is_over(end, a, b)), None)
    return Interval(min(a.low, b.low), max(a.high, b.high), least, most)


def _is_under(end: Dim | None, *intervals: Interval) -> bool:
    """Return True where no element is less than a symbolic end."""
    if end is None:
        return False
    return all(any(dims.known_ge(low, end) for low in i.lows) for i in intervals)


def _is_over(end: Dim | None, *intervals: Interval) -> bool:
    """Return True where no element is greater than a symbolic end."""
    if end is None:
        return False
    return all(any(dims.known_ge(end, high) for high in i.highs) for i in intervals)


def both(a: Interval, b: Interval) -> Interval:
    """What is known where both hold; `a` where they contradict each other: no element lies there."""
    low = max(a.low, b.low)
    high = min(a.high, b.high)
    if low > high:
        return a
    least = b.least if a.least is None else a.least
    most = b.most if a.most is None else a.most
    return Interval(low, high, least, most)


def negated(a: Interval) -> Interval:
    least = None if a.most is None else dims.sub(0, a.most)
    most = None if a.least is None else dims.sub(0, a.least)
    return Interval(-a.high, -a.low, least, most)


def plus(a: Interval, b: Interval) -> Interval:
    least = _sum_of_ends(a.least, a.low, b.least, b.low)
    most = _sum_of_ends(a.most, a.high, b.most, b.high)
    low = a.low + b.low
    if low < 0 and least is not None and dims.known_ge(least, 0):
        low = 0
    return Interval(low, a.high + b.high, least, most)


def _sum_of_ends(
    a: Dim | None, a_number: int, b: Dim | None, b_number: int
) -> Dim | None:
    """The sum of two ends, each with symbols or the number; None where no symbol is in it."""
    if a is None and b is None:
        return None
    first = a_number if a is None else a
    second = b_number if b is None else b
    return dims.add(first, second)


def times(a: Interval, b: Interval) -> Interval:
    if a.is_single:
        a, b = b, a
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    product = Interval(min(corners), max(corners))
    if not b.is_single or b.low < 0:
        return product
    least = None if a.least is None else dims.mul(a.least, b.low)
    most = None if a.most is None else dims.mul(a.most, b.low)
    return product._replace(least=least, most=most)


def quotient(a: Interval, b: Interval) -> Interval | None:
    """ONNX rounds towards 0. None where a divisor may be 0 or negative."""
    if b.low <= 0:
        return None
    corners = [_truncated(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    most = None
    if b.is_single and a.low >= 0 and a.most is not None:
        most = dims.floordiv(a.most, b.low)
    return Interval(min(corners), max(corners), None, most)


def _truncated(x: int, y: int) -> int:
    return x // y if x >= 0 else -(-x // y)


# ---------------------------------------------------------------------- rules: movement
#
# A rule is given a value and the intervals of the operands of its node, None for floats and for what is left
# out. It gives None where it knows nothing.

IntervalRule: TypeAlias = "Callable[..., Interval | None]"
Rule = TypeVar("Rule", bound=IntervalRule)
RULES: dict[str, IntervalRule] = {}


def interval_of(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function tells the interval of what these operators give."""

    def enter(rule: Rule) -> Rule:
        RULES.update({f"onnx.{kind}": rule for kind in kinds})
        return rule

    return enter


def _moved(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
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
    return union(x, NO)


@interval_of("ScatterElements", "ScatterND")
def _scatter(
    value: Value, x: Interval, indices: Interval, updates: Interval
) -> Interval | None:
    reduction = value.producer.str_attr("reduction", "none")
    return union(x, updates) if reduction in ("none", "max", "min") else None


@interval_of("OneHot")
def _one_hot(
    value: Value, indices: Interval, depth: Interval, values: Interval
) -> Interval:
    return values


# -------------------------------------------------------------- rules: places and sizes


@interval_of("Range")
def _range(
    value: Value, start: Interval, end: Interval, step: Interval
) -> Interval | None:
    if not start.is_single or not step.is_single or step.low <= 0:
        return None
    (count,) = value.type.shape
    last = _places(count)  # of an axis, whatever its size is computed from
    return plus(start, times(last, step))._replace(low=start.low, least=None)


@interval_of("ArgMax", "ArgMin")
def _arg(value: Value, *_: Interval | None) -> Interval:
    node = value.producer
    x = node.operand(0)
    return _places(x.type.shape[node.int_attr("axis", 0) % x.type.rank])


@interval_of("TopK")
def _top_k(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    if value.index == 0:
        return x
    node = value.producer
    shape = node.operand(0).type.shape
    return _places(shape[node.int_attr("axis", -1) % len(shape)])


def _places(size: Dim) -> Interval:
    """The numbers of the places along an axis."""
    last = plus(of_dim(size), single(-1))
    return last._replace(low=0, high=min(max(last.high, 0), LONGEST - 1), least=None)


@interval_of("Shape")
def _shape(value: Value, *_: Interval | None) -> Interval:
    return Interval(0, LONGEST)


# -------------------------------------------------------------------- rules: arithmetic


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
    if x.low >= 0:
        return x
    low = 0 if x.high >= 0 else -x.high
    return Interval(low, max(-x.low, x.high))


@interval_of("Sign")
def _sign(value: Value, x: Interval) -> Interval:
    return Interval(_sign_of(x.low), _sign_of(x.high))


def _sign_of(number: int) -> int:
    return (number > 0) - (number < 0)


@interval_of("Div")
def _div(value: Value, a: Interval, b: Interval) -> Interval | None:
    return quotient(a, b)


@interval_of("Mod")
def _mod(value: Value, a: Interval, b: Interval) -> Interval | None:
    """The rest has the sign of the divisor, or with `fmod` that of the dividend."""
    if b.low <= 0:
        return None
    below = plus(b, single(-1))
    if a.low >= 0:
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


def extreme_of(operands: Sequence[Interval], least: bool) -> Interval:
    """The least, or the greatest, of elements of these intervals."""
    if least:
        return negated(extreme_of([negated(i) for i in operands], least=False))
    low = max(i.low for i in operands)
    high = max(i.high for i in operands)
    lower = next((i.least for i in operands if i.least is not None), None)
    upper = next((i.most for i in operands if _is_over(i.most, *operands)), None)
    return Interval(low, high, lower, upper)


@interval_of("Clip")
def _clip(
    value: Value, x: Interval, low: Interval | None = None, high: Interval | None = None
) -> Interval:
    raised = x if low is None else extreme_of([x, low], least=False)
    return raised if high is None else extreme_of([raised, high], least=True)


@interval_of("Cast")
def _cast(value: Value, x: Interval | None) -> Interval | None:
    if x is None or value.type.dtype is not DType.BOOL:
        return x
    if x.low > 0 or x.high < 0:
        return YES
    return NO if x.is_single else EITHER


# -------------------------------------------------------------------- rules: reductions


@interval_of("ReduceMax", "ReduceMin")
def _extreme(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """An element, where there is one."""
    sizes = value.producer.operand(0).type.shape
    return x if all(dims.known_ge(size, 1) for size in sizes) else None


@interval_of("ReduceSum", "CumSum")
def _sum(value: Value, x: Interval | None, *_: Interval | None) -> Interval | None:
    """As many elements as there are, or fewer."""
    type = value.producer.operand(0).type
    if x is None or not type.is_static:
        return None
    count = math.prod(type.static_shape)
    return union(NO, times(x, Interval(0, count)))


# ---------------------------------------------------------------------- rules: Booleans


@interval_of("Less")
def _less(value: Value, a: Interval | None, b: Interval | None) -> Interval | None:
    if a is None or b is None:
        return None
    if always_greater(b, a):
        return YES
    return NO if _is_same(value) or never_less(a, b) else EITHER


@interval_of("LessOrEqual")
def _less_or_equal(
    value: Value, a: Interval | None, b: Interval | None
) -> Interval | None:
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
    return NO if never_nan(value.producer.operand(0)) else EITHER


@interval_of("Not")
def _not(value: Value, x: Interval) -> Interval:
    return Interval(1 - x.high, 1 - x.low)


@interval_of("And")
def _and(value: Value, a: Interval, b: Interval) -> Interval:
    return Interval(min(a.low, b.low), min(a.high, b.high))


@interval_of("Or")
def _or(value: Value, a: Interval, b: Interval) -> Interval:
    return Interval(max(a.low, b.low), max(a.high, b.high))


@interval_of("Xor")
def _xor(value: Value, a: Interval, b: Interval) -> Interval:
    known = a.is_single and b.is_single
    return single(a.low ^ b.low) if known else EITHER


@interval_of("Where")
def _where(
    value: Value, condition: Interval, a: Interval | None, b: Interval | None
) -> Interval | None:
    if a is None or b is None:
        return None
    if condition.is_single:
        return a if condition.low else b
    return union(a, b)
