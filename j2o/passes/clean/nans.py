"""What is known of NaN: values that can have none."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.ops import MOVES


def never_nan(x: Value) -> bool:
    """Return True where no element of `x` can be NaN.

    It comes from a small constant without one, or from integers.
    """
    while x.type.dtype.is_float:
        node = x.node
        if node is None:
            return False
        if x.const is not None:
            return x.const.is_small and not np.isnan(x.const.load()).any()
        if node.op == "onnx.Pad":
            filled = node.optional(2)
            if filled is not None and not never_nan(filled):
                return False
        elif node.op == "onnx.Cast":
            # a narrower float than 16 bits may have no infinity, and NaN in its place
            if x.type.dtype.bits < 16:
                return False
        elif node.op not in MOVES:
            return False
        x = node.operand(0)
    return True
