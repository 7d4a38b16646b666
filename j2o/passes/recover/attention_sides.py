"""The tensors of `attention`: queries, keys, values and the result, as its operator takes and gives them.

Attention takes [batch, time, heads, size] with heads and size merged, or [batch, heads, time, size]. What
transposes fewer elements is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, DType, Shape, long_axes, same_shape
from j2o.passes.layout.contractions import (
    Contraction,
    Label,
    Labelled,
    Labels,
    arranged,
    sizes_of,
)


class Axes(NamedTuple):
    """The labels of attention's axes. `groups` are the query heads that share a head of keys and values."""

    batch: Labels
    heads: Labels
    groups: Labels
    queries: Labels
    keys: Labels

    @property
    def rows(self) -> Labels:
        """The labels of all that a query is one of."""
        return (*self.batch, *self.heads, *self.groups, *self.queries)


def places_of(value: Value) -> list[int]:
    """The axes of a value that have a label."""
    return long_axes(value.type.shape)


class Side(NamedTuple):
    """One of the four tensors of attention, and the labels of its axes."""

    tensor: Labelled
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
        """The order of the axes as [batch, time, heads, size]."""
        return (*self.batch, *self.time, *self.heads, *self.size)

    @property
    def apart(self) -> Labels:
        """The order of the axes as [batch, heads, time, size]."""
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
        """The number of heads, where it is known."""
        return int(self._product(self.heads))

    def _product(self, labels: Labels) -> Dim:
        """The size of several axes together."""
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


# ----------------------------------------------------------------- those of a program


def sides_of(
    scores: Contraction, values: Contraction, axes: Axes, to_scores: dict[Label, Label]
) -> list[Side]:
    """Queries, keys, values, and the result.

    `axes` are labels of the scores; `to_scores` has these for the labels of the second contraction.
    """
    of_values = {label: name for name, label in to_scores.items()}

    def renamed(labels: Labels) -> Labels:
        """Labels of the scores as labels of the second contraction."""
        return tuple(of_values[label] for label in labels)

    query_heads = (*axes.heads, *axes.groups)
    queries = Side(
        tensor=scores.first,
        batch=axes.batch,
        heads=query_heads,
        time=axes.queries,
        size=scores.arrangement.inner,
        sizes=scores.sizes,
    )
    keys = Side(
        tensor=scores.second,
        batch=axes.batch,
        heads=axes.heads,
        time=axes.keys,
        size=scores.arrangement.inner,
        sizes=scores.sizes,
    )
    weighed = Side(
        tensor=values.second,
        batch=renamed(axes.batch),
        heads=renamed(axes.heads),
        time=renamed(axes.keys),
        size=values.arrangement.columns,
        sizes=values.sizes,
    )
    result = Side(
        tensor=values.last,
        batch=renamed(axes.batch),
        heads=renamed(query_heads),
        time=renamed(axes.queries),
        size=values.arrangement.columns,
        sizes=values.sizes,
    )
    return _without_copies([queries, keys, weighed, result])


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
    axis = places_of(value)[side.tensor.labels.index(label)]
    source = _copied_heads(value, axis)
    if source is None:
        return None
    heads = source.type.shape[axis]
    tensor = Labelled(source, side.tensor.labels)
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


# ------------------------------------------------------------------- what they cost


def cost_of_transposes(sides: Sequence[Side]) -> float:
    """The cost of the transposes around the Attention, in the better of its two forms."""
    return min(_cost_merged(sides), _cost_apart(sides))


def takes_heads_merged(sides: Sequence[Side]) -> bool:
    """Return True where Attention takes heads and size merged: where no more elements are transposed so."""
    merged, apart = _cost_merged(sides), _cost_apart(sides)
    return merged < apart or merged == 0


def _cost_merged(sides: Sequence[Side]) -> float:
    """The cost of the transposes where heads and size are merged; their number is an attribute then."""
    if not all(side.has_known_heads for side in sides):
        return math.inf
    return sum(side.tensor.cost for side in sides if not side.is_merged)


def _cost_apart(sides: Sequence[Side]) -> float:
    """The cost of the transposes where heads are an axis."""
    return sum(side.tensor.cost for side in sides if not side.is_apart)
