"""Borders: Pad with `mode` "reflect", "edge" or "wrap", which `jnp.pad` makes of slices put together.

    concatenate(rev(x[1:3]), x, rev(x[n-3:n-1]))   becomes   Pad(x, [2, 2], mode="reflect")

A border is of one axis. Those of several axes become one Pad by `pad_pad` in `clean/shapes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

FIRST_WITH_WRAP = 19  # the opset


class Border(NamedTuple):
    """How many elements are put on one side of a tensor, and which: the `mode` of a Pad."""

    mode: str
    width: int


NOTHING = Border("", 0)


class Places(NamedTuple):
    """Of which places along an axis the border on one side is made, for each mode: the first, and the end."""

    reflect: tuple[Dim, Dim]
    edge: tuple[Dim, Dim]
    wrap: tuple[Dim, Dim]


def _in_front(size: Dim, width: int) -> Places:
    """The places for a border in front of an axis of this size."""
    return Places(
        reflect=(1, 1 + width),
        edge=(0, 1),
        wrap=(dims.sub(size, width), size),
    )


def _behind(size: Dim, width: int) -> Places:
    """The places for a border behind an axis of this size."""
    last = dims.sub(size, 1)
    return Places(
        reflect=(dims.sub(last, width), last),
        edge=(last, size),
        wrap=(0, width),
    )


@rewrite("border", at="lax")
def border(op, x, dimension):
    """A tensor with copies of its own elements around it, along one axis."""
    return op.lax.concatenate(x, ..., dimension=dimension)


@border.becomes
def _(op, x, dimension):
    parts = op.root.operands
    for place, whole in enumerate(parts):
        before = parts[:place]
        after = parts[place + 1 :]
        low = _border(before, whole, dimension, _in_front)
        high = _border(after, whole, dimension, _behind)
        if low is not None and high is not None:
            return _padded(op, whole, dimension, low, high)
    return None


def _border(
    parts: Sequence[Value],
    whole: Value,
    axis: int,
    places: Callable[[Dim, int], Places],
) -> Border | None:
    """The border that the parts on one side of a tensor are; None where they are something else."""
    if not parts:
        return NOTHING
    width = parts[0].type.shape[axis]
    if len(parts) > 1 or type(width) is not int:
        return None
    if width == 0:
        return NOTHING
    (part,) = parts
    wanted = places(whole.type.shape[axis], width)
    if _is_cut(_reversed(part, axis), whole, axis, wanted.reflect):
        return Border("reflect", width)
    if _is_cut(_repeated(part, axis), whole, axis, wanted.edge):
        return Border("edge", width)
    if _is_cut(part.node, whole, axis, wanted.wrap):
        return Border("wrap", width)
    return None


def _reversed(value: Value, axis: int) -> Node | None:
    """What makes the tensor of which a value is the reverse along an axis; or None."""
    node = value.node
    if node is None or node.op != "lax.rev":
        return None
    return node.operand(0).node if node.ints_attr("dimensions") == (axis,) else None


def _repeated(value: Value, axis: int) -> Node | None:
    """What makes the one element along an axis that a value has several times; or None."""
    if value.op != "lax.reshape":
        return None
    wide = value.producer.operand(0)
    if wide.op != "lax.broadcast_in_dim":
        return None
    one = wide.producer.operand(0)
    kept = tuple(i for i in range(wide.type.rank) if i != axis + 1)
    is_repeated = wide.producer.ints_attr("broadcast_dimensions") == kept
    return one.node if is_repeated and one.type.rank == value.type.rank else None


def _is_cut(
    node: Node | None, whole: Value, axis: int, places: tuple[Dim, Dim]
) -> bool:
    """Return True for the slice of a tensor at these places along an axis, and whole along the others."""
    if node is None or node.op != "lax.slice" or node.operand(0) is not whole:
        return False
    attrs: dict[str, Any] = node.attrs
    steps = attrs.get("strides")
    if steps is not None and any(step != 1 for step in steps):
        return False
    starts = attrs["start_indices"]
    ends = attrs["limit_indices"]
    for i, size in enumerate(whole.type.shape):
        start, end = places if i == axis else (0, size)
        if not same_dim(starts[i], start) or not same_dim(ends[i], end):
            return False
    return True


def _padded(
    op: RuleBuilder, whole: Value, axis: int, low: Border, high: Border
) -> Value | None:
    """The tensor with its borders, where both are of one mode that the target has."""
    modes = {one.mode for one in (low, high) if one.width}
    if not modes:
        return whole
    if len(modes) > 1 or not op.prefers("Pad", whole):
        return None
    (mode,) = modes
    if mode == "wrap" and op.opset < FIRST_WITH_WRAP:
        return None
    rank = whole.type.rank
    widths = [0] * 2 * rank
    widths[axis] = low.width
    widths[rank + axis] = high.width
    return op.Pad(whole, op.dims(widths), mode=mode)


BORDERS = (border,)
