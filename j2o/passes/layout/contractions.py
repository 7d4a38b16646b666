"""`contractions` and `fronts`: products of tensors are arranged so that the fewest elements are transposed.

A MatMul multiplies stacks of matrices, [batch…, rows, inner] by [batch…, inner, columns]. Which of
two tensors is on the left is free, and so is the order of several axes that together are the batch,
the rows, the columns or the inner axis. This pass reads a MatMul together with the transposes and
reshapes around it as one contraction, as Einsum would write it, and makes it again in the order
that costs least:

    Transpose(MatMul(Transpose(a), Transpose(b)))   becomes   MatMul(b, a)
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, TypeAlias

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, Shape, differ_by_ones, is_one, same_dim
from j2o.passes.layout.perms import elements_to_move, perm_of
from j2o.passes.pipeline import graph_pass

Label: TypeAlias = int  # one axis of the contraction, as a letter of Einsum
Labels: TypeAlias = "tuple[Label, ...]"
# So many rows or columns make it worth while to read an operand again for each place in front of a batch.
MANY = 8


@graph_pass("contractions", at="onnx", level=2)
def contractions(graph: Graph) -> int:
    """Make MatMuls again where another arrangement transposes fewer elements."""
    return _rearrange(graph, _arrangements)


@graph_pass("fronts", at="onnx", level=2)
def fronts(graph: Graph) -> int:
    """The same, of what `attention` has left, with arrangements in which one operand is broadcast."""
    return _rearrange(graph, _arrangements_with_fronts)


def _rearrange(
    graph: Graph, arrangements: Callable[[Contraction], Iterator[Arrangement]]
) -> int:
    """Make MatMuls again in the cheapest of their arrangements; returns how many."""
    count = 0
    for node in graph.nodes_of("onnx.MatMul"):
        contraction = read_contraction(node)
        if contraction is None or contraction.transposes_nothing:
            continue
        best = min(arrangements(contraction), key=contraction.cost)
        if contraction.cost(best) < contraction.cost(contraction.arrangement):
            _write(contraction, best)
            count += 1
    for node in graph.nodes_of("onnx.Transpose"):
        count += _rearrange_users(node, arrangements)
    return count


def _rearrange_users(
    transpose: Node, arrangements: Callable[[Contraction], Iterator[Arrangement]]
) -> int:
    """Make all products of one transposed tensor again, where that is cheaper; returns how many."""
    products = list(transpose.out.users())
    if len(products) < 2 or any(node.op != "onnx.MatMul" for node in products):
        return 0
    contractions: list[Contraction] = []
    for node in products:
        found = _read_as(node, reads_merges=True, shared=transpose)
        if found is None:
            return 0
        contractions.append(found)
    tensor = Labelled(transpose.operand(0), ())
    # they share one transpose now
    before = -(len(products) - 1) * tensor.cost
    after = 0.0
    orders: list[Arrangement] = []
    for each in contractions:
        best = min(arrangements(each), key=each.cost)
        before += each.cost(each.arrangement)[0]
        after += each.cost(best)[0]
        orders.append(best)
    if after >= before:
        return 0
    for each, order in zip(contractions, orders, strict=True):
        _write(each, order)
    return len(products)


# ---------------------------------------------------------------------- the contraction


class Arrangement(NamedTuple):
    """The order of the axes.

    `rows` are those of the left operand alone, `columns` those of the right one alone. One of the operands
    may have more of its own axes in front of the batch: for these the other operand is broadcast.

    With `swapped`, the MatMul's second operand is on the left.
    """

    swapped: bool
    batch: Labels
    rows: Labels
    inner: Labels
    columns: Labels
    left_front: Labels = ()
    right_front: Labels = ()

    @property
    def left(self) -> Labels:
        """The order of the axes of the left factor."""
        return (*self.left_front, *self.batch, *self.rows, *self.inner)

    @property
    def right(self) -> Labels:
        """The order of the axes of the right factor."""
        return (*self.right_front, *self.batch, *self.inner, *self.columns)

    @property
    def result(self) -> Labels:
        """The order of the axes of the result."""
        front = (*self.left_front, *self.right_front)
        return (*front, *self.batch, *self.rows, *self.columns)


@dataclass(eq=False)
class Labelled:
    """A tensor at the edge of a contraction, and the labels of its axes. Axes of size 1 have none."""

    value: Value
    labels: Labels

    @functools.cached_property
    def cost(self) -> float:
        """The cost of transposing the tensor.

        A constant is transposed while it is written; one that something else uses would be written twice.
        """
        if self.value.const is None:
            return elements_to_move(self.value)
        return 0.0 if len(self.value.uses) == 1 else math.inf


@dataclass
class Contraction:
    """A MatMul of `first` and `second`, whose result becomes `last`; `arrangement` is the one it has now.

    `scalars` are elementwise nodes between the MatMul and `last` that treat all elements alike.
    """

    node: Node
    first: Labelled
    second: Labelled
    last: Labelled
    arrangement: Arrangement
    sizes: dict[Label, Dim]
    scalars: list[Node]

    @property
    def swapped(self) -> Contraction:
        """The same contraction, its second operand on the left."""
        own = self.arrangement
        swapped = own._replace(rows=own.columns, columns=own.rows)
        return replace(self, first=self.second, second=self.first, arrangement=swapped)

    @property
    def transposes_nothing(self) -> bool:
        """Return True where all tensors stand as the MatMul has them: nothing costs less."""
        pairs = self._pairs(self.arrangement)
        return all(tensor.labels == labels for tensor, labels in pairs)

    def cost(self, order: Arrangement) -> tuple[float, bool, bool]:
        """The elements that are transposed.

        Of equal costs, the one that leaves the largest tensor most as it is, then one that merges no axes.
        """
        pairs = self._pairs(order)
        elements = sum(
            tensor.cost for tensor, labels in pairs if tensor.labels != labels
        )
        largest, labels = max(pairs, key=lambda pair: pair[0].cost)
        batch = set(order.batch)
        before = [label for label in largest.labels if label not in batch]
        after = [label for label in labels if label not in batch]
        merges = len(order.rows) > 1 or len(order.columns) > 1
        return elements, before != after, merges

    def _pairs(self, order: Arrangement) -> list[tuple[Labelled, Labels]]:
        """Each tensor, with the order in which the MatMul has its axes."""
        left, right = self.first, self.second
        if order.swapped:
            left, right = right, left
        return [(left, order.left), (right, order.right), (self.last, order.result)]


def _arrangements(contraction: Contraction) -> Iterator[Arrangement]:
    """The arrangements that leave some tensor's axes in their order.

    Those that leave large ones come first.
    """
    tensors = [contraction.first, contraction.second, contraction.last]
    tensors.sort(key=lambda tensor: -tensor.cost)
    own = contraction.arrangement
    parts = [
        _orders(labels, tensors)
        for labels in (own.batch, own.rows, own.inner, own.columns)
    ]
    for batch, rows, inner, columns in itertools.product(*parts):
        yield Arrangement(False, batch, rows, inner, columns)
        yield Arrangement(True, batch, columns, inner, rows)


def _arrangements_with_fronts(contraction: Contraction) -> Iterator[Arrangement]:
    """The arrangements, and those that have axes of one operand in front of the batch."""
    for order in _arrangements(contraction):
        yield order
        if not order.batch:
            continue
        for front, rest in _fronts(order.rows, contraction.sizes):
            yield order._replace(rows=rest, left_front=front)
        for front, rest in _fronts(order.columns, contraction.sizes):
            yield order._replace(columns=rest, right_front=front)


def _fronts(
    labels: Labels, sizes: Mapping[Label, Dim]
) -> Iterator[tuple[Labels, Labels]]:
    """The ways in which some of an operand's own axes stand in front of the batch, with the others.

    These are many: the other operand is read again for each place in front.
    """
    for place in range(1, len(labels)):
        rest = labels[place:]
        count = dims.prod(sizes_of(sizes, rest))
        if type(count) is not int or count >= MANY:
            yield labels[:place], rest


def _orders(labels: Labels, tensors: Iterable[Labelled]) -> Iterable[Labels]:
    """The orders that these labels have in those of the tensors that have them all."""
    orders = [
        tuple(label for label in tensor.labels if label in labels) for tensor in tensors
    ]
    return dict.fromkeys(order for order in orders if len(order) == len(labels))


# ------------------------------------------------------------------------------ reading


@dataclass
class _Labeller:
    """Gives labels to the axes of tensors, and remembers their sizes.

    An operand is read to behind its transposes and reshapes: all of these, or those that merge no axes. Of
    those that something else uses as well, only the Transpose `shared` is.
    """

    graph: Graph
    reads_merges: bool
    shared: Node | None = None
    sizes: dict[Label, Dim] = field(default_factory=dict)

    def labelled(self, value: Value) -> tuple[Labelled, list[Labels]]:
        """A tensor with new labels, and the labels of each axis."""
        groups: list[Labels] = []
        for size in value.type.shape:
            group: Labels = ()
            if not is_one(size):
                group = (len(self.sizes),)
                self.sizes[group[0]] = size
            groups.append(group)
        return Labelled(value, joined(groups)), groups

    def operand(self, value: Value) -> tuple[Labelled, list[Labels]]:
        """The tensor that an operand is a transpose and a reshape of.

        With it, the labels of each axis of the operand.
        """
        node = value.node
        if node is None or node.graph is not self.graph:
            return self.labelled(value)
        if len(value.uses) != 1 and node is not self.shared:
            return self.labelled(value)
        perm = perm_of(node)
        if perm is not None:
            tensor, groups = self.operand(node.operand(0))
            return tensor, [groups[axis] for axis in perm]
        if node.op in RESHAPES and (self.reads_merges or _merges_nothing(node)):
            tensor, groups = self.operand(node.operand(0))
            merged = regrouped(self.sizes, joined(groups), value.type.shape)
            if merged is not None:
                return tensor, merged
        return self.labelled(value)

    def result(self, value: Value, groups: list[Labels]) -> tuple[Labelled, list[Node]]:
        """The last tensor that the result of a MatMul is transposed and reshaped to.

        With it, the scalar nodes between.
        """
        scalars: list[Node] = []
        while (user := value.only_user) is not None:
            perm = perm_of(user)
            if perm is not None:
                groups = [groups[axis] for axis in perm]
            elif user.op in RESHAPES:
                parted = regrouped(self.sizes, joined(groups), user.out.type.shape)
                if parted is None:
                    break
                groups = parted
            elif treats_all_alike(user, value):
                scalars.append(user)
            else:
                break
            value = user.out
        return Labelled(value, joined(groups)), scalars

    def same(self, one: Labels, other: Labels) -> bool:
        """Return True where two groups have the same sizes, one for one."""
        if len(one) != len(other):
            return False
        pairs = zip(one, other, strict=True)
        return all(same_dim(self.sizes[a], self.sizes[b]) for a, b in pairs)


def _merges_nothing(reshape: Node) -> bool:
    """Return True where axes of size 1 are all that a reshape changes."""
    return differ_by_ones(reshape.operand(0).type.shape, reshape.out.type.shape)


def regrouped(
    sizes: Mapping[Label, Dim], labels: Labels, shape: Shape
) -> list[Labels] | None:
    """The labels of each axis of a reshape, None where it divides a label's axis."""
    groups: list[Labels] = []
    at = 0
    for size in shape:
        start = at
        product: Dim = 1
        while not same_dim(product, size):
            if at == len(labels):
                return None
            product = dims.mul(product, sizes[labels[at]])
            at += 1
        groups.append(labels[start:at])
    return groups if at == len(labels) else None


