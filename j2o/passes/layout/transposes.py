"""Where transposes stand: for each permutation, a minimum cut decides which nodes run before it.

Local rules cannot do this: on a residual block, moving a transpose down through one addition and up through the next
each enable the other for ever. Here every layout-free node is a vertex. A node on the source side runs on the
untransposed tensors ("moved"), one on the sink side stays; edges cost what the transposes cost that a cut makes
necessary, each once, however many nodes use the result. The cut is Boykov and Kolmogorov's, by networkx.
"""

from __future__ import annotations

import collections
import functools
import math
from collections.abc import Iterable, Mapping
from typing import TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr, Dim, is_one
from j2o.passes.pipeline import graph_pass

Perm: TypeAlias = "tuple[int, ...]"
TYPICAL = 128  # what a symbolic size counts as when transposes are weighed


@functools.cache
def inverse(perm: Perm) -> Perm:
    return tuple(np.argsort(perm).tolist())


@graph_pass("transposes", at="onnx", level=2)
def transposes(graph: Graph) -> int:
    """Run layout-free nodes in whichever layout makes the remaining transposes cheapest."""
    count = collections.Counter(p for n in graph if (p := perm_of(n)) is not None)
    moved = 0
    for perm, _ in count.most_common():
        groups = list(_groups(graph, perm))
        for group in groups:
            nodes = _plan(group, perm)
            if nodes:
                _apply(graph, nodes, perm)
                moved += len(nodes)
    return moved


def perm_of(node: Node | None) -> Perm | None:
    """The permutation of a Transpose, else None."""
    if node is None or node.op != "onnx.Transpose":
        return None
    return node.ints_attr("perm", range(node.out.type.rank)[::-1])


# ------------------------------------------------------------------------------------- what may move


# operations along one axis, the attribute `axis`, which by default is the last
ALONG = frozenset(["onnx.Concat", "onnx.Softmax", "onnx.LogSoftmax"])


def _moved_attrs(node: Node, perm: Perm) -> Mapping[str, Attr]:
    """The attributes of a node that runs before the transpose."""
    if node.op not in ALONG:
        return node.attrs
    return {**node.attrs, "axis": perm[int(node.attrs.get("axis", -1)) % len(perm)]}  # type: ignore[arg-type]


def _free(node: Node, rank: int) -> bool:
    """Return True where the node can run in either layout."""
    if not node.outputs or node.graphs:
        return False
    if any(v.type.rank != rank for v in node.outputs):
        return False
    if node.op in ALONG:
        return all(v is not None and v.type.rank == rank for v in node.inputs)
    if not node.spec.elementwise:
        return False
    return all(v is None or v.type.rank <= rank for v in node.inputs)


def _ones(value: Value) -> bool:
    return all(map(is_one, value.type.shape))


def _groups(graph: Graph, perm: Perm) -> Iterable[list[Node]]:
    """Connected layout-free nodes around transposes by `perm`, where there is more than one transpose to gain from."""
    back, rank, seen = inverse(perm), len(perm), set[Node]()
    starts = [
        u
        for n in graph
        if perm_of(n) == perm
        for u in n.out.users()
        if u.graph is graph and _free(u, rank)
    ]
    for start in starts:
        if start in seen:
            continue
        group, todo, gains = [], [start], set[Value]()
        seen.add(start)
        while todo:
            node = todo.pop()
            group.append(node)
            near: list[Node] = []
            for value in node.inputs:
                if value is None or value.type.rank != rank:
                    continue
                if perm_of(value.node) == perm:
                    gains.add(value)
                elif value.node is not None:
                    near.append(value.node)
                if value.const is None:
                    near += value.users()
            for value in node.outputs:
                for user in value.users():
                    near.append(user)
                    if perm_of(user) == back or _absorbs(user):
                        gains.add(value)
            for other in near:
                if other not in seen and other.graph is graph and _free(other, rank):
                    seen.add(other)
                    todo.append(other)
        if len(gains) > 1:
            yield group


def _absorbs(user: Node) -> bool:
    """Return True where a user takes the tensor in either layout: a reduction that drops axes."""
    if not user.op.startswith("onnx.Reduce") or len(user.inputs) < 2:
        return False
    return not user.int_attr("keepdims", 1)


# ------------------------------------------------------------------------------------------ the cut


def weight(value: Value) -> float:
    """The cost of transposing a tensor: its elements, and something for the node itself."""
    return math.prod(map(_typical, value.type.shape)) + 64.0


