"""Common subexpression elimination, over scopes: a region sees what is computed outside of it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from j2o.ir.graph import Graph, Node
from j2o.ir.scopes import shared_loc
from j2o.ir.types import Type, exact_attrs
from j2o.passes.pipeline import graph_pass


@graph_pass("cse", at="onnx", level=1, scope="root")
def cse(graph: Graph) -> int:
    """Compute equal things once: same operation, operands and attributes, no regions, no randomness."""
    tops = (graph, *graph.functions.values())
    return sum(_merge(top, Computed()) for top in tops)


@graph_pass("cse_early", at="onnx", level=1, scope="root")
def cse_early(graph: Graph) -> int:
    """As `cse`, right behind `lower`: programs repeat much, and what is merged here is looked at once."""
    return cse(graph)


class Computed:
    """What is computed so far, in a graph and those around it: of equal nodes the first.

    Most nodes have another source, which is their operation and operands, than all others, and are not
    looked at further. `exact` tells those of one source apart by their attributes.
    """

    def __init__(self) -> None:
        self.first: dict[Hashable, Node] = {}  # of each source
        self.exact: dict[Hashable, Node] = {}

    def twin(self, node: Node) -> Node | None:
        """An earlier node that is equal; None where there is none, and the node is entered as the first."""
        source: Hashable = (node.op, node.inputs)
        if node.op == "const":
            source = _source_of_constant(node)
        first = self.first.setdefault(source, node)
        if first is node:
            return None
        self.exact.setdefault(_key(first, source), first)
        twin = self.exact.setdefault(_key(node, source), node)
        return None if twin is node else twin

    @property
    def size(self) -> tuple[int, int]:
        return len(self.first), len(self.exact)

    def shrink(self, size: tuple[int, int]) -> None:
        """Forget what was entered since it had this size: outside of a region nothing of it is known."""
        first, exact = size
        while len(self.first) > first:
            self.first.popitem()
        while len(self.exact) > exact:
            self.exact.popitem()


def _merge(graph: Graph, computed: Computed) -> int:
    """Merge the equal nodes of a graph and of its regions; `computed` has those of the graphs around."""
    count = 0
    for node in graph:
        if node.graphs:
            size = computed.size
            for region in node.graphs:
                count += _merge(region, computed)
                computed.shrink(size)
            continue
        twin = computed.twin(node)
        if twin is None or not may_merge(node):
            continue
        if _types(twin) == _types(node):
            twin.loc = shared_loc(twin.loc, node.loc)
            node.replace_by(*twin.outputs)
            count += 1
    return count


def _source_of_constant(node: Node) -> Hashable:
    """What equal constants have in common."""
    tensor: Any = node.attrs["value"]
    return tensor.key, tensor.shape, tensor.dtype


def _key(node: Node, source: Hashable) -> Hashable:
    """What equal nodes have in common, and only they."""
    return source, exact_attrs(node.attrs), len(node.outputs)


def may_merge(node: Node) -> bool:
    """Return True where a node gives something, always the same, and has no effect beside that."""
    spec = node.spec
    return spec.pure and not spec.random and bool(node.outputs)


def _types(node: Node) -> list[Type]:
    """The types of the results: some are given, not inferred."""
    return [value.type for value in node.outputs]
