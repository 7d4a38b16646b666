"""`transposes`: for each permutation, a minimum cut decides which nodes run before its transposes.

    y = Relu(Transpose(x));  Transpose⁻¹(y)        becomes   Relu(x)
    y = Transpose(x);  Add(Relu(y), Sigmoid(y))    becomes   Transpose(Add(Relu(x), Sigmoid(x)))

Local rules cannot do this: on a residual block, moving a transpose down through one addition and up through
the next each enable the other for ever. So all nodes that run in either layout (`free.py`) are decided on at
once. One that "moves" runs on the untransposed tensors, one that "stays" on the transposed ones. Where the
two sides meet stands a transpose, and its cost is paid once, however many nodes use the result.
"""

from __future__ import annotations

import collections
from collections.abc import Iterator, Sequence

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import is_one, same_dim
from j2o.passes.layout.free import absorbs, is_free, laid_out, moved
from j2o.passes.layout.minimum_cut import SINK, SOURCE, Network
from j2o.passes.layout.perms import (
    NODE,
    Perm,
    elements_to_move,
    inverse,
    moves_only_ones,
    perm_of,
)
from j2o.passes.pipeline import graph_pass


@graph_pass("transposes", at="onnx", level=2)
def transposes(graph: Graph) -> int:
    """Run layout-free nodes in whichever layout makes the remaining transposes cheapest."""
    perms = map(perm_of, graph.nodes_of("onnx.Transpose"))
    count = collections.Counter(perm for perm in perms if perm is not None)
    if not count:
        return 0
    common = [perm for perm, _ in count.most_common()]
    _write_as_transposes(graph, common)
    return sum(_move_around(graph, perm) for perm in common)


def _move_around(graph: Graph, perm: Perm) -> int:
    """Move what is better moved around transposes by `perm`; returns how many nodes."""
    count = 0
    groups = list(_groups(graph, perm))
    places = {node: place for place, node in enumerate(graph)} if groups else {}
    for group in groups:
        nodes = _plan(group, perm)
        if nodes:
            _Move(graph, sorted(nodes, key=places.__getitem__), perm).run()
            count += len(nodes)
    return count


def _write_as_transposes(graph: Graph, perms: Sequence[Perm]) -> None:
    """Write changes of shape that move axes of size 1 alone as transposes, so that they move with others.

    `shapes` made them of transposes, and makes them again of those that are left.
    """
    for node in graph.nodes_of(*RESHAPES):
        x = node.operand(0)
        for perm in perms:
            if _is_moved(x, node.out, perm):
                op = Builder(graph, node, node.loc, node.out.hint)
                node.replace_by(op.Transpose(x, perm=perm))
                break


def _is_moved(x: Value, out: Value, perm: Perm) -> bool:
    """Return True where a value has the shape of another transposed, with only axes of size 1 elsewhere."""
    if not x.type.rank == out.type.rank == len(perm):
        return False
    shape = [x.type.shape[axis] for axis in perm]
    return all(map(same_dim, shape, out.type.shape)) and moves_only_ones(out, perm)


# ------------------------------------------------------------------------ what may move


def _groups(graph: Graph, perm: Perm) -> Iterator[list[Node]]:
    """Connected layout-free nodes around transposes by `perm`, where more than one transpose may go.

    One alone would only change its place.
    """
    seen: set[Node] = set()
    for start in _starts(graph, perm):
        if start in seen:
            continue
        group = _connected(start, perm, seen)
        gains = {value for node in group for value in _gains(node, perm)}
        if len(gains) > 1:
            yield group


def _connected(start: Node, perm: Perm, seen: set[Node]) -> list[Node]:
    """The layout-free nodes that a node is connected with, itself first; all of them are `seen` then."""
    group: list[Node] = []
    seen.add(start)
    todo = [start]
    while todo:
        node = todo.pop()
        group.append(node)
        for other in _neighbours(node, perm):
            if other in seen or other.graph is not start.graph:
                continue
            if is_free(other, perm):
                seen.add(other)
                todo.append(other)
    return group


def _starts(graph: Graph, perm: Perm) -> Iterator[Node]:
    """The layout-free users of transposes by `perm`."""
    for node in graph.nodes_of("onnx.Transpose"):
        if perm_of(node) != perm:
            continue
        for user in node.out.users():
            if user.graph is graph and is_free(user, perm):
                yield user


def _gains(node: Node, perm: Perm) -> Iterator[Value]:
    """The operands and results of a node that might be transposed no more if it moved."""
    for value in _operands(node):
        if perm_of(value.node) == perm:
            yield value
    back = inverse(perm)
    for value in node.outputs:
        users = value.users()
        is_undone = any(perm_of(u) == back or absorbs(u, perm) for u in users)
        if is_undone or moves_only_ones(value, perm):
            yield value


def _neighbours(node: Node, perm: Perm) -> Iterator[Node]:
    """The nodes that share a value with a node, but not through a transpose by `perm` in front of it."""
    for value in _operands(node):
        if value.type.rank != len(perm):
            continue
        if value.node is not None and perm_of(value.node) != perm:
            yield value.node
        if value.const is None:
            yield from value.users()
    for value in node.outputs:
        yield from value.users()


