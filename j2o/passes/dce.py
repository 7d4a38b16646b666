"""Dead code elimination."""

from __future__ import annotations

from j2o.ir.graph import Graph
from j2o.passes.pipeline import graph_pass


@graph_pass("dce", at="onnx", level=0)
def dce(graph: Graph) -> int:
    """Remove pure nodes whose results nobody uses."""
    count = 0
    for node in reversed(graph):
        if not node.used and node.outputs and node.spec.pure:
            node.erase()
            count += 1
    return count
