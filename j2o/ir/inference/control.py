"""Inference of control flow: the results of regions."""

from __future__ import annotations

from j2o.ir.graph import Node
from j2o.ir.inference.table import fail, infers
from j2o.ir.types import Type

# ------------------------------------------------------------------------- control flow


@infers("If")
def if_(node: Node) -> tuple[Type, ...]:
    then, other = ([v.type for v in branch.outputs] for branch in node.graphs)
    if then != other:
        raise fail(node, "the branches give different types")
    return tuple(then)


@infers("Loop")
def loop(node: Node) -> tuple[Type, ...]:
    carried = len(node.inputs) - 2
    body = node.graphs[0]
    if len(body.outputs) != 1 + carried:
        raise fail(node, "a loop with scan outputs: give the types of its outputs")
    return tuple(v.type for v in body.outputs[1:])
