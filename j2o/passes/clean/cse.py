"""Common subexpression elimination, over scopes: a region sees what is computed outside of it."""

from __future__ import annotations

from typing import Any

from j2o.ir.graph import Graph, Node
from j2o.ir.scopes import shared_loc
from j2o.ir.types import exact_attrs
from j2o.passes.pipeline import graph_pass


@graph_pass("cse", at="onnx", level=1, scope="root")
def cse(graph: Graph) -> int:
    """Compute equal things once: same operation, operands and attributes, no regions, no randomness."""
    return sum(_merge(top, ()) for top in (graph, *graph.functions.values()))


def _merge(graph: Graph, outer: tuple[dict[Any, Node], ...]) -> int:
    """`outer` has what is computed in the graphs around, the nearest first."""
    count = 0
    seen: dict[Any, Node] = {}
    scopes = (seen, *outer)
    for node in graph:
        for region in node.graphs:
            count += _merge(region, scopes)
        spec = node.spec
        if node.graphs or not spec.pure or spec.random or not node.outputs:
            continue
        key = _key(node)
        twin = next((scope[key] for scope in scopes if key in scope), None)
        if twin is None:
            seen[key] = node
        elif [v.type for v in node.outputs] == [
            v.type for v in twin.outputs
        ]:  # some are given, not inferred
            twin.loc = shared_loc(twin.loc, node.loc)
            node.replace_by(*twin.outputs)
            count += 1
    return count


def _key(node: Node) -> Any:
    return (node.op, node.inputs, exact_attrs(node.attrs), len(node.outputs))
