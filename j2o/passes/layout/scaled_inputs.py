"""Scales and shifts in front of a linear operator go into its weights and behind it: half of `affine`.

    MatMul(x · scale, w)            becomes   MatMul(x, scale · w)
    MatMul(x · scale + shift, w)    becomes   MatMul(x, scale · w) + shift · w

where `scale` and `shift` have one number for each input, and `shift · w` is computed while compiling.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor
from j2o.passes.layout.channels import Channels, numbers_of
from j2o.passes.layout.factors import factor_of
from j2o.passes.layout.linear import Linear, is_finite_in, scaled_weights

# (x - mean) · w is exact where x is near its mean, x · w - mean · w is not: a shift goes behind an operator
# only where it is at most this in the unit that the scale beside it gives
FARTHEST = 4.0
READ_AT_ONCE = 2**22  # elements of weights that are added up for a shift


@dataclass
class ScaledInput:
    """What an operator reads is scale · `value` + shift, one number for each of its inputs.

    The inputs lie along `axis` of `value`. `nodes` are those that scale and shift, the last first. Where it
    `is_padded`, zeros are added around the result.
    """

    value: Value
    axis: int
    scale: np.ndarray
    shift: np.ndarray
    nodes: tuple[Node, ...] = ()
    is_padded: bool = False

    @property
    def shifts(self) -> bool:
        """Return True where some shift is not 0."""
        return bool(self.shift.any())

    @property
    def in_front(self) -> np.ndarray:
        """The shift in the unit of `value`: scale · (`value` + this) is the same."""
        return self.shift / self.scale

    @property
    def is_normalised(self) -> bool:
        """Return True where the scale gives the unit, and the shift is small in it."""
        scales = any(node.op in ("onnx.Mul", "onnx.Div") for node in self.nodes)
        return scales and bool((np.abs(self.shift) <= FARTHEST).all())


@np.errstate(all="ignore")  # what is not finite is left alone
def fold_input(linear: Linear) -> int:
    """linear(x · scale + shift, w) → linear(x, w · scale) + shift · w; returns how many nodes went.

    Where the shift cannot go behind, it stays in front, in the unit of x:
    linear(x + shift / scale, w · scale).
    """
    if linear.weight_input_axis is None or linear.source.only_user is None:
        return 0
    if not linear.can_scale:
        return 0
    best: ScaledInput | None = None
    most = 0
    for scaled in _scaled_inputs(linear, linear.weight_input_axis):
        saved = _saved(linear, scaled)
        if saved > most:
            best = scaled
            most = saved
    if best is not None:
        _rebuild_input(linear, linear.weight_input_axis, best)
    return most


def _saved(linear: Linear, scaled: ScaledInput) -> int:
    """How many nodes go with what scales and shifts; 0 where it has to stay."""
    dtype = linear.node.out.type.dtype.numpy
    if not is_finite_in(scaled.scale, dtype) or not is_finite_in(scaled.shift, dtype):
        return 0
    if not scaled.shifts or _goes_behind(linear, scaled):
        return len(scaled.nodes)
    return len(scaled.nodes) - 1 if _goes_in_front(linear, scaled) else 0


def _goes_behind(linear: Linear, scaled: ScaledInput) -> bool:
    """Return True where a shift may be added to the result: shift · w."""
    return scaled.is_normalised and not scaled.is_padded and _can_shift(linear)


def _goes_in_front(linear: Linear, scaled: ScaledInput) -> bool:
    """Return True where a shift may be added before the scale: x + shift / scale.

    This rounds as the program does: a rounding of the sum, and one of the constant. The bound is for x near
    the end of its range, where such a sum rounds to x.
    """
    bound = math.sqrt(np.finfo(linear.node.out.type.dtype.numpy).max)
    return bool(scaled.scale.all() and (np.abs(scaled.in_front) <= bound).all())


def _can_shift(linear: Linear) -> bool:
    """Return True where each result adds all inputs, and a constant is added behind it anyway.

    A padded convolution does not see all inputs at the border.
    """
    node = linear.node
    if linear.weight.type.dtype.bits < 32 or linear.weight.const is None:
        return False
    if linear.weight.const.size > READ_AT_ONCE:
        return False
    if node.op == "onnx.Gemm":
        return node.attrs.get("alpha", 1.0) == 1.0
    if node.op == "onnx.Conv":
        pads = node.ints_attr("pads", ())
        return not any(pads) and node.str_attr("auto_pad", "NOTSET") == "NOTSET"
    user = node.out.only_user
    return node.op == "onnx.MatMul" and user is not None and _adds_numbers(linear, user)


def _adds_numbers(linear: Linear, user: Node) -> bool:
    """Return True where a node adds a constant number a channel to what an operator gives."""
    if user.op != "onnx.Add":
        return False
    rank = linear.node.out.type.rank
    channels = Channels((linear.result_channel_axis,), (linear.channel_count,))
    return any(numbers_of(value, rank, channels) is not None for value in user.operands)


def _scaled_inputs(linear: Linear, input_axis: int) -> Iterator[ScaledInput]:
    """What the operator reads, in terms of what comes before one, two, … scales and shifts."""
    count = linear.weight.type.static_shape[input_axis]
    zeros = np.zeros(count)
    scaled = ScaledInput(linear.source, linear.source_input_axis, np.ones(count), zeros)
    while scaled.value.node is not None and scaled.value.only_user is not None:
        node = scaled.value.node
        if node.op == "onnx.Transpose":
            axis = node.ints_attr("perm")[scaled.axis]
            scaled = replace(scaled, value=node.operand(0), axis=axis)
        elif _pads_with_zeros(node, scaled.axis):
            if scaled.shifts:
                return  # zeros are added to what is shifted behind them
            scaled = replace(scaled, value=node.operand(0), is_padded=True)
        else:
            before = _before(node, scaled)
            if before is None or before.value.type != scaled.value.type:
                return
            yield before
            scaled = before


def _pads_with_zeros(node: Node, axis: int) -> bool:
    """Return True for a Pad of zeros, and of known amounts, on other axes than this one."""
    if node.op != "onnx.Pad" or node.str_attr("mode", "constant") != "constant":
        return False
    filled = node.optional(2)
    is_zero = filled is None or filled.number == 0
    pads = node.operand(1).known_ints
    if not is_zero or pads is None or node.optional(3) is not None:
        return False
    rank = node.out.type.rank
    return pads[axis] == 0 == pads[axis + rank]


def _before(node: Node, scaled: ScaledInput) -> ScaledInput | None:
    """`scaled` in terms of what a node scales or shifts; None where it does neither."""
    channels = Channels((scaled.axis,), scaled.scale.shape)
    read = functools.partial(numbers_of, rank=scaled.value.type.rank, channels=channels)
    nodes = (*scaled.nodes, node)
    product = factor_of(node, read)
    if product is not None:
        value, factor = product
        return replace(scaled, value=value, scale=scaled.scale * factor, nodes=nodes)
    if node.op not in ("onnx.Add", "onnx.Sub"):
        return None
    left, right = node.operands
    number = read(right)
    if number is None and node.op == "onnx.Add":
        left, right = right, left
        number = read(right)
    if number is None:
        return None
    added = number if node.op == "onnx.Add" else -number
    shift = scaled.shift + scaled.scale * added
    return replace(scaled, value=left, shift=shift, nodes=nodes)


def _rebuild_input(linear: Linear, input_axis: int, scaled: ScaledInput) -> None:
    """Give the operator other weights, add the shift where it may stand, and let the nodes go."""
    if scaled.shifts:
        if _goes_behind(linear, scaled):
            _add_behind(linear, input_axis, scaled)
        else:
            _add_in_front(scaled)
    node = linear.node
    op = Builder(node.home, node, node.loc, node.out.hint)
    node.set_input(
        linear.weight_at, scaled_weights(op, linear, input_axis, scaled.scale)
    )
    for each in scaled.nodes:
        kept = next(v for v in each.operands if v.const is None)
        each.replace_by(kept)


def _add_behind(linear: Linear, input_axis: int, scaled: ScaledInput) -> None:
    """Add what the shift gives, times the weights, to the result."""
    node = linear.node
    weight = linear.weight.const
    assert weight is not None
    op = Builder(node.home, node.next, node.loc, node.out.hint)
    shift = _through_weights(weight, linear, input_axis, scaled.shift)
    added = op.Add(node.out, op.const(shift)).producer
    node.out.replace_by(added.out, where=lambda user: user is not added)


def _add_in_front(scaled: ScaledInput) -> None:
    """Add the shift, in the unit of what is read, where the first of the nodes stands."""
    first = scaled.nodes[-1]
    op = Builder(first.home, first.next, first.loc, first.out.hint)
    behind = first.out.type.rank - 1 - scaled.axis
    numbers = scaled.in_front.astype(first.out.type.dtype.numpy)
    shift = ArrayTensor(numbers.reshape(-1, *[1] * behind))
    added = op.Add(first.out, op.const(shift)).producer
    first.out.replace_by(added.out, where=lambda user: user is not added)


def _through_weights(
    weight: Tensor, linear: Linear, input_axis: int, shift: np.ndarray
) -> ArrayTensor:
    """What a constant input gives, a number a channel, in the shape in which it is added to the result."""
    numbers = weight.load().astype(np.float64)
    by_input = np.moveaxis(numbers, input_axis, -1) @ shift
    channel_axis = linear.weight_channel_axis
    if input_axis < channel_axis:
        channel_axis -= 1  # the axis of the inputs is gone
    others = [axis for axis in range(by_input.ndim) if axis != channel_axis]
    result = by_input.sum(axis=tuple(others)).astype(weight.dtype.numpy)
    behind = linear.node.out.type.rank - 1 - linear.result_channel_axis
    return ArrayTensor(result.reshape(-1, *[1] * behind))
