"""`attention`: scores, their mask, Softmax and the weighted sum of values become ONNX's Attention.

ONNX has it since opset 23. Both products are read as contractions, so that it does not matter how a
program orders and merges axes: heads and time may stand anywhere, and several query heads may share a
head of keys and values. Attention takes [batch, time, heads, size] with heads and size merged, or
[batch, heads, time, size]: what transposes fewer elements is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value, erase_dead
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Attr, Dim, DType, Shape, Type, is_one, same_shape
from j2o.passes.context import Context
from j2o.passes.layout.affine import factor_of
from j2o.passes.layout.contractions import (
    Contraction,
    Label,
    Labels,
    Tensor,
    arranged,
    read_contraction,
    sizes_of,
)
from j2o.passes.layout.transposes import perm_of
from j2o.passes.pipeline import graph_pass
from j2o.passes.recover.causal import is_causal
from j2o.passes.recover.constants import uniform_of
from j2o.passes.recover.masks import Mask, added, hiding_number
from j2o.passes.recover.open_rows import Scores

SINCE = 23  # the opset that brought Attention
# The opset that made clear what its attribute `is_causal` is. It runs no faster than a mask does, so that
# a model is not raised to it for that.
CAUSAL_SINCE = 24
# So many query heads of one query may share a head of keys. The kernel reads that again for each of them;
# more would take longer than a transpose.
MANY_GROUPS = 8


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
        broadcast = _in_full(node)
        found = _read(node)
        if found is not None:
            _write(found, has_causal)
            count += 1
        else:
            for product, index, value in broadcast:
                product.set_input(index, value)
    return count


# ------------------------------------------------------------------------------ reading


class Axes(NamedTuple):
    """The labels of attention's axes. `groups` are the query heads that share a head of keys and values."""

    batch: Labels
    heads: Labels
    groups: Labels
    queries: Labels
    keys: Labels

    @property
    def rows(self) -> Labels:
        return (*self.batch, *self.heads, *self.groups, *self.queries)


class Found(NamedTuple):
    """Attention in a graph.

    Two contractions and what is between them. `axes` are labels of the first contraction.
    """

    scores: Contraction
    values: Contraction
    mask: Mask | None
    scale: float
    axes: Axes
    to_scores: dict[Label, Label]  # from labels of the second contraction


def _softmax_behind(value: Value) -> Node | None:
    """The Softmax that a value is the result of, perhaps in another shape or order of axes."""
    while value.op in RESHAPES or value.op == "onnx.Transpose":
        value = value.producer.operand(0)
    return value.node if value.op == "onnx.Softmax" else None


def _in_full(node: Node) -> list[tuple[Node, int, Value]]:
    """Expand what is the same for a whole batch, such as learnt queries; returns what there was before."""
    products = [node]
    for value in node.operands:
        softmax = _softmax_behind(value)
        if softmax is not None:
            scores, _ = _unmasked(softmax.operand(0))
            product = _product_behind(scores)
            products += [] if product is None else [product]
    changed = []
    for product in products:
        stack = product.out.type.shape[:-2]
        for index, value in enumerate(product.operands):
            if value.type.rank < 2:
                continue
            wide = (*stack, *value.type.shape[-2:])
            if not same_shape(value.type.shape, wide):
                op = Builder(product.home, product, product.loc, value.hint)
                product.set_input(index, op.expand(value, wide))
                changed.append((product, index, value))
    return changed


def _read(node: Node) -> Found | None:
    """The attention whose weighted sum of values is this MatMul; None where it is none."""
    values = read_contraction(node)
    if values is None:
        return None
    if values.second.value.op == "onnx.Softmax":
        values = values.swapped
    weights = values.first.value
    if weights.op != "onnx.Softmax" or len(weights.uses) != 1:
        return None
    scores, mask = _unmasked(weights.producer.operand(0))
    product = _product_behind(scores)
    contraction = None if product is None else read_contraction(product)
    if contraction is None or contraction.last.value is not scores:
        return None
    scale = _scale(contraction)
    names = _same_axes(values.first, contraction.last)
    if scale is None or names is None:
        return None
    keys = tuple(names[label] for label in values.found.inner)
    if contraction.found.rows == keys:
        contraction = contraction.swapped
    if _axis_of(weights.producer) != _place(weights, values):
        return None
    ways = [
        Found(contraction, values, mask, scale, axes, names)
        for axes in _axes(contraction, values, names)
    ]
    return min(ways, key=_transposed, default=None)


