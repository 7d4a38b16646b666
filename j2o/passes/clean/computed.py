"""What operators make of small constants, computed by numpy in their own dtype: see `fold.py`.

A rule declines, by None, where what comes out is left to the runtime: a division of integers by 0, a shift
past the width, a float beyond what an integer dtype holds.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from j2o.ir.graph import Node
from j2o.ir.types import DType

# (node, *operands) → the result; None where the node stays
Compute: TypeAlias = Callable[..., "np.ndarray | None"]
Rule = TypeVar("Rule", bound=Compute)
COMPUTED: dict[str, Compute] = {}


def computes(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function `(node, *arrays)` computes these operators; an operand left out is None.

    It returns an array in any dtype, which is rounded to the node's once, or None to leave the node alone.
    """

    def enter(compute: Rule) -> Rule:
        COMPUTED.update(dict.fromkeys(kinds, compute))
        return compute

    return enter


# numpy computes these as ONNX defines them, in the dtype of the operands
AS_NUMPY: dict[str, Callable[..., Any]] = {
    "Abs": np.abs,
    "Add": np.add,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "MatMul": np.matmul,
    "Mul": np.multiply,
    "Neg": np.negative,
    "Round": np.rint,
    "Sign": np.sign,
    "Sqrt": np.sqrt,
    "Sub": np.subtract,
    # Booleans and bits
    "And": np.logical_and,
    "BitwiseAnd": np.bitwise_and,
    "BitwiseNot": np.bitwise_not,
    "BitwiseOr": np.bitwise_or,
    "BitwiseXor": np.bitwise_xor,
    "Not": np.logical_not,
    "Or": np.logical_or,
    "Xor": np.logical_xor,
    # comparisons and selection
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "IsNaN": np.isnan,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
    "Where": np.where,
}

# these are computed in double precision and rounded once: numpy's own float32 ones are coarser
IN_DOUBLE: dict[str, Callable[..., Any]] = {
    "Acos": np.arccos,
    "Asin": np.arcsin,
    "Atan": np.arctan,
    "Cos": np.cos,
    "Cosh": np.cosh,
    "Exp": np.exp,
    "Log": np.log,
    "Sin": np.sin,
    "Sinh": np.sinh,
    "Tan": np.tan,
    "Tanh": np.tanh,
}


@computes(*AS_NUMPY)
def _as_numpy(node: Node, *arrays: np.ndarray) -> np.ndarray:
    """Operators that numpy computes under another name."""
    return AS_NUMPY[node.kind](*arrays)


@computes(*IN_DOUBLE)
def _in_double(node: Node, *arrays: np.ndarray) -> np.ndarray:
    """Functions that are computed in float64, and rounded at the end."""
    return IN_DOUBLE[node.kind](*map(_double, arrays))


def _double(array: np.ndarray) -> np.ndarray:
    """Floats in double precision; Booleans and integers as they are."""
    return array if array.dtype.kind in "biu" else array.astype(np.float64)


@computes("Sigmoid")
def _sigmoid(node: Node, x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-_double(x)))


@computes("Reciprocal")
def _reciprocal(node: Node, x: np.ndarray) -> np.ndarray:
    return np.divide(x.dtype.type(1), x)


