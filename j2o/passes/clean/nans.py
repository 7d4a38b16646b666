"""What is known of NaN: values that can have none."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Node, Value
from j2o.ir.ops import MOVES

# operators that make a NaN of nothing else
KEEPS = MOVES | {
    "onnx.Abs",
    "onnx.Ceil",
    "onnx.Clip",
    "onnx.Concat",
    "onnx.Erf",
    "onnx.Exp",
    "onnx.Floor",
    "onnx.Max",
    "onnx.Min",
    "onnx.Neg",
    "onnx.Relu",
    "onnx.Round",
    "onnx.Sigmoid",
    "onnx.Sign",
    "onnx.Tanh",
    "onnx.Where",
}
MOST = 32  # values that are looked at


def never_nan(x: Value) -> bool:
    """Return True where no element of `x` can be NaN.

    It comes from small constants without one, and from integers.
    """
    seen: set[Value] = set()
    waiting = [x]
    while waiting:
        value = waiting.pop()
        if value in seen or not value.type.dtype.is_float:
            continue
        seen.add(value)
        if value.const is not None:
            if not value.const.is_small or np.isnan(value.const.load()).any():
                return False
        elif value.node is None or len(seen) > MOST or not _keeps(value.node):
            return False
        else:
            waiting += value.node.operands
    return True


def _keeps(node: Node) -> bool:
    """Return True where only a NaN in an operand makes one in the result."""
    if node.op == "onnx.Cast":
        # a narrower float than 16 bits may have no infinity, and NaN in its place
        return node.out.type.dtype.bits >= 16
    return node.op in KEEPS