def joined(groups: Iterable[Labels]) -> Labels:
    """The labels of all groups, in their order."""
    return tuple(itertools.chain.from_iterable(groups))


def treats_all_alike(node: Node, value: Value) -> bool:
    """Return True for an elementwise function of `value` and of scalars."""
    if not node.spec.elementwise:
        return False
    others = [operand for operand in node.operands if operand is not value]
    is_scalar = all(operand.type.rank == 0 for operand in others)
    return is_scalar and node.out.type == value.type


def read_contraction(node: Node) -> Contraction | None:
    """A MatMul and what is around it as a contraction.

    None where stacks of matrices broadcast.
    """
    # one operand may be merged of axes that the other does not have: heads that were repeated
    return _read_as(node, reads_merges=True) or plain_contraction(node)


def plain_contraction(node: Node) -> Contraction | None:
    """The same, of operands that are not read to behind reshapes that merge axes."""
    return _read_as(node, reads_merges=False)


def _read_as(
    node: Node, *, reads_merges: bool, shared: Node | None = None
) -> Contraction | None:
    """The contraction as a reader sees it; None where stacks broadcast."""
    first, second = node.operand(0), node.operand(1)
    if first.type.rank != second.type.rank or first.type.rank < 2 or first is second:
        return None
    return _read_with(_Labeller(node.home, reads_merges, shared), node)


