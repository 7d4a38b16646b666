"""Where transposes stand: for each permutation, a minimum cut decides which nodes run before it.

Local rules cannot do this: on a residual block, moving a transpose down through one addition and up
through the next each enable the other for ever. Here every layout-free node is a vertex. A node on
the source side runs on the untransposed tensors ("moved"), one on the sink side stays; edges cost
what the transposes cost that a cut makes necessary, each once, however many nodes use the result.
The cut is Boykov and Kolmogorov's, by networkx.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, is_one, same_dim
from j2o.passes.layout.free import Perm, absorbs, is_free, laid_out, moved
from j2o.passes.pipeline import graph_pass

if TYPE_CHECKING:
    import networkx as nx

NODE = 64.0  # what a transpose costs besides its elements
TYPICAL = 128  # what a symbolic size counts as when transposes are weighed


@functools.cache
def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(np.argsort(perm).tolist())


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
    for node in graph:
        if node.op not in RESHAPES:
            continue
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
    return all(map(same_dim, shape, out.type.shape)) and _moves_only_ones(out, perm)


def perm_of(node: Node | None) -> Perm | None:
    """The permutation of a Transpose, else None."""
    if node is None or node.op != "onnx.Transpose":
        return None
    return node.ints_attr("perm", range(node.out.type.rank)[::-1])


# ------------------------------------------------------------------------ what may move


def _ones(value: Value) -> bool:
    """Return True where all sizes are 1, so that a transpose costs nothing."""
    return all(map(is_one, value.type.shape))


def _groups(graph: Graph, perm: Perm) -> Iterator[list[Node]]:
    """Connected layout-free nodes around transposes by `perm`.

    Only groups where there is more than one transpose to gain from.
    """
    seen: set[Node] = set()
    for start in _starts(graph, perm):
        if start in seen:
            continue
        group: list[Node] = []
        gains: set[Value] = set()
        seen.add(start)
        todo = [start]
        while todo:
            node = todo.pop()
            group.append(node)
            gains.update(_gains(node, perm))
            for other in _neighbours(node, perm):
                if other in seen or other.graph is not graph:
                    continue
                if is_free(other, perm):
                    seen.add(other)
                    todo.append(other)
        if len(gains) > 1:
            yield group


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
        if is_undone or _moves_only_ones(value, perm):
            yield value


def _moves_only_ones(value: Value, perm: Perm) -> bool:
    """Return True where a transpose is a Reshape, as behind a reduction that keeps its axes."""
    moved = [
        axis
        for axis, size in zip(perm, value.type.shape, strict=True)
        if not is_one(size)
    ]
    return moved == sorted(moved)


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


def elements_to_move(value: Value) -> float:
    """The cost of transposing a tensor: its elements, and something for the node itself."""
    return math.prod(map(_typical, value.type.shape)) + NODE


@functools.lru_cache(maxsize=65536)
def _typical(dim: Dim) -> int:
    """A size as a number, each symbol being TYPICAL."""
    if type(dim) is int:
        return dim
    sizes = dict.fromkeys(dims.symbols(dim), TYPICAL)
    return max(1, dims.evaluate(dim, sizes))


SOURCE, SINK = "source", "sink"


class _Network:
    """What a minimum cut divides: nodes on the side of the source move, those on the side of the sink stay.

    A value that several nodes use has two vertices more, `("stay", value)` and `("move", value)`:
    through them its transpose is paid for once, however many of its users stay or move.
    """

    def __init__(self) -> None:
        self.costs: dict[tuple[object, object], float] = {}

    def edge(self, start: object, end: object, cost: float = math.inf) -> None:
        """Add to what it costs that `start` moves and `end` stays."""
        self.costs[start, end] = self.costs.get((start, end), 0.0) + cost

    def if_any_stays(
        self, start: object, value: Value, users: Sequence[Node], cost: float
    ) -> None:
        """Add what it costs, once, that `start` moves and any user of a value stays."""
        end = users[0] if len(users) == 1 else ("stay", value)
        self.edge(start, end, cost)
        for user in users:
            if user is not end:
                self.edge(end, user)

    def if_any_moves(
        self, value: Value, users: Sequence[Node], end: object, cost: float
    ) -> None:
        """Add what it costs, once, that any user of a value moves and `end` stays."""
        start = users[0] if len(users) == 1 else ("move", value)
        self.edge(start, end, cost)
        for user in users:
            if user is not start:
                self.edge(user, start)

    def moved(self) -> set[object]:
        """The vertices on the side of the source of a minimum cut, as many as may be."""
        # the import takes 0.1 s, and most programs have nothing to move
        from networkx.algorithms.flow import boykov_kolmogorov

        flow = self.residual()
        boykov_kolmogorov(flow, SOURCE, SINK, residual=flow)
        # the algorithm ends with two trees: what the source leads to, and what leads to the sink
        _, stay = flow.graph["trees"]
        return {vertex for vertex in flow if vertex not in stay}

    def residual(self) -> nx.DiGraph[object]:
        """The network in the form in which networkx computes flows: for each edge there is one back."""
        import networkx as nx

        finite = [cost for cost in self.costs.values() if cost < math.inf]
        most = 3 * sum(finite) or 1  # stands for infinity: no cut costs as much
        there = [
            (start, end, {"capacity": min(cost, most)})
            for (start, end), cost in self.costs.items()
        ]
        back = [(b, a) for a, b in self.costs if (b, a) not in self.costs]
        flow = nx.DiGraph(inf=most)
        flow.add_nodes_from((SOURCE, SINK))
        flow.add_edges_from(there)
        flow.add_edges_from(back, capacity=0)
        return flow


def _plan(group: list[Node], perm: Perm) -> list[Node]:
    """The nodes of a group that should run before the transposes."""
    network = _Network()
    members = set(group)
    values = [v for node in group for v in (*_operands(node), *node.outputs)]
    for value in dict.fromkeys(values):
        # one of lower rank broadcasts, and gets leading axes of size 1 before it is transposed
        if 0 < value.type.rank <= len(perm):
            _enter(network, value, members, perm)
    for node in group:
        # weights stay on the right where nothing speaks against it
        if node.op == "onnx.MatMul":
            network.edge(node, SINK, 1.0)
    moved = network.moved()
    return [n for n in group if n in moved]


def _enter(network: _Network, value: Value, members: set[Node], perm: Perm) -> None:
    """Enter what transposing a value costs, for each division of its producer and users."""
    users = list(value.users())
    inside = [user for user in users if user in members]
    others = [user for user in users if user not in members and not absorbs(user, perm)]
    back = inverse(perm)
    cost = _cost(value, perm)
    want_back = [user for user in others if perm_of(user) == back]
    if value.node in members:
        if len(want_back) < len(others):  # someone outside wants it transposed
            network.edge(value.node, SINK, cost)
        if inside:
            network.if_any_stays(value.node, value, inside, cost)
            network.if_any_moves(value, inside, value.node, cost)
        if want_back:
            network.edge(SOURCE, value.node, cost)
    elif perm_of(value.node) == perm:
        if not others:  # else the transpose stays in any case
            network.if_any_stays(SOURCE, value, inside, cost)
    elif value.const is None and not want_back and not _ones(value):
        network.if_any_moves(value, inside, SINK, cost)


def _cost(value: Value, perm: Perm) -> float:
    """What transposing a value by `perm` costs, or back: the node alone where it is a change of shape."""
    is_view = len(perm) == value.type.rank and _moves_only_ones(value, perm)
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