@computes("Pow")
def _pow(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Powers of floats; those of integers wrap in ways of their own."""
    if node.out.type.dtype.is_int:
        return None
    return np.power(x.astype(np.float64), y.astype(np.float64))


@computes("Relu")
def _relu(node: Node, x: np.ndarray) -> np.ndarray:
    return np.maximum(x, x.dtype.type(0))


@computes("Erf")
def _erf(node: Node, x: np.ndarray) -> np.ndarray:
    values = [math.erf(value) for value in x.astype(np.float64).flat]
    return np.array(values).reshape(x.shape)


@computes("Max")
def _max(node: Node, *arrays: np.ndarray) -> np.ndarray:
    return functools.reduce(np.maximum, arrays)


@computes("Min")
def _min(node: Node, *arrays: np.ndarray) -> np.ndarray:
    return functools.reduce(np.minimum, arrays)


@computes("Clip")
def _clip(
    node: Node,
    x: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> np.ndarray:
    raised = x if low is None else np.maximum(x, low)
    return raised if high is None else np.minimum(raised, high)


@computes("Div")
def _divide(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """Division; that of integers by 0, and of the lowest by -1, is the runtime's choice."""
    dtype = node.out.type.dtype
    if not dtype.is_int:
        return np.divide(x, y)
    if np.any(y == 0):
        return None
    least, _ = dtype.integers
    if dtype.is_signed and np.any((x == least) & (y == -1)):
        return None
    quotient = x // y
    # numpy floors, ONNX truncates
    floored = (quotient < 0) & (quotient * y != x)
    return quotient + floored.astype(x.dtype)


@computes("Mod")
def _mod(node: Node, x: np.ndarray, y: np.ndarray) -> np.ndarray | None:
    """None for integers where a divisor is 0: what that gives is not laid down."""
    if node.out.type.dtype.is_int and np.any(y == 0):
        return None
    return np.fmod(x, y) if node.int_attr("fmod", 0) else np.mod(x, y)


@computes("BitShift")
def _shift(node: Node, x: np.ndarray, by: np.ndarray) -> np.ndarray | None:
    """None where bits are shifted past the width: what that gives is not laid down."""
    if np.any(by >= node.out.type.dtype.bits):
        return None
    if node.str_attr("direction") == "LEFT":
        return np.left_shift(x, by)
    return np.right_shift(x, by)


@computes("Cast")
def _cast(node: Node, x: np.ndarray) -> np.ndarray | None:
    """A conversion; what comes out of range of the dtype is the runtime's choice."""
    to = node.out.type.dtype
    source = node.operand(0).type.dtype
    if source.is_float and to.is_int and not _in_range(x, to):
        return None
    if source.is_int and source.bits < 8:
        x = x.astype(np.int16)  # numpy has no conversion from one such dtype to another
    cast = x.astype(to.numpy)
    saturates = to.is_float and to.bits == 8 and node.int_attr("saturate", 1)
    if saturates and not np.isfinite(cast.astype(np.float32)).all():
        return None  # numpy's conversion does not saturate
    return cast


def _in_range(x: np.ndarray, to: DType) -> bool:
    """Return True where floats are values of an integer dtype of 8 bits or more, once truncated."""
    if to.bits < 8:
        return False
    least, greatest = to.integers
    wide = x.astype(np.float64)
    return bool(np.all((wide >= least) & (wide < float(greatest) + 1)))


@computes("ReduceSum")
def _sum(
    node: Node, x: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray | None:
    return _reduced(np.sum, node, x, axes)


@computes("ReduceMean")
def _mean(
    node: Node, x: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray | None:
    """None for integers, and for the mean of nothing."""
    if node.out.type.dtype.is_int or not x.size:
        return None
    return _reduced(np.mean, node, x.astype(np.float64), axes)


@computes("ReduceProd")
def _prod(
    node: Node, x: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray | None:
    return _reduced(np.prod, node, x, axes)


@computes("ReduceMax")
def _greatest(
    node: Node, x: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray | None:
    return _reduced(np.max, node, x, axes) if x.size else None


@computes("ReduceMin")
def _least(
    node: Node, x: np.ndarray, axes: np.ndarray | None = None
) -> np.ndarray | None:
    return _reduced(np.min, node, x, axes) if x.size else None


def _reduced(
    fn: Callable[..., Any], node: Node, x: np.ndarray, axes: np.ndarray | None
) -> np.ndarray:
    """A reduction over `axes`; no axes mean all of them, or none where the attribute says so."""
    over = None
    if axes is not None and axes.size:
        over = tuple(map(int, axes))
    elif node.int_attr("noop_with_empty_axes", 0):
        return x
    return fn(x, axis=over, keepdims=bool(node.int_attr("keepdims", 1)))


# how a scatter combines what is there with what comes; its max and min of floats overlook NaN as they like
COMBINED: dict[str, np.ufunc] = {
    "add": np.add,
    "mul": np.multiply,
    "max": np.maximum,
    "min": np.minimum,
}


@computes("ScatterND")
def _scatter(
    node: Node, x: np.ndarray, places: np.ndarray, updates: np.ndarray
) -> np.ndarray | None:
    """Updates put, or combined, one after the other; which of several that meet is left, ONNX leaves open."""
    depth = places.shape[-1]
    ends = np.array(x.shape[:depth])
    if np.any((places < -ends) | (places >= ends)):
        return None  # the runtime refuses these
    where = tuple(np.moveaxis(places, -1, 0))
    out = x.copy()
    reduction = node.str_attr("reduction", "none")
    if reduction == "none":
        out[where] = updates
        return out
    if reduction in ("max", "min") and node.out.type.dtype.is_float:
        return None
    COMBINED[reduction].at(out, where, updates)
    return out


@computes("CumSum")
def _cumsum(node: Node, x: np.ndarray, axis: np.ndarray) -> np.ndarray | None:
    """None for sums that leave out their own element."""
    if node.int_attr("exclusive", 0):
        return None
    along = int(axis)
    if not node.int_attr("reverse", 0):
        return np.cumsum(x, along, dtype=x.dtype)
    backwards = np.cumsum(np.flip(x, along), along, dtype=x.dtype)
    return np.flip(backwards, along)


@computes("Trilu")
def _trilu(node: Node, x: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
    diagonal = 0 if k is None else int(k)
    if node.int_attr("upper", 1):
        return np.triu(x, diagonal)
    return np.tril(x, diagonal)


@computes("GatherElements")
def _gather_elements(node: Node, x: np.ndarray, indices: np.ndarray) -> np.ndarray:
    axis = node.int_attr("axis", 0)
    from_front = np.where(indices < 0, indices + x.shape[axis], indices)
    return np.take_along_axis(x, from_front, axis)


@computes("Range")
def _range(
    node: Node, start: np.ndarray, stop: np.ndarray, step: np.ndarray
) -> np.ndarray:
    count = node.out.type.static_shape[0]
    return start + np.arange(count, dtype=start.dtype) * step
