"""Checks inside the model: a node fails for sizes that break a constraint or an expression in an
input's shape.

So does one for values for which the program raises: a `check` takes a bool, and values that stay
what they are where it is false.

A check is a Gather from `[0]`. Its index is 0 where the requirement holds, else 1, which is out of
bounds; its name says what was asked. Checks form a chain, so that the first one that does not hold
is reported. Its end, `[0]` again, says "as it was" to a Reshape that every input passes. That costs
nothing, and no optimiser can tell that the checks are not needed.
"""

from __future__ import annotations

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import LABEL
from j2o.ir.sizes import Requirement, requirements
from j2o.ir.types import DType
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass
from j2o.passes.target.materialize import Sizes, axes_of, declared_dims


@graph_pass("checks", at="target", level=0, scope="root")
def checks(graph: Graph, context: Context) -> int:
    """Let the model itself refuse sizes that do not fit, where `compile` was asked for it.

    It checks what the runtime does not: that sizes fit each other and the constraints, and that scalars are
    scalars.
    """
    asked = context.options.checks
    count = _value_checks(graph, asked)
    return count + _size_checks(graph) if asked else count


def _value_checks(root: Graph, asked: bool) -> int:
    """Make every `check` of a value, in regions and functions too, or leave them out."""
    found: list[Node] = []
    for top in (root, *root.functions.values()):
        found += [node for node in top.walk() if node.op == "check"]
    for node in found:
        values = list(node.operands[1:])
        if asked:
            op = Builder(node.home, node, node.loc, "check")
            index = op.cast(op.unsqueeze(node.operand(0), (0,)), DType.I64)
            zero = op.const(np.zeros(1, np.int64))
            label = {LABEL: f"check: {node.attrs['raises']}"}
            passed = op.node("onnx.Gather", [zero, index], label).out
            values = [_as_it_was(op, v, passed) for v in values]
        node.replace_by(*values)
    return len(found)


def _size_checks(graph: Graph) -> int:
    """Check the sizes of the inputs, and that scalars are scalars."""
    used = [v for v in graph.inputs if v.uses]
    sizes = Sizes(graph)
    op = sizes.op
    names = dict(zip(graph.inputs, graph.input_names, strict=True))
    places = [f"input {names[value]} axis {axis}" for value, axis in axes_of(graph)]
    required = requirements(declared_dims(graph), graph.dims.constraints)
    passed = op.const(np.zeros(1, np.int64))
    for r in required:
        index = op.cast(_broken(sizes, r), DType.I64)
        op.hint = "check"
        label = {LABEL: f"check: {places[r.axis]}: {r.text}"}
        passed = op.node("onnx.Gather", [passed, index], label).out
    symbolic = [v for v in used if not dims.is_static(v.type.shape)] if required else []
    passing = {v: _as_it_was(op, v, passed) for v in symbolic}
    for value in (v for v in used if not v.type.rank):
        label = {LABEL: f"check: input {names[value]}: a scalar"}
        no_axes = op.const(np.zeros(0, np.int64))
        passing[value] = op.node("onnx.Reshape", [value, no_axes], label).out
    own = set(op.made)
    for value, new in passing.items():
        value.replace_by(new, where=lambda n: n not in own)
    if required and not symbolic:
        # the outputs are the only way that leads past the checks
        op.before = graph.ret
        first = op.squeeze(passed, (0,))
        rows = [op.unsqueeze(v, (0,)) for v in graph.outputs]
        graph.set_outputs([op.Gather(row, first) for row in rows])
    sizes.anchor.erase()
    return len(required)


def _broken(sizes: Sizes, r: Requirement) -> Value:
    """True where the requirement does not hold: `bool[1]`."""
    op = sizes.op
    left = sizes.axis(r.axis) if r.left is None else sizes.term(r.left)
    # computed, where `term` would read what is to be checked
    right = sizes.axis(r.other) if r.right is None else sizes.expression(r.right)
    op.hint = "broken"
    if r.sign == "==":
        return op.Not(op.Equal(left, right))
    return op.Greater(left, right) if r.sign == "<=" else op.Less(left, right)


def _as_it_was(op: Builder, value: Value, zero: Value) -> Value:
    """`value` through a Reshape to a vector of zeros, which stand for its own sizes."""
    own = op.expand(zero, (value.type.rank,))
    return op.node("onnx.Reshape", [value, own], None, [value.type]).out
