"""Common subexpression elimination, over scopes: a region sees what is computed outside of it."""

from __future__ import annotations

from collections import ChainMap
from typing import Any

from j2o.ir.graph import Graph, Node
from j2o.ir.ops import Trait
from j2o.passes.pipeline import graph_pass


@graph_pass("cse", at="onnx", level=1, scope="root")
def cse(graph: Graph) -> int:
    """Compute equal things once: same operation, operands and attributes, no regions, no randomness."""
    return sum(_merge(top, ChainMap()) for top in (graph, *graph.functions.values()))


def _merge(graph: Graph, seen: ChainMap[Any, Node]) -> int:
    count = 0
    for node in graph:
        for region in node.graphs:
            count += _merge(region, seen.new_child())
        traits = node.spec.traits
        if node.graphs or Trait.PURE not in traits or Trait.RANDOM in traits or not node.outputs:
            continue
        key = _key(node)
        twin = seen.get(key)
        if twin is None:
            seen[key] = node
        else:
            node.replace_by(*twin.outputs)
            count += 1
    return count


def _key(node: Node) -> Any:
    # types tell 1 from True and 1.0, and nodes apart whose types were given, not inferred
    attrs = (
        tuple(sorted((k, type(v), v) for k, v in node.attrs.items()))
        if len(node.attrs) > 1
        else tuple(node.attrs.items())
    )
    return (node.op, node.inputs, attrs, tuple(v.type for v in node.outputs))