def _axis_of(softmax: Node) -> int:
    return softmax.int_attr("axis", -1) % softmax.out.type.rank


def _place(weights: Value, values: Contraction) -> int | None:
    """The axis of the weights that the second contraction sums over, where it is one."""
    if len(values.found.inner) != 1:
        return None
    return _places(weights)[values.first.labels.index(values.found.inner[0])]


def _places(value: Value) -> list[int]:
    """The axes of a value that have a label."""
    return [axis for axis, size in enumerate(value.type.shape) if not is_one(size)]


def _unmasked(value: Value) -> tuple[Value, Mask | None]:
    """Scores without their mask.

    That is a bias, or a Where of the scores, which may have a bias, and a large negative number.
    """
    node = value.node
    if node is None or len(value.uses) != 1:
        return value, None
    if node.op != "onnx.Where":
        scores, bias = _unbiased(value)
        return scores, None if bias is None else Mask(bias)
    condition, kept, hidden = node.operands
    hides = uniform_of(hidden) is None
    if hides:
        kept, hidden = hidden, kept
    scores, bias = _unbiased(kept)
    masked = hiding_number(hidden, bias)
    if masked is None:
        return value, None
    mask = Mask(bias, condition, masked, hides)
    if mask.shape is None or not _keeps_shape(scores, value):
        return value, None
    return scores, mask


def _unbiased(value: Value) -> tuple[Value, Value | None]:
    """Scores and the bias that is added to them; the value itself and None where there is none."""
    if value.op == "onnx.Add" and len(value.uses) == 1:
        operands = value.producer.operands
        for scores, bias in (operands, operands[::-1]):
            if _keeps_shape(scores, value) and _product_behind(scores) is not None:
                return scores, bias
    return value, None


def _keeps_shape(scores: Value, value: Value) -> bool:
    """Return True where a mask has not broadcast the scores, but for axes of size 1 in front."""
    missing = value.type.rank - scores.type.rank
    return same_shape((*[1] * missing, *scores.type.shape), value.type.shape)


def _product_behind(value: Value) -> Node | None:
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


def _scale(contraction: Contraction) -> float | None:
    """The product of the factors behind a contraction; None where something else stands there."""
    scale = 1.0
    for node in contraction.scalars:
        found = factor_of(node, uniform_of)
        if found is None:
            return None
        _, factor = found
        scale *= factor
    return scale if np.isfinite(scale) else None


def _same_axes(weights: Tensor, scores: Tensor) -> dict[Label, Label] | None:
    """For the labels of the weights those of the scores, which lie at the same axes."""
    if len(weights.labels) != len(scores.labels):
        return None
    return dict(zip(weights.labels, scores.labels, strict=True))


def _axes(
    scores: Contraction, values: Contraction, names: dict[Label, Label]
) -> Iterator[Axes]:
    """The ways in which the axes are those of attention; none where both contractions are not its own."""
    first, second = scores.found, values.found
    rows = {names[label] for label in second.rows}
    batch = {names[label] for label in second.batch}
    inner = tuple(names[label] for label in second.inner)
    if inner != first.columns or len(inner) != 1:
        return
    if rows != set(first.rows) or batch != set(first.batch):
        return
    if len(first.inner) != 1 or len(second.columns) != 1 or len(batch) > 2:
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


def _stands_in_order(queries: Tensor, axes: Axes, size: Labels) -> bool:
    """Return True where groups stand right behind their head: together they are the query heads."""
    heads = (*axes.heads, *axes.groups)
    merged = (*axes.batch, *axes.queries, *heads, *size)
    apart = (*axes.batch, *heads, *axes.queries, *size)
    return not axes.groups or queries.labels in (merged, apart)


def _mask_shape(found: Found) -> dict[Label, Dim]:
    """The size that a mask has at each label of the scores: theirs, or 1."""
    mask = None if found.mask is None else found.mask.shape
    assert mask is not None
    scores = found.scores.last
    # a mask of higher rank than the scores has axes of size 1 in front
    sizes = (*[1] * (scores.value.type.rank - len(mask)), *mask)[
        -scores.value.type.rank :
    ]
    pairs = zip(scores.labels, _places(scores.value), strict=True)
    return {label: sizes[place] for label, place in pairs}


# ------------------------------------------------------------------------------ writing


