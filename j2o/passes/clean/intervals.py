"""Intervals that the elements of integers and Booleans lie in, and arithmetic with them.

Each end is a number, and perhaps also a size: of i: i64[B] = 0, 1, … it is known that 0 ≤ i ≤ 2³¹ - 2, and
that i ≤ B - 1. So i < B holds everywhere, although no number says so.

`interval_rules.py` has what operators make of intervals, `facts.py` asks for them. The arithmetic is that of
exact integers: an interval is claimed only where no result wraps around in its dtype. It tells nothing of
elements that are not there, and so is right for empty arrays.

An axis is taken to have fewer than 2³¹ elements: JAX itself counts along axes in int32.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType

LONGEST = 2**31 - 1  # elements of an axis


class Interval(NamedTuple):
    """The elements of a value lie from `low` to `high`, both included; False is 0, True is 1.

    `least` and `most` are ends with symbols that hold besides; None where none is known.
    """

    low: int
    high: int
    least: Dim | None = None
    most: Dim | None = None

    @property
    def is_single(self) -> bool:
        """Return True where all elements are one known number."""
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
    """Return True for integers and Booleans."""
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
    """The interval of one number."""
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
    # a symbol is the size of an axis, and so is what is at most one
    is_short = any(dims.known_ge(scope.symbol(name), dim) for name in names)
    return Interval(low, LONGEST if is_short else whole.high, dim, dim)


def of_tensor(tensor: Tensor) -> Interval | None:
    """The numbers of a constant that is small enough to look at."""
    if not tensor.is_small:
        return None
    array = tensor.load()
    if not array.size:  # any interval is right
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
    """-a: the ends change places."""
    least = None if a.most is None else dims.sub(0, a.most)
    most = None if a.least is None else dims.sub(0, a.least)
    return Interval(-a.high, -a.low, least, most)


def plus(a: Interval, b: Interval) -> Interval:
    """a + b."""
    least = _sum_of_ends(a.least, a.low, b.least, b.low)
    most = _sum_of_ends(a.most, a.high, b.most, b.high)
    low = a.low + b.low
    # B - 1 is not negative where B is 1 or more, which numbers alone do not tell
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
    """a · b: the least and the most are among the products of the ends."""
    if a.is_single:
        a, b = b, a
    corners = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    product = Interval(min(corners), max(corners))
    # ends with symbols keep their order where the other is a number from 0 on
    if not b.is_single or b.low < 0:
        return product
    least = None if a.least is None else dims.mul(a.least, b.low)
    most = None if a.most is None else dims.mul(a.most, b.low)
    return product._replace(least=least, most=most)


def quotient(a: Interval, b: Interval) -> Interval | None:
    """a / b, rounded towards 0 as ONNX does; None where a divisor may be 0 or negative."""
    if b.low <= 0:
        return None
    corners = [_truncated(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    most = None
    if b.is_single and a.low >= 0 and a.most is not None:
        most = dims.floordiv(a.most, b.low)
    return Interval(min(corners), max(corners), None, most)


def _truncated(x: int, y: int) -> int:
    """x / y rounded towards 0, for a positive y."""
    return x // y if x >= 0 else -(-x // y)


def extreme_of(operands: Sequence[Interval], least: bool) -> Interval:
    """The least, or the greatest, of elements of these intervals."""
    if least:
        return negated(extreme_of([negated(i) for i in operands], least=False))
    low = max(i.low for i in operands)
    high = max(i.high for i in operands)
    lower = next((i.least for i in operands if i.least is not None), None)
    upper = next((i.most for i in operands if _is_over(i.most, *operands)), None)
    return Interval(low, high, lower, upper)
