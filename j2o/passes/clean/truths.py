"""Booleans that programs take for 0 and 1, as masks of Flax are: `ranges` makes Booleans of them again."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.types import DType
from j2o.passes.clean.facts import Facts

COMPARISONS = {
    "onnx.Equal": operator.eq,
    "onnx.Greater": operator.gt,
    "onnx.GreaterOrEqual": operator.ge,
    "onnx.Less": operator.lt,
    "onnx.LessOrEqual": operator.le,
}


def _compared(op: Builder, node: Node, _: Facts) -> Value | None:
    """A comparison of one of two numbers with a third is what chooses them, its negation, or known."""
    compare = COMPARISONS[node.op]
    a, b = node.operands
    choice, number = _choice_of(a), b.number
    if choice is not None and number is not None:
        of_false = compare(choice.of_false, number)
        of_true = compare(choice.of_true, number)
    else:
        choice, number = _choice_of(b), a.number
        if choice is None or number is None:
            return None
        of_false = compare(number, choice.of_false)
        of_true = compare(number, choice.of_true)
    if of_false == of_true:
        return op.full(node.out.type.shape, of_true, DType.BOOL)
    chosen = choice.condition if of_true else op.Not(choice.condition)
    return op.expand(chosen, node.out.type.shape)


def _multiplied(op: Builder, node: Node, _: Facts) -> Value | None:
    """The product of two, of which nothing else is used, is their And."""
    a, b = node.operands
    first, second = _truth_of(a), _truth_of(b)
    if first is None or second is None:
        return None
    if len(a.uses) + len(b.uses) > 2:
        return None
    return op.cast(op.And(first, second), node.out.type.dtype)


def _truth_of(value: Value) -> Value | None:
    """The Boolean that a value is as a number."""
    if value.op != "onnx.Cast":
        return None
    source = value.producer.operand(0)
    return source if source.type.dtype is DType.BOOL else None


class Choice(NamedTuple):
    """One of two numbers for each element of a condition."""

    condition: Value
    of_false: Any
    of_true: Any


def _choice_of(value: Value) -> Choice | None:
    """The numbers that a value chooses from, as 0 and 1 for a Boolean; None for other values."""
    truth = _truth_of(value)
    if truth is not None:
        return Choice(truth, 0, 1)
    if value.op != "onnx.Where":
        return None
    condition, *chosen = value.producer.operands
    of_true, of_false = [value.number for value in chosen]
    if of_true is None or of_false is None:
        return None
    return Choice(condition, of_false, of_true)


TRUTH_REWRITES = {
    **dict.fromkeys(COMPARISONS, (_compared,)),
    "onnx.Mul": (_multiplied,),
}
