"""Nodes that run on tensors in either layout, and what becomes of them on the transposed ones.

A layout is an order of axes. Most such nodes work element by element. Others name axes, in an attribute or in
an operand, or have a number for each axis; these change with the layout. A product with a constant matrix is
free where the layout swaps the last two axes: (x W)ᵀ = Wᵀ xᵀ, and the matrix is transposed at compile time.
It is free too where the layout leaves the last axis where it is: x W multiplies each row by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.ops import REDUCTIONS
from j2o.ir.types import Attr, Dim
from j2o.passes.layout.perms import Perm

# along one axis, the attribute `axis`, which by default is the last
ALONG_ALL = frozenset(["onnx.Concat"])  # all operands are laid out
ALONG = frozenset(
    [
        "onnx.Hardmax",
        "onnx.LogSoftmax",
        "onnx.Softmax",
        "onnx.Split",
        "onnx.TopK",
    ]
)
# an operand lists axes: which one
AXES = {
    **dict.fromkeys(REDUCTIONS, 1),
    "onnx.Slice": 3,
}
# an operand has a number for each axis, or two of them: which one
PLACES = {
    "onnx.Expand": 1,
    "onnx.Pad": 1,
    "onnx.Tile": 1,
}
# the attributes of a Resize that repeats each element, by a whole number along each axis
REPEATS: dict[str, Attr] = {
    "coordinate_transformation_mode": "asymmetric",
    "mode": "nearest",
    "nearest_mode": "floor",
}
# Along which axes onnxruntime interpolates, in tensors of so many axes; in those of fewer it mixes examples.
RESIZED_AXES = {
    4: ((2, 3), (1, 2)),  # images in NCHW, in NHWC
    5: ((2, 3, 4),),
}
# A matrix on the left multiplies each of a batch of matrices by itself: they should have so many columns.
# `MatMul(W, x)` takes 0.93 of the time of `MatMul(xᵀ, W)` between transposes with 64 and more, 1.1 with 32.
WIDE = 64
# of those that name axes, an `axis` that is not the last by default
FIRST_AXIS = frozenset(["onnx.Split"])


def laid_out(node: Node) -> Sequence[Value | None]:
    """The operands of a free node that have the layout of its result, or broadcast to it."""
    if node.op in ALONG or node.op in AXES or node.op in PLACES:
        return node.inputs[:1]
    if node.op == "onnx.Resize":
        return node.inputs[:1]
    if node.op == "onnx.MatMul":
        return [value for value in node.operands if not _is_matrix(value)]
    return node.inputs


def is_free(node: Node, perm: Perm) -> bool:
    """Return True where a node runs in either of the layouts that a Transpose by `perm` stands between."""
    if not node.outputs or node.graphs:
        return False
    rank = len(perm)
    if any(value.type.rank != rank for value in node.outputs):
        return False
    if node.op == "onnx.MatMul":
        return _is_free_product(node, perm)
    if node.op in ALONG_ALL or node.op in ALONG:
        return all(v is not None and v.type.rank == rank for v in laid_out(node))
    if node.op in AXES:
        has_all = node.operand(0).type.rank == rank  # a reduction that keeps its axes
        return has_all and listed_axes(node) is not None
    if node.op in PLACES:
        return _has_place_for_each_axis(node, rank)
    if node.op == "onnx.Resize":
        return _is_free_resize(node, perm)
    if not node.spec.elementwise:
        return False
    return all(v is None or v.type.rank <= rank for v in node.inputs)


def _is_matrix(value: Value) -> bool:
    """Return True for a constant matrix."""
    return value.const is not None and value.type.rank == 2


def _is_free_product(node: Node, perm: Perm) -> bool:
    """Return True for a product with a constant matrix that runs in either layout, and as fast."""
    left, right = node.operands
    rank = len(perm)
    if _leaves_last(perm):
        return _is_matrix(right) and left.type.rank == rank
    if perm != (*range(rank - 2), rank - 1, rank - 2):
        return False
    if _is_matrix(left):
        return right.type.rank == rank
    if not _is_matrix(right) or left.type.rank < 3:
        return False
    columns = left.type.shape[-2]
    return type(columns) is not int or columns >= WIDE


def _leaves_last(perm: Perm) -> bool:
    """Return True where a layout leaves the last axis where it is."""
    return perm[-1] == len(perm) - 1


def listed_axes(node: Node) -> list[int] | None:
    """The axes that a row of `AXES` names, in its order and from zero; None where they are not known."""
    operand = node.optional(AXES[node.op])
    axes = None if operand is None else operand.known_ints
    if not axes:  # no axes may mean all of them, or none
        return None
    return [axis % node.operand(0).type.rank for axis in axes]


def scales_of(node: Node) -> list[float] | None:
    """By which number each axis grows, where a node repeats elements as `upsampling` writes it; else None."""
    if node.op != "onnx.Resize" or len(node.operands) != 2:
        return None
    is_plain = node.attrs.keys() == REPEATS.keys()
    if not is_plain or any(node.attrs[name] != REPEATS[name] for name in REPEATS):
        return None
    return _loaded_scales(node) or None


def is_linear_resize(node: Node | None) -> bool:
    """Return True for a Resize as `linear_resize` writes it."""
    if node is None or node.op != "onnx.Resize":
        return False
    has_mode_alone = node.attrs.keys() == {"mode"} and node.attrs["mode"] == "linear"
    return has_mode_alone and bool(_loaded_scales(node))


def interpolated_axes(node: Node) -> tuple[int, ...]:
    """The axes that such a Resize changes: those that have a scale other than 1."""
    scales = _loaded_scales(node)
    return tuple([axis for axis, scale in enumerate(scales) if scale != 1])


def _loaded_scales(node: Node) -> list[float]:
    """The constant scales of a Resize, none where it has others or sizes."""
    given = node.optional(2)
    tensor = None if given is None else given.const
    return [] if tensor is None else tensor.load().tolist()


def resizes_axes(rank: int, axes: Sequence[int]) -> bool:
    """Return True where kernels interpolate along these axes."""
    return any(set(axes) <= set(known) for known in RESIZED_AXES.get(rank, ()))


def _is_free_resize(node: Node, perm: Perm) -> bool:
    """Return True for a Resize that runs in either layout."""
    if is_linear_resize(node):
        return resizes_axes(len(perm), [perm[a] for a in interpolated_axes(node)])
    return scales_of(node) is not None


def _has_place_for_each_axis(node: Node, rank: int) -> bool:
    """Return True where the numbers of a row of `PLACES` are known, and stand for all axes."""
    numbers = node.operand(PLACES[node.op]).known
    if numbers is None or node.operand(0).type.rank > rank:
        return False
    if node.op == "onnx.Expand":
        return len(numbers) == rank
    lists_axes = len(node.inputs) > 3  # of a Pad
    return node.operand(0).type.rank == rank and not lists_axes


def absorbs(node: Node, perm: Perm) -> bool:
    """Return True for a reduction that drops axes, and gives the same on an untransposed tensor."""
    if node.op not in AXES or node.int_attr("keepdims", 1):
        return False
    axes = listed_axes(node)
    if axes is None or len(perm) != node.operand(0).type.rank:
        return False
    kept = [perm[axis] for axis in range(len(perm)) if axis not in axes]
    return kept == sorted(kept)


def moved(
    op: Builder, node: Node, operands: Sequence[Value | None], perm: Perm
) -> Node:
    """A free node on untransposed operands: axis `perm[i]` of these is axis `i` of the node's own.

    `operands` stand for what `laid_out` gives.
    """
    if node.op == "onnx.MatMul":
        return _product_moved(op, node, operands[0], perm)
    rest = list(node.inputs[len(operands) :])
    attrs: dict[str, Attr] = dict(node.attrs)
    if node.op in ALONG_ALL or node.op in ALONG:
        default = 0 if node.op in FIRST_AXIS else -1
        axis = node.int_attr("axis", default) % len(perm)
        attrs["axis"] = perm[axis]
    if node.op in AXES:
        axes = listed_axes(node) or []
        rest[AXES[node.op] - 1] = op.dims([perm[axis] for axis in axes])
    if node.op in PLACES:
        numbers = node.operand(PLACES[node.op]).known or ()
        rest[PLACES[node.op] - 1] = op.dims(_placed(numbers, perm))
    if node.op == "onnx.Resize":
        scales = _loaded_scales(node)
        placed = [scales[perm.index(axis)] for axis in range(len(perm))]
        rest[-1] = op.const(np.array(placed, np.float32))
    return op.node(node.op, [*operands, *rest], attrs)


def _product_moved(op: Builder, node: Node, x: Value | None, perm: Perm) -> Node:
    """(x W)ᵀ = Wᵀ xᵀ, and (W x)ᵀ = xᵀ Wᵀ; x W where the rows of x are in another order."""
    left, right = node.operands
    if _leaves_last(perm):
        return op.node("onnx.MatMul", [x, right])
    if _is_matrix(right):
        return op.node("onnx.MatMul", [turned(op, right, (1, 0)), x])
    return op.node("onnx.MatMul", [x, turned(op, left, (1, 0))])


def turned(op: Builder, value: Value, perm: Perm) -> Value:
    """A value with its axes in another order; a constant is turned now, so that it stays one.

    A large constant that others use is not: it would be stored twice.
    """
    tensor = value.const
    if tensor is None or not (tensor.is_small or len(value.uses) == 1):
        return op.Transpose(value, perm=perm)
    return op.const(views.transposed(tensor, perm))


def _placed(numbers: Sequence[Dim], perm: Perm) -> list[Dim]:
    """Numbers for each axis, once or twice, in the order of the untransposed axes."""
    rank = len(perm)
    placed: list[Dim] = []
    for start in range(0, len(numbers), rank):
        part = numbers[start : start + rank]
        placed += [part[perm.index(axis)] for axis in range(rank)]
    return placed
