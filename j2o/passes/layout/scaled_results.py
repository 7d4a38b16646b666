"""Scales and shifts behind a linear operator go into its weights and its bias: half of `affine`.

    Conv(x, w, b) · scale + shift   becomes   Conv(x, w · scale, b · scale + shift)
    Reshape(MatMul(x, w)) + shift   becomes   Reshape(MatMul(x, w) + shift)

The second saves no node, but MatMul and Add stand side by side then, which `gemm` makes one.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.tensor import ArrayTensor
from j2o.passes.layout.channels import NOWHERE, Channels, channels_behind, numbers_of
from j2o.passes.layout.linear import (
    Linear,
    is_finite_in,
    scaled_weights,
)

AFFINE = frozenset(["onnx.Add", "onnx.Div", "onnx.Mul", "onnx.Neg", "onnx.Sub"])


@np.errstate(all="ignore")  # what is not finite in the end is left alone
def fold_output(linear: Linear) -> int:
    """linear(x, w) · scale + shift → linear(x, w · scale) + shift; returns how many nodes went."""
    own = linear.bias_numbers
    assert own is not None
    channels = Channels((linear.result_channel_axis,), (len(own),))
    found = ChannelMap(np.ones(len(own)), own, channels, linear.can_scale)
    if linear.bias is not None and linear.bias.const is not None:
        found.name = linear.bias.const.name
    found.follow(linear.node.out)
    dtype = linear.node.out.type.dtype
    if dtype.bits < 32 and (linear.takes_bias or len(found.nodes) > 1):
        return 0  # each step of the program rounds, which only one addition keeps
    if not _is_worth(linear, found):
        return 0
    if not is_finite_in(found.scale, dtype.numpy) or not is_finite_in(
        found.shift, dtype.numpy
    ):
        return 0
    _rebuild(linear, found)
    return len(found.nodes)


@dataclass
class ChannelMap:
    """y ↦ scale · y + shift with one number a channel, in double precision.

    `nodes` are those that it stands for. Where `channels` are nowhere, as behind another product of matrices,
    each element depends on all channels, and only a factor that they have in common can be taken.
    """

    scale: np.ndarray
    shift: np.ndarray
    channels: Channels
    can_scale: bool
    is_cut: bool = False  # whether `nodes` map only a part of the result
    name: str = ""  # where the user has the shift, or the first of several
    nodes: list[Node] = field(default_factory=list)

    def follow(self, out: Value) -> None:
        """Compose with the nodes behind `out`, one user after the other, as far as they are such maps."""
        is_cut = False
        while (user := out.only_user) is not None:
            if user.op in AFFINE:
                if not self._then(user, out):
                    return
                self.nodes.append(user)
                self.is_cut = is_cut
                if user.op in ("onnx.Add", "onnx.Sub"):
                    self._take_name(user)
            elif user.op == "onnx.MatMul":  # a common factor passes: (c y) z = c (y z)
                self.channels = NOWHERE
            else:
                moved = channels_behind(user, self.channels)
                if moved is None:
                    return
                self.channels = moved
                is_cut |= user.op == "onnx.Slice"
            out = user.out

    def _then(self, user: Node, value: Value) -> bool:
        """Compose with what a node makes of `value`; False, and no change, where that is no such map."""
        if user.out.type != value.type:
            return False
        if user.op == "onnx.Neg":
            return self._multiply(-1.0)
        is_left = user.operand(0) is value
        other = user.operand(1 if is_left else 0)
        number = numbers_of(other, value.type.rank, self.channels)
        if number is None:
            return False
        match user.op:
            case "onnx.Mul":
                return self._multiply(number)
            case "onnx.Div":
                # something divided by the value, or a channel divided by zero
                if not is_left or not number.all():
                    return False
                return self._multiply(1.0 / number)
            case "onnx.Sub" if is_left:
                return self._add(-number)
            case "onnx.Sub":
                return self._can_add() and self._multiply(-1.0) and self._add(number)
            case _:
                return self._add(number)

    def _take_name(self, user: Node) -> None:
        """Name the shift after a constant that is added, where it has no name yet."""
        names = [v.const.name for v in user.operands if v.const is not None]
        self.name = self.name or "".join(names)

    def _multiply(self, factor: np.ndarray | float) -> bool:
        """Compose with a product; False, and no change, where the weights take no scale."""
        if not self.can_scale:
            return False
        self.scale = self.scale * factor
        self.shift = self.shift * factor
        return True

    def _can_add(self) -> bool:
        """Return True where there is an axis along which a shift may have its numbers."""
        return bool(self.channels.axes)

    def _add(self, number: np.ndarray) -> bool:
        """Compose with a sum; False, and no change, where the channels are nowhere."""
        if not self._can_add():
            return False
        self.shift = self.shift + number
        return True

    @property
    def scales(self) -> bool:
        """Return True where a factor is another than 1."""
        return not (self.scale == 1).all()

    @property
    def shifts(self) -> bool:
        """Return True where a number other than 0 is added."""
        return bool(self.shift.any())


def _is_worth(linear: Linear, found: ChannelMap) -> bool:
    """Return True where nodes go, or where the one addition moves in front of changes of shape.

    In front of a cut it would be an addition to more elements.
    """
    if not found.nodes:
        return False
    added = 0 if linear.takes_bias or not found.shifts else 1
    if added < len(found.nodes):
        return True
    is_behind = linear.node.out not in found.nodes[0].inputs
    return is_behind and not found.is_cut


def _rebuild(linear: Linear, found: ChannelMap) -> None:
    """Make the operator with other weights and bias, and let the nodes go that it stands for."""
    node = linear.node
    op = Builder(node.home, node, node.loc, node.out.hint)
    inputs = list(node.inputs[:2])
    if found.scales:
        inputs[linear.weight_at] = scaled_weights(
            op, linear, linear.weight_channel_axis, found.scale
        )
    shift = ArrayTensor(found.shift.astype(node.out.type.dtype.numpy), name=found.name)
    if linear.takes_bias and (found.shifts or linear.bias is not None):
        inputs.append(op.const(shift))
    new = op.node(node.op, inputs, node.attrs).out
    if not linear.takes_bias and found.shifts:
        behind = node.out.type.rank - 1 - linear.result_channel_axis
        broadcast = views.reshaped(shift, (shift.size, *[1] * behind))
        new = op.Add(new, op.const(broadcast))
    value = node.out
    node.replace_by(new)
    for folded in found.nodes:
        value = next(v for v in folded.operands if v.const is None)
        folded.replace_by(value)
