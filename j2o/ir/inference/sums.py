"""Inference of operators that sum: reductions, products, convolution, pooling, transforms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.graph import Node
from j2o.ir.inference.table import (
    CONTRIB_INFERENCES,
    axes_of,
    axis_attr,
    broadcast,
    entries,
    fail,
    infers,
    type_of,
    types_of,
    with_sizes,
)
from j2o.ir.ops import REDUCTIONS
from j2o.ir.types import Dim, DType, Shape, Type, same_dim

# --------------------------------------------------------------------------- reductions


@infers(*(name.removeprefix("onnx.") for name in sorted(REDUCTIONS)))
def reduction(node: Node) -> Type:
    x = type_of(node, 0)
    given = axes_of(node, 1, x.rank, ())
    if not given and node.attrs.get("noop_with_empty_axes"):
        return x
    return x.with_shape(_reduced(node, x.shape, given or range(x.rank)))


@infers("ArgMax", "ArgMin")
def arg_reduction(node: Node) -> Type:
    x = type_of(node, 0)
    return Type(DType.I64, _reduced(node, x.shape, [axis_attr(node, x.rank, 0)]))


def _reduced(node: Node, shape: Shape, axes: Sequence[int]) -> Shape:
    """The shape without these axes, or with 1 in their place."""
    if node.attrs.get("keepdims", 1):
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    return tuple(size for i, size in enumerate(shape) if i not in axes)


# ---------------------------------------------------------- linear algebra


@infers("MatMul")
def matmul(node: Node) -> Type:
    a = type_of(node, 0)
    b = type_of(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(a.dtype, matmul_shape(node, a.shape, b.shape))


def matmul_shape(node: Node, a: Shape, b: Shape) -> Shape:
    """The shape of numpy's `matmul` of stacks of matrices, which broadcast.

    A vector is a row on the left and a column on the right; its axis is then left out.
    """
    if not a or not b:
        raise fail(node, "scalars cannot be multiplied as matrices")
    left = (1, *a) if len(a) == 1 else a
    right = (*b, 1) if len(b) == 1 else b
    if not same_dim(left[-1], right[-2]):
        raise fail(node, f"the contracted sizes {left[-1]} and {right[-2]} differ")
    stacks = broadcast(node, [left[:-2], right[:-2]])
    rows = left[-2:-1] if len(a) > 1 else ()
    columns = right[-1:] if len(b) > 1 else ()
    return (*stacks, *rows, *columns)


@infers("MatMulInteger")
def matmul_integer(node: Node) -> Type:
    shape = matmul_shape(node, type_of(node, 0).shape, type_of(node, 1).shape)
    return Type(DType.I32, shape)


@infers("Gemm")
def gemm(node: Node) -> Type:
    a = type_of(node, 0)
    b = type_of(node, 1)
    left = a.shape[::-1] if node.attrs.get("transA") else a.shape
    right = b.shape[::-1] if node.attrs.get("transB") else b.shape
    return Type(a.dtype, matmul_shape(node, left, right))


@infers("Det")
def det(node: Node) -> Type:
    x = type_of(node, 0)
    return x.with_shape(x.shape[:-2])


@infers("Einsum")
def einsum(node: Node) -> Type:
    equation = node.str_attr("equation").replace(" ", "")
    operands, arrow, result = equation.partition("->")
    types = types_of(node)
    sizes: dict[str, Dim] = {}
    for letters, x in zip(operands.split(","), types, strict=True):
        for letter, size in zip(letters, x.shape, strict=True):
            if letter not in sizes or sizes[letter] == 1:
                sizes[letter] = size
    if not arrow:  # numpy's rule: the letters that stand once, in alphabetical order
        result = "".join(sorted(c for c in sizes if operands.count(c) == 1))
    return Type(types[0].dtype, tuple(sizes[letter] for letter in result))


@infers("FusedMatMul", table=CONTRIB_INFERENCES)
def fused_matmul(node: Node) -> Type:
    a = type_of(node, 0)
    left = _transposed_if(node, "transA", a.shape)
    right = _transposed_if(node, "transB", type_of(node, 1).shape)
    return a.with_shape(matmul_shape(node, left, right))


def _transposed_if(node: Node, flag: str, shape: Shape) -> Shape:
    """The shape of an operand, its last two axes exchanged where the attribute `flag` says so."""
    if not node.attrs.get(flag):
        return shape
    return (*shape[:-2], *reversed(shape[-2:]))


# -------------------------------------------------------- windows: convolution, pooling


def _reach(kernel: Dim, dilation: int) -> Dim:
    """How many elements a window spans along an axis."""
    return dims.add(dims.mul(dims.sub(kernel, 1), dilation), 1)


class WindowAttrs(NamedTuple):
    """Windows over spatial axes: one number an axis; `pads` has those in front, then those behind."""

    strides: Sequence[int]
    dilations: Sequence[int]
    pads: Sequence[int]


def _window_attrs(node: Node, axes: int) -> WindowAttrs:
    """The attributes of windows over so many axes."""
    return WindowAttrs(
        node.ints_attr("strides", (1,) * axes),
        node.ints_attr("dilations", (1,) * axes),
        node.ints_attr("pads", (0,) * 2 * axes),
    )


def _window_sizes(
    node: Node, spatial: Sequence[Dim], kernel: Sequence[Dim]
) -> list[Dim]:
    """How many positions the windows of a node have along each spatial axis."""
    axes = len(spatial)
    windows = _window_attrs(node, axes)
    if node.attrs.get("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
        pairs = zip(spatial, windows.strides, strict=True)
        return [dims.ceildiv(size, stride) for size, stride in pairs]
    is_rounded_up = bool(node.attrs.get("ceil_mode", 0))
    sizes: list[Dim] = []
    for i, size in enumerate(spatial):
        padded = dims.add(size, windows.pads[i] + windows.pads[axes + i])
        room = dims.sub(padded, _reach(kernel[i], windows.dilations[i]))
        sizes.append(_positions(room, windows.strides[i], is_rounded_up))
    return sizes


def _positions(room: Dim, stride: int, is_rounded_up: bool) -> Dim:
    """How many positions a window has that can move by so many elements, in steps of the stride."""
    if stride == 1:
        steps = room
    elif is_rounded_up:
        steps = dims.ceildiv(room, stride)
    else:
        steps = dims.floordiv(room, stride)
    count = dims.add(steps, 1)
    return count if dims.known_ge(count, 0) else dims.maximum(count, 0)


@infers("Conv")
def conv(node: Node) -> Type:
    x = type_of(node, 0)
    weights = type_of(node, 1)
    fits = x.rank == weights.rank and _channels_fit(node, x, weights)
    if not fits:
        raise fail(node, "the channels of operand and weights do not fit")
    spatial = _window_sizes(node, x.shape[2:], weights.shape[2:])
    return x.with_shape((x.shape[0], weights.shape[0], *spatial))


def _channels_fit(node: Node, x: Type, weights: Type) -> bool:
    """Return True where the weights of all groups take as many channels as there are."""
    return x.shape[1] == dims.mul(weights.shape[1], node.int_attr("group", 1))


@infers("ConvInteger")
def conv_integer(node: Node) -> Type:
    return conv(node).with_dtype(DType.I32)


@infers("ConvTranspose")
def conv_transpose(node: Node) -> Type:
    x = type_of(node, 0)
    weights = type_of(node, 1)
    axes = x.rank - 2
    windows = _window_attrs(node, axes)
    output_padding = node.ints_attr("output_padding", (0,) * axes)
    spatial: list[Dim] = []
    for i in range(axes):
        last_start = dims.mul(dims.sub(x.shape[2 + i], 1), windows.strides[i])
        starts = dims.add(last_start, output_padding[i])
        reach = _reach(weights.shape[2 + i], windows.dilations[i])
        pads = windows.pads[i] + windows.pads[axes + i]
        spatial.append(dims.sub(dims.add(starts, reach), pads))
    channels = dims.mul(weights.shape[1], node.int_attr("group", 1))
    return x.with_shape((x.shape[0], channels, *spatial))


@infers("AveragePool", "LpPool", "MaxPool")
def pool(node: Node) -> Type:
    x = type_of(node, 0)
    spatial = _window_sizes(node, x.shape[2:], node.ints_attr("kernel_shape"))
    return x.with_shape((*x.shape[:2], *spatial))


@infers("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node) -> Type:
    x = type_of(node, 0)
    ones = (1,) * (x.rank - 2)
    return x.with_shape((*x.shape[:2], *ones))


# ---------------------------------------------------------------- transforms, attention


@infers("DFT")
def dft(node: Node) -> Type:
    x = type_of(node, 0)
    (axis,) = axes_of(node, 2, x.rank, (-2,))
    (n,) = entries(node, 1, x.shape[axis : axis + 1])
    if node.attrs.get("onesided") and not node.attrs.get("inverse"):
        n = dims.add(dims.floordiv(n, 2), 1)
    return x.with_shape((*with_sizes(x.shape, axis, n)[:-1], 2))


@infers("Attention")
def attention(node: Node) -> Type:
    """Heads stand on an axis of their own (rank 4), or side by side in the last axis (rank 3)."""
    query = type_of(node, 0)
    value = type_of(node, 2)
    if query.rank == 4:
        return query.with_shape((*query.shape[:3], value.shape[3]))
    head = dims.floordiv(value.shape[2], node.int_attr("kv_num_heads", 1))
    heads = dims.mul(head, node.int_attr("q_num_heads", 1))
    return query.with_shape((*query.shape[:2], heads))
