"""Masks of attention: what hides scores, and what is added to them in its place.

Attention adds its mask to the scores. A program may choose instead, `where(mask, scores, -inf)`: the
same, where each row of scores has one that counts. Where none does, Softmax gives NaN, and so does a
mask of NaN.
"""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.inference.table import broadcast_shape
from j2o.ir.ops import RESHAPES
from j2o.ir.types import DType, Shape
from j2o.passes.recover.constants import uniform_of
from j2o.passes.recover.open_rows import Scores, opens_each_row

# A number that hides a score is this or less. See `masked-attention` in semantics.md.
MASKED = -1e9
# Added to a score, this and what is less gives itself: the scores of a row that is hidden in whole are
# the same then, as in the program.
FAR = -1e30
# What is added to scores is not less than this part of the lowest float: the kernel takes a score of the
# lowest for none, and a row of them gives zeros, where Softmax weighs them all alike.
LEAST = 0.9
# what a bias is put together with
BIASES = RESHAPES | {"onnx.Add", "onnx.Expand", "onnx.Transpose", "onnx.Where"}


class Mask(NamedTuple):
    """`bias` is added to scores. With `condition`, they are `masked` where that is `hides`."""

    bias: Value | None
    condition: Value | None = None
    masked: float = 0.0
    hides: bool = False

    @property
    def shape(self) -> Shape | None:
        """The shape of what is added to the scores; None where that is not certain."""
        parts = [v.type.shape for v in (self.bias, self.condition) if v is not None]
        return broadcast_shape(parts)


def hiding_number(value: Value, bias: Value | None) -> float | None:
    """The number that a score with a bias has where it does not count; None for other values.

    One that is not far below all scores can stand beside a bias of known numbers alone.
    """
    number = uniform_of(value)
    if number is None or not number <= MASKED:
        return None
    is_far = number <= FAR
    return number if is_far or bias is None or _is_moderate(bias) else None


def _is_moderate(bias: Value) -> bool:
    """Return True for a small constant, perhaps looked up, that hides nothing by itself."""
    while bias.op in RESHAPES or bias.op in ("onnx.Transpose", "onnx.Gather"):
        bias = bias.producer.operand(0)
    tensor = bias.const
    if tensor is None or not tensor.is_small:
        return False
    return bool((np.abs(tensor.load().astype(np.float64)) < -MASKED / 10).all())


# ------------------------------------------------------------------------------ writing


def added(op: Builder, mask: Mask, scores: Scores, dtype: DType) -> Value:
    """What a mask adds to the scores, in its own shape."""
    least = LEAST * float(ml_dtypes.finfo(dtype.numpy).min)
    bias = None if mask.bias is None else _raised(op, mask.bias, least)
    if mask.condition is None:
        assert bias is not None
        return bias
    masked = max(min(mask.masked, FAR), least)
    hidden = _chosen(op, mask, bias, masked, dtype)
    if mask.masked > -np.inf or opens_each_row(mask.condition, scores, mask.hides):
        return hidden
    plain = hidden if bias is None else _chosen(op, mask, None, masked, dtype)
    return _nan_where_all_is(op, masked, plain, scores, hidden)


def _chosen(
    op: Builder, mask: Mask, bias: Value | None, masked: float, dtype: DType
) -> Value:
    """A bias, by default 0, for scores that count, and a number for those that do not."""
    assert mask.condition is not None
    kept = op.const(0.0, dtype) if bias is None else bias
    hidden = op.const(masked, dtype)
    if mask.hides:
        return op.Where(mask.condition, hidden, kept)
    return op.Where(mask.condition, kept, hidden)


def _nan_where_all_is(
    op: Builder, masked: float, plain: Value, scores: Scores, mask: Value
) -> Value:
    """A mask that is NaN in each row where `plain` is `masked` for all keys."""
    dtype = plain.type.dtype
    highest = plain
    if plain.type.rank >= -scores.keys:
        highest = op.ReduceMax(plain, op.const([scores.keys], DType.I64), keepdims=1)
    is_hidden = op.Equal(highest, op.const(masked, dtype))
    return op.Where(is_hidden, op.const(np.nan, dtype), mask)


def _raised(op: Builder, bias: Value, least: float) -> Value:
    """A bias that is nowhere less, but for weights and what is computed with them."""
    number = uniform_of(bias)
    if number is not None and -np.inf < number < least:
        return op.full(bias.type.shape, least, bias.type.dtype)
    node = bias.node
    if node is None or _is_multiple_of_lowest(node, least):
        return op.Max(bias, op.const(least, bias.type.dtype))
    if bias.op not in BIASES:
        return bias
    inputs = [_raised_operand(op, value, least) for value in node.inputs]
    if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
        return bias
    return op.node(node.op, inputs, node.attrs).out


def _is_multiple_of_lowest(node: Node, least: float) -> bool:
    """Return True for a mask of 0 and 1 that is multiplied by the lowest float."""
    if node.op != "onnx.Mul":
        return False
    numbers = [uniform_of(value) for value in node.operands]
    return any(number is not None and abs(number) > -least for number in numbers)


def _raised_operand(op: Builder, value: Value | None, least: float) -> Value | None:
    """An operand of a bias; shapes and conditions stay."""
    if value is None or not value.type.dtype.is_float:
        return value
    return _raised(op, value, least)
