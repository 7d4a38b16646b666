"""Checks inside the model: a node fails for sizes, or values, that the program does not take.

Sizes are checked against the constraints, and the expressions in the shapes of inputs. Values are
checked where the program raises: a `check` takes a bool, and values that stay what they are where it is
false.

A check is a Gather from `[0]`. Its index is 0 where the requirement holds, else 1, which is out of
bounds; its name says what was asked. Checks form a chain, so that the first one that does not hold is
reported. Its end, `[0]` again, says "as it was" to a Reshape that every input passes. That costs
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
    if not context.options.checks:
        return _value_checks(graph, asked=False)
    count = _value_checks(graph, asked=True)
    return count + _size_checks(graph)


def _value_checks(root: Graph, asked: bool) -> int:
    """Make every `check` of a value, in regions and functions too, or leave them out."""
    found: list[Node] = []
    for top in (root, *root.functions.values()):
        found += [node for node in top.walk() if node.op == "check"]
    for node in found:
        values = list(node.operands[1:])
        if asked:
            op = Builder(node.home, node, node.loc, "check")
            broken = op.unsqueeze(node.operand(0), (0,))
            zero = op.const(np.zeros(1, np.int64))
            passed = _passed(op, zero, broken, str(node.attrs["raises"]))
            values = [_as_it_was(op, v, passed) for v in values]
        node.replace_by(*values)
    return len(found)


def _passed(op: Builder, zero: Value, broken: Value, what: str) -> Value:
    """One check: `zero` again, a vector of one 0; it fails where `broken`, `bool[1]`, is true."""
    index = op.cast(broken, DType.I64)
    op.hint = "check"
    return op.node("onnx.Gather", [zero, index], {LABEL: f"check: {what}"}).out


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
        what = f"{places[r.axis]}: {r.text}"
        passed = _passed(op, passed, _broken(sizes, r), what)
    symbolic = []
    if required:
        symbolic = [v for v in used if not dims.is_static(v.type.shape)]
    passing = {v: _as_it_was(op, v, passed) for v in symbolic}
    for value in used:
        if not value.type.rank:
            passing[value] = _as_a_scalar(op, value, names[value])
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


def _as_a_scalar(op: Builder, value: Value, name: str) -> Value:
    """`value` through a Reshape that takes one element, and gives it without axes."""
    label = {LABEL: f"check: input {name}: a scalar"}
    no_axes = op.const(np.zeros(0, np.int64))
    return op.node("onnx.Reshape", [value, no_axes], label).out


def _broken(sizes: Sizes, r: Requirement) -> Value:
    """True where the requirement does not hold: `bool[1]`."""
    op = sizes.op
    left = sizes.axis(r.axis) if r.left is None else sizes.term(r.left)
    if r.right is None:
        right = sizes.axis(r.other)
    else:
        # computed, where `term` would read what is to be checked
        right = sizes.expression(r.right)
    op.hint = "broken"
    if r.sign == "==":
        return op.Not(op.Equal(left, right))
    if r.sign == "<=":
        return op.Greater(left, right)
    return op.Less(left, right)


def _as_it_was(op: Builder, value: Value, zero: Value) -> Value:
    """`value` through a Reshape to a vector of zeros, which stand for its own sizes."""
    own = op.expand(zero, (value.type.rank,))
    return op.node("onnx.Reshape", [value, own], None, [value.type]).out
