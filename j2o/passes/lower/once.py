"""Equal nodes are lowered once: the second one takes the results of the first.

Programs repeat much: the layers of a model compute the same masks and positions, each for itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from j2o.ir.graph import Node, Value
from j2o.ir.scopes import shared_loc
from j2o.passes.clean.cse import Computed, may_merge

# what a node was lowered to, and between which nodes stand those that were made for it: behind the first of
# the two, up to the last
Results: TypeAlias = "tuple[Sequence[Value], Node | None, Node | None]"


class LoweredOnce:
    """What is lowered so far, in a graph and those around it: the `results` of each node."""

    def __init__(self) -> None:
        self.computed = Computed()
        self.results: dict[Node, Results] = {}

    @property
    def size(self) -> tuple[int, int]:
        return self.computed.size

    def shrink(self, size: tuple[int, int]) -> None:
        """Forget what was entered since it had this size: outside of a graph nothing in it is known."""
        self.computed.shrink(size)

    def values_of_twin(self, node: Node) -> Sequence[Value] | None:
        """The results of an equal node, which then stand for both.

        None where there is no such node, and where it gives other results each time or has an effect.
        """
        twin = self.computed.twin(node)
        if twin is None or twin not in self.results:
            return None
        values, front, last = self.results[twin]
        types = [value.type for value in node.outputs]
        if [value.type for value in values] != types:
            return None
        made = _nodes_made(front, last)
        if made is None:
            return None
        for each in made:
            each.loc = shared_loc(each.loc, node.loc)
        return values


def _nodes_made(front: Node | None, last: Node | None) -> list[Node] | None:
    """The nodes that were made; None where others must not stand for two of them."""
    made: list[Node] = []
    node = last
    while node is not front:
        # without a node, `front` is erased
        if node is None or node.graphs or not may_merge(node):
            return None
        made.append(node)
        node = node.prev
    return made
