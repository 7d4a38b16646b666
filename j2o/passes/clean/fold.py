"""Constant folding: small constants are computed with, in numpy and in their own dtype; large ones recorded.

A large constant that is transposed, reshaped, cast, sliced, split, broadcast, padded or concatenated stays;
what happens to it is recorded (see `j2o.ir.views`) and done while the model is written.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import numpy as np

from j2o.ir import views
from j2o.ir.copies import splice
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import SMALL, ArrayTensor, Tensor, tensor
from j2o.ir.types import DType
from j2o.passes.clean.broadcasts import BROADCASTING
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

# how many times its size a large constant may grow by being broadcast or padded
GROWTH = 4

# (node, *operands) → the results; None where the node stays
Compute: TypeAlias = Callable[..., "np.ndarray | None"]
Record: TypeAlias = Callable[..., "Tensor | tuple[Tensor, ...] | None"]
Rule = TypeVar("Rule", bound=Callable[..., Any])


@graph_pass("fold", at="onnx", level=1)
def fold(graph: Graph, context: Context) -> int:
    """Replace nodes whose operands are constants by constants."""
    count = 0
    for node in context.fresh(graph, fold, 0):
        if node.graph is not graph:
            continue
        if node.op == "onnx.If" and _fold_if(node):
            count += 1
            continue
        tensors = _fold_node(node) if _is_constant(node) else None
        if tensors is None:
            continue
        new = [
            _insert_constant(node, found, old.hint)
            for found, old in zip(tensors, node.outputs, strict=True)
        ]
        node.replace_by(*new)
        count += 1
    return count


def _insert_constant(node: Node, found: Tensor, hint: str) -> Value:
    """A constant in front of a node, with its location."""
    types, attrs = (found.type,), {"value": found}
    const = Node("const", (), types, attrs, (), node.loc, (hint,))
    return node.home.insert(const, before=node).out


def _fold_if(node: Node) -> bool:
    """Put the branch that a constant predicate chooses in place of the If."""
    cond = node.inputs[0].const if node.inputs[0] is not None else None
    if cond is None:
        return False
    branch = node.graphs[0 if cond.scalar else 1]
    node.replace_by(*splice(branch, (), node))
    return True


def _fold_node(node: Node) -> tuple[Tensor, ...] | None:
    """The constants that the results of a node of constants are; None where it stays."""
    if node.dialect != "onnx":
        return None
    kind = node.kind
    if not (kind in RECORDED or kind in RECORDED_LARGE or kind in COMPUTED):
        return None
    constants = [None if v is None else v.const for v in node.inputs]
    large = any(c is not None and not c.is_small for c in constants)
    if large:
        if not _pays(node):
            return None
    elif not _stays_small(node):
        return None
    record = RECORDED.get(kind)
    if record is None and large:
        record = RECORDED_LARGE.get(kind)
    if record is not None:
        recorded = record(node, *constants)
        return (recorded,) if isinstance(recorded, Tensor) else recorded
    return None if large else _compute(node, COMPUTED[kind], constants)


def _is_constant(node: Node) -> bool:
    """Return True where the operands are constants and the results have static shapes."""
    if not node.inputs:
        return False
    for value in node.inputs:  # most nodes end here, and a loop is faster than `any`
        if value is not None and (value.node is None or value.node.op != "const"):
            return False
    return all(v.type.is_static for v in node.outputs)


def _bytes(value: Value) -> int:
    return math.prod(value.type.static_shape) * value.type.dtype.bits // 8


def _stays_small(node: Node) -> bool:
    """Return True where small operands give a small result, or only stand in another order in it."""
    size = sum(map(_bytes, node.outputs))
    is_recorded = node.kind in RECORDED
    return size <= SMALL or (is_recorded and size <= sum(map(_bytes, node.operands)))


def _pays(node: Node) -> bool:
    """Return True where folding a node of large constants leaves a model of about the same size."""
    operands = node.operands
    if sum(map(_bytes, node.outputs)) > GROWTH * sum(map(_bytes, operands)):
        return False
    return all(map(_may_go, operands))


def _may_go(value: Value) -> bool:
    """Return True where a constant is small, or will not be stored beside what is made of it."""
    if value.const is not None and value.const.is_small:
        return True
    return len(value.uses) == 1 or _used_in_parts(value)


def _used_in_parts(value: Value) -> bool:
    """Return True where what all uses of a large constant make of it is recorded too and no larger in all."""
    users = list(value.users())
    if not all(map(_is_recorded, users)):
        return False
    parts = [part for user in users for part in user.outputs]
    return sum(map(_bytes, parts)) <= _bytes(value)


def _is_recorded(node: Node) -> bool:
    if node.dialect != "onnx":
        return False
    if node.kind not in RECORDED and node.kind not in RECORDED_LARGE:
        return False
    return _is_constant(node)


def _compute(
    node: Node, compute: Compute, constants: Sequence[Tensor | None]
) -> tuple[Tensor, ...] | None:
    """The result of a node in its dtype; None where `compute` declines."""
    arrays = [None if c is None else c.load() for c in constants]
    # the program's numbers may overflow, also where they are rounded to its dtype
    with np.errstate(all="ignore"):
        out = compute(node, *arrays)
        if out is None:
            return None
        array = np.asarray(out).astype(node.out.type.dtype.numpy, copy=False)
    if array.shape != node.out.type.shape:
        raise ValueError(
            f"folding {node.op} gave {array.shape} instead of {node.out.type}"
        )
    name = views.name_of_one([c for c in constants if c is not None])
    contiguous = np.ascontiguousarray(array).reshape(array.shape)
    return (ArrayTensor(contiguous, name=name),)


# ------------------------------------------------------------------------------ computed, small operands

COMPUTED: dict[str, Compute] = {}


def computes(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function `(node, *arrays)` computes these operators; an operand left out is None.

    It returns an array in any dtype, which is rounded to the node's once, or None to leave the node alone.
    """
    return _enters(COMPUTED, kinds)


