"""Scales and shifts of channels go into a convolution's weights and bias.

So a batch norm in evaluation disappears.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor

AFFINE = frozenset(["onnx.Add", "onnx.Div", "onnx.Mul", "onnx.Sub"])


def only_user(value: Value) -> Node | None:
    """The one use of a value, where there is one and it is in the same graph."""
    if len(value.uses) != 1:
        return None
    user = next(value.users())
    return user if user.graph is value.graph else None


@np.errstate(all="ignore")  # what is not finite in the end is left alone
def fold_affine(conv: Node) -> int:
    """conv(x, w) · scale + shift → conv(x, w · scale) + shift; returns how many nodes went into it.

    Follows the chain of single users as far as it is of constants with one number a channel.
    """
    bias, channels = conv.optional(2), conv.out.type.shape[1]
    if type(channels) is not int or not _can_scale(conv):
        return 0
    if bias is not None and bias.const is None:
        return 0
    affine = Affine.of_bias(bias, channels)
    out, folded = conv.out, 0
    while (user := only_user(out)) is not None and affine.then(user, out):
        out, folded = user.out, folded + 1
    if not folded or not affine.fits(conv.out.type.dtype.numpy):
        return 0
    _rebuild(conv, out, affine)
    return folded


def _can_scale(conv: Node) -> bool:
    """Return True where the weights are a constant of the convolution's own and can take a factor a channel."""
    weight, made = conv.operand(1), conv.out.type
    if weight.const is None or len(weight.uses) != 1:
        return False
    if made.dtype.bits < 32:
        return False
    return conv.op == "onnx.Conv" or conv.int_attr("group", 1) == 1


@dataclass
class Affine:
    """y ↦ scale · y + shift with one number a channel, in double precision."""

    scale: np.ndarray
    shift: np.ndarray

    @classmethod
    def of_bias(cls, bias: Value | None, channels: int) -> Affine:
        """The map that adds a constant bias."""
        shift = np.zeros(channels, np.float64)
        if bias is not None and bias.const is not None:
            shift = bias.const.load().astype(np.float64)
        return cls(np.ones(channels, np.float64), shift)

    def then(self, user: Node, value: Value) -> bool:
        """Compose with what a node makes of `value`; False, and no change, where that is no such map."""
        if user.op not in AFFINE or user.out.type != value.type:
            return False
        is_left = user.operand(0) is value
        other = user.operand(1 if is_left else 0)
        number = _channels(other, value.type.rank, len(self.scale))
        if number is None:
            return False
        match user.op:
            case "onnx.Mul":
                self._multiply(number)
            case "onnx.Div":
                # something divided by the convolution, or a channel divided by zero
                if not is_left or not number.all():
                    return False
                self._multiply(1.0 / number)
            case "onnx.Sub" if is_left:
                self.shift = self.shift - number
            case "onnx.Sub":
                self.scale, self.shift = -self.scale, number - self.shift
            case _:
                self.shift = self.shift + number
        return True

    def _multiply(self, factor: np.ndarray) -> None:
        self.scale, self.shift = self.scale * factor, self.shift * factor

    def fits(self, dtype: np.dtype) -> bool:
        """Return True where all numbers are finite in a float dtype."""
        largest = np.finfo(dtype).max
        return bool((np.abs([self.scale, self.shift]) <= largest).all())


def _channels(value: Value, rank: int, count: int) -> np.ndarray | None:
    """A constant as one finite number a channel (axis 1 of `rank`), in double precision; None for others."""
    tensor = value.const
    if tensor is None or not tensor.is_small or len(tensor.shape) > rank:
        return None
    shape = (1,) * (rank - len(tensor.shape)) + tensor.shape
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    if shape[1] not in (1, count):
        return None
    numbers = np.broadcast_to(tensor.load().reshape(-1), (count,))
    return numbers.astype(np.float64) if np.isfinite(numbers).all() else None


def _rebuild(conv: Node, out: Value, affine: Affine) -> None:
    """Make the convolution that gives `out`, in front of `out`'s node, behind the constants of the chain."""
    op = Builder(conv.home, out.node, conv.loc, out.hint)
    x, weight = conv.operand(0), conv.operand(1)
    if not (affine.scale == 1).all():
        assert weight.const is not None
        axis = 1 if conv.op == "onnx.ConvTranspose" else 0
        weight = op.const(_scaled(weight.const, affine.scale, axis))
    bias = op.const(affine.shift.astype(conv.out.type.dtype.numpy))
    new = op.node(conv.op, [x, weight, bias], conv.attrs)
    out.replace_by(new.out)


def _scaled(weight: Tensor, scale: np.ndarray, axis: int) -> Tensor:
    """The weights times one factor for each slice along `axis`."""
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    factor = ArrayTensor(scale.astype(weight.dtype.numpy).reshape(shape))
    return views.mapped(np.multiply, "scaled", weight.type, weight, factor)
