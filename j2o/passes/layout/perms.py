"""Orders of axes: which one a Transpose makes, which one undoes it, and what it costs.

`perm` is ONNX's: axis `perm[i]` of the operand is axis `i` of the result. So f32[B,H,W,C] transposed by
(0, 3, 1, 2) is f32[B,C,H,W], and (0, 2, 3, 1) undoes it.
"""

from __future__ import annotations

import functools
import math
from typing import TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, is_one

Perm: TypeAlias = "tuple[int, ...]"
NODE = 64.0  # what a transpose costs besides its elements
TYPICAL = 128  # what a symbolic size counts as when transposes are weighed


def perm_of(node: Node | None) -> Perm | None:
    """The permutation of a Transpose, else None."""
    if node is None or node.op != "onnx.Transpose":
        return None
    return node.ints_attr("perm", range(node.out.type.rank)[::-1])


@functools.cache
def inverse(perm: Perm) -> Perm:
    """The permutation that undoes `perm`."""
    return tuple(np.argsort(perm).tolist())


def moves_only_ones(result: Value, perm: Perm) -> bool:
    """Return True where a transpose by `perm` with this result leaves the elements in their order.

    So it is where axes of size 1 alone change places, as behind a reduction that keeps its axes. Such a
    transpose is a Reshape.
    """
    order: list[int] = []
    for axis, size in zip(perm, result.type.shape, strict=True):
        if not is_one(size):
            order.append(axis)
    return order == sorted(order)


def elements_to_move(value: Value) -> float:
    """The cost of transposing a tensor: its elements, and something for the node itself."""
    return math.prod(map(_typical, value.type.shape)) + NODE


@functools.lru_cache(maxsize=65536)
def _typical(dim: Dim) -> int:
    """A size as a number, each symbol being TYPICAL."""
    if type(dim) is int:
        return dim
    sizes = dict.fromkeys(dims.symbols(dim), TYPICAL)
    return max(1, dims.evaluate(dim, sizes))