def _read_with(reader: _Labeller, node: Node) -> Contraction | None:
    """The contraction as a reader sees it; None where axes differ that both operands have."""
    first, second = node.operand(0), node.operand(1)
    left, left_groups = reader.operand(first)
    right, right_groups = reader.operand(second)
    *left_batch, rows, left_inner = left_groups
    *right_batch, right_inner, columns = right_groups
    shared = [*left_batch, left_inner]
    renamed = [*right_batch, right_inner]
    pairs = list(zip(shared, renamed, strict=True))
    if not all(reader.same(one, other) for one, other in pairs):
        return None
    names = dict(zip(joined(renamed), joined(shared), strict=True))
    labels = tuple(names.get(label, label) for label in right.labels)
    found = Arrangement(False, joined(left_batch), rows, left_inner, columns)
    last, scalars = reader.result(node.out, [*left_batch, rows, columns])
    right = Labelled(right.value, labels)
    return Contraction(node, left, right, last, found, reader.sizes, scalars)


# ------------------------------------------------------------------------------ writing


def _write(contraction: Contraction, order: Arrangement) -> None:
    """Make the contraction in this order, and let the old nodes go."""
    node, last, sizes = contraction.node, contraction.last, contraction.sizes
    old = last.value.producer  # the scalars between stand in front of it
    op = Builder(node.home, old, node.loc, node.out.hint)
    left, right = contraction.first, contraction.second
    if order.swapped:
        left, right = right, left
    left_batch = sizes_of(sizes, (*order.left_front, *order.batch))
    right_batch = sizes_of(sizes, (*order.right_front, *order.batch))
    rows = dims.prod(sizes_of(sizes, order.rows))
    inner = dims.prod(sizes_of(sizes, order.inner))
    columns = dims.prod(sizes_of(sizes, order.columns))
    a = arranged(op, left, order.left, sizes)
    b = arranged(op, right, order.right, sizes)
    product = op.MatMul(
        op.reshape(a, (*left_batch, rows, inner)),
        op.reshape(b, (*right_batch, inner, columns)),
    )
    for scalar in contraction.scalars:
        product = repeated(op, scalar, product)
    parted = op.reshape(product, sizes_of(sizes, order.result))
    perm = [order.result.index(label) for label in last.labels]
    op.hint = last.value.hint
    out = op.reshape(op.transpose(parted, perm), last.value.type.shape)
    last.value.replace_by(out)
    erase_dead(old)


def sizes_of(sizes: Mapping[Label, Dim], labels: Labels) -> Shape:
    """The sizes of axes, in the order of these labels."""
    return tuple(sizes[label] for label in labels)


def arranged(
    op: Builder, tensor: Labelled, order: Labels, sizes: dict[Label, Dim]
) -> Value:
    """A tensor without its axes of size 1, its other axes in this order."""
    plain = op.reshape(tensor.value, sizes_of(sizes, tensor.labels))
    return op.transpose(plain, [tensor.labels.index(label) for label in order])


def repeated(op: Builder, scalar: Node, value: Value) -> Value:
    """An elementwise node on another tensor in place of its one operand that is no scalar."""
    inputs: Sequence[Value | None] = [
        operand if operand is None or operand.type.rank == 0 else value
        for operand in scalar.inputs
    ]
    return op.node(scalar.op, inputs, scalar.attrs).out