def _write(found: Found, has_causal: bool) -> None:
    """Make the Attention, and let the nodes go that it stands for."""
    values = found.values
    last = values.last
    old = last.value.producer
    op = Builder(values.node.home, old, values.node.loc, last.value.hint)
    tensors = _sides(found)
    *sides, result = tensors
    is_merged = _takes_heads_merged(tensors)
    attrs: dict[str, Attr] = {"scale": found.scale}
    if is_merged:
        attrs["q_num_heads"] = sides[0].head_count
        attrs["kv_num_heads"] = sides[1].head_count
    operands = [side.operand(op, is_merged) for side in sides]
    if has_causal and found.mask is not None and is_causal(found.mask, _scores(found)):
        attrs["is_causal"] = 1
    elif found.mask is not None:
        operands.append(_bias(op, found, sides[0].dtype))
    type = Type(sides[0].dtype, result.shape(is_merged))
    out = op.node("onnx.Attention", operands, attrs, [type]).out
    last.value.replace_by(result.restored(op, out, is_merged))
    erase_dead(old)


def _sides(found: Found) -> list[Side]:
    """Queries, keys, values, and the result."""
    scores, values, axes = found.scores, found.values, found.axes
    back = {label: name for name, label in found.to_scores.items()}

    def named(labels: Labels) -> Labels:
        """Labels of the scores as labels of the second contraction."""
        return tuple(back[label] for label in labels)

    heads = (*axes.heads, *axes.groups)
    head_size, value_size = scores.found.inner, values.found.columns
    batch, shared, times = map(named, (axes.batch, axes.heads, axes.keys))
    asking, queries = named(heads), named(axes.queries)
    sides = [
        Side(scores.first, axes.batch, heads, axes.queries, head_size, scores.sizes),
        Side(scores.second, axes.batch, axes.heads, axes.keys, head_size, scores.sizes),
        Side(values.second, batch, shared, times, value_size, values.sizes),
        Side(values.last, batch, asking, queries, value_size, values.sizes),
    ]
    return _without_copies(sides)


def _without_copies(sides: list[Side]) -> list[Side]:
    """The sides, keys and values without copies that a program makes of their heads for the query heads."""
    queries, keys, values, result = sides
    keys_once, values_once = _once(keys), _once(values)
    if keys_once is None or values_once is None:
        return sides
    pair = (keys_once, values_once)
    if not all(side.has_known_heads for side in pair):
        return sides
    if keys_once.head_count != values_once.head_count:
        return sides
    return [queries, keys_once, values_once, result]


def _once(side: Side) -> Side | None:
    """A side without the copies of its heads, where each stands right behind its head; else None."""
    if len(side.heads) != 1:
        return None
    (label,) = side.heads
    value = side.tensor.value
    axis = _places(value)[side.tensor.labels.index(label)]
    source = _copied_heads(value, axis)
    if source is None:
        return None
    heads = source.type.shape[axis]
    tensor = Tensor(source, side.tensor.labels)
    return side._replace(tensor=tensor, sizes={**side.sizes, label: heads})


def _copied_heads(value: Value, axis: int) -> Value | None:
    """What an Expand copies along an axis: all of an axis of size 1, or each element of a longer one."""
    shape = value.type.shape
    before, after = shape[:axis], shape[axis + 1 :]
    if value.op == "onnx.Expand":
        source = value.producer.operand(0)
        is_one_head = same_shape(source.type.shape, (*before, 1, *after))
        return source if is_one_head else None
    if value.op not in RESHAPES:
        return None
    expanded = value.producer.operand(0)
    if expanded.op != "onnx.Expand" or expanded.type.rank != len(shape) + 1:
        return None
    heads, copies = expanded.type.shape[axis : axis + 2]
    is_each = same_shape(expanded.type.shape, (*before, heads, copies, *after))
    source = expanded.producer.operand(0)
    was_single = same_shape(source.type.shape, (*before, heads, 1, *after))
    return source if is_each and was_single else None


def _transposed(found: Found) -> float:
    """The cost of the transposes around the Attention."""
    sides = _sides(found)
    return min(_cost_merged(sides), _cost_apart(sides))


def _takes_heads_merged(sides: Sequence[Side]) -> bool:
    """Return True where Attention takes heads and size merged: where no more elements are transposed so."""
    merged, apart = _cost_merged(sides), _cost_apart(sides)
    return merged < apart or merged == 0


