"""Whether a mask of attention is the causal one: query i sees the keys up to the i-th, and no others."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import is_one
from j2o.passes.clean.facts import Facts
from j2o.passes.clean.intervals import has_interval
from j2o.passes.recover.constants import uniform_of
from j2o.passes.recover.masks import MASKED, Mask
from j2o.passes.recover.open_rows import (
    OPPOSITES,
    Number,
    RowElements,
    ScoreAxes,
    axes_in_scores,
    elements_of,
    has_diagonal,
    number_behind,
    operand_of,
    source_of,
)


def is_causal(mask: Mask, scores: ScoreAxes) -> bool:
    """Return True where a mask is causal, and does nothing else; there are as many keys as queries."""
    if mask.condition is None:
        mask = _as_choice(mask)
    if mask.condition is None:
        return len(mask.biases) == 1 and _adds_triangle(mask.biases[0], scores)
    if mask.biases or not _is_square(mask.condition, scores):
        return False
    part = RowElements(mask.condition, axes_in_scores(mask.condition))
    return _shows_triangle(part, scores, not mask.hides)


def _as_choice(mask: Mask) -> Mask:
    """A bias of 0 and numbers that hide, as a choice between both; the mask itself where it is none."""
    if len(mask.biases) != 1:
        return mask
    (bias,) = mask.biases
    while bias.op in RESHAPES and _is_matrix(bias):
        bias = bias.producer.operand(0)
    if bias.op != "onnx.Where":
        return mask
    condition, kept, hidden = bias.producer.operands
    hides = uniform_of(kept) != 0
    if hides:
        kept, hidden = hidden, kept
    masked = uniform_of(hidden)
    if uniform_of(kept) != 0 or masked is None or not masked <= MASKED:
        return mask
    return Mask((), condition, masked, hides)


def _adds_triangle(bias: Value, scores: ScoreAxes) -> bool:
    """Return True for a constant of 0 and numbers that hide."""
    part = RowElements(bias, axes_in_scores(bias))
    numbers = elements_of(part)
    if numbers is None or not _is_square(bias, scores):
        return False
    shown = numbers == 0
    hidden = numbers <= MASKED
    if not (shown | hidden).all():
        return False
    return _is_triangle(shown, part, scores)


def _is_square(value: Value, scores: ScoreAxes) -> bool:
    """Return True where a value is a matrix of as many queries as keys, and not the same for all of them."""
    if not _is_matrix(value) or not has_diagonal(value, scores):
        return False
    return not is_one(value.type.shape[scores.keys])


def _is_matrix(value: Value) -> bool:
    """Return True where all axes but the last two are of size 1."""
    return value.type.rank >= 2 and all(map(is_one, value.type.shape[:-2]))


def _shows_triangle(part: RowElements, scores: ScoreAxes, shown: bool) -> bool:
    """Return True where Booleans are `shown` from each query for the keys up to its own."""
    facts = Facts()
    while part.value.const is None:
        node = part.value.node
        if node is None:
            return False
        if node.op in OPPOSITES:
            return _is_up_to(part, scores, shown, facts)
        if node.op == "onnx.Not":
            part, shown = operand_of(part, 0), not shown
            continue
        source = source_of(part, facts)
        if source is None:
            return False
        part = source
    elements = elements_of(part)
    return elements is not None and _is_triangle(elements == shown, part, scores)


def _is_triangle(shown: np.ndarray, part: RowElements, scores: ScoreAxes) -> bool:
    """Return True where the elements on and below the diagonal are shown, and no others."""
    if scores.queries not in part.axes or scores.keys not in part.axes:
        return False
    axes = [part.axes.index(scores.queries), part.axes.index(scores.keys)]
    shown = np.moveaxis(shown, axes, (-2, -1))
    others, shape = shown.shape[:-2], shown.shape[-2:]
    if any(size != 1 for size in others):
        return False
    return np.array_equal(shown.reshape(shape), np.tri(*shape, dtype=bool))


def _is_up_to(part: RowElements, scores: ScoreAxes, shown: bool, facts: Facts) -> bool:
    """Return True for `i >= j` of the numbers of queries and keys, which are counted up."""
    if not all(map(has_interval, part.value.producer.operands)):
        return False
    comparison = part.value.op if shown else OPPOSITES[part.value.op]
    first = number_behind(operand_of(part, 0), facts)
    second = number_behind(operand_of(part, 1), facts)
    if comparison == "onnx.LessOrEqual":
        first, second = second, first
    elif comparison != "onnx.GreaterOrEqual":
        return False
    if first.offset != second.offset or not first.offset.is_single:
        return False
    return _is_same_axis(first, second, scores) and _counts_up(first, facts)


def _is_same_axis(first: Number, second: Number, scores: ScoreAxes) -> bool:
    """Return True where both are the numbers along an axis, the first of queries, the second of keys."""
    if first.element is None or second.element is None:
        return False
    if first.element.value is not second.element.value:
        return False
    is_of_queries = first.element.axes == (scores.queries,)
    is_of_keys = second.element.axes == (scores.keys,)
    return is_of_queries and is_of_keys


def _counts_up(number: Number, facts: Facts) -> bool:
    """Return True for a vector of which each element is greater than that before."""
    assert number.element is not None
    vector = number.element.value
    if vector.const is not None:
        return vector.const.is_small and bool((np.diff(vector.const.load()) > 0).all())
    if vector.op != "onnx.Range":
        return False
    step = facts.of(vector.producer.operand(2))
    return step.low > 0
