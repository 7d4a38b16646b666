"""`both_ways`: two recurrent operators that read the same rows from either end are one.

    Concat(Squeeze(GRU(x, w, r)), Squeeze(GRU(x, w′, r′, direction="reverse")), axis=-1)
    becomes   GRU(x, Concat(w, w′), Concat(r, r′), direction="bidirectional")

The result of the operator is [time, directions, batch, size], and its last state [directions, batch, size].
The axis of directions is moved in front of the last one, with which it is then merged.
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Type, same_shape
from j2o.passes.layout.perms import perm_of
from j2o.passes.pipeline import graph_pass

# operands with one part for each direction, and how many operands there may be; the others are the rows,
# which both read, and their lengths
PARTED = (1, 2, 3, 5, 6)
CELLS = frozenset(["onnx.GRU", "onnx.LSTM", "onnx.RNN"])
# attributes that say the same of both directions, but for the names of functions, which are there for each
COMMON = frozenset(["activations", "direction", "hidden_size", "linear_before_reset"])
TIME_BEHIND = (1, 0, 2)  # of [time, batch, size]: the transpose to [batch, time, size]


class Half(NamedTuple):
    """A recurrent operator of one direction, and which of its results is used."""

    node: Node
    result: int


@graph_pass("both_ways", at="onnx", level=2)
def both_ways(graph: Graph) -> int:
    """Make one operator of two directions where the results of both are put side by side."""
    if not graph.has(CELLS):
        return 0
    count = 0
    for node in graph:
        if node.op != "onnx.Concat" or len(node.operands) != 2:
            continue
        first = _read_half(node.operand(0))
        second = _read_half(node.operand(1))
        is_last = node.int_attr("axis") in (-1, node.out.type.rank - 1)
        if first is None or second is None or not is_last:
            continue
        if _is_pair(first, second):
            _write(node, first, second)
            count += 1
    return count


# ------------------------------------------------------------------------------ reading


def _read_half(value: Value) -> Half | None:
    """The operator that a value is the only result of that is used, without the axis of directions."""
    node = value.node
    if node is None or node.op not in RESHAPES or value.only_user is None:
        return None
    source = node.operand(0)
    cell = source.node
    if cell is None or cell.op not in CELLS or source.only_user is None:
        return None
    if any(one.uses for one in cell.outputs if one is not source):
        return None
    place = cell.outputs.index(source)
    axis = 0 if place else 1
    *sizes, size = source.type.shape
    del sizes[axis]
    has_shape = same_shape(value.type.shape, (*sizes, size))
    return Half(cell, place) if has_shape else None


def _is_pair(first: Half, second: Half) -> bool:
    """Return True where two operators differ in their direction and in their weights alone."""
    one, other = first.node, second.node
    if first.result != second.result or one is other or one.op != other.op:
        return False
    if (_direction(one), _direction(other)) != ("forward", "reverse"):
        return False
    first_attrs = {**one.attrs, "direction": ""}
    second_attrs = {**other.attrs, "direction": ""}
    if first_attrs != second_attrs or not one.attrs.keys() <= COMMON:
        return False
    if len(one.inputs) != len(other.inputs) or one.graph is not other.graph:
        return False
    if len(one.inputs) > PARTED[-1] + 1:
        return False
    pairs = zip(one.inputs, other.inputs, strict=True)
    for place, (a, b) in enumerate(pairs):
        if place in PARTED:
            if (a is None) != (b is None):
                return False
        elif a is not b:
            return False
    return True


def _direction(node: Node) -> str:
    """The direction in which a cell runs."""
    return node.str_attr("direction", "forward")


# ------------------------------------------------------------------------------ writing


def _write(node: Node, first: Half, second: Half) -> None:
    """Make one operator in front of a Concat, and its results side by side."""
    op = Builder(node.home, node, first.node.loc, node.out.hint)
    operands: list[Value | None] = []
    pairs = zip(first.node.inputs, second.node.inputs, strict=True)
    for place, (one, other) in enumerate(pairs):
        is_parted = place in PARTED and one is not None
        operands.append(op.Concat(one, other, axis=0) if is_parted else one)
    attrs = {**first.node.attrs, "direction": "bidirectional"}
    if (names := attrs.get("activations")) is not None:
        attrs["activations"] = (*names, *names)
    both = op.node(first.node.op, operands, attrs, _types_of_both(first.node))
    made = both.outputs[first.result]
    behind = node.out.only_user
    old = node
    if first.result:
        perm = (1, 0, 2)  # batch, directions, size
    elif perm_of(behind) == TIME_BEHIND and behind is not None:
        old = behind
        perm = (2, 0, 1, 3)  # batch, time, directions, size
    else:
        perm = (0, 2, 1, 3)  # time, batch, directions, size
    op.before = old
    beside = op.transpose(made, perm)
    old.replace_by(op.reshape(beside, old.out.type.shape))


def _types_of_both(one_way: Node) -> list[Type]:
    """The types of the results of an operator of one direction, for two."""
    types: list[Type] = []
    for result, value in enumerate(one_way.outputs):
        shape = list(value.type.shape)
        shape[0 if result else 1] = 2
        types.append(value.type.with_shape(tuple(shape)))
    return types
