"""Nodes of a Scan's body computed for all rounds at once, with an axis of rounds in front.

`hoist`, `sink` and `cells` choose the nodes. Each operator that can be computed so has a rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import REDUCTIONS
from j2o.ir.types import Dim, Type
from j2o.passes.layout.perms import perm_of
from j2o.passes.layout.scans import Scan

Stacks: TypeAlias = "dict[Value, Value]"  # for a value of the body that of all rounds


# ------------------------------------------------------------------------- what can be computed so


def computable(scan: Scan, given: set[Value]) -> dict[Node, None]:
    """The nodes of a body that can be computed for all rounds at once of `given` alone, in order."""
    known = set(given)
    found: dict[Node, None] = {}
    for node in scan.body:
        if _is_batched(scan, node, known):
            found[node] = None
            known.update(node.outputs)
    return found


def _is_batched(scan: Scan, node: Node, known: set[Value]) -> bool:
    """Return True where a node has a rule, and what it uses is known for all rounds or does not change."""
    varying = [value for value in node.operands if not scan.is_invariant(value)]
    if not varying or not known.issuperset(varying):
        return False
    if not has_rule(node):
        return False
    return node.op != "onnx.MatMul" or multiplies_one(node, varying)


def has_rule(node: Node) -> bool:
    """Return True where a node can be computed for all rounds at once, if what it uses is known for all."""
    return _rule(node) is not None


def multiplies_one(node: Node, varying: Sequence[Value]) -> bool:
    """Return True for a MatMul of one tensor that changes, which may get an axis of rounds in front."""
    rank = max(value.type.rank for value in node.operands)
    return len(varying) == 1 and varying[0].type.rank == rank


# ------------------------------------------------------------------------------------- the nodes


def outside(op: Builder, body: Graph, value: Value) -> Value:
    """A value that is the same in each round, in front of the loop with this body."""
    if value.graph is not body:
        return value
    if value.op == "dims":
        assert value.known is not None
        return op.dims(value.known)
    assert value.const is not None
    return op.const(value.const)


def write_batched(
    scan: Scan, nodes: Iterable[Node], stacks: Stacks, before: Node
) -> None:
    """Compute nodes for all rounds at once, in front of `before`.

    `stacks` has for the values that they use those of all rounds, and learns what they give.
    """
    length = scan.rows[0].stack.type.shape[0]
    for node in nodes:
        op = Builder(scan.node.home, before, node.loc, node.outputs[0].hint)
        rule = _rule(node)
        assert rule is not None
        results = rule(_Batch(op, scan, node, stacks, length))
        stacks.update(zip(node.outputs, results, strict=True))


class _Batch:
    """One node that is computed for all rounds at once."""

    def __init__(
        self, op: Builder, scan: Scan, node: Node, stacks: Stacks, length: Dim
    ) -> None:
        self.op = op
        self.scan = scan
        self.node = node
        self.stacks = stacks
        self.length = length

    def operand(self, index: int) -> Value:
        """An operand: of all rounds if it changes, else as it is in front of the Scan."""
        return self._of(self.node.operand(index))

    def _of(self, value: Value) -> Value:
        """A value of all rounds if it changes, else as it is in front of the Scan."""
        if value in self.stacks:
            return self.stacks[value]
        return outside(self.op, self.scan.body, value)

    def wide(self, value: Value | None) -> Value | None:
        """An operand of an elementwise node: the axes of a round stand where those of the result stand."""
        if value is None or value not in self.stacks:
            return None if value is None else self._of(value)
        missing = self.node.out.type.rank - value.type.rank
        shape = (self.length, *[1] * missing, *value.type.shape)
        return self.op.reshape(self.stacks[value], shape)

    def types(self) -> list[Type]:
        """The types of the results."""
        return [
            value.type.with_shape((self.length, *value.type.shape))
            for value in self.node.outputs
        ]


def _elementwise(batch: _Batch) -> tuple[Value, ...]:
    """Operands broadcast as in a round, behind the axis of the rounds."""
    node = batch.node
    operands = [batch.wide(value) for value in node.inputs]
    return batch.op.node(node.op, operands, node.attrs, batch.types()).outputs


def _matmul(batch: _Batch) -> tuple[Value, ...]:
    """A matrix that does not change goes to the right: there it multiplies all rounds in one product."""
    op, first, second = batch.op, batch.operand(0), batch.operand(1)
    (type,) = batch.types()
    if first.type.rank > 2 or second.type.rank != 3:
        return op.node("onnx.MatMul", [first, second], {}, [type]).outputs
    product = op.MatMul(op.transpose(second, (0, 2, 1)), op.transpose(first, (1, 0)))
    return (op.transpose(product, (0, 2, 1)),)


def _transpose(batch: _Batch) -> tuple[Value, ...]:
    """The axis of the rounds stays in front."""
    perm = perm_of(batch.node)
    assert perm is not None
    order = (0, *(axis + 1 for axis in perm))
    return (batch.op.transpose(batch.operand(0), order),)


def _reshape(batch: _Batch) -> tuple[Value, ...]:
    """The shape of a round, behind the axis of the rounds."""
    (type,) = batch.types()
    return (batch.op.reshape(batch.operand(0), type.shape),)


def _split(batch: _Batch) -> tuple[Value, ...]:
    """The axis of a Split, with that of the rounds in front."""
    node = batch.node
    axis = node.int_attr("axis", 0) % node.operand(0).type.rank + 1
    operands = [batch.operand(0), batch.operand(1)]
    attrs = {"axis": axis}
    return batch.op.node("onnx.Split", operands, attrs, batch.types()).outputs


def _slice(batch: _Batch) -> tuple[Value, ...]:
    """The axes count behind that of the rounds; `_rule` has seen that they are known."""
    node, op = batch.node, batch.op
    axes = node.operand(3).known_ints
    assert axes is not None
    rank = node.out.type.rank
    shifted = op.dims([axis % rank + 1 for axis in axes])
    operands = [batch.operand(0), batch.operand(1), batch.operand(2), shifted]
    if len(node.inputs) > 4:
        operands.append(batch.operand(4))
    return op.node("onnx.Slice", operands, {}, batch.types()).outputs


def _gather(batch: _Batch) -> tuple[Value, ...]:
    """The indices are constants; `_rule` has seen that."""
    node = batch.node
    axis = node.int_attr("axis", 0) % node.operand(0).type.rank + 1
    operands = [batch.operand(0), batch.operand(1)]
    return batch.op.node("onnx.Gather", operands, {"axis": axis}, batch.types()).outputs


def _softmax(batch: _Batch) -> tuple[Value, ...]:
    """The axis counts behind that of the rounds."""
    node = batch.node
    axis = node.int_attr("axis", -1) % node.out.type.rank + 1
    attrs = {**node.attrs, "axis": axis}
    return batch.op.node(node.op, [batch.operand(0)], attrs, batch.types()).outputs


def _reduction(batch: _Batch) -> tuple[Value, ...]:
    """The axes count behind that of the rounds; `_rule` has seen that they are known."""
    node = batch.node
    axes = node.operand(1).known_ints
    assert axes is not None
    rank = node.operand(0).type.rank
    shifted = batch.op.dims([axis % rank + 1 for axis in axes])
    operands = [batch.operand(0), shifted]
    return batch.op.node(node.op, operands, node.attrs, batch.types()).outputs


Rule: TypeAlias = Callable[[_Batch], "tuple[Value, ...]"]
RULES: dict[str, Rule] = {
    "onnx.LogSoftmax": _softmax,
    "onnx.MatMul": _matmul,
    "onnx.Reshape": _reshape,
    "onnx.Slice": _slice,
    "onnx.Softmax": _softmax,
    "onnx.Split": _split,
    "onnx.Squeeze": _reshape,
    "onnx.Transpose": _transpose,
    "onnx.Unsqueeze": _reshape,
}


def _rule(node: Node) -> Rule | None:
    """How a node is computed for all rounds at once; None where it is not."""
    if node.op == "onnx.Slice":
        return _slice if _knows_axes(node, 3) else None
    if node.op == "onnx.Gather":
        return None if node.operand(1).known_ints is None else _gather
    if node.op in REDUCTIONS:
        return _reduction if _knows_axes(node, 1) else None
    if node.op == "onnx.Split" and len(node.operands) < 2:
        return None
    if node.spec.elementwise:
        return _elementwise
    return RULES.get(node.op)


def _knows_axes(node: Node, index: int) -> bool:
    """Return True where an operand lists axes."""
    axes = node.optional(index)
    return axes is not None and bool(axes.known_ints)
