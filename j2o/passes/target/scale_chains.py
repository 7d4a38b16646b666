"""`scale_chains`: factors in a row in front of products get a form that onnxruntime does not fuse.

Its MatMulScaleFusion takes a `Mul(x, 2)` in front of a MatMul into that. With `s = x * 2`, `s @ w` and
`(s * 3) @ w` it erases `s` while a fused product still needs it, and then refuses the model (seen with
1.32). A constant that repeats the number along an axis is none to it, and gives the same values.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Type
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

PRODUCTS = frozenset({"onnx.MatMul", "ort.FusedMatMul"})
# which operands the fusion reads a factor from
PLACES = {"onnx.Mul": (1, 0), "onnx.Div": (1,)}


@graph_pass("scale_chains", at="target", level=0)
def scale_chains(graph: Graph, context: Context) -> int:
    """A factor whose result is both multiplied again and an operand of a product is spread along an axis."""
    count = 0
    for node in graph.nodes_of(*PLACES):
        place = _place_of_factor(node)
        if place is not None and _is_chained(node.out):
            count += _widen(graph, node, place)
    return count


def _place_of_factor(node: Node) -> int | None:
    """Which operand of a Mul or Div is the number that the fusion reads; None where there is none."""
    for place in PLACES.get(node.op, ()):
        factor = node.operand(place)
        if factor.const is not None and factor.const.size == 1:
            return place
    return None


def _is_chained(value: Value) -> bool:
    """Return True where a product takes a value, also transposed, and another factor stands behind it."""
    users = list(_users_behind_transposes(value))
    is_scaled = any(_place_of_factor(user) is not None for user in users)
    return is_scaled and any(user.op in PRODUCTS for user in users)


def _users_behind_transposes(value: Value) -> Iterator[Node]:
    """The users of a value, those of its transposes in place of these."""
    for user in value.users():
        if user.op == "onnx.Transpose":
            yield from user.out.users()
        else:
            yield user


def _widen(graph: Graph, node: Node, place: int) -> int:
    """Repeat a factor along an axis of the result; where each axis is open or has size 1, it stays."""
    factor = node.operand(place).const
    assert factor is not None
    shape = _line_along_an_axis(node.out.type)
    if shape is None:
        return 0
    op = Builder(graph, node, node.loc, node.out.hint)
    node.set_input(place, op.const(np.full(shape, factor.load().reshape(()))))
    return 1


def _line_along_an_axis(result: Type) -> tuple[int, ...] | None:
    """The shape of a constant along the last axis that is known to have several elements; None for none."""
    for count, size in enumerate(reversed(result.shape)):
        if type(size) is int and size > 1:
            return (size, *(1,) * count)
    return None
