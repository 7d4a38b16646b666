"""`projections`: products of one tensor with several constant matrices become one product and a Split.

    MatMul(x, q), MatMul(x, k), MatMul(x, v)   become   Split(MatMul(x, [q k v]), axis=-1)

So the projections of attention to queries, keys and values read their input once. Where the parts
are then reshaped to heads of one size, the product is reshaped instead, and the Split divides the
heads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.scopes import shared_loc
from j2o.ir.tensor import Tensor, tensor
from j2o.ir.types import same_shape
from j2o.passes.pipeline import graph_pass


@graph_pass("projections", at="onnx", level=2)
def projections(graph: Graph) -> int:
    """One MatMul in place of several of the same tensor, where that leaves fewer nodes."""
    count = 0
    seen: set[Value] = set()
    for node in graph.nodes_of("onnx.MatMul"):
        if node.graph is None:  # it is part of another by now
            continue
        x = node.operand(0)
        if x in seen:
            continue
        seen.add(x)
        count += _merge(x, node)
    return count


class Projection(NamedTuple):
    """x @ weight, or x @ weight + bias; `out` is the result."""

    node: Node
    weight: Tensor
    bias: Tensor | None
    out: Value

    @property
    def size(self) -> int:
        """The size of the last axis of the result."""
        return self.weight.shape[1]


class Heads(NamedTuple):
    """The result of a projection in another shape: the last axis as `number` heads of `size` elements."""

    out: Value
    number: int
    size: int


def _merge(x: Value, first: Node) -> int:
    """Merge the projections of a tensor, those with a bias and those without apart; returns how many went.

    `first` is the product of `x` that stands in front of the others.
    """
    found = [_projection(user, x) for user in x.users() if user.graph is first.graph]
    biased = [one for one in found if one is not None and one.bias is not None]
    plain = [one for one in found if one is not None and one.bias is None]
    count = 0
    for group in (biased, plain):
        if _is_worth(group):
            _write(x, group, first)
            count += len(group) - 1
    return count


def _projection(node: Node, x: Value) -> Projection | None:
    """A MatMul of `x` with a constant matrix of its own, and the bias that is added to it."""
    if node.op != "onnx.MatMul" or node.operand(0) is not x:
        return None
    weight = node.operand(1)
    if weight.const is None or weight.type.rank != 2 or len(weight.uses) != 1:
        return None
    add = node.out.only_user
    if add is not None and add.op == "onnx.Add" and add.out.type == node.out.type:
        other = add.operand(1 if add.operand(0) is node.out else 0)
        if other.const is not None and _is_row(other.const, weight.const.shape[1]):
            return Projection(node, weight.const, other.const, add.out)
    return Projection(node, weight.const, None, node.out)


def _is_row(tensor: Tensor, size: int) -> bool:
    """Return True for so many elements, all along the last axis."""
    return tensor.size == size and tensor.shape[-1:] == (size,)


def _is_worth(group: Sequence[Projection]) -> bool:
    """Return True where one product, its bias and a Split are fewer nodes than the products and biases.

    A product of matrices and its bias are one node, Gemm.
    """
    if len(group) < 2:
        return False
    is_two = group[0].bias is not None and group[0].node.out.type.rank != 2
    each = 2 if is_two else 1
    return each + 1 < each * len(group)


def _write(x: Value, group: Sequence[Projection], first: Node) -> None:
    """Make one product of the group, in front of `first`, and give its parts to the users."""
    node = group[0].node
    loc = functools.reduce(shared_loc, [one.node.loc for one in group])
    op = Builder(node.home, first, loc, node.out.hint)
    weights = tuple(one.weight for one in group)
    product = op.MatMul(x, op.const(views.concatenated(weights, 1)))
    biases = [one.bias for one in group if one.bias is not None]
    if biases:
        product = op.Add(product, op.const(_row(biases)))
    heads = _heads(group)
    last = product.type.rank - 1
    if heads is None:
        sizes = [one.size for one in group]
        outs = [one.out for one in group]
    else:
        sizes = [one.number for one in heads]
        outs = [one.out for one in heads]
        shape = (*product.type.shape[:-1], sum(sizes), heads[0].size)
        product = op.reshape(product, shape)
    parts = op.Split(product, op.dims(sizes), axis=last)
    for out, part in zip(outs, parts, strict=True):
        old = out.producer
        out.replace_by(part)
        erase_dead(old)


def _row(biases: Sequence[Tensor]) -> Tensor:
    """Biases as one vector."""
    rows = [views.reshaped(bias, (bias.size,)) for bias in biases]
    joined = views.concatenated(tuple(rows), 0)
    return tensor(joined.load()) if joined.is_small else joined


def _heads(group: Sequence[Projection]) -> list[Heads] | None:
    """Where all results are reshaped to heads of one size, these; else None."""
    found = [_split_to_heads(one.out) for one in group]
    heads = [one for one in found if one is not None]
    if len(heads) < len(group) or len({one.size for one in heads}) != 1:
        return None
    return heads


def _split_to_heads(value: Value) -> Heads | None:
    """The Reshape that divides the last axis of a value in two, where it is the value's only use."""
    user = value.only_user
    if user is None or user.op != "onnx.Reshape":
        return None
    if user.out.type.rank < 2:
        return None
    *outer, number, size = user.out.type.shape
    if type(number) is not int or type(size) is not int:
        return None
    if not same_shape(tuple(outer), value.type.shape[:-1]):
        return None
    return Heads(user.out, number, size)
