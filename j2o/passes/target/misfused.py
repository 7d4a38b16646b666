"""Copies that keep onnxruntime from a fusion to an operator that it then has no kernel of: it would not load.

Of `MatMul(x, Transpose(w))` it makes FusedMatMul (up to 1.25), of `x * Sigmoid(x)` QuickGelu (up to 1.30), in
f64 too. A Max of one operand is a copy that it leaves alone.
"""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.target import Target
from j2o.ir.types import DType


def product_apart(node: Node, target: Target) -> bool:
    """Copy what a product of f64 takes from a Transpose."""
    if not _is_misfused(node, target):
        return False
    found = False
    for index, value in enumerate(node.operands):
        if value.op == "onnx.Transpose":
            node.set_input(index, _copy(node, value))
            found = True
    return found


def gate_apart(node: Node, target: Target) -> bool:
    """Copy what a Sigmoid in f64 is multiplied by, where it is the Sigmoid of that, or of a multiple."""
    if not _is_misfused(node, target):
        return False
    for index, value in enumerate(node.operands):
        gate = node.operand(1 - index)
        if gate.op == "onnx.Sigmoid" and _is_of(gate.producer.operand(0), value):
            node.set_input(index, _copy(node, value))
            return True
    return False


def _is_misfused(node: Node, target: Target) -> bool:
    return node.op in target.misfused and node.out.type.dtype == DType.F64


def _is_of(value: Value, x: Value) -> bool:
    """Return True for `x`, and for a multiple of it."""
    is_product = value.op == "onnx.Mul"
    return value is x or (is_product and x in value.producer.operands)


def _copy(node: Node, value: Value) -> Value:
    op = Builder(node.home, node, node.loc, value.hint)
    return op.node("onnx.Max", [value]).out
