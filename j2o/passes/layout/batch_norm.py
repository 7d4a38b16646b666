"""`batch_norms`: a scale and a shift of each channel that no linear operator takes in are one node.

BatchNormalization computes x · scale + shift in one go, and takes half of the time of Mul and Add. A batch
norm in front of an activation ends as it, as in DenseNet, and so do the scale and the bias of a group norm.
"""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.passes.layout.channels import Channels, numbers_of
from j2o.passes.layout.scaled_inputs import FARTHEST
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleSet, rewrite

CHANNELS = 1  # the axis that BatchNormalization takes for them


def _scaled(op, x, scale, divisor, weight):
    """A product or a quotient, and a product with a weight behind it where there is one."""
    scaled = op.either(op.Mul(x, scale), op.Div(x, divisor))
    return op.either(op.Mul(scaled, weight), scaled)


@rewrite("batch_norm")
def batch_norm(
    op, x, mean: Const, scale: Const, divisor: Const, weight: Const, bias: Const
):
    """(x - mean) · scale · weight + bias, one number a channel for each, in front of the axes of places."""
    centred = op.Sub(x, mean)
    scaled = _scaled(op, op.either(centred, x), scale, divisor, weight)
    without_bias = _scaled(op, centred, scale, divisor, weight)
    return op.either(op.Add(scaled, bias), without_bias)


@batch_norm.becomes
def _(op, x, mean, scale, divisor, weight, bias):
    if x.type != op.out_type or x.type.rank < 3:
        return None
    if not op.prefers("BatchNormalization", x):
        return None
    if bias is None and _goes_on(op.root.out):
        return op.decline("a weight or a bias follows, which goes along")
    constants = (mean, scale, divisor, weight, bias)
    given = [one for one in constants if one is not None]
    if all(one.type.size == 1 for one in given):
        return op.decline("all channels have the same numbers")
    means, biases = _of_channels(x, mean, 0.0), _of_channels(x, bias, 0.0)
    factors, divisors = _of_channels(x, scale, 1.0), _of_channels(x, divisor, 1.0)
    weights = _of_channels(x, weight, 1.0)
    if means is None or biases is None or factors is None:
        return op.decline("there is another number for each place")
    if divisors is None or weights is None:
        return op.decline("there is another divisor or weight for each place")
    if not divisors.all():
        return op.decline("a channel is divided by 0")
    units = factors / divisors
    # as in `affine`: x · w - mean · w is not exact where x is near a mean that is far from 0
    if (np.abs(means * units) > FARTHEST).any():
        return op.decline("a mean is far from 0")
    factors = units * weights
    shift = biases - means * factors
    numbers = [factors, shift, np.zeros_like(shift), np.ones_like(shift)]
    dtype = x.type.dtype.numpy
    if not np.isfinite(np.array(numbers).astype(dtype)).all():
        return None
    operands = [op.const(one.astype(dtype)) for one in numbers]
    return op.BatchNormalization(x, *operands, epsilon=0.0)


def _goes_on(value: Value) -> bool:
    """Return True where all that becomes of a value is a product or a sum with a constant."""
    user = value.only_user
    if user is None or user.op not in ("onnx.Add", "onnx.Mul"):
        return False
    return any(operand.const is not None for operand in user.operands)


def _of_channels(x: Value, value: Value | None, default: float) -> np.ndarray | None:
    """A constant as one number for each channel of x; None where it is none, or is not known.

    Where there is no constant, each has the default.
    """
    count = x.type.shape[CHANNELS]
    if type(count) is not int or not count:
        return None
    if value is None:
        return np.full(count, default)
    return numbers_of(value, x.type.rank, Channels((CHANNELS,), (count,)))


batch_norms = RuleSet(
    "batch_norms", (batch_norm,), doc="Scales and shifts of channels as one node."
)
