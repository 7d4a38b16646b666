"""What operators make of constants of any size, recorded as views of them: see `fold.py`.

No large constant is read. One that is transposed, reshaped, cast, sliced, split, broadcast, padded or
concatenated stays; what happens to it is recorded (see `j2o.ir.views`) and done while the model is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np

from j2o.ir import views
from j2o.ir.graph import Node, Value
from j2o.ir.tensor import SMALL, Tensor, tensor
from j2o.passes.clean.broadcasts import BROADCASTING
from j2o.passes.clean.computed import COMPUTED

# (node, *operands) → the results; None where the node stays
Record: TypeAlias = Callable[..., "Tensor | tuple[Tensor, ...] | None"]
Rule = TypeVar("Rule", bound=Record)


def bytes_of(value: Value) -> int:
    """The bytes of the elements of a value of static shape."""
    return math.prod(value.type.static_shape) * value.type.dtype.bits // 8


# -------------------------------------------------------------------------- of any size

RECORDED: dict[str, Record] = {}


def records(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator: the function `(node, *tensors)` records these operators as views of tensors of any size.

    It returns a tensor, one for each result, or None to leave the node alone.
    """

    def enter(record: Rule) -> Rule:
        RECORDED.update(dict.fromkeys(kinds, record))
        return record

    return enter


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
    """A part of a tensor."""
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
    """The parts of a tensor along an axis, one behind the other."""
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
    """None for a large constant where some user broadcasts by itself."""
    large = bytes_of(node.out) > SMALL
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
    """The axis of a node, counted from the front."""
    return node.int_attr("axis", 0) % len(x.shape)


# -------------------------------------------------------------- of large operands alone

RECORDED_LARGE: dict[str, Record] = {}


def records_large(*kinds: str) -> Callable[[Rule], Rule]:
    """Decorator like `records`, for operators that are computed where all operands are small."""

    def enter(record: Rule) -> Rule:
        RECORDED_LARGE.update(dict.fromkeys(kinds, record))
        return record

    return enter


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
    """Arithmetic of floats, done piece by piece; that of integers may be left to the runtime."""
    if not node.out.type.dtype.is_float:
        return None
    compute = COMPUTED[node.kind]

    def computed(*arrays: np.ndarray) -> Any:
        return compute(node, *arrays)

    return views.mapped(computed, node.kind, node.out.type, *operands)
