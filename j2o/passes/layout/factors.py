"""Which constant factor a product or a quotient has, whichever side it stands on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

from j2o.ir.graph import Node, Value

Factor = TypeVar("Factor", float, np.ndarray)  # one number, or one a channel


def factor_of(
    node: Node, read: Callable[[Value], Factor | None]
) -> tuple[Value, Factor] | None:
    """What a product or a quotient is of, and by which constant that is multiplied; None for others.

    `read` gives the number, or numbers, that a value is; None where it does not know.
    """
    if node.op not in ("onnx.Mul", "onnx.Div"):
        return None
    left, right = node.operands
    number = read(right)
    if node.op == "onnx.Div":
        if number is None or not np.all(number):
            return None
        return left, 1.0 / number
    if number is not None:
        return left, number
    number = read(left)
    return None if number is None else (right, number)