def _cost_merged(sides: Sequence[Side]) -> float:
    """The cost of the transposes where heads and size are merged; their number is an attribute then."""
    if not all(side.has_known_heads for side in sides):
        return math.inf
    return sum(side.tensor.weight for side in sides if not side.is_merged)


def _cost_apart(sides: Sequence[Side]) -> float:
    """The cost of the transposes where heads are an axis."""
    return sum(side.tensor.weight for side in sides if not side.is_apart)


class Side(NamedTuple):
    """One of the four tensors of attention, and the labels of its axes."""

    tensor: Tensor
    batch: Labels
    heads: Labels
    time: Labels
    size: Labels
    sizes: dict[Label, Dim]

    @property
    def dtype(self) -> DType:
        return self.tensor.value.type.dtype

    @property
    def merged(self) -> Labels:
        return (*self.batch, *self.time, *self.heads, *self.size)

    @property
    def apart(self) -> Labels:
        return (*self.batch, *self.heads, *self.time, *self.size)

    @property
    def is_merged(self) -> bool:
        """Return True where the tensor is [batch, time, heads, size]."""
        return self.tensor.labels == self.merged

    @property
    def is_apart(self) -> bool:
        """Return True where the tensor is [batch, heads, time, size]."""
        return self.tensor.labels == self.apart

    @property
    def has_known_heads(self) -> bool:
        """Return True where the number of heads is no symbol: it is an attribute where they are merged."""
        return type(self._product(self.heads)) is int

    @property
    def head_count(self) -> int:
        return int(self._product(self.heads))

    def _product(self, labels: Labels) -> Dim:
        return dims.prod(sizes_of(self.sizes, labels))

    def shape(self, is_merged: bool) -> Shape:
        """The shape that Attention has for it: of rank 3 with heads and size merged, else of rank 4."""
        batch, time = self._product(self.batch), self._product(self.time)
        if is_merged:
            return (batch, time, self._product((*self.heads, *self.size)))
        return batch, self._product(self.heads), time, self._product(self.size)

    def operand(self, op: Builder, is_merged: bool) -> Value:
        """The tensor as an operand of Attention."""
        order = self.merged if is_merged else self.apart
        plain = arranged(op, self.tensor, order, self.sizes)
        return op.reshape(plain, self.shape(is_merged))

    def restored(self, op: Builder, out: Value, is_merged: bool) -> Value:
        """The result of Attention in the order and shape of the tensor."""
        order = self.merged if is_merged else self.apart
        plain = op.reshape(out, sizes_of(self.sizes, order))
        perm = [order.index(label) for label in self.tensor.labels]
        return op.reshape(op.transpose(plain, perm), self.tensor.value.type.shape)


def _scores(found: Found) -> Scores:
    """Where the axes of queries and keys are, counted from the last."""
    tensor = found.scores.last
    rank = tensor.value.type.rank
    places = dict(zip(tensor.labels, _places(tensor.value), strict=True))
    (keys,) = found.axes.keys
    queries = [places[label] - rank for label in found.axes.queries]
    return Scores(queries[0] if queries else None, places[keys] - rank)


def _bias(op: Builder, found: Found, dtype: DType) -> Value:
    """A mask as what is added to the scores, [batch or 1, heads or 1, queries, keys].

    onnxruntime's kernel wants its last two axes in full.
    """
    mask, axes = found.mask, found.axes
    assert mask is not None
    bias = added(op, mask, _scores(found), dtype)
    own, full = _mask_shape(found), found.scores.sizes
    sizes = own  # of the mask that is made
    merged = (*axes.heads, *axes.groups)
    if len({is_one(sizes[label]) for label in merged}) > 1:
        sizes = {**own, **{label: full[label] for label in merged}}
    labels = found.scores.last.labels
    order = (*axes.rows, *axes.keys)
    plain = op.reshape(bias, sizes_of(own, labels))
    plain = op.expand(plain, sizes_of(sizes, labels))
    moved = op.transpose(plain, [labels.index(label) for label in order])
    batch = dims.prod(sizes_of(sizes, axes.batch))
    heads = dims.prod(sizes_of(sizes, merged))
    queries, keys = axes.queries, axes.keys
    scores = [dims.prod(sizes_of(sizes, labels)) for labels in (queries, keys)]
    in_full = [dims.prod(sizes_of(full, labels)) for labels in (queries, keys)]
    shaped = op.reshape(moved, (batch, heads, *scores))
    return op.expand(shaped, (batch, heads, *in_full))
