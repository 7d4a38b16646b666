"""Constant folding: small constants are computed with, in numpy and in their own dtype; large ones only recorded.

A large constant that is transposed, reshaped, cast, sliced, split, broadcast, padded or concatenated stays where it is;
what happens to it is recorded (see `j2o.ir.views`) and done while the model is written.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from j2o.ir import views
from j2o.ir.graph import Graph, Node, Value, splice
from j2o.ir.tensor import SMALL, ArrayTensor, Tensor, tensor
from j2o.passes.clean.broadcasts import BROADCASTING
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

GROWTH = (
    4  # how many times its size a large constant may grow by being broadcast or padded
)
Fold: TypeAlias = Callable[..., "np.ndarray | None"]


@graph_pass("fold", at="onnx", level=1)
def fold(graph: Graph, context: Context) -> int:
    """Replace nodes whose operands are constants by constants."""
    count = 0
    for node in context.fresh(graph, fold, 0):
        if not node.op.startswith("onnx.") or node.graph is not graph:
            continue
        if node.kind == "If" and _fold_if(node):
            count += 1
            continue
        values = _fold_node(node)
        if values is None:
            continue
        new = [graph.insert(Node("const", (), (t.type,), {"value": t}, (), node.loc, (v.hint,)), before=node).out
               for t, v in zip(values, node.outputs, strict=True)]  # fmt: skip
        node.replace_by(*new)
        count += 1
    return count


def _fold_if(node: Node) -> bool:
    """Put the branch that a constant predicate chooses in place of the If."""
    cond = node.inputs[0].const if node.inputs[0] is not None else None
    if cond is None:
        return False
    branch = node.graphs[0 if cond.scalar else 1]
    node.replace_by(*splice(branch, (), node))
    return True


def _fold_node(node: Node) -> tuple[Tensor, ...] | None:
    if not (
        node.kind in VIEWS or node.kind in RECORDED or node.kind in COMPUTED
    ) or not _is_constant(node):
        return None
    large = any(v is not None and not v.const.is_small for v in node.inputs)  # type: ignore[union-attr]
    if not (_pays(node) if large else sum(map(_bytes, node.outputs)) <= SMALL):
        return None
    record = VIEWS.get(node.kind) or (RECORDED.get(node.kind) if large else None)
    if record is None:
        return _compute(node, COMPUTED[node.kind]) if not large else None
    recorded = record(node, *(v.const if v is not None else None for v in node.inputs))
    return (recorded,) if isinstance(recorded, Tensor) else recorded


def _is_constant(node: Node) -> bool:
    """Whether the operands are constants and the results have static shapes."""
    known = all(v is None or v.const is not None for v in node.inputs) and all(
        v.type.is_static for v in node.outputs
    )
    return bool(node.inputs) and known


def _bytes(value: Value) -> int:
    return math.prod(value.type.shape) * value.type.dtype.bits // 8  # type: ignore[arg-type]


def _pays(node: Node) -> bool:
    """Whether folding a node of large constants leaves a model of about the same size."""
    operands = [v for v in node.inputs if v is not None]
    if sum(map(_bytes, node.outputs)) > GROWTH * sum(map(_bytes, operands)):
        return False
    return all(
        v.const.is_small or len(v.uses) == 1 or _used_in_parts(v) for v in operands
    )  # type: ignore[union-attr]


def _used_in_parts(value: Value) -> bool:
    """Whether what all the uses of a large constant make of it is recorded too and no larger in all."""
    users = list(value.users())
    recorded = all(
        n.op.startswith("onnx.") and n.kind in VIEWS | RECORDED and _is_constant(n)
        for n in users
    )
    return recorded and sum(_bytes(v) for n in users for v in n.outputs) <= _bytes(
        value
    )


def _compute(node: Node, fn: Fold) -> tuple[Tensor, ...] | None:
    arrays = [None if v is None else v.const.load() for v in node.inputs]  # type: ignore[union-attr]
    with np.errstate(
        all="ignore"
    ):  # the program's numbers may overflow, also where they are rounded to its dtype
        out = fn(node, *arrays)
        if out is None:
            return None
        array = np.asarray(out).astype(node.out.type.dtype.numpy, copy=False)
    if array.shape != node.out.type.shape:
        raise ValueError(
            f"folding {node.op} gave {array.shape} instead of {node.out.type}"
        )
    return (ArrayTensor(np.ascontiguousarray(array).reshape(array.shape)),)


# ------------------------------------------------------------------------------ computed, small operands


def _numpy(fn: Callable[..., Any]) -> Fold:
    return lambda node, *arrays: fn(*arrays)


def _wide(fn: Callable[..., Any]) -> Fold:
    """A floating-point function evaluated in double precision and rounded once (numpy's own float32 ones are coarser)."""

    def call(node: Node, *arrays: np.ndarray) -> np.ndarray:
        return fn(
            *(a.astype(np.float64) if a.dtype.kind not in "biu" else a for a in arrays)
        )

    return call


def _divide(node: Node, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    if not node.out.type.dtype.is_int:
        return np.divide(a, b)
    if np.any(b == 0):
        return None
    lowest = np.iinfo(a.dtype).min if node.out.type.dtype.is_signed else None
    if lowest is not None and np.any((a == lowest) & (b == -1)):
        return None
    quotient = a // b
    return quotient + ((quotient < 0) & (quotient * b != a)).astype(
        a.dtype
    )  # numpy floors, ONNX truncates


def _mod(node: Node, a: np.ndarray, b: np.ndarray) -> np.ndarray | None:
    if node.out.type.dtype.is_int and np.any(b == 0):
        return None
    return np.fmod(a, b) if node.attrs.get("fmod") else np.mod(a, b)


def _cast(node: Node, x: np.ndarray) -> np.ndarray | None:
    to = node.out.type.dtype
    if node.inputs[0].type.dtype.is_float and to.is_int:  # type: ignore[union-attr]
        if not to.bits >= 8:
            return None
        info = np.iinfo(to.numpy)
        wide = x.astype(np.float64)
        if not np.all((wide >= info.min) & (wide < float(info.max) + 1)):
            return None  # what comes out of range is the runtime's choice
    cast = x.astype(to.numpy)
    saturates = to.is_float and to.bits == 8 and node.attrs.get("saturate", 1)
    if saturates and not np.isfinite(cast.astype(np.float32)).all():
        return None  # numpy's conversion does not
    return cast


def _shift(node: Node, x: np.ndarray, n: np.ndarray) -> np.ndarray | None:
    if np.any(n >= x.dtype.itemsize * 8):
        return None
    return (
        np.left_shift(x, n)
        if node.attrs["direction"] == "LEFT"
        else np.right_shift(x, n)
    )


def _reduce(fn: Callable[..., Any]) -> Fold:
    def call(node: Node, x: np.ndarray, axes: np.ndarray | None = None) -> np.ndarray:
        if axes is None or axes.size == 0:
            if node.attrs.get("noop_with_empty_axes"):
                return x
            over = None
        else:
            over = tuple(int(a) for a in axes)
        return fn(x, axis=over, keepdims=bool(node.attrs.get("keepdims", 1)))

    return call


def _cumsum(node: Node, x: np.ndarray, axis: np.ndarray) -> np.ndarray | None:
    if node.attrs.get("exclusive"):
        return None
    if node.attrs.get("reverse"):
        return np.flip(
            np.cumsum(np.flip(x, int(axis)), int(axis), dtype=x.dtype), int(axis)
        )
    return np.cumsum(x, int(axis), dtype=x.dtype)


def _trilu(node: Node, x: np.ndarray, k: np.ndarray | None = None) -> np.ndarray:
    return (np.triu if node.attrs.get("upper", 1) else np.tril)(
        x, 0 if k is None else int(k)
    )


def _clip(
    node: Node,
    x: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
) -> np.ndarray:
    x = x if low is None else np.maximum(x, low)
    return x if high is None else np.minimum(x, high)


def _perm(node: Node) -> tuple[int, ...]:
    perm = node.attrs.get("perm")
    return (
        tuple(perm)
        if perm is not None
        else tuple(range(node.inputs[0].type.rank))[::-1]
    )  # type: ignore[arg-type, union-attr]


COMPUTED: dict[str, Fold] = {
    **{name: _numpy(fn) for name, fn in {
        "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Neg": np.negative, "Abs": np.abs, "Sign": np.sign,
        "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint, "Not": np.logical_not, "And": np.logical_and,
        "Or": np.logical_or, "Xor": np.logical_xor, "BitwiseAnd": np.bitwise_and, "BitwiseOr": np.bitwise_or,
        "BitwiseXor": np.bitwise_xor, "BitwiseNot": np.bitwise_not, "Equal": np.equal, "Less": np.less,
        "LessOrEqual": np.less_equal, "Greater": np.greater, "GreaterOrEqual": np.greater_equal, "Where": np.where,
        "IsNaN": np.isnan, "Sqrt": np.sqrt, "Reciprocal": lambda x: np.divide(x.dtype.type(1), x),
        "MatMul": np.matmul,
    }.items()},
    **{name: _wide(fn) for name, fn in {
        "Exp": np.exp, "Log": np.log, "Sin": np.sin, "Cos": np.cos, "Tan": np.tan, "Tanh": np.tanh, "Asin": np.arcsin,
        "Acos": np.arccos, "Atan": np.arctan, "Sinh": np.sinh, "Cosh": np.cosh,
        "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }.items()},
    "Pow": lambda node, x, y: None if node.out.type.dtype.is_int else np.power(x.astype(np.float64), y.astype(np.float64)),
    "Max": lambda node, *xs: functools.reduce(np.maximum, xs),
    "Min": lambda node, *xs: functools.reduce(np.minimum, xs),
    "Div": _divide,
    "Mod": _mod,
    "Cast": _cast,
    "BitShift": _shift,
    "Clip": _clip,
    "GatherElements": lambda node, x, i: np.take_along_axis(x, np.where(i < 0, i + x.shape[int(node.attrs.get("axis", 0))], i), int(node.attrs.get("axis", 0))),  # type: ignore[arg-type]
    "Trilu": _trilu,
    "CumSum": _cumsum,
    "Range": lambda node, start, stop, step: start + np.arange(node.out.type.shape[0], dtype=start.dtype) * step,
    "ReduceSum": _reduce(np.sum),
    "ReduceProd": _reduce(np.prod),
    "ReduceMax": lambda node, x, axes=None: _reduce(np.max)(node, x, axes) if x.size else None,
    "ReduceMin": lambda node, x, axes=None: _reduce(np.min)(node, x, axes) if x.size else None,
}  # fmt: skip


# ------------------------------------------------------------------------------ views, of any size


def _slice(node: Node, x: Tensor, *bounds: Tensor | None) -> Tensor:
    starts, ends, axes, steps = (
        None if b is None else b.load().tolist() for b in (*bounds, None, None)[:4]
    )
    where = [slice(None)] * len(x.shape)
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):  # type: ignore[arg-type]
        axis = axes[i] if axes is not None else i
        step = steps[i] if steps is not None else 1
        where[axis] = slice(
            start, None if step < 0 and end < -x.shape[axis] else end, step
        )
    return views.sliced(x, tuple(where))


def _split(node: Node, x: Tensor, *_: Tensor | None) -> tuple[Tensor, ...]:
    axis = _axis(node, x)
    ends = np.cumsum([v.type.shape[axis] for v in node.outputs]).tolist()
    return tuple(
        views.sliced(
            x,
            tuple(
                slice(a, b) if k == axis else slice(None) for k in range(len(x.shape))
            ),
        )
        for a, b in zip([0, *ends], ends, strict=False)
    )


def _expand(node: Node, x: Tensor, _: Tensor) -> Tensor | None:
    if _bytes(node.out) > SMALL and any(
        user.op in BROADCASTING for user in node.out.users()
    ):
        return None  # these take the constant as it is
    return views.broadcasted(x, node.out.type.shape)  # type: ignore[arg-type]


def _pad(
    node: Node,
    x: Tensor,
    pads: Tensor,
    value: Tensor | None = None,
    axes: Tensor | None = None,
) -> Tensor | None:
    amounts = pads.load()
    if (
        axes is not None
        or node.attrs.get("mode", "constant") != "constant"
        or np.any(amounts < 0)
    ):
        return None
    fill = tensor(0, x.dtype) if value is None else views.reshaped(value, ())
    return views.padded(x, amounts.reshape(2, -1).T.tolist(), fill)


def _gather(node: Node, x: Tensor, index: Tensor) -> Tensor | None:
    if not index.is_small:
        return None
    return _reshape(node, views.taken(x, index.load().reshape(-1), _axis(node, x)))


def _reshape(node: Node, x: Tensor, *_: Tensor | None) -> Tensor:
    return views.reshaped(x, node.out.type.shape)  # type: ignore[arg-type]


def _axis(node: Node, x: Tensor) -> int:
    return int(node.attrs.get("axis", 0)) % len(x.shape)  # type: ignore[call-overload, operator]


VIEWS: dict[str, Callable[..., Tensor | tuple[Tensor, ...] | None]] = {
    "Identity": lambda node, x: x,
    "Transpose": lambda node, x: views.transposed(x, _perm(node)),
    **dict.fromkeys(("Reshape", "Squeeze", "Unsqueeze", "Flatten"), _reshape),
    "Slice": _slice,
    "Split": _split,
    "Expand": _expand,
    "Pad": _pad,
    "Tile": lambda node, x, repeats: views.tiled(x, repeats.load().tolist()),
    "Gather": _gather,
    "Concat": lambda node, *parts: views.concatenated(parts, _axis(node, parts[0])),
}


# ------------------------------------------------------------------------------ recorded, large operands


def _record_cast(node: Node, x: Tensor) -> Tensor | None:
    to = node.out.type.dtype
    narrower = (
        x.dtype.is_int and 8 <= to.bits <= x.dtype.bits and (to.is_int or to.is_float)
    )
    return (
        views.casted(x, to) if narrower or (x.dtype.is_float and to.is_float) else None
    )


def _record_elementwise(node: Node, *operands: Tensor) -> Tensor | None:
    if not node.out.type.dtype.is_float:
        return None
    fn = COMPUTED[node.kind]
    return views.mapped(
        lambda *arrays: fn(node, *arrays), node.kind, node.out.type, *operands
    )  # type: ignore[arg-type, return-value]


RECORDED: dict[str, Callable[..., Tensor | None]] = {
    "Cast": _record_cast,
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Neg"), _record_elementwise),
}