def _operands(node: Node) -> list[Value]:
    """The operands of a free node that are transposed where it moves."""
    return [value for value in laid_out(node) if value is not None]


# ------------------------------------------------------------------------------ the cut


def _plan(group: list[Node], perm: Perm) -> list[Node]:
    """The nodes of a group that should run before the transposes."""
    network = Network()
    members = set(group)
    values = [v for node in group for v in (*_operands(node), *node.outputs)]
    for value in dict.fromkeys(values):
        # one of lower rank broadcasts, and gets leading axes of size 1 before it is transposed
        if 0 < value.type.rank <= len(perm):
            _enter(network, value, members, perm)
    for node in group:
        # weights stay on the right where nothing speaks against it
        if node.op == "onnx.MatMul":
            network.add(node, SINK, 1.0)
    moving = network.moved()
    return [node for node in group if node in moving]


def _enter(network: Network, value: Value, members: set[Node], perm: Perm) -> None:
    """Enter what transposing a value costs, for each division of its producer and users."""
    back = inverse(perm)
    cost = _cost(value, perm)
    users = list(value.users())
    inside = [user for user in users if user in members]
    outside = [u for u in users if u not in members and not absorbs(u, perm)]
    undoing = [user for user in outside if perm_of(user) == back]
    if value.node in members:
        if len(undoing) < len(outside):  # others outside need it as it is
            network.add(value.node, SINK, cost)
        if inside:
            network.add_if_any_stays(value.node, inside, value, cost)
            network.add_if_any_moves(inside, value.node, value, cost)
        if undoing:  # their transpose goes where the producer moves
            network.add(SOURCE, value.node, cost)
    elif perm_of(value.node) == perm:
        # what moves takes the operand of this transpose; others outside need its result in any case
        if not outside:
            network.add_if_any_stays(SOURCE, inside, value, cost)
    elif value.const is None and not undoing and not _ones(value):
        # what moves transposes it back; a constant is transposed while compiling
        network.add_if_any_moves(inside, SINK, value, cost)


def _ones(value: Value) -> bool:
    """Return True where all sizes are 1, so that a transpose costs nothing."""
    return all(map(is_one, value.type.shape))


def _cost(value: Value, perm: Perm) -> float:
    """What transposing a value by `perm` costs, or back: the node alone where it is a change of shape."""
    is_view = len(perm) == value.type.rank and moves_only_ones(value, perm)
    return NODE if is_view else elements_to_move(value)


# ----------------------------------------------------------------------------- the move


class _Move:
    """Nodes made again on untransposed operands; transposes appear where the two sides meet.

    `moved` has the new value of each old one.
    """

    def __init__(self, graph: Graph, nodes: Sequence[Node], perm: Perm) -> None:
        self.graph = graph
        self.perm = perm
        self.back = inverse(perm)
        self.nodes = nodes  # in their order
        self.chosen = set(nodes)
        self.moved: dict[Value, Value] = {}

    def run(self) -> None:
        """Make all nodes again, in their order, and erase the old ones."""
        for node in self.nodes:
            self.remake(node)
        for node in reversed(self.nodes):
            node.erase()

    def remake(self, node: Node) -> None:
        """Make one node again; the other nodes use what it makes."""
        op = Builder(self.graph, node, node.loc)
        operands = [self.operand(value, node) for value in laid_out(node)]
        new = moved(op, node, operands, self.perm)
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.hint = old.hint
            self.moved[old] = value
            self.hand_on(op, old, value)

    def hand_on(self, op: Builder, old: Value, value: Value) -> None:
        """Give a new value to those that transposed the old one back, and transposed to those that stay."""
        for user in list(old.users()):
            if perm_of(user) == self.back:
                user.replace_by(value)
        if any(map(self.stays, old.users())):
            op.hint = old.hint
            transposed = op.Transpose(value, perm=self.perm)
            old.replace_by(transposed, where=self.stays)

    def stays(self, node: Node) -> bool:
        """Return True for a node that runs on transposed tensors as before."""
        return node not in self.chosen

    def operand(self, value: Value | None, node: Node) -> Value | None:
        """What stands for an operand of a node that moves."""
        if value is None or value.type.rank == 0:
            return value
        if value in self.moved:
            return self.moved[value]
        if perm_of(value.node) == self.perm:
            return value.producer.operand(0)
        op = Builder(self.graph, node, node.loc, value.hint)
        missing = len(self.perm) - value.type.rank
        if missing:
            value = op.reshape(value, (1,) * missing + value.type.shape)
        existing = self.transposed_back(value, node)
        return op.Transpose(value, perm=self.back) if existing is None else existing

    def transposed_back(self, value: Value, node: Node) -> Value | None:
        """The result of a transpose of `value` that stands before a node, None where there is none."""
        for user in value.users():
            if perm_of(user) != self.back or user.graph is not self.graph:
                continue
            if _before(user, node):
                return user.out
        return None


def _before(first: Node, second: Node) -> bool:
    """Return True where `first` is known to stand before `second`.

    Looks at close neighbours only, so that it costs O(1).
    """
    node = second.prev
    for _ in range(8):
        if node is None:
            return False
        if node is first:
            return True
        node = node.prev
    return False
