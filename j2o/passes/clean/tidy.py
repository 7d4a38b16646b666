"""`tidy` and `parts`: what is left of shapes, places and slices, in the form with the fewest nodes.

They run last of `layout`: earlier passes read reductions that keep their axes, and places as sizes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import REDUCTIONS, TO_THE_END
from j2o.ir.types import Dim, Shape, from_zero, same_dim
from j2o.passes.clean.means import size_of
from j2o.passes.clean.shifts import SHIFTS
from j2o.passes.clean.simplify import where_not
from j2o.passes.pipeline import graph_pass
from j2o.passes.rewriting.rule import RuleBuilder, RuleSet, identities, rewrite


@rewrite("reduce_squeezes", level=1)
def reduce_squeezes(op, x, over):
    """The inverse of `unit_axes`, for where nothing came of it: a reduction and its Squeeze are one node.

    Functions of each element may stand between the two.
    """
    return op.Squeeze(x, over)


@reduce_squeezes.becomes
def _(op, x, over):
    if over.known_ints is None:
        return None
    axes = from_zero(over.known_ints, x.type.rank)
    if not _can_be_reduced_away(x, axes):
        return None
    return _reduced_away(op, x)


def _can_be_reduced_away(value: Value, axes: Shape) -> bool:
    """Return True for what is computed of single numbers and of reductions that keep just these axes."""
    node = value.node
    if node is None or len(value.uses) != 1:
        return False
    if node.op in REDUCTIONS:
        over = node.operand(1).known_ints if len(node.inputs) == 2 else None
        is_kept = node.int_attr("keepdims", 1) == 1
        return is_kept and bool(over) and from_zero(over, value.type.rank) == axes
    if not node.spec.elementwise:
        return False
    wide = [operand for operand in node.operands if operand.type.rank]
    return bool(wide) and all(_can_be_reduced_away(one, axes) for one in wide)


def _reduced_away(op: RuleBuilder, value: Value) -> Value:
    """The value without the axes that its reductions keep."""
    node = value.producer
    if node.op in REDUCTIONS:
        return op.node(node.op, node.inputs, {"keepdims": 0}).out
    operands: list[Value | None] = []
    for operand in node.inputs:
        if operand is not None and operand.type.rank:
            operand = _reduced_away(op, operand)
        operands.append(operand)
    return op.node(node.op, operands, node.attrs).out


# ---------------------------------------------------------------------------- from the end
#
# ONNX counts negative places from the end. `n - 1`, for an axis of n elements, is to be computed; -1 is not.


@rewrite("gather_from_the_end")
def gather_from_the_end(op, x, index, axis):
    """x[n - 1] is x[-1]."""
    return op.Gather(x, index, axis=axis)


@gather_from_the_end.becomes
def _(op, x, index, axis):
    known = index.known
    place = known[0] if known is not None and len(known) == 1 else size_of(index)
    if place is None:
        return None
    behind = _from_the_end(place, x.type.shape[axis])
    if behind == place:
        return None
    number = np.full(index.type.static_shape, behind, np.int64)
    return op.Gather(x, op.const(number), axis=axis)


@rewrite("slice_from_the_end")
def slice_from_the_end(op, x, starts, ends, axes):
    """x[n - 3 : n - 1] is x[-3 : -1], and x[1 : n] is x[1:]."""
    return op.Slice(x, starts, ends, axes, ...)


@slice_from_the_end.becomes
def _(op, x, starts, ends, axes):
    if axes.known_ints is None or starts.known is None or ends.known is None:
        return None
    if all(type(bound) is int for bound in (*starts.known, *ends.known)):
        return None
    steps = op.root.optional(4)
    counts = [1] * len(starts.known) if steps is None else steps.known_ints
    if counts is None:
        return None
    sizes = [x.type.shape[axis] for axis in axes.known_ints]
    first = list(map(_from_the_end, starts.known, sizes))
    after = list(map(_end_from_the_end, ends.known, sizes, counts))
    if (*first, *after) == (*starts.known, *ends.known):
        return None
    slices = [op.dims(first), op.dims(after), axes, *op.root.inputs[4:]]
    return op.apply("onnx.Slice", x, *slices, types=[op.out_type])


def _end_from_the_end(end: Dim, size: Dim, step: int) -> Dim:
    """Where a Slice ends, without a size that would have to be computed if there is a way."""
    is_all = step > 0 and type(end) is not int and same_dim(end, size)
    return TO_THE_END if is_all else _from_the_end(end, size)


def _from_the_end(place: Dim, size: Dim) -> Dim:
    """A place as a number below 0 where that counts it from the end; else as it is.

    A place that may lie in front of the axis stays: ONNX would count it from the end.
    """
    if type(place) is int or not dims.known_ge(place, 0):
        return place
    behind = dims.sub(place, size)
    is_inside = type(behind) is int and behind < 0
    return behind if is_inside else place


# ----------------------------------------------------------------------------- one element


@rewrite("slice_of_one")
def slice_of_one(op, x, starts, ends, axes, steps, over):
    """A Slice of one place, without the axis, is a Gather of that place."""
    return op.Squeeze(op.Slice(x, starts, ends, axes, steps), over)


@slice_of_one.becomes
def _(op, x, starts, ends, axes, steps, over):
    numbers, along, gone = starts.known_ints, axes.known_ints, over.known_ints
    if numbers is None or along is None or gone is None or len(along) != 1:
        return None
    sliced = op.root.operand(0).type
    axis = along[0] % sliced.rank
    # a Slice may begin in front of the axis or behind it, a Gather may not: the one place must be there
    if from_zero(gone, sliced.rank) != (axis,) or not _is_inside(numbers[0], x, axis):
        return None
    return op.Gather(x, op.const(np.array(numbers[0])), axis=axis)


def _is_inside(place: int, x: Value, axis: int) -> bool:
    """Return True where a place, counted from either end, is known to be one of an axis."""
    needed = -place if place < 0 else place + 1
    return dims.known_ge(x.type.shape[axis], needed)


# ---------------------------------------------------------------------------------- Booleans
#
# Only here: what reads masks finds a Not of each of them.


DE_MORGAN = identities(
    {
        "and_of_nots": (
            lambda op, x, y: op.And(op.Not(x), op.Not(y)),
            lambda op, x, y: op.Not(op.Or(x, y)),
        ),
        "or_of_nots": (
            lambda op, x, y: op.Or(op.Not(x), op.Not(y)),
            lambda op, x, y: op.Not(op.And(x, y)),
        ),
    }
)


tidy = RuleSet(
    "tidy",
    (
        reduce_squeezes,
        gather_from_the_end,
        slice_from_the_end,
        slice_of_one,
        *DE_MORGAN,
        where_not,
        *SHIFTS,
    ),
    doc="Reductions without the axes that nothing needs, places counted from the end, Booleans, shifts.",
)


# --------------------------------------------------------------------------------- parts


@graph_pass("parts", at="onnx", level=2)
def parts(graph: Graph) -> int:
    """Slices that take a tensor apart along one axis, all of it and nothing twice, are one Split.

    Further slices may take it apart in another way.
    """
    sliced: dict[tuple[Value, int], list[Node]] = {}
    for node in graph.nodes_of("onnx.Slice"):
        axis = _sliced_axis(node)
        if axis is not None:
            sliced.setdefault((node.operand(0), axis), []).append(node)
    return sum(_split(x, axis, nodes) for (x, axis), nodes in sliced.items())


def _sliced_axis(node: Node) -> int | None:
    """The axis of which a Slice takes consecutive places between two numbers; None for another Slice."""
    if len(node.operands) < 4:
        return None
    x, *bounds = node.operands
    numbers = [value.known_ints for value in bounds]
    if any(number is None or len(number) != 1 for number in numbers):
        return None
    _, _, axes, *steps = numbers
    if axes is None or any(step != (1,) for step in steps):
        return None
    axis = axes[0] % x.type.rank
    return axis if type(x.type.shape[axis]) is int else None


def _split(x: Value, axis: int, nodes: Sequence[Node]) -> int:
    """Put Splits in the place of Slices, where together they are all of an axis; returns how many go."""
    size = x.type.shape[axis]
    assert type(size) is int
    rest = {node: _range(node, size) for node in nodes}
    count = 0
    while chain := _chain(rest, size):
        taken = {node: rest.pop(node) for node in chain}
        if len(chain) > 1 and not _saves_nothing(chain):
            first = next(node for node in nodes if node in taken)
            _write_split(x, axis, first, taken)
            count += len(chain)
    return count


def _chain(slices: Mapping[Node, range], size: int) -> list[Node]:
    """The shortest slices that follow each other from the first place to the last; none with a gap."""
    shortest: dict[int, Node] = {}  # by where they begin
    for node, places in slices.items():
        known = shortest.get(places.start)
        if places and (known is None or len(places) < len(slices[known])):
            shortest[places.start] = node
    chain: list[Node] = []
    at = 0
    while at < size:
        if at not in shortest:
            return []
        chain.append(shortest[at])
        at = slices[chain[-1]].stop
    return chain


def _write_split(x: Value, axis: int, first: Node, taken: Mapping[Node, range]) -> None:
    """Put one Split in the place of Slices, in front of the first in the graph."""
    op = Builder(first.home, first, first.loc, x.hint)
    results = op.Split(x, op.dims([len(one) for one in taken.values()]), axis=axis)
    for node, result in zip(taken, results, strict=True):
        node.replace_by(result)


def _saves_nothing(slices: Sequence[Node]) -> bool:
    """Return True where the slices are better left: one that only a Squeeze takes is a Gather with it."""
    squeezes = 0
    apart = 0
    for node in slices:
        users = list(node.out.users())
        of_these = sum(user.op == "onnx.Squeeze" for user in users)
        squeezes += of_these
        apart += 1 if of_these == len(users) == 1 else 1 + of_these
    return 1 + squeezes > apart


def _range(node: Node, size: int) -> range:
    """The places that a Slice takes."""
    start, end = [value.known_ints for value in node.operands[1:3]]
    assert start is not None
    assert end is not None
    return range(size)[start[0] : end[0]]