def _typical(dim: Dim) -> int:
    """A size as a number, each symbol being TYPICAL."""
    if type(dim) is int:
        return dim
    sizes = dict.fromkeys(dims.symbols(dim), TYPICAL)
    return max(1, dims.evaluate(dim, sizes))


SOURCE, SINK = "source", "sink"


class _Network:
    """What a minimum cut divides: nodes on the side of the source move, those on the side of the sink stay.

    A value has two vertices more, `("stay", value)` and `("move", value)`: through them its transpose is paid for once,
    however many of its users stay or move.
    """

    def __init__(self) -> None:
        import networkx as nx  # takes 0.1 s, and most programs have nothing to move

        self.flow = nx.DiGraph()
        self.flow.add_nodes_from((SOURCE, SINK))

    def edge(self, start: object, end: object, capacity: float = math.inf) -> None:
        """Add to what it costs that `start` moves and `end` stays."""
        so_far = self.flow.get_edge_data(start, end, {"capacity": 0.0})["capacity"]
        self.flow.add_edge(start, end, capacity=so_far + capacity)

    def moved(self) -> set[object]:
        """The vertices on the side of the source of a minimum cut."""
        import networkx as nx
        from networkx.algorithms.flow import boykov_kolmogorov

        cut = nx.minimum_cut(self.flow, SOURCE, SINK, flow_func=boykov_kolmogorov)
        _, (moved, _) = cut
        return moved


def _plan(group: list[Node], perm: Perm) -> list[Node]:
    """The nodes of a group that should run before the transposes."""
    network, members = _Network(), set(group)
    for value in dict.fromkeys(v for n in group for v in (*n.inputs, *n.outputs)):
        # one of lower rank broadcasts, and gets leading axes of size 1 before it is transposed
        if value is not None and 0 < value.type.rank <= len(perm):
            _enter(network, value, members, perm)
    moved = network.moved()
    return [n for n in group if n in moved]


def _enter(network: _Network, value: Value, members: set[Node], perm: Perm) -> None:
    """Enter what transposing a value costs, for each division of its producer and users."""
    edge, cost = network.edge, weight(value)
    stay, move = ("stay", value), ("move", value)
    inside = [u for u in value.users() if u in members]
    others = [u for u in value.users() if u not in members and not _absorbs(u)]
    want_back = [u for u in others if perm_of(u) == inverse(perm)]
    if value.node in members:
        producer = value.node
        # someone outside wants the transposed tensor
        if len(want_back) < len(others):
            edge(producer, SINK, cost)
        if inside:
            edge(producer, stay, cost)
            edge(move, producer, cost)
            for user in inside:
                edge(stay, user)
                edge(user, move)
        if want_back:
            edge(SOURCE, producer, cost)
    elif perm_of(value.node) == perm:
        if not others:  # else the transpose stays in any case
            edge(SOURCE, stay, cost)
            for user in inside:
                edge(stay, user)
    elif value.const is None and not want_back and not _ones(value):
        edge(move, SINK, cost)
        for user in inside:
            edge(user, move)


# ------------------------------------------------------------------------------------------ the move


def _apply(graph: Graph, nodes: list[Node], perm: Perm) -> None:
    """Re-make `nodes` on untransposed operands; transposes appear where the two sides meet."""
    back, chosen = inverse(perm), set(nodes)
    moved: dict[Value, Value] = {}

    def operand(value: Value | None, node: Node) -> Value | None:
        if value is None or value.type.rank == 0:
            return value
        if value in moved:
            return moved[value]
        if perm_of(value.node) == perm:
            return value.node.inputs[0]  # type: ignore[union-attr]
        op = Builder(graph, node, node.loc, value.hint)
        if value.type.rank < len(perm):
            value = op.reshape(
                value, (1,) * (len(perm) - value.type.rank) + value.type.shape
            )
        existing = next(
            (
                u
                for u in value.users()
                if perm_of(u) == back and u.graph is graph and _before(u, node)
            ),
            None,
        )
        return existing.out if existing is not None else op.Transpose(value, perm=back)

    for node in [n for n in graph if n in chosen]:
        op = Builder(graph, node, node.loc)
        new = op.node(
            node.op, [operand(v, node) for v in node.inputs], _moved_attrs(node, perm)
        )
        for old, value in zip(node.outputs, new.outputs, strict=True):
            value.hint = old.hint
            moved[old] = value
            for user in list(old.users()):
                if perm_of(user) == back:
                    user.replace_by(value)
            if any(u not in chosen for u in old.users()):
                op.hint = old.hint
                old.replace_by(
                    op.Transpose(value, perm=perm), where=lambda u: u not in chosen
                )
    for node in reversed([n for n in graph if n in chosen]):
        node.erase()


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
