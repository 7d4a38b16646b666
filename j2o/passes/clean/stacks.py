"""`stacks`: of what a Reshape stacks, slices are taken in place of places: these need no axis less.

    Reshape(x, [B, N, 3, 4, 8])[:, :, i]   becomes   Reshape(x, [B, N, 12, 8])[:, :, 4 * i : 4 * i + 4]

So queries, keys and values, which one product gives for many networks, become one Split. It runs in front of
`unit_axes`, which would move the Squeezes behind what is computed of the places.
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph
from j2o.ir.node import Node, Value, erase_dead
from j2o.ir.types import from_zero
from j2o.passes.layout.perms import Perm, perm_of
from j2o.passes.pipeline import graph_pass

MOST = 16  # places: more are seldom computed with one by one


@graph_pass("stacks", at="onnx", level=2)
def stacks(graph: Graph) -> int:
    """All places of an axis that a Reshape makes → slices of this axis and the next one as one."""
    count = 0
    for node in graph.nodes_of("onnx.Reshape"):
        if node.out.type.rank > node.operand(0).type.rank:
            count += _slice_stack(node)
    return count


class Place(NamedTuple):
    """A place of an axis; `out` is what is there, without the axis."""

    axis: int
    number: int
    out: Value


def _slice_stack(reshape: Node) -> int:
    """Take slices of what a Reshape stacks; returns how many."""
    stacked = reshape.out
    perm = tuple(range(stacked.type.rank))
    user = stacked.only_user
    moved = perm_of(user)
    if user is not None and moved is not None:
        stacked, perm = user.out, moved
    places = _places_of(stacked)
    if places is None:
        return 0
    axis = perm[places[0].axis]
    shape = reshape.out.type.shape
    if axis + 1 == len(shape):
        return 0
    each = shape[axis + 1]
    if type(each) is not int:
        return 0
    merged = dims.mul(shape[axis], each)
    op = Builder(reshape.home, reshape, reshape.loc, reshape.out.hint)
    x = op.reshape(reshape.operand(0), (*shape[:axis], merged, *shape[axis + 2 :]))
    order = _without(perm, axis)
    for place in places:
        first = place.number * each
        op = Builder(reshape.home, reshape, reshape.loc, place.out.hint)
        part = op.transpose(op.slice(x, axis, first, first + each), order)
        taker = place.out.producer
        place.out.replace_by(part)
        erase_dead(taker)
    return len(places)


def _without(perm: Perm, axis: int) -> list[int]:
    """An order of axes when one of them is gone."""
    return [other - (other > axis) for other in perm if other != axis]


def _places_of(value: Value) -> list[Place] | None:
    """The places that are taken of a value; None where they are not all of those of one axis, or more is."""
    places: list[Place] = []
    for user in value.users():
        found = _gathered(user, value) if user.op == "onnx.Gather" else _sliced(user)
        if not found:
            return None
        places += found
    axes = {place.axis for place in places}
    if len(axes) != 1:
        return None
    (axis,) = axes
    size = value.type.shape[axis]
    numbers = {place.number for place in places}
    is_all = type(size) is int and 1 < size <= MOST and numbers == set(range(size))
    return places if is_all else None


def _gathered(node: Node, x: Value) -> list[Place]:
    """The place that a Gather takes; none where that is not known, or several are."""
    data, index = node.operands
    if data is not x or index.type.rank or index.number is None:
        return []
    axis = node.int_attr("axis", 0) % x.type.rank
    size = x.type.shape[axis]
    number = int(index.number)
    if type(size) is not int or not -size <= number < size:
        return []
    return [Place(axis, number % size, node.out)]


def _sliced(node: Node) -> list[Place]:
    """The place that a Slice takes and Squeezes leave without its axis; none where something else uses it."""
    if node.op != "onnx.Slice" or len(node.operands) < 4:
        return []
    start, along = node.operand(1).known_int, node.operand(3).known_int
    if start is None or along is None or start < 0:
        return []
    axis = along % node.out.type.rank
    if node.out.type.shape[axis] != 1:
        return []
    squeezes = list(node.out.users())
    if not all(_squeezes(user, axis) for user in squeezes):
        return []
    return [Place(axis, start, user.out) for user in squeezes]


def _squeezes(node: Node, axis: int) -> bool:
    """Return True for the Squeeze of one axis."""
    if node.op != "onnx.Squeeze" or len(node.inputs) < 2:
        return False
    axes = node.operand(1).known_ints
    return axes is not None and from_zero(axes, node.operand(0).type.rank) == (axis,)
