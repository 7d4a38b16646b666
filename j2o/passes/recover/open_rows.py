"""Whether each row of scores has one that a condition does not hide, as each row of a causal mask has.

That is certain where the condition is known at one place of every row: at its first key, or on the
diagonal, at the key whose number is that of the query. There the operands of a comparison are looked at:
they may be numbers in intervals, or the same element of the same value.

    Where(GreaterOrEqual(Unsqueeze(n, 1), Unsqueeze(n, 0)), scores, -inf)

Here both operands of the comparison are the same element of n on the diagonal: each row shows one score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import differ_by_ones, is_one, same_dim
from j2o.passes.clean.facts import Facts
from j2o.passes.clean.intervals import (
    Interval,
    all_of,
    always_greater,
    fits,
    has_interval,
    negated,
    never_less,
    plus,
    single,
)

FIRST = 0  # in the place of an axis of the scores: its first element
DEPTH = 8  # so many nodes behind a condition are looked at
LARGEST = 1 << 24  # bytes of a constant that is looked at


class ScoreAxes(NamedTuple):
    """The axes of queries and keys in scores, counted from the last, -1; None for a single query."""

    queries: int | None
    keys: int


class RowElements(NamedTuple):
    """Elements of a value, one for each row of the scores.

    For each axis of the value `axes` tells which axis of the scores it goes along, or FIRST, where the first
    element along it is meant. On the diagonal, two axes go along the same.
    """

    value: Value
    axes: tuple[int, ...]


class Number(NamedTuple):
    """An integer for each row: `element + offset`, or `offset` alone where `element` is None."""

    element: RowElements | None
    offset: Interval


def opens_each_row(condition: Value, scores: ScoreAxes, hides: bool) -> bool:
    """Return True where it is certain that each row has a score that is not hidden.

    The condition is broadcast to the scores; those where it is `hides` are hidden.
    """
    facts = Facts()
    return any(
        _is_certainly(not hides, part, facts, DEPTH)
        for part in _places(condition, scores)
    )


def shows_each_row(bias: Value, scores: ScoreAxes) -> bool:
    """Return True where it is certain that each row has a score to which more than -∞ is added."""
    facts = Facts()
    return any(_is_shown(part, facts, DEPTH) for part in _places(bias, scores))


def _places(mask: Value, scores: ScoreAxes) -> Iterator[RowElements]:
    """The places of which one may be known for every row."""
    yield _first(mask, scores)
    if has_diagonal(mask, scores):
        yield _diagonal(mask, scores)


def _is_shown(part: RowElements, facts: Facts, depth: int) -> bool:
    """Return True where floats are certainly above -∞, in each row."""
    if part.value.const is not None:
        elements = elements_of(part)
        return elements is not None and bool((elements > -np.inf).all())
    node = part.value.node
    if node is None or depth == 0:
        return False
    if node.op != "onnx.Where":
        source = source_of(part, facts)
        return source is not None and _is_shown(source, facts, depth - 1)
    condition, if_true, if_false = (operand_of(part, index) for index in range(3))
    shows_if_true = _is_shown(if_true, facts, depth - 1)
    shows_if_false = _is_shown(if_false, facts, depth - 1)
    if shows_if_true and shows_if_false:
        return True
    if shows_if_true:
        return _is_certainly(True, condition, facts, depth - 1)
    if shows_if_false:
        return _is_certainly(False, condition, facts, depth - 1)
    return False


def axes_in_scores(value: Value) -> tuple[int, ...]:
    """The axes of the scores that a value is broadcast along, one for each of its own."""
    return tuple(range(-value.type.rank, 0))


def _first(condition: Value, scores: ScoreAxes) -> RowElements:
    """The first key of each row."""
    axes = [FIRST if a == scores.keys else a for a in axes_in_scores(condition)]
    return RowElements(condition, tuple(axes))


def has_diagonal(condition: Value, scores: ScoreAxes) -> bool:
    """Return True where a condition has as many keys as queries."""
    queries, keys = scores
    if queries is None or condition.type.rank < -min(queries, keys):
        return False
    return same_dim(condition.type.shape[queries], condition.type.shape[keys])


def _diagonal(condition: Value, scores: ScoreAxes) -> RowElements:
    """The key of each row whose number is that of the query."""
    assert scores.queries is not None
    axes = axes_in_scores(condition)
    return RowElements(
        condition, tuple(scores.queries if a == scores.keys else a for a in axes)
    )


# ------------------------------------------------------------------------------ Booleans


def _is_certainly(wanted: bool, part: RowElements, facts: Facts, depth: int) -> bool:
    """Return True where Booleans are certainly `wanted`, in each row."""
    condition = part.value
    if condition.const is not None:
        elements = elements_of(part)
        return elements is not None and bool((elements == wanted).all())
    node = condition.node
    if node is None or depth == 0:
        return False
    if node.op == "onnx.Not":
        return _is_certainly(not wanted, operand_of(part, 0), facts, depth - 1)
    if node.op in ("onnx.And", "onnx.Or"):
        enough = all if wanted == (node.op == "onnx.And") else any
        operands = (operand_of(part, 0), operand_of(part, 1))
        return enough(_is_certainly(wanted, p, facts, depth - 1) for p in operands)
    if node.op in COMPARISONS:
        return _compares(wanted, part, facts)
    source = source_of(part, facts)
    return source is not None and _is_certainly(wanted, source, facts, depth - 1)


def elements_of(part: RowElements) -> np.ndarray | None:
    """The elements of a constant that are meant; None for other values, and where it is large."""
    tensor = part.value.const
    if tensor is None or tensor.nbytes > LARGEST:
        return None
    elements = tensor.load()
    for axis, along in enumerate(part.axes):
        if along == FIRST:
            elements = elements.take([0], axis)
    for axis, along in enumerate(part.axes):
        if along != FIRST and along in part.axes[:axis]:
            other = part.axes.index(along)
            return elements.diagonal(0, other, axis)
    return elements


def _compares(wanted: bool, part: RowElements, facts: Facts) -> bool:
    """Return True where a comparison of integers is certainly `wanted`, in each row."""
    op = part.value.op
    if not wanted:
        op = OPPOSITES.get(op, "")
    if op not in COMPARISONS:
        return False
    if not all(map(has_interval, part.value.producer.operands)):
        return False
    first = number_behind(operand_of(part, 0), facts)
    second = number_behind(operand_of(part, 1), facts)
    is_certain = COMPARISONS[op]
    if first.element == second.element:
        return is_certain(first.offset, second.offset)
    return is_certain(_interval(first, facts), _interval(second, facts))


def _are_equal(a: Interval, b: Interval) -> bool:
    """Return True where both are one known number, and the same."""
    return a.is_single and a == b


def _never_greater(a: Interval, b: Interval) -> bool:
    """Return True where `a <= b` for all their numbers."""
    return never_less(b, a)


def _always_less(a: Interval, b: Interval) -> bool:
    """Return True where `a < b` for all their numbers."""
    return always_greater(b, a)


# each comparison, and what makes it certain
COMPARISONS: dict[str, Callable[[Interval, Interval], bool]] = {
    "onnx.Equal": _are_equal,
    "onnx.Greater": always_greater,
    "onnx.GreaterOrEqual": never_less,
    "onnx.Less": _always_less,
    "onnx.LessOrEqual": _never_greater,
}
# what holds of integers where a comparison does not
OPPOSITES = {
    "onnx.Greater": "onnx.LessOrEqual",
    "onnx.GreaterOrEqual": "onnx.Less",
    "onnx.Less": "onnx.GreaterOrEqual",
    "onnx.LessOrEqual": "onnx.Greater",
}

# ------------------------------------------------------------------------------ integers


def number_behind(part: RowElements, facts: Facts, depth: int = DEPTH) -> Number:
    """What integers are, one for each row; the offset has what Add and Sub of known numbers do."""
    node = part.value.node
    whole = Number(part, single(0))
    if node is None or depth == 0:
        return whole
    if part.value.const is not None:
        numbers = _interval(whole, facts)
        return Number(None, numbers) if numbers.is_single else whole
    if node.op == "onnx.Range" and part.axes == (FIRST,):
        return Number(None, facts.of(node.operand(0)))
    if node.op in ("onnx.Add", "onnx.Sub") and not _may_wrap(part.value, facts):
        first = number_behind(operand_of(part, 0), facts, depth - 1)
        second = number_behind(operand_of(part, 1), facts, depth - 1)
        total = _sum if node.op == "onnx.Add" else _difference
        return total(first, second) or whole
    source = source_of(part, facts)
    return whole if source is None else number_behind(source, facts, depth - 1)


def _may_wrap(value: Value, facts: Facts) -> bool:
    """Return True where a sum may go past an end of its dtype: nothing is known of it then."""
    return facts.of(value) == all_of(value.type.dtype)


def _sum(a: Number, b: Number) -> Number | None:
    """The sum of two numbers; None where both have an element."""
    if a.element is not None and b.element is not None:
        return None
    return Number(a.element or b.element, plus(a.offset, b.offset))


def _difference(a: Number, b: Number) -> Number | None:
    """The difference of two numbers, in which equal elements cancel; None where it takes an element off."""
    offset = plus(a.offset, negated(b.offset))
    if a.element == b.element:
        return Number(None, offset)
    return Number(a.element, offset) if b.element is None else None


def _interval(number: Number, facts: Facts) -> Interval:
    """The interval that a number lies in, in every row."""
    if number.element is None:
        return number.offset
    return plus(_elements_between(number.element, facts), number.offset)


def _elements_between(part: RowElements, facts: Facts) -> Interval:
    """The interval of the elements of a value that are meant."""
    if part.value.const is None:
        return facts.of(part.value)
    elements = elements_of(part)
    if elements is None or not elements.size:
        return facts.of(part.value)
    return Interval(int(elements.min()), int(elements.max()))


# ------------------------------------------------------------------------------ axes


def operand_of(part: RowElements, index: int) -> RowElements:
    """The same elements of an operand that is broadcast to a value."""
    return _broadcast(part.value.producer.operand(index), part)


def _broadcast(operand: Value, part: RowElements) -> RowElements:
    """The same elements of what is broadcast: of an axis of size 1 the only one."""
    own = part.axes[len(part.axes) - operand.type.rank :]
    sizes = operand.type.shape
    axes = (FIRST if is_one(d) else a for d, a in zip(sizes, own, strict=True))
    return RowElements(operand, tuple(axes))


def source_of(part: RowElements, facts: Facts) -> RowElements | None:
    """The same elements of what a value is a copy of; None for other values."""
    node = part.value.producer
    if node.op == "onnx.Expand":
        return operand_of(part, 0)
    if node.op in RESHAPES:
        return _before_reshape(part)
    if node.op == "onnx.Cast" and _keeps_numbers(node, facts):
        return RowElements(node.operand(0), part.axes)
    if node.op == "onnx.Slice" and _cuts_the_end_off(node):
        return RowElements(node.operand(0), part.axes)
    return None


def _before_reshape(part: RowElements) -> RowElements | None:
    """The same elements of what has axes of size 1 more, or fewer."""
    shape = part.value.type.shape
    operand = part.value.producer.operand(0)
    if not differ_by_ones(shape, operand.type.shape):
        return None
    pairs = zip(shape, part.axes, strict=True)
    long_axes = iter([axis for size, axis in pairs if not is_one(size)])
    axes = (FIRST if is_one(d) else next(long_axes) for d in operand.type.shape)
    return RowElements(operand, tuple(axes))


def _keeps_numbers(cast: Node, facts: Facts) -> bool:
    """Return True for a conversion of integers that fit."""
    source, dtype = cast.operand(0), cast.out.type.dtype
    if not source.type.dtype.is_int or not dtype.is_int:
        return False
    return fits(facts.of(source), dtype)


def _cuts_the_end_off(cut: Node) -> bool:
    """Return True for a Slice of what comes first along its axes, each element of it."""
    starts = cut.operand(1).known
    steps = cut.optional(4)
    is_from_first = starts is not None and set(starts) == {0}
    takes_each = steps is None or set(steps.known or ()) == {1}
    return is_from_first and takes_each
