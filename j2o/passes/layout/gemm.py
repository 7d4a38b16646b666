"""Linear operators and what follows them: per-channel scales and shifts go into a convolution's weights and bias (so a
batch norm in evaluation disappears), and a two-dimensional MatMul with a bias becomes one Gemm."""

from __future__ import annotations

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor
from j2o.passes.pipeline import graph_pass

AFFINE = frozenset({"onnx.Add", "onnx.Sub", "onnx.Mul", "onnx.Div"})


@graph_pass("gemm", at="onnx", level=2)
def gemm(graph: Graph) -> int:
    """Fold scales and shifts into Conv and ConvTranspose; MatMul and Add of matrices to Gemm."""
    count = 0
    for node in graph:
        if node.op in ("onnx.Conv", "onnx.ConvTranspose"):
            count += _fold_affine(graph, node)
        elif node.op == "onnx.MatMul":
            count += _to_gemm(graph, node)
    return count


def _only_user(value: Value) -> Node | None:
    user = next(value.users()) if len(value.uses) == 1 else None
    return user if user is not None and user.graph is value.graph else None


def _channels(value: Value | None, rank: int, count: int) -> np.ndarray | None:
    """The constant as one number a channel (axis 1 of `rank`), or None where it is not of that form."""
    tensor = value.const if value is not None else None
    if tensor is None or not tensor.is_small or len(tensor.shape) > rank:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tensor.shape
    if any(d != 1 for i, d in enumerate(shape) if i != 1) or shape[1] not in (1, count):
        return None
    return np.broadcast_to(tensor.load().reshape(-1), (count,))


@np.errstate(all="ignore")  # what is not finite in the end is left alone
def _fold_affine(graph: Graph, conv: Node) -> int:
    """y = conv(x, w) * scale + shift  →  conv(x, w * scale) + shift, as far as the chain of single users goes."""
    weight, bias = conv.inputs[1], conv.inputs[2] if len(conv.inputs) > 2 else None
    if (
        weight is None
        or weight.const is None
        or len(weight.uses) != 1
        or (bias is not None and bias.const is None)
    ):
        return 0
    transposed, made = conv.op == "onnx.ConvTranspose", conv.out.type
    rank, count = made.rank, made.shape[1]
    if (
        type(count) is not int
        or made.dtype.bits < 32
        or (transposed and conv.attrs.get("group", 1) != 1)
    ):
        return 0
    scale = np.ones(count, np.float64)
    shift = (
        np.zeros(count, np.float64)
        if bias is None
        else bias.const.load().astype(np.float64)
    )  # type: ignore[union-attr]
    out, folded = conv.out, 0
    while (user := _only_user(out)) is not None and user.op in AFFINE:
        side = 0 if user.inputs[0] is out else 1
        c = _channels(user.inputs[1 - side], rank, count)
        if c is None or not np.isfinite(c).all() or user.out.type != made:
            break
        if user.op == "onnx.Div" and (side == 1 or not c.all()):
            break  # something divided by the convolution, or a channel divided by zero
        c = c.astype(np.float64)
        if user.op in ("onnx.Mul", "onnx.Div"):
            factor = c if user.op == "onnx.Mul" else 1.0 / c
            scale, shift = scale * factor, shift * factor
        elif user.op == "onnx.Add":
            shift = shift + c
        else:
            scale, shift = (scale, shift - c) if side == 0 else (-scale, c - shift)
        out, folded = user.out, folded + 1
    largest = np.finfo(made.dtype.numpy).max
    if not folded or not (np.abs([scale, shift]) <= largest).all():
        return 0
    op = Builder(
        graph, out.node, conv.loc, out.hint
    )  # constants met later in the chain are defined here
    scaled = (
        weight
        if (scale == 1).all()
        else op.const(_scaled(weight.const, scale, axis=1 if transposed else 0))
    )
    shifted = op.const(shift.astype(made.dtype.numpy))
    new = op.node(conv.op, [*conv.inputs[:1], scaled, shifted], conv.attrs)
    out.replace_by(new.out)
    return folded


def _scaled(weight: Tensor, scale: np.ndarray, axis: int) -> Tensor:
    """The weights times one factor for each slice along `axis`."""
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    factor = ArrayTensor(scale.astype(weight.dtype.numpy).reshape(shape))
    return views.mapped(np.multiply, "scaled", weight.type, weight, factor)


def _to_gemm(graph: Graph, node: Node) -> int:
    """MatMul of two matrices and an Add of a vector or matrix → Gemm."""
    a, b = node.inputs
    user = _only_user(node.out)
    if (
        a is None
        or b is None
        or user is None
        or user.op != "onnx.Add"
        or a.type.rank != 2
        or b.type.rank != 2
    ):
        return 0
    other, made = (
        user.inputs[1] if user.inputs[0] is node.out else user.inputs[0],
        node.out.type,
    )
    if (
        other is None
        or other.const is None
        or other.type.rank > 2
        or user.out.type != made
        or not made.dtype.is_float
    ):
        return 0
    op = Builder(graph, user, node.loc, user.out.hint)
    user.replace_by(op.Gemm(a, b, other))
    return 1
