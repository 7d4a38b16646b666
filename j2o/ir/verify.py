"""The verifier: use lists, order of definitions, scopes, and types against inference.

It takes time linear in the size of the graph.
"""

from __future__ import annotations

from j2o.errors import InvalidGraphError, J2OError, raised
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import misuse
from j2o.ir.ops import UnknownTypesError, no_inference
from j2o.ir.types import Shape


def verify(graph: Graph) -> None:
    """Raise InvalidGraphError where the root graph or a function breaks a rule of the IR."""
    _verify_names(graph)
    for function in graph.functions.values():
        _verify(function, set())
    _verify(graph, set())


def _verify_names(graph: Graph) -> None:
    """Inputs and outputs, where they have names, have one each."""
    outputs = graph.last.inputs if graph.last is not None else ()
    sides = (
        ("input", graph.input_names, graph.inputs),
        ("output", graph.output_names, outputs),
    )
    for what, names, values in sides:
        if names and len(names) != len(values):
            have = f"@{graph.name} has {len(values)} {what}s"
            raise InvalidGraphError(f"{have} for the names {', '.join(names)}")


def _fail(node: Node, why: str) -> InvalidGraphError:
    """The error that names a node."""
    return InvalidGraphError(f"{node!r}: {why}")


def _verify(graph: Graph, visible: set[Value]) -> None:
    """One graph and its regions.

    `visible` are the values that may be used: at first those of the graphs around, in the end the same again.
    """
    if graph.last is None or graph.last.op != "return":
        raise InvalidGraphError(f"@{graph.name} does not end in a return")
    visible.update(graph.inputs)
    for node in graph:
        _verify_operands(node, graph, visible)
        for region in node.graphs:
            if region.parent is not node:
                raise _fail(node, f"the region @{region.name} belongs to another node")
            _verify(region, visible)
        _verify_types(node)
        visible.update(node.outputs)
    _hide(graph, visible)


def _hide(graph: Graph, visible: set[Value]) -> None:
    """Take the values of a graph from those that may be used: behind it nobody sees them."""
    visible.difference_update(graph.inputs)
    for node in graph:
        visible.difference_update(node.outputs)


def _verify_operands(node: Node, graph: Graph, visible: set[Value]) -> None:
    """The node's graph, and operands that list their use and may be used here."""
    if node.graph is not graph:
        raise _fail(node, "the node does not know its graph")
    for i, value in enumerate(node.inputs):
        if value is None:
            continue
        if (node, i) not in value.uses:
            raise _fail(node, f"operand {i} (%{value.hint}) does not list this use")
        if value not in visible:
            what = f"operand {i} (%{value.hint} of {value.op or 'a graph input'})"
            raise _fail(node, f"{what} is not defined before its use, or not visible")


def _verify_types(node: Node) -> None:
    """The types of the outputs, against what inference says of operands and attributes."""
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
    except UnknownTypesError:
        return  # they were given
    except J2OError:
        raise
    except Exception as error:  # attributes of another kind than inference expects
        why = f"operands and attributes do not fit: {raised(error)}"
        raise _fail(node, why) from error
    for value, inferred in zip(node.outputs, types, strict=False):
        same_dtype = value.type.dtype == inferred.dtype
        if not same_dtype or not _may_be(value.type.shape, inferred.shape):
            raise _fail(node, f"has the type {value.type}, inference says {inferred}")


def _may_be(a: Shape, b: Shape) -> bool:
    """Return True where two shapes may be the same: of one rank, and no size is two different numbers."""
    if len(a) != len(b):
        return False
    for x, y in zip(a, b, strict=True):
        if type(x) is int and type(y) is int and x != y:
            return False
    return True
