"""`axes_of_parts`: a tensor gets axes of size 1 once, before it is split, where all its parts get them.

Scales and shifts that a network computes for each example, all of them by one product, are added to tensors
with axes of time or space: each is `part[:, None]`, and some are `(1 + part)[:, None]`.
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.types import Shape, from_zero
from j2o.passes.layout.contractions import repeated, treats_all_alike
from j2o.passes.pipeline import graph_pass


@graph_pass("axes_of_parts", at="onnx", level=2)
def axes_of_parts(graph: Graph) -> int:
    """Split(x), Unsqueeze of each part → Split(Unsqueeze(x))."""
    return sum(map(_unsqueeze_whole, graph.nodes_of("onnx.Split")))


class Part(NamedTuple):
    """A part of a Split, what is computed of each of its elements, and the Unsqueeze behind that."""

    value: Value
    steps: list[Node]
    unsqueeze: Node


def _unsqueeze_whole(split: Node) -> int:
    """Unsqueeze what is split; returns how many nodes are saved."""
    parts = [_part(value) for value in split.outputs]
    found = [part for part in parts if part is not None]
    if len(found) < len(parts) or len(parts) < 2:
        return 0
    axes = {_new_axes(part.unsqueeze) for part in found}
    if len(axes) != 1 or None in axes:
        return 0
    (new,) = axes
    assert new is not None
    _write(split, found, new)
    return len(found) - 1


def _part(value: Value) -> Part | None:
    """A part that is unsqueezed, at once or behind functions of each element; None for another."""
    steps: list[Node] = []
    x = value
    while (user := x.only_user) is not None:
        if user.op == "onnx.Unsqueeze" and user.operand(0) is x:
            return Part(value, steps, user)
        if not treats_all_alike(user, x):
            return None
        steps.append(user)
        x = user.out
    return None


def _new_axes(unsqueeze: Node) -> Shape | None:
    """The axes that an Unsqueeze makes, counted from the front; None where they are not known."""
    known = unsqueeze.operand(1).known_ints
    return None if known is None else from_zero(known, unsqueeze.out.type.rank)


def _write(split: Node, parts: list[Part], axes: Shape) -> None:
    """Make the Split again of the tensor with these axes, and what was computed of its parts."""
    op = Builder(split.home, split, split.loc, split.operand(0).hint)
    whole = op.unsqueeze(split.operand(0), axes)
    kept = [axis for axis in range(whole.type.rank) if axis not in axes]
    axis = kept[split.int_attr("axis", 0) % len(kept)]
    attrs = {**split.attrs, "axis": axis}
    types = [
        part.value.type.with_shape(_with_ones(part.value, kept, axes)) for part in parts
    ]
    new = op.node("onnx.Split", [whole, *split.inputs[1:]], attrs, types)
    for part, value in zip(parts, new.outputs, strict=True):
        value.hint = part.value.hint
        for step in part.steps:
            value = _again(step, value)
        part.unsqueeze.replace_by(value)
    erase_dead(split)


def _with_ones(value: Value, kept: list[int], axes: Shape) -> Shape:
    """The shape of a part with the new axes."""
    sizes = dict.fromkeys(axes, 1) | dict(zip(kept, value.type.shape, strict=True))
    return tuple(sizes[axis] for axis in sorted(sizes))


def _again(step: Node, value: Value) -> Value:
    """A function of each element, of the part with the new axes."""
    op = Builder(step.home, step, step.loc, step.out.hint)
    return repeated(op, step, value)
