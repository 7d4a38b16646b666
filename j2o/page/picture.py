"""The graph that one can look at: from a graph to what `picture.js` draws."""

from __future__ import annotations

from typing import Any

from j2o.ir.graph import Graph


def document(graph: Graph) -> dict[str, Any]:
    """Return nodes, edges and modules of a root graph as plain data, for JSON."""
    numbers = {node: i for i, node in enumerate(graph)}
    nodes = [{"id": i, "op": node.op} for node, i in numbers.items()]
    edges: list[list[int]] = []
    for node, i in numbers.items():
        for value in node.operands:
            if value.node in numbers:
                edges.append([numbers[value.node], i])
    return {"nodes": nodes, "edges": edges, "modules": []}
