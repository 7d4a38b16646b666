"""Booleans that programs take for 0 and 1, as masks of Flax are: `ranges` makes Booleans of them again."""

from __future__ import annotations

import operator
from typing import Any

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
    """A comparison of 0 or 1 with a number is the Boolean behind it, its negation, or known."""
    compare = COMPARISONS[node.op]
    a, b = node.operands
    truth, number = _truth_of(a), _number_of(b)
    if truth is not None and number is not None:
        of_false, of_true = compare(0, number), compare(1, number)
    else:
        truth, number = _truth_of(b), _number_of(a)
        if truth is None or number is None:
            return None
        of_false, of_true = compare(number, 0), compare(number, 1)
    if of_false == of_true:
        return op.full(node.out.type.shape, of_true, DType.BOOL)
    return truth if of_true else op.Not(truth)


def _multiplied(op: Builder, node: Node, _: Facts) -> Value | None:
    """The product of two, of which nothing else is used, is their And."""
    a, b = node.operands
    first, second = _truth_of(a), _truth_of(b)
    if first is None or second is None or len(a.uses) + len(b.uses) > 2:
        return None
    return op.cast(op.And(first, second), node.out.type.dtype)


def _truth_of(value: Value) -> Value | None:
    """The Boolean that a value is as a number."""
    if value.op != "onnx.Cast":
        return None
    source = value.producer.operand(0)
    return source if source.type.dtype is DType.BOOL else None


def _number_of(value: Value) -> Any:
    """The one number of a small constant; None of other values."""
    tensor = value.const
    if tensor is None or not tensor.is_small or tensor.size != 1:
        return None
    return tensor.load().item()


TRUTH_REWRITES = {
    **dict.fromkeys(COMPARISONS, (_compared,)),
    "onnx.Mul": (_multiplied,),
}
