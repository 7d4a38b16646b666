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
        outputs = node.outputs
        # most nodes end at the first of these
        if outputs and not outputs[0].uses and not node.used and not has_effect(node):
            node.erase()
            count += 1
        node = before
    return count


def has_effect(node: Node) -> bool:
    """Whether a node, or one in its regions, does more than to give results."""
    inside = (inner for region in node.graphs for inner in region.walk())
    return _acts(node) or any(map(_acts, inside))


def _acts(node: Node) -> bool:
    """Whether a node alone does more than to give results: it is not pure, or has none."""
    return node.op != "return" and (not node.spec.pure or not node.outputs)
