"""The verifier: use lists, order of definitions, scopes, and types against inference. Linear in the size of the graph."""

from __future__ import annotations

from collections.abc import Collection

from j2o.errors import InvalidGraphError, J2OError, raised
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import misuse
from j2o.ir.ops import no_inference
from j2o.ir.types import Shape


def verify(graph: Graph, without: Collection[str] = ()) -> None:
    """Raise InvalidGraphError where the root graph or a function breaks a rule; `without` names dialects that must be gone."""
    _verify_names(graph)
    for function in graph.functions.values():
        _verify(function, set(), without)
    _verify(graph, set(), without)


def _verify_names(graph: Graph) -> None:
    """The names of a model's inputs and outputs, where it has them, are as many as there are inputs and outputs."""
    outputs = graph.last.inputs if graph.last is not None else ()
    sides = (
        ("input", graph.input_names, graph.inputs),
        ("output", graph.output_names, outputs),
    )
    for what, names, values in sides:
        if names and len(names) != len(values):
            raise InvalidGraphError(
                f"@{graph.name} has {len(values)} {what}s for the names {', '.join(names)}"
            )


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


def _verify_operands(
    node: Node, graph: Graph, defined: set[Value], outer: set[Value]
) -> None:
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
    try:
        infer = node.spec.infer
    except KeyError as error:
        raise _fail(node, str(error.args[0])) from None
    if node.dialect == "onnx" and (problem := misuse(node)):
        raise _fail(node, problem)
    if infer is no_inference or node.op == "return":
        return
    try:
        types = infer(node)
    except TypeError:
        return  # its types were given: inference cannot know them
    except J2OError:
        raise
    except Exception as error:  # attributes of another kind than the rule expects
        raise _fail(
            node, f"operands and attributes do not fit: {raised(error)}"
        ) from error
    for value, type in zip(node.outputs, types, strict=False):
        if value.type.dtype != type.dtype or not _may_be(value.type.shape, type.shape):
            raise _fail(node, f"has the type {value.type}, inference says {type}")


def _may_be(a: Shape, b: Shape) -> bool:
    """Whether two shapes may be the same: of one rank, and no size two different numbers."""
    if len(a) != len(b):
        return False
    pairs = zip(a, b, strict=True)
    return all(x == y for x, y in pairs if type(x) is int and type(y) is int)
