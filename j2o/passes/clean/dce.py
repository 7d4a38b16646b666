"""Dead code elimination."""

from __future__ import annotations

from j2o.ir.graph import Graph, Node
from j2o.passes.pipeline import graph_pass


@graph_pass("unused", at="lax", level=0)
def unused(graph: Graph) -> int:
    """Remove primitives whose results nobody uses, as JAX does before it compiles: they need no rule."""
    return remove_unused(graph)


@graph_pass("dce", at="onnx", level=0)
def dce(graph: Graph) -> int:
    """Remove pure nodes whose results nobody uses."""
    return remove_unused(graph)


def remove_unused(graph: Graph) -> int:
    """Erase what has results that nobody uses, and no effect; returns how many nodes."""
    count = 0
    node = graph.last
    while node is not None:  # faster than an iterator, and most nodes are used
        before = node.prev
        if not node.used and node.outputs and node.spec.pure and not _acts_inside(node):
            node.erase()
            count += 1
        node = before
    return count


def _acts_inside(node: Node) -> bool:
    """Whether a region of a node has an effect beyond what it gives."""
    inner = (n for region in node.graphs for n in region.walk() if n.op != "return")
    return any(not n.spec.pure or not n.outputs for n in inner)