def _enters(table: dict[str, Any], kinds: Sequence[str]) -> Callable[[Rule], Rule]:
    """Decorator that enters a function into a table under each of `kinds`."""

    def enter(function: Rule) -> Rule:
        table.update(dict.fromkeys(kinds, function))
        return function

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
    return AS_NUMPY[node.kind](*arrays)


@computes(*IN_DOUBLE)
def _in_double(node: Node, *arrays: np.ndarray) -> np.ndarray:
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
    if node.out.type.dtype.is_int and np.any(y == 0):
        return None
    return np.fmod(x, y) if node.int_attr("fmod", 0) else np.mod(x, y)


@computes("BitShift")
def _shift(node: Node, x: np.ndarray, by: np.ndarray) -> np.ndarray | None:
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


# ------------------------------------------------------------------------------ recorded, of any size

RECORDED: dict[str, Record] = {}


def records(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function `(node, *tensors)` records these operators as views of tensors of any size.

    It returns a tensor, one for each result, or None to leave the node alone.
    """
    return _enters(RECORDED, kinds)


@records("Identity")
def _identity(node: Node, x: Tensor) -> Tensor:
    return x


@records("Transpose")
def _transpose(node: Node, x: Tensor) -> Tensor:
    reverse = tuple(range(len(x.shape)))[::-1]
    return views.transposed(x, node.ints_attr("perm", reverse))


@records("Reshape", "Squeeze", "Unsqueeze", "Flatten")
def _reshape(node: Node, x: Tensor, *_: Tensor | None) -> Tensor:
    return views.reshaped(x, node.out.type.static_shape)


@records("Slice")
def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    firsts, lasts = starts.load().tolist(), ends.load().tolist()
    along = range(len(firsts)) if axes is None else axes.load().tolist()
    strides = [1] * len(firsts) if steps is None else steps.load().tolist()
    where = [slice(None)] * len(x.shape)
    for axis, first, last, step in zip(along, firsts, lasts, strides, strict=True):
        # an end before the first element, as only a step back has it
        if step < 0 and last < -x.shape[axis]:
            last = None
        where[axis] = slice(first, last, step)
    return views.sliced(x, tuple(where))


@records("Split")
def _split(node: Node, x: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    axis = _axis(node, x)
    parts, start = [], 0
    for value in node.outputs:
        end = start + value.type.static_shape[axis]
        where = [slice(None)] * len(x.shape)
        where[axis] = slice(start, end)
        parts.append(views.sliced(x, tuple(where)))
        start = end
    return tuple(parts)


@records("Expand")
def _expand(node: Node, x: Tensor, _: Tensor) -> Tensor | None:
    large = _bytes(node.out) > SMALL
    if large and any(user.op in BROADCASTING for user in node.out.users()):
        return None  # these take the constant as it is
    return views.broadcasted(x, node.out.type.static_shape)


@records("Tile")
def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return views.tiled(x, repeats.load().tolist())


@records("Pad")
def _pad(
    node: Node,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor | None:
    """A constant around a tensor, on all axes; what Pad takes away stays with the runtime."""
    if axes is not None or node.str_attr("mode", "constant") != "constant":
        return None
    amounts = pads.load()
    if np.any(amounts < 0):
        return None
    fill = tensor(0, x.dtype) if value is None else views.reshaped(value, ())
    return views.padded(x, amounts.reshape(2, -1).T.tolist(), fill)


@records("Gather")
def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor | None:
    if not index.is_small:
        return None
    taken = views.taken(x, index.load().reshape(-1), _axis(node, x))
    return _reshape(node, taken)


@records("Concat")
def _concat(node: Node, *parts: Tensor) -> Tensor:
    return views.concatenated(parts, _axis(node, parts[0]))


def _axis(node: Node, x: Tensor) -> int:
    return node.int_attr("axis", 0) % len(x.shape)


# ------------------------------------------------------------------------------ recorded, large operands

RECORDED_LARGE: dict[str, Record] = {}


def records_large(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator like `records`, for operators that are computed at once where all operands are small."""
    return _enters(RECORDED_LARGE, kinds)


@records_large("Cast")
def _record_cast(node: Node, x: Tensor) -> Tensor | None:
    """A conversion of floats to floats, or of integers to a dtype as wide at most."""
    to = node.out.type.dtype
    if x.dtype.is_float:
        return views.casted(x, to) if to.is_float else None
    if not x.dtype.is_int or not (to.is_int or to.is_float):
        return None
    return views.casted(x, to) if 8 <= to.bits <= x.dtype.bits else None


@records_large("Add", "Sub", "Mul", "Div", "Neg")
def _record_elementwise(node: Node, *operands: Tensor) -> Tensor | None:
    if not node.out.type.dtype.is_float:
        return None
    compute = COMPUTED[node.kind]

    def computed(*arrays: np.ndarray) -> Any:
        return compute(node, *arrays)

    return views.mapped(computed, node.kind, node.out.type, *operands)
