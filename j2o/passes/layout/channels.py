"""Where the channels of a value are: constants as one number for each channel.

    f32[B,64,8,8], channels along axis 1               Channels(axes=(1,), sizes=(64,))
    Reshape to f32[B,16,4,64]: 64 are 16 times 4       Channels(axes=(1, 2), sizes=(16, 4))
    Transpose by (0, 3, 1, 2)                          Channels(axes=(2, 3), sizes=(16, 4))

A constant f32[16,4,1] that is added after the Reshape has 64 numbers, one for each channel.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, Shape, are_integers, is_one, same_dim


class Channels(NamedTuple):
    """The axes that count channels, in row-major order of the channel's number, and their sizes."""

    axes: tuple[int, ...]
    sizes: tuple[int, ...]


NOWHERE = Channels((), ())  # each element depends on many channels


def numbers_of(value: Value, rank: int, channels: Channels) -> np.ndarray | None:
    """A small constant as one finite number a channel, in double precision; None for others.

    `value` broadcasts with a tensor of `rank` axes that has its channels at `channels`. Where these
    are nowhere, the result is one number.
    """
    tensor = value.const
    if tensor is None or not tensor.is_small or len(tensor.shape) > rank:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tensor.shape
    # what a number for each channel has at most: all other axes are of size 1
    full = [1] * rank
    for axis, size in zip(channels.axes, channels.sizes, strict=True):
        full[axis] = size
    if any(size not in (1, most) for size, most in zip(shape, full, strict=True)):
        return None
    spread = tensor.load().reshape(shape)
    if shape != tuple(full):  # numpy takes long for this
        spread = np.broadcast_to(spread, full)
    others = [axis for axis in range(rank) if axis not in channels.axes]
    in_order = spread.transpose(*channels.axes, *others).reshape(-1)
    is_finite = np.isfinite(in_order).all()
    return in_order.astype(np.float64) if is_finite else None


def channels_behind(node: Node, channels: Channels) -> Channels | None:
    """Where the channels are after a change of shape or layout, or a cut through other axes.

    None where they can no longer be told apart.
    """
    if node.op == "onnx.Transpose":
        perm = node.ints_attr("perm")
        axes = tuple(perm.index(axis) for axis in channels.axes)
        return Channels(axes, channels.sizes)
    if node.op in RESHAPES:
        return _reshaped(node.operand(0).type.shape, node.out.type.shape, channels)
    if node.op == "onnx.Slice":
        return channels if _is_cut_elsewhere(node, channels) else None
    return None


def _is_cut_elsewhere(node: Node, channels: Channels) -> bool:
    """Return True for a Slice that leaves the axes of the channels whole."""
    axes = None if node.optional(3) is None else node.operand(3).known_ints
    if axes is None:
        return False
    rank = node.out.type.rank
    return all(axis % rank not in channels.axes for axis in axes)


def _reshaped(old: Shape, new: Shape, channels: Channels) -> Channels | None:
    """Where the channels are in another shape.

    They must be neighbours there and here, with the same sizes around them.
    """
    if not channels.axes:
        return channels
    first = channels.axes[0]
    end = first + len(channels.axes)
    if channels.axes != tuple(range(first, end)):
        return None
    start = _axes_of_size(new, dims.prod(old[:first]))
    behind = _axes_of_size(new[::-1], dims.prod(old[end:]))
    if start is None or behind is None:
        return None
    axes = tuple(range(start, len(new) - behind))
    count = math.prod(channels.sizes)
    if not axes and count == 1:
        return _only_channel(new)
    sizes = new[start : len(new) - behind]
    if not are_integers(sizes) or math.prod(sizes) != count:
        return None
    return Channels(axes, sizes)


def _only_channel(shape: Shape) -> Channels:
    """An axis of size 1 for the one channel of all elements; nowhere where there is no such axis."""
    units = [axis for axis, size in enumerate(shape) if is_one(size)]
    return Channels((units[-1],), (1,)) if units else NOWHERE


def _axes_of_size(shape: Shape, size: Dim) -> int | None:
    """How many axes in front have together `size` elements; the fewest, or None."""
    for count in range(len(shape) + 1):
        if same_dim(dims.prod(shape[:count]), size):
            return count
    return None
