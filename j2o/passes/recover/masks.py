"""Masks of attention: what hides scores, and what is added to them in its place.

Attention adds its mask to the scores. A program may choose instead:

    Softmax(Where(shown, scores, -inf))   becomes   Attention(…, attn_mask=Where(shown, 0, -inf))

That is the same where each row of scores has one that counts, which `open_rows.py` tells. Where none does,
Softmax gives NaN, and so does a mask of NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ml_dtypes
import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.inference.table import broadcast_shape
from j2o.ir.node import erase_dead
from j2o.ir.ops import MOVES, RESHAPES
from j2o.ir.types import Dim, DType, Shape, is_one, same_shape
from j2o.ir.views import is_in_memory
from j2o.passes.clean.nans import never_nan
from j2o.passes.layout.contractions import (
    Contraction,
    Label,
    Labelled,
    Labels,
    sizes_of,
)
from j2o.passes.layout.factors import factor_of
from j2o.passes.layout.perms import perm_of
from j2o.passes.recover.attention_sides import Axes, places_of
from j2o.passes.recover.constants import uniform_of
from j2o.passes.recover.open_rows import (
    LARGEST,
    ScoreAxes,
    opens_each_row,
    shows_each_row,
)

# A number that hides a score is this or less. See `masked-attention` in semantics.md.
MASKED = -1e9
# Added to a score, this and what is less gives itself: the scores of a row that is hidden in whole are
# the same then, as in the program.
FAR = -1e30
# What is added to scores is not less than this part of the lowest float: the kernel takes a score of the
# lowest for none, and a row of them gives zeros, where Softmax weighs them all alike.
LEAST = 0.9
# what a bias of known numbers is taken from these by
LOOKUPS = RESHAPES | {"onnx.Gather", "onnx.Transpose"}
# what a bias is put together with
BIASES = RESHAPES | {"onnx.Add", "onnx.Expand", "onnx.Transpose", "onnx.Where"}


class Mask(NamedTuple):
    """What a program does to scores before their Softmax.

    It adds `biases`. Where there is a `condition`, it then puts the number `masked` in the place of some
    scores: those for which the condition is True where that `hides`, else those for which it is False.
    """

    biases: tuple[Value, ...]
    condition: Value | None = None
    masked: float = 0.0
    hides: bool = False

    @property
    def shape(self) -> Shape | None:
        """The shape of what is added to the scores; None where that is not certain."""
        parts = [value.type.shape for value in self.biases]
        if self.condition is not None:
            parts.append(self.condition.type.shape)
        return broadcast_shape(parts)


# ------------------------------------------------------------------------------ reading


def unmasked(value: Value) -> tuple[Value, Mask | None]:
    """Scores without their mask.

    That is biases, or a Where of the scores, which may have biases, and a large negative number.
    """
    node = value.node
    if node is None or len(value.uses) != 1:
        return value, None
    if node.op != "onnx.Where":
        scores, biases = _unbiased(value)
        return scores, Mask(biases) if biases else None
    condition, kept, hidden = node.operands
    hides = uniform_of(hidden) is None
    if hides:
        kept, hidden = hidden, kept
    scores, biases = _unbiased(kept)
    masked = _hiding_number(hidden, biases)
    if masked is None:
        return value, None
    mask = Mask(biases, condition, masked, hides)
    if mask.shape is None or not _keeps_shape(scores, value):
        return value, None
    return scores, mask


def _unbiased(value: Value) -> tuple[Value, tuple[Value, ...]]:
    """Scores and the biases that are added to them, one after the other; the value itself where none is."""
    if value.op != "onnx.Add" or len(value.uses) != 1:
        return value, ()
    operands = value.producer.operands
    for scores, bias in (operands, operands[::-1]):
        if not _keeps_shape(scores, value):
            continue
        if product_behind(scores) is not None:
            return scores, (bias,)
        inner, biases = _unbiased(scores)
        if biases:
            return inner, (*biases, bias)
    return value, ()


def _keeps_shape(scores: Value, value: Value) -> bool:
    """Return True where a mask has not broadcast the scores, but for axes of size 1 in front."""
    missing = value.type.rank - scores.type.rank
    return same_shape((*[1] * missing, *scores.type.shape), value.type.shape)


def _hiding_number(value: Value, biases: Sequence[Value]) -> float | None:
    """The number that a score with biases has where it does not count; None for other values.

    One that is not far below all scores can stand beside biases of known numbers alone.
    """
    number = uniform_of(value)
    if number is None or not number <= MASKED:
        return None
    is_far = number <= FAR
    return number if is_far or all(map(_is_moderate, biases)) else None


def _is_moderate(bias: Value) -> bool:
    """Return True for a small constant, perhaps looked up, that hides nothing by itself."""
    tensor = bias.origin(LOOKUPS).const
    if tensor is None or not tensor.is_small:
        return False
    sizes = np.abs(tensor.load().astype(np.float64))
    return bool((sizes < -MASKED / 10).all())


def product_behind(value: Value) -> Node | None:
    """The MatMul that a value comes from by changes of shape and constant factors alone."""
    while (node := value.node) is not None and len(value.uses) == 1:
        if node.op == "onnx.MatMul":
            return node
        is_change = node.op in RESHAPES or perm_of(node) is not None
        if is_change:
            value = node.operand(0)
        elif (found := factor_of(node, uniform_of)) is not None:
            value, _ = found
        else:
            return None
    return None


# ------------------------------------------------------------------------------ writing


def bias_of(
    op: Builder, mask: Mask, scores: Contraction, axes: Axes, at: ScoreAxes
) -> Value:
    """A mask as what is added to the scores, [batch or 1, heads or 1, queries, keys].

    onnxruntime's kernel wants its last two axes in full.
    """
    bias = _added(op, mask, at, scores.first.value.type.dtype)
    own = _sizes_of_mask(mask, scores.last)
    mergeable = _mergeable_sizes(own, scores.sizes, axes)
    labels = scores.last.labels
    with_all_axes = op.reshape(bias, sizes_of(own, labels))
    wide = op.expand(with_all_axes, sizes_of(mergeable, labels))
    order = (*axes.rows, *axes.keys)
    moved = op.transpose(wide, [labels.index(label) for label in order])

    def merged(sizes: dict[Label, Dim], labels: Labels) -> Dim:
        return dims.prod(sizes_of(sizes, labels))

    batch = merged(mergeable, axes.batch)
    heads = merged(mergeable, (*axes.heads, *axes.groups))
    own_last = [merged(mergeable, labels) for labels in (axes.queries, axes.keys)]
    full_last = [merged(scores.sizes, labels) for labels in (axes.queries, axes.keys)]
    of_four_axes = op.reshape(moved, (batch, heads, *own_last))
    return op.expand(of_four_axes, (batch, heads, *full_last))


def _mergeable_sizes(
    own: dict[Label, Dim], full: dict[Label, Dim], axes: Axes
) -> dict[Label, Dim]:
    """The sizes of a mask in which all axes of the batch, and all of the heads, are full or all are 1."""
    sizes = dict(own)
    for together in (axes.batch, (*axes.heads, *axes.groups)):
        if len({is_one(own[label]) for label in together}) > 1:
            sizes |= {label: full[label] for label in together}
    return sizes


def _sizes_of_mask(mask: Mask, scores: Labelled) -> dict[Label, Dim]:
    """The size that a mask has at each label of the scores: theirs, or 1."""
    shape = mask.shape
    assert shape is not None
    rank = scores.value.type.rank
    # a mask of higher rank than the scores has axes of size 1 in front
    sizes = (*[1] * (rank - len(shape)), *shape)[-rank:]
    pairs = zip(scores.labels, places_of(scores.value), strict=True)
    return {label: sizes[place] for label, place in pairs}


def _added(op: Builder, mask: Mask, scores: ScoreAxes, dtype: DType) -> Value:
    """What a mask adds to the scores, in its own shape; NaN in rows of which -∞ hides all."""
    least = LEAST * float(ml_dtypes.finfo(dtype.numpy).min)
    bias = _sum(op, [_raised(op, value, least) for value in mask.biases])
    infinite = _sum(op, [bias for bias in mask.biases if _hides_with_infinity(bias)])
    if mask.condition is None:
        assert bias is not None
        if infinite is None:
            return bias
        return _nan_where_infinity_hides(op, infinite, scores, bias)
    masked = max(min(mask.masked, FAR), least)
    added = _where_shown(op, mask, bias, masked, dtype)
    if infinite is not None:
        as_written = _where_shown(op, mask, infinite, mask.masked, dtype)
        return _nan_where_infinity_hides(op, as_written, scores, added)
    if mask.masked > -np.inf or opens_each_row(mask.condition, scores, mask.hides):
        return added
    without_bias = added
    if bias is not None:
        without_bias = _where_shown(op, mask, None, masked, dtype)
    return _nan_where_all_is(op, masked, without_bias, scores, added)


def _sum(op: Builder, values: Sequence[Value]) -> Value | None:
    """The sum of what is added to scores; None of nothing."""
    total: Value | None = None
    for value in values:
        total = value if total is None else op.Add(total, value)
    return total


def _nan_where_infinity_hides(
    op: Builder, written: Value, scores: ScoreAxes, mask: Value
) -> Value:
    """A mask that is NaN in each row where what the program adds is -∞ for all keys."""
    if not shows_each_row(written, scores):
        return _nan_where_all_is(op, -np.inf, written, scores, mask)
    erase_dead(written.producer)
    return mask


def _hides_with_infinity(bias: Value) -> bool:
    """Return True for constants and what is chosen from them, with an infinity among them.

    Of what is given, or computed, too little is known: see `rows-without-scores` in semantics.md.
    """
    waiting = [bias]
    while waiting:
        value = waiting.pop()
        if value.const is not None:
            numbers = _numbers_of(value)
            if numbers is not None and np.isneginf(numbers).any():
                return value is bias.origin(MOVES) or never_nan(bias)
        elif value.op == "onnx.Where":
            waiting += value.producer.operands[1:]
        elif value.op in MOVES:
            waiting.append(value.producer.operand(0))
    return False


def _where_shown(
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
    op: Builder, masked: float, tested: Value, scores: ScoreAxes, mask: Value
) -> Value:
    """A mask that is NaN in each row where `tested` is `masked` for all keys."""
    dtype = tested.type.dtype
    highest = tested
    if tested.type.rank >= -scores.keys:
        highest = op.ReduceMax(tested, op.const([scores.keys], DType.I64), keepdims=1)
    is_hidden = op.Equal(highest, op.const(masked, dtype))
    return op.Where(is_hidden, op.const(np.nan, dtype), mask)


def _raised(op: Builder, bias: Value, least: float) -> Value:
    """A bias that is nowhere less, but for weights and what is computed with them."""
    if bias.const is not None:
        return _raised_constant(op, bias, least)
    node = bias.node
    if node is None or _is_multiple_of_lowest(node, least):
        return op.Max(bias, op.const(least, bias.type.dtype))
    if bias.op not in BIASES:
        return bias
    inputs = [_raised_operand(op, value, least) for value in node.inputs]
    if all(new is old for new, old in zip(inputs, node.inputs, strict=True)):
        return bias
    return op.node(node.op, inputs, node.attrs).out


def _raised_constant(op: Builder, bias: Value, least: float) -> Value:
    """A constant whose finite numbers are nowhere less; weights that are not in memory stay."""
    numbers = _numbers_of(bias)
    if numbers is None:
        return bias
    is_low = np.isfinite(numbers) & (numbers < least)
    if not is_low.any():
        return bias
    if is_low.all():
        return op.full(bias.type.shape, least, bias.type.dtype)
    return op.Max(bias, op.const(least, bias.type.dtype))


def _numbers_of(value: Value) -> np.ndarray | None:
    """The elements of a constant that is in memory, and not too large to look at."""
    tensor = value.const
    if tensor is None or tensor.nbytes > LARGEST or not is_in_memory(tensor):
        return None
    return tensor.load()


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
