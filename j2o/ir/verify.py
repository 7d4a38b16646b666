"""The verifier: use lists, order of definitions, scopes, and types against inference. Linear in the size of the graph."""

from __future__ import annotations

from collections.abc import Collection

from j2o.errors import InvalidGraphError
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import no_inference


def verify(graph: Graph, without: Collection[str] = ()) -> None:
    """Raise InvalidGraphError where the root graph or a function breaks a rule; `without` names dialects that must be gone."""
    for function in graph.functions.values():
        _verify(function, set(), without)
    _verify(graph, set(), without)


def _fail(node: Node, why: str) -> InvalidGraphError:
    return InvalidGraphError(f"{node!r}: {why}")


def _verify(graph: Graph, outer: set[Value], without: Collection[str]) -> None:
    if graph.last is None or graph.last.op != "return":
        raise InvalidGraphError(f"@{graph.name} does not end in a return")
    defined = set(graph.inputs)
    for node in graph:
        _verify_operands(node, graph, defined, outer)
        if node.dialect in without:
            raise _fail(node, f"an operation of the dialect {node.dialect!r} is left")
        for region in node.graphs:
            if region.parent is not node:
                raise _fail(node, f"the region @{region.name} belongs to another node")
            _verify(region, outer | defined, without)
        _verify_types(node)
        defined.update(node.outputs)


def _verify_operands(node: Node, graph: Graph, defined: set[Value], outer: set[Value]) -> None:
    if node.graph is not graph:
        raise _fail(node, "the node does not know its graph")
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        if (node, i) not in value.uses:
            raise _fail(node, f"operand {i} (%{value.hint}) does not list this use")
        if value not in defined and value not in outer:
            what = f"operand {i} (%{value.hint} of {value.op or 'a graph input'})"
            raise _fail(node, f"{what} is not defined before its use, or not visible")


def _verify_types(node: Node) -> None:
    infer = node.spec.infer
    if infer is no_inference or node.op == "return":
        return
    try:
        types = infer(node)
    except TypeError:
        return  # its types were given: inference cannot know them
    for value, type in zip(node.outputs, types, strict=False):
        if value.type.dtype != type.dtype or value.type.rank != type.rank:
            raise _fail(node, f"has the type {value.type}, inference says {type}")
