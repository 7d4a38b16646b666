"""Nodes that run on tensors in either layout, and what becomes of them on the transposed ones.

A layout is an order of axes. Most such nodes work element by element. Others name axes, in an attribute or in
an operand, or have a number for each axis; these change with the layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.types import Attr, Dim

Perm: TypeAlias = "tuple[int, ...]"

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
    "onnx.ReduceL1": 1,
    "onnx.ReduceL2": 1,
    "onnx.ReduceLogSum": 1,
    "onnx.ReduceLogSumExp": 1,
    "onnx.ReduceMax": 1,
    "onnx.ReduceMean": 1,
    "onnx.ReduceMin": 1,
    "onnx.ReduceProd": 1,
    "onnx.ReduceSum": 1,
    "onnx.ReduceSumSquare": 1,
    "onnx.Slice": 3,
}
# an operand has a number for each axis, or two of them: which one
PLACES = {
    "onnx.Expand": 1,
    "onnx.Pad": 1,
    "onnx.Tile": 1,
}
# of those that name axes, an `axis` that is not the last by default
FIRST_AXIS = frozenset(["onnx.Split"])


def laid_out(node: Node) -> Sequence[Value | None]:
    """The operands of a free node that have the layout of its result, or broadcast to it."""
    if node.op in ALONG or node.op in AXES or node.op in PLACES:
        return node.inputs[:1]
    return node.inputs


def is_free(node: Node, rank: int) -> bool:
    """Return True where a node with results of this rank runs in either layout."""
    if not node.outputs or node.graphs:
        return False
    if any(value.type.rank != rank for value in node.outputs):
        return False
    if node.op in ALONG_ALL or node.op in ALONG:
        return all(v is not None and v.type.rank == rank for v in laid_out(node))
    if node.op in AXES:
        has_all = node.operand(0).type.rank == rank  # a reduction that keeps its axes
        return has_all and axes_of(node) is not None
    if node.op in PLACES:
        return _has_place_for_each_axis(node, rank)
    if not node.spec.elementwise:
        return False
    return all(v is None or v.type.rank <= rank for v in node.inputs)


def axes_of(node: Node) -> list[int] | None:
    """The axes that a row of `AXES` names, in its order and from zero; None where they are not known."""
    operand = node.optional(AXES[node.op])
    axes = None if operand is None else operand.known_ints
    if not axes:  # no axes may mean all of them, or none
        return None
    return [axis % node.operand(0).type.rank for axis in axes]


def _has_place_for_each_axis(node: Node, rank: int) -> bool:
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
    axes = axes_of(node)
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
    rest = list(node.inputs[len(operands) :])
    attrs: dict[str, Attr] = dict(node.attrs)
    if node.op in ALONG_ALL or node.op in ALONG:
        default = 0 if node.op in FIRST_AXIS else -1
        axis = node.int_attr("axis", default) % len(perm)
        attrs["axis"] = perm[axis]
    if node.op in AXES:
        axes = axes_of(node) or []
        rest[AXES[node.op] - 1] = op.dims([perm[axis] for axis in axes])
    if node.op in PLACES:
        numbers = node.operand(PLACES[node.op]).known or ()
        rest[PLACES[node.op] - 1] = op.dims(_placed(numbers, perm))
    return op.node(node.op, [*operands, *rest], attrs)


def _placed(numbers: Sequence[Dim], perm: Perm) -> list[Dim]:
    """Numbers for each axis, once or twice, in the order of the untransposed axes."""
    rank = len(perm)
    placed: list[Dim] = []
    for start in range(0, len(numbers), rank):
        part = numbers[start : start + rank]
        placed += [part[perm.index(axis)] for axis in range(rank)]
    return placed
