"""`attention`: scores, their mask, Softmax and the weighted sum of values become ONNX's Attention.

    MatMul(Softmax(MatMul(Q, Kᵀ) · scale + mask), V)   becomes   Attention(Q, K, V, mask), scale = scale

`attention_sides.py` has the tensors around it, `masks.py` what is added to the scores, and `causal.py` tells
when that is the causal mask. ONNX has Attention since opset 23. Both products are read as contractions, so
that it does not matter how a program orders and merges axes: heads and time may stand anywhere, and several
query heads may share a head of keys and values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Attr, Dim, DType, Type, same_shape
from j2o.passes.context import Context
from j2o.passes.layout.contractions import (
    Contraction,
    Label,
    Labelled,
    Labels,
    plain_contraction,
    read_contraction,
)
from j2o.passes.layout.factors import factor_of
from j2o.passes.pipeline import graph_pass
from j2o.passes.recover.attention_sides import (
    Axes,
    Side,
    cost_of_transposes,
    places_of,
    sides_of,
    takes_heads_merged,
)
from j2o.passes.recover.causal import is_causal
from j2o.passes.recover.constants import uniform_of
from j2o.passes.recover.masks import Mask, bias_of, product_behind, unmasked
from j2o.passes.recover.open_rows import ScoreAxes

SINCE = 23  # the opset that brought Attention
# The opset that made clear what its attribute `is_causal` is. It runs no faster than a mask does, so that
# a model is not raised to it for that.
CAUSAL_SINCE = 24
# So many query heads of one query may share a head of keys. The kernel reads that again for each of them;
# more would take longer than a transpose.
MANY_GROUPS = 8
# what stands between weights and the product with the values
MOVED = RESHAPES | {"onnx.Transpose"}


@graph_pass("attention", at="onnx", level=2)
def attention(graph: Graph, context: Context) -> int:
    """Softmax(Q Kᵀ · scale + mask) V → Attention(Q, K, V, mask), where the target has it for the dtype."""
    if context.target is None or context.target.opset < SINCE:
        return 0
    has_causal = context.target.is_asked_for(CAUSAL_SINCE)
    count = 0
    for node in graph.nodes_of("onnx.MatMul"):
        # reading contractions takes long: what is no product with weights is left here
        if not any(map(_softmax_behind, node.operands)):
            continue
        if not context.prefers("onnx.Attention", node.out.type.dtype):
            continue
        widened = _widen(node)
        found = _read(node)
        if found is not None:
            _write(found, has_causal)
            count += 1
        else:
            for operand in widened:
                operand.undo()
    return count


# ------------------------------------------------------- what is the same for a whole batch


class Widened(NamedTuple):
    """An operand of a product that an Expand stands for now; `narrow` is what it was."""

    product: Node
    place: int
    narrow: Value

    def undo(self) -> None:
        """Let the product have the operand again that it had."""
        self.product.set_input(self.place, self.narrow)


def _widen(node: Node) -> list[Widened]:
    """Expand what is the same for a whole batch, such as learnt queries: a contraction has no broadcasts."""
    widened: list[Widened] = []
    for product in (node, *_products_of_scores(node)):
        batch = product.out.type.shape[:-2]
        for place, value in enumerate(product.operands):
            if value.type.rank < 2:
                continue
            wide = (*batch, *value.type.shape[-2:])
            if not same_shape(value.type.shape, wide):
                op = Builder(product.home, product, product.loc, value.hint)
                product.set_input(place, op.expand(value, wide))
                widened.append(Widened(product, place, value))
    return widened


def _products_of_scores(node: Node) -> Iterator[Node]:
    """The products whose scores, perhaps masked, are weights that a MatMul multiplies."""
    for value in node.operands:
        softmax = _softmax_behind(value)
        if softmax is not None:
            scores, _ = unmasked(softmax.operand(0))
            product = product_behind(scores)
            if product is not None:
                yield product


def _softmax_behind(value: Value) -> Node | None:
    """The Softmax that a value is the result of, perhaps in another shape or order of axes."""
    weights = value.origin(MOVED)
    return weights.node if weights.op == "onnx.Softmax" else None


# ------------------------------------------------------------------------------ reading


class Attention(NamedTuple):
    """What a program computes as attention: two contractions and what is between them.

    `axes` are labels of the first contraction.
    """

    scores: Contraction
    values: Contraction
    mask: Mask | None
    scale: float
    axes: Axes
    to_scores: dict[Label, Label]  # from labels of the second contraction

    def sides(self) -> list[Side]:
        """Queries, keys, values, and the result."""
        return sides_of(self.scores, self.values, self.axes, self.to_scores)


def _read(node: Node) -> Attention | None:
    """The attention whose weighted sum of values is this MatMul; None where it is none.

    Where axes of the batch are merged for both products, behind their reshapes only some tensors have them
    apart. So a second reading takes all of them merged.
    """
    return _read_by(read_contraction, node) or _read_by(plain_contraction, node)


def _read_by(
    reading: Callable[[Node], Contraction | None], node: Node
) -> Attention | None:
    """The attention as one way of reading contractions sees it."""
    values = reading(node)
    if values is None:
        return None
    if values.second.value.op == "onnx.Softmax":
        values = values.swapped
    weights = values.first.value
    if weights.op != "onnx.Softmax" or len(weights.uses) != 1:
        return None
    scores, mask = unmasked(weights.producer.operand(0))
    product = product_behind(scores)
    contraction = None if product is None else reading(product)
    if contraction is None or contraction.last.value is not scores:
        return None
    scale = _scale(contraction)
    to_scores = _same_axes(values.first, contraction.last)
    if scale is None or to_scores is None:
        return None
    keys = tuple(to_scores[label] for label in values.arrangement.inner)
    if contraction.arrangement.rows == keys:
        contraction = contraction.swapped
    if _axis_of(weights.producer) != _place(weights, values):
        return None
    ways: list[Attention] = []
    for axes in _axes(contraction, values, to_scores):
        way = Attention(contraction, values, mask, scale, axes, to_scores)
        if _pays(way):
            ways.append(way)
    return min(ways, key=_cost, default=None)


def _pays(found: Attention) -> bool:
    """Return True for one batch axis, and for several where no transpose is left around the Attention.

    All tensors are reshaped to join several axes.
    """
    if len(found.axes.batch) <= 1:
        return True
    return takes_heads_merged(found.sides()) and _cost(found) == 0


def _cost(found: Attention) -> float:
    """How much the transposes around an attention cost."""
    return cost_of_transposes(found.sides())


def _axis_of(softmax: Node) -> int:
    """The axis of a Softmax, counted from the front."""
    return softmax.int_attr("axis", -1) % softmax.out.type.rank


def _place(weights: Value, values: Contraction) -> int | None:
    """The axis of the weights that the second contraction sums over, where it is one."""
    if len(values.arrangement.inner) != 1:
        return None
    (summed,) = values.arrangement.inner
    return places_of(weights)[values.first.labels.index(summed)]


def _scale(contraction: Contraction) -> float | None:
    """The product of the factors behind a contraction; None where something else stands there.

    None as well where it is not above 0: the kernel multiplies both sides by its root.
    """
    scale = 1.0
    for node in contraction.scalars:
        found = factor_of(node, uniform_of)
        if found is None:
            return None
        _, factor = found
        scale *= factor
    return scale if _is_scale(scale) else None


def _is_scale(number: float) -> bool:
    """Return True for what the attribute may be, which is stored in float32."""
    with np.errstate(over="ignore"):
        return bool(0 < np.float32(number) < np.inf)


def _same_axes(weights: Labelled, scores: Labelled) -> dict[Label, Label] | None:
    """For the labels of the weights those of the scores, which lie at the same axes."""
    if len(weights.labels) != len(scores.labels):
        return None
    return dict(zip(weights.labels, scores.labels, strict=True))


def _axes(
    scores: Contraction, values: Contraction, to_scores: dict[Label, Label]
) -> Iterator[Axes]:
    """The ways in which the axes are those of attention; none where both contractions are not its own."""
    first, second = scores.arrangement, values.arrangement
    rows = {to_scores[label] for label in second.rows}
    batch = {to_scores[label] for label in second.batch}
    inner = tuple(to_scores[label] for label in second.inner)
    if inner != first.columns or len(inner) != 1:
        return
    if rows != set(first.rows) or batch != set(first.batch):
        return
    if len(first.inner) != 1 or len(second.columns) != 1:
        return
    outer = [label for label in scores.first.labels if label in batch]
    for groups, queries in _divided(first.rows, scores.sizes):
        axes = Axes(tuple(outer[:-1]), tuple(outer[-1:]), groups, queries, inner)
        if _stands_in_order(scores.first, axes, first.inner):
            yield axes


def _divided(
    rows: Labels, sizes: Mapping[Label, Dim]
) -> Iterator[tuple[Labels, Labels]]:
    """The ways in which rows may be groups of heads and queries; a single query has no label.

    Groups that ask a single query may also be taken for queries of one group.
    """
    if not rows:
        yield (), ()
    if len(rows) == 1:
        yield (), rows
        count = sizes[rows[0]]
        if type(count) is int and count <= MANY_GROUPS:
            yield rows, ()
    if len(rows) == 2:
        yield rows[:1], rows[1:]
        yield rows[1:], rows[:1]


def _stands_in_order(queries: Labelled, axes: Axes, size: Labels) -> bool:
    """Return True where groups stand right behind their head: together they are the query heads."""
    heads = (*axes.heads, *axes.groups)
    merged = (*axes.batch, *axes.queries, *heads, *size)
    apart = (*axes.batch, *heads, *axes.queries, *size)
    return not axes.groups or queries.labels in (merged, apart)


# ------------------------------------------------------------------------------ writing


def _write(found: Attention, has_causal: bool) -> None:
    """Make the Attention, and let the nodes go that it stands for."""
    values = found.values
    last = values.last
    old = last.value.producer
    op = Builder(values.node.home, old, values.node.loc, last.value.hint)
    queries, keys, *others = found.sides()
    queries, scale = _unscaled(queries, found.scale)
    keys, scale = _unscaled(keys, scale)
    tensors = [queries, keys, *others]
    *sides, result = tensors
    is_merged = takes_heads_merged(tensors)
    attrs: dict[str, Attr] = {"scale": scale}
    if is_merged:
        attrs["q_num_heads"] = sides[0].head_count
        attrs["kv_num_heads"] = sides[1].head_count
    operands = [side.operand(op, is_merged) for side in sides]
    mask = found.mask
    if mask is not None:
        at = _score_axes(found)
        if has_causal and is_causal(mask, at):
            attrs["is_causal"] = 1
        else:
            operands.append(bias_of(op, mask, found.scores, found.axes, at))
    type = Type(sides[0].dtype, result.shape(is_merged))
    out = op.node("onnx.Attention", operands, attrs, [type]).out
    last.value.replace_by(result.restored(op, out, is_merged))
    erase_dead(old)


def _unscaled(side: Side, scale: float) -> tuple[Side, float]:
    """A tensor before it is multiplied by a number, and the scale of the scores times that number.

    In float16 they could overflow before that.
    """
    value = side.tensor.value
    found = None if value.node is None else factor_of(value.node, uniform_of)
    if found is None or side.dtype == DType.F16:
        return side, scale
    x, factor = found
    if x.type != value.type or not _is_scale(scale * factor):
        return side, scale
    before = side._replace(tensor=Labelled(x, side.tensor.labels))
    return before, scale * factor


def _score_axes(found: Attention) -> ScoreAxes:
    """Where the axes of queries and keys are, counted from the last."""
    tensor = found.scores.last
    rank = tensor.value.type.rank
    places = dict(zip(tensor.labels, places_of(tensor.value), strict=True))
    (keys,) = found.axes.keys
    queries = [places[label] - rank for label in found.axes.queries]
    return ScoreAxes(queries[0] if queries else None, places[keys] - rank)
