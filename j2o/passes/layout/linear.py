"""Linear operators with constant weights: which axes of the weights and of the result count what.

A *channel* is one number of the result, an *input* is what is multiplied by weights and added up for it.

    Conv(x, w)      w is (channels, inputs, places…), channels lie along axis 1 of the result
    MatMul(x, w)    w is (inputs, channels), channels lie along the last axis of the result
    MatMul(w, x)    w is (channels, inputs), channels lie along the last axis but one of the result
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from j2o.ir import views
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.tensor import ArrayTensor
from j2o.passes.layout.channels import Channels, numbers_of

# these are no linear operators, but have a scale and a bias for each channel
NORMS = frozenset(["onnx.InstanceNormalization"])


class Linear(NamedTuple):
    """A linear operator: where its weights are, and which of their axes count what.

    Both the weights and the result have an axis for the channels of the result. Both the weights and the
    source have an axis for the inputs, which are multiplied by the weights and summed.
    """

    node: Node
    weight_channel_axis: int
    # None where a factor of an input has no place in the weights
    weight_input_axis: int | None
    weight_at: int = 1  # which operand the weights are
    result_channel_axis: int = 1
    source_input_axis: int = 1

    @property
    def weight(self) -> Value:
        """The matrix or the kernel."""
        return self.node.operand(self.weight_at)

    @property
    def source(self) -> Value:
        """The operand that is multiplied by the weights."""
        return self.node.operand(1 - self.weight_at)

    @property
    def takes_bias(self) -> bool:
        """Return True where the operator has an operand for a bias."""
        return self.node.op != "onnx.MatMul"

    @property
    def bias(self) -> Value | None:
        """The bias, None where it is left out."""
        return self.node.optional(2)

    @property
    def bias_numbers(self) -> np.ndarray | None:
        """The bias as one number a channel, None where it is not known; zeros where there is none."""
        if self.bias is None:
            return np.zeros(self.channel_count)
        # the channels lie along the last axis of the bias, which may be a scalar
        rank = max(self.bias.type.rank, 1)
        last = Channels((rank - 1,), (self.channel_count,))
        return numbers_of(self.bias, rank, last)

    @property
    def channel_count(self) -> int:
        """How many channels the result has."""
        own = self.weight.type.static_shape[self.weight_channel_axis]
        if self.node.op != "onnx.ConvTranspose":
            return own
        return own * self.node.int_attr("group", 1)  # of each group

    @property
    def can_scale(self) -> bool:
        """Return True where the weights are its own, and wide enough to be rounded once more."""
        is_own = len(self.weight.uses) == 1 or self.node.op in NORMS
        is_wide = self.node.out.type.dtype.bits >= 32
        is_grouped = self.node.int_attr("group", 1) != 1
        is_mixed = is_grouped and self.node.op == "onnx.ConvTranspose"
        return is_own and is_wide and not is_mixed


def linear_of(node: Node) -> Linear | None:
    """The description of a node that is a linear operator of floats with constant weights.

    None for others.
    """
    described = DESCRIBED.get(node.op)
    if described is None or not node.out.type.dtype.is_float:
        return None
    linear = described(node)
    if linear is None:
        return None
    if linear.weight.const is None:
        return None
    has_other_bias = linear.bias is not None and linear.bias_numbers is None
    return None if has_other_bias else linear


def _linear_conv(node: Node) -> Linear:
    """The weights are (channels, inputs, places…); with groups each meets the inputs of its own group."""
    is_grouped = node.int_attr("group", 1) != 1
    input_axis = None if is_grouped else 1
    return Linear(node, weight_channel_axis=0, weight_input_axis=input_axis)


def _linear_conv_transpose(node: Node) -> Linear:
    """The weights are (inputs, channels, places…)."""
    return Linear(node, weight_channel_axis=1, weight_input_axis=0)


def _linear_norm(node: Node) -> Linear:
    """The weights are (channels): they scale what is normalised already, whatever the factor of the input."""
    return Linear(node, weight_channel_axis=0, weight_input_axis=None)


def _linear_gemm(node: Node) -> Linear | None:
    """The weights are (inputs, channels), with `transB` (channels, inputs)."""
    if node.attrs.get("beta", 1.0) != 1.0 or node.attrs.get("transA"):
        return None
    if node.attrs.get("transB"):
        return Linear(node, weight_channel_axis=0, weight_input_axis=1)
    return Linear(node, weight_channel_axis=1, weight_input_axis=0)


def _linear_matmul(node: Node) -> Linear | None:
    """A product with one constant matrix, on either side."""
    left = node.operand(0)
    right = node.operand(1)
    rank = node.out.type.rank
    if right.const is not None and right.type.rank == 2:
        return Linear(
            node,
            weight_channel_axis=1,
            weight_input_axis=0,
            result_channel_axis=rank - 1,
            source_input_axis=left.type.rank - 1,
        )
    if left.const is not None and left.type.rank == 2 and right.type.rank >= 2:
        return Linear(
            node,
            weight_channel_axis=0,
            weight_input_axis=1,
            weight_at=0,
            result_channel_axis=rank - 2,
            source_input_axis=right.type.rank - 2,
        )
    return None


DESCRIBED: dict[str, Callable[[Node], Linear | None]] = {
    "onnx.Conv": _linear_conv,
    "onnx.ConvTranspose": _linear_conv_transpose,
    "onnx.Gemm": _linear_gemm,
    "onnx.InstanceNormalization": _linear_norm,
    "onnx.MatMul": _linear_matmul,
}


def scaled_weights(op: Builder, linear: Linear, axis: int, scale: np.ndarray) -> Value:
    """The weights times one factor for each slice along `axis`."""
    weight = linear.weight.const
    assert weight is not None
    shape = [1] * len(weight.shape)
    shape[axis] = -1
    factor = ArrayTensor(scale.astype(weight.dtype.numpy).reshape(shape))
    return op.const(views.mapped(np.multiply, "scaled", weight.type, weight, factor))


def is_finite_in(numbers: np.ndarray, dtype: np.dtype) -> bool:
    """Return True where numbers are finite in a float dtype too."""
    return bool((np.abs(numbers) <= np.finfo(dtype).max).all())
