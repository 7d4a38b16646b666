"""log Σ exp x, whose largest number is taken off first, and added again: no more nodes than that.

    m = where(is_finite(max x), max x, 0);  log Σ exp(x - m) + m
    becomes   m = Clip(max x, lowest, highest);  log Σ exp(x - m) + m

`jax.nn.logsumexp` takes 0 off where the largest is infinite, so that no infinity is taken off itself. The
largest or least finite number does as well, and is one Clip: exp(∞ - c) is infinite, exp(-∞ + c) is 0.
Whether the largest is NaN where a number is does not matter either (`target/legalize.py`). ONNX's
ReduceLogSumExp overflows in onnxruntime.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import is_one
from j2o.passes.recover.constants import BROADCAST, float_of
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# what leaves numbers as they are: a maximum with -∞ alone
PASSED = ("lax.broadcast_in_dim", "lax.max", "lax.squeeze", "lax.stop_gradient")


class Origin(NamedTuple):
    """The node that a value is a broadcast of, and on which axis of the value each axis of its result is."""

    node: Node
    axes: list[int | None]


class Shift(NamedTuple):
    """What is taken off: the reduction to the largest number, and what chooses a finite one, if anything."""

    top: Origin
    choice: Node | None


@rewrite("log_sum_exp", at="lax")
def log_sum_exp(op, total, shift):
    """log Σ exp(x - max x) + max x."""
    return op.lax.add(op.lax.log(op.either(total, op.lax.abs(total))), shift)


@log_sum_exp.becomes
def _(op, total, shift):
    summed = _origin(total, "lax.reduce_sum")
    added = _shift(shift)
    if summed is None or added is None:
        return None
    exponents = _exponents(summed.node)
    if exponents is None:
        return op.decline("the exponentials, or their sum, are used elsewhere")
    x, subtrahend = exponents
    taken_off = _shift(subtrahend)
    if taken_off is None or not _is_same_shift(taken_off, added):
        return None
    reduction = taken_off.top.node
    axes = reduction.ints_attr("axes")
    kept = [axis for axis in range(x.type.rank) if axis not in axes]
    is_of_x = reduction.operand(0) is x and taken_off.top.axes == kept
    is_over = summed.node.ints_attr("axes") == axes
    if not (is_of_x and is_over) or summed.axes != added.top.axes:
        return None
    if not _has_elements(x, axes) or not _adds_ones(op, summed.axes):
        return None
    return _written(op, x, axes, taken_off.choice is not None)


def _is_same_shift(one: Shift, other: Shift) -> bool:
    """Return True where two are the same largest number, broadcast in their own ways."""
    return one.top.node is other.top.node and one.choice is other.choice


def _written(
    op: RuleBuilder, x: Value, axes: tuple[int, ...], is_chosen: bool
) -> Value:
    """The plain form, in the shape of what it stands for."""
    over = np.array(axes)
    largest = op.ReduceMax(x, over, keepdims=1)
    if is_chosen:
        limits = ml_dtypes.finfo(x.type.dtype.numpy)
        largest = op.Clip(largest, float(limits.min), float(limits.max))
    total = op.ReduceSum(op.Exp(op.Sub(x, largest)), over, keepdims=1)
    return op.reshape(op.Add(op.Log(total), largest), op.out_type.shape)


# ------------------------------------------------------------------------------ reading


def _origin(value: Value, op: str) -> Origin | None:
    """Walk back over broadcasts, squeezes and maxima with -∞ to an operation; None where there is none."""
    axes: list[int | None] = list(range(value.type.rank))
    while value.op in PASSED:
        node = value.producer
        source = node.operand(0)
        if value.op == "lax.broadcast_in_dim":
            axes = [axes[a] for a in node.ints_attr("broadcast_dimensions")]
        elif value.op == "lax.squeeze":
            axes = _unsqueezed(axes, node.ints_attr("dimensions"))
        elif value.op == "lax.max":
            source = _above_infinity(node)
            if source is None:
                return None
        value = source
    return Origin(value.producer, axes) if value.op == op else None


def _unsqueezed(axes: list[int | None], gone: tuple[int, ...]) -> list[int | None]:
    """Where the axes are that an array had before it lost some."""
    left = iter(axes)
    rank = len(axes) + len(gone)
    return [None if axis in gone else next(left) for axis in range(rank)]


def _above_infinity(node: Node) -> Value | None:
    """The operand of a maximum with -∞, which changes nothing; None of another maximum."""
    for one, other in (node.operands, node.operands[::-1]):
        if float_of(one) == -np.inf:
            return other
    return None


def _shift(value: Value) -> Shift | None:
    """The largest number, or the largest where that is finite and 0 elsewhere; None for something else."""
    choice = _origin(value, "lax.select_n")
    if choice is None:
        top = _origin(value, "lax.reduce_max")
        return None if top is None else Shift(top, None)
    condition, zero, number = choice.node.operands
    if condition.op != "lax.is_finite" or condition.producer.operand(0) is not number:
        return None
    top = _origin(number, "lax.reduce_max")
    if float_of(zero.origin(BROADCAST)) != 0 or top is None:
        return None
    axes = [None if a is None else choice.axes[a] for a in top.axes]
    return Shift(Origin(top.node, axes), choice.node)


def _exponents(total: Node) -> tuple[Value, Value] | None:
    """What is taken off what, of a sum of exponentials; None where these have another use."""
    power = total.operand(0)
    if len(total.out.uses) > 1:
        return None
    if power.op != "lax.exp" or len(power.uses) > 1:
        return None
    difference = power.producer.operand(0)
    if difference.op != "lax.sub" or len(difference.uses) > 1:
        return None
    x, taken = difference.producer.operands
    return (x, taken) if x.type.dtype.is_float else None


def _has_elements(x: Value, axes: tuple[int, ...]) -> bool:
    """Return True where each row that is reduced has an element."""
    return all(dims.known_ge(x.type.shape[axis], 1) for axis in axes)


def _adds_ones(op: RuleBuilder, axes: list[int | None]) -> bool:
    """Return True where the result has the axes of the sum, in order, and ones."""
    known = [a for a in axes if a is not None]
    others = [d for a, d in enumerate(op.out_type.shape) if a not in known]
    is_in_order = len(known) == len(axes) and known == sorted(known)
    return is_in_order and all(map(is_one, others))


LOG_SUM_EXP = (log_sum_exp,)
