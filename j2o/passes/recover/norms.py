"""LayerNormalization and RMSNormalization as flax, equinox, haiku, keras and hand-written code spell them.

The first is (x - μ) / √(σ² + ε) · scale + bias, where μ and σ² are the mean and the variance of x over its
last axes. The second is x / √(m + ε) · scale, where m is the mean of x² over them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.recover.constants import is_all_one
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.matching import Match, matches
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


class NormAttrs(NamedTuple):
    """The attributes of both: the first of the axes that are normalised, and ε."""

    axis: int
    epsilon: float


def _norm_attrs(x: Value, axes: Value, eps: Value) -> NormAttrs | None:
    """The attributes, where the axes are the last ones, of known sizes, and epsilon fits in a float32."""
    numbers = axes.known_ints
    if not numbers:
        return None
    rank = x.type.rank
    ascending = sorted(axis % rank for axis in numbers)
    first = ascending[0]
    if ascending != list(range(first, rank)):
        return None
    sizes = x.type.shape[first:]
    # onnxruntime normalises no rows of nothing
    if not dims.is_static(sizes) or 0 in sizes:
        return None
    epsilon = eps.number
    if epsilon is None or not _is_f32(epsilon):
        return None
    return NormAttrs(first, float(epsilon))


def _is_f32(number: float) -> bool:
    """Return True where the attribute epsilon, a float32, can be this number."""
    return float(np.float32(number)) == float(number)


def _per_feature(op: RuleBuilder, value: Value, x: Value, axis: int) -> Value | None:
    """A scale or shift of the normalised axes alone, in their shape; None where it is something else."""
    want = x.type.shape[axis:]
    have = value.type.shape
    extra = max(len(have) - len(want), 0)
    if any(size != 1 for size in have[:extra]):
        return None
    if have[extra:] == want:
        return op.squeeze(value, range(extra))
    if extra or value.const is None:
        return None
    return op.expand(value, want)


def _scale_or_ones(
    op: RuleBuilder, scale: Value | None, x: Value, axis: int
) -> Value | None:
    """The scale for the operator, ones where a program has none; None where it is another for each row."""
    if scale is None:
        return op.const(np.ones(x.type.shape[axis:], x.type.dtype.numpy))
    return _per_feature(op, scale, x, axis)


def _normalised(
    op: RuleBuilder,
    operator: str,
    x: Value,
    scale: Value | None,
    attrs: NormAttrs | None,
) -> Value | None:
    """A normalisation times a scale; None where it has no attributes, or another scale for each row."""
    if attrs is None:
        return None
    factor = _scale_or_ones(op, scale, x, attrs.axis)
    if factor is None:
        return None
    return op.apply(f"onnx.{operator}", x, factor, **attrs._asdict())


def _with_scale(
    op: RuleBuilder,
    operator: str,
    x: Value,
    ones: Value,
    scale: Value,
    attrs: NormAttrs,
) -> Value | None:
    """A normalisation that has no scale of its own, with the one that stands behind it."""
    if not is_all_one(ones):
        return op.decline("it has a scale already")
    factor = _per_feature(op, scale, x, attrs.axis % x.type.rank)
    if factor is None:
        return None
    return op.apply(f"onnx.{operator}", x, factor, **attrs._asdict())


def _centred(op, x, axes):
    """x - μ, and μ."""
    mean = op.ReduceMean(x, axes, keepdims=1)
    return op.Sub(x, mean), mean


def _variances(op, x, axes):
    """σ², the mean of (x - μ)² in two passes or mean(x²) - μ² in one, and each with negative ones made 0."""
    centred, mean = _centred(op, x, axes)
    squares = op.either(op.Mul(centred, centred), op.Pow(centred, 2))
    two_pass = op.ReduceMean(squares, axes, keepdims=1)
    mean_square = op.ReduceMean(op.Mul(x, x), axes, keepdims=1)
    one_pass = op.Sub(mean_square, op.Mul(mean, mean))
    return op.either(
        two_pass,
        one_pass,
        op.Relu(two_pass),
        op.Max(two_pass, 0),
        op.Relu(one_pass),
        op.Max(one_pass, 0),
    )


def _deviation(op, x, axes, eps):
    """√(σ² + ε)."""
    return op.Sqrt(op.Add(_variances(op, x, axes), eps))


def _quotient(op, x, size):
    """x / size."""
    return op.either(op.Div(x, size), op.Mul(x, op.Reciprocal(size)))


def _scaled_quotient(op, x, size, scale):
    """x / size · scale, in the orders in which libraries multiply and divide."""
    factor = op.either(op.Mul(op.Reciprocal(size), scale), op.Div(scale, size))
    return op.either(
        op.Mul(x, factor),
        op.Mul(_quotient(op, x, size), scale),
        op.Div(op.Mul(x, scale), size),
    )


# -------------------------------------------------------------------- LayerNormalization


def _layer_attrs(x: Value, axes: Value, eps: Value) -> NormAttrs | None:
    """The attributes of LayerNormalization, which is recovered of float32 alone."""
    return _norm_attrs(x, axes, eps) if x.type.dtype == DType.F32 else None


@rewrite("layer_norm")
def layer_norm(op, x, axes, eps: Const, scale):
    """(x - μ) / √(σ² + ε) · scale, in the orders in which libraries multiply and divide."""
    centred, _ = _centred(op, x, axes)
    return _scaled_quotient(op, centred, _deviation(op, x, axes, eps), scale)


@layer_norm.becomes
def _(op, x, axes, eps, scale):
    attrs = _layer_attrs(x, axes, eps)
    return _normalised(op, "LayerNormalization", x, scale, attrs)


@rewrite("layer_norm_apart")
def layer_norm_apart(op, x, axes, eps: Const, scale, bias):
    """x · w + (bias - μ · w), with w = scale / √(σ² + ε), as Keras has it."""
    _, mean = _centred(op, x, axes)
    size = _deviation(op, x, axes, eps)
    inverse = op.Reciprocal(size)
    weight = op.either(op.Mul(inverse, scale), op.Div(scale, size), inverse)
    taken = op.Mul(mean, weight)
    shift = op.either(op.Mul(op.Neg(mean), weight), op.Neg(taken))
    scaled = op.Mul(x, weight)
    return op.either(
        op.Add(scaled, op.Add(shift, bias)),
        op.Add(scaled, op.Sub(bias, taken)),
        op.Add(scaled, shift),
        op.Sub(scaled, taken),
    )


@layer_norm_apart.becomes
def _(op, x, axes, eps, scale, bias):
    """The kernel takes the mean off first, which keeps digits that the program loses."""
    attrs = _layer_attrs(x, axes, eps)
    if attrs is None:
        return None
    operands = [x, _scale_or_ones(op, scale, x, attrs.axis)]
    if bias is not None:
        operands.append(_per_feature(op, bias, x, attrs.axis))
    if None in operands:
        return op.decline("scale or bias is another for each row")
    return op.LayerNormalization(*operands, axis=attrs.axis, epsilon=attrs.epsilon)


@rewrite("layer_norm_plain")
def layer_norm_plain(op, x, axes, eps: Const):
    """(x - μ) / √(σ² + ε)."""
    centred, _ = _centred(op, x, axes)
    return _quotient(op, centred, _deviation(op, x, axes, eps))


@layer_norm_plain.becomes
def _(op, x, axes, eps):
    attrs = _layer_attrs(x, axes, eps)
    return _normalised(op, "LayerNormalization", x, None, attrs)


@rewrite("layer_norm_scale")
def layer_norm_scale(op, x, ones: Const, scale, axis, epsilon):
    """A LayerNormalization without a scale of its own, and a scale, are one."""
    plain = op.LayerNormalization(x, ones, axis=axis, epsilon=epsilon)
    return op.Mul(plain, scale)


@layer_norm_scale.becomes
def _(op, x, ones, scale, axis, epsilon):
    attrs = NormAttrs(axis, epsilon)
    return _with_scale(op, "LayerNormalization", x, ones, scale, attrs)


@rewrite("layer_norm_bias")
def layer_norm_bias(op, x, scale, bias, axis, epsilon):
    """A LayerNormalization and a shift are one."""
    return op.Add(op.LayerNormalization(x, scale, axis=axis, epsilon=epsilon), bias)


@layer_norm_bias.becomes
def _(op, x, scale, bias, axis, epsilon):
    bias = _per_feature(op, bias, x, axis % x.type.rank)
    if bias is None:
        return None
    return op.LayerNormalization(x, scale, bias, axis=axis, epsilon=epsilon)


def is_layer_norm(op: RuleBuilder, x: Value, axis: int, scale: Value | None) -> bool:
    """Return True where a rule of this file makes LayerNormalization of what stands at the root.

    `x` is normalised from `axis` on.
    """
    root = op.root
    rule = layer_norm_plain if scale is None else layer_norm
    if not any(matches(rule.pattern, root.out, Match(), root.home)):
        return False
    if not dims.is_static(x.type.shape[axis:]):
        return False
    return scale is None or _per_feature(op, scale, x, axis) is not None


LAYER_NORMS = (
    layer_norm,
    layer_norm_apart,
    layer_norm_plain,
    layer_norm_scale,
    layer_norm_bias,
)


# ---------------------------------------------------------------------- RMSNormalization
#
# The kernel agrees with JAX at NaN, infinities, rows of zeros, and squares that overflow or vanish.


def _root_mean_square(op, x, axes, eps):
    """√(m + ε), m the mean of x²."""
    squares = op.either(
        op.Mul(x, x),
        op.Mul(op.Abs(x), op.Abs(x)),
        op.Pow(op.either(x, op.Abs(x)), 2),
    )
    return op.Sqrt(op.Add(op.ReduceMean(squares, axes, keepdims=1), eps))


def _is_centred(x: Value, axis: int) -> bool:
    """Return True where a mean may have been taken off: a layer normalisation is about to be found."""
    if x.op != "onnx.Sub":
        return False
    mean = x.producer.operand(1).type.shape
    normalised = x.type.rank - axis
    return all(size == 1 for size in mean[-normalised:])


def _rms_attrs(op: RuleBuilder, x: Value, axes: Value, eps: Value) -> NormAttrs | None:
    """The attributes of RMSNormalization, where the target prefers it to its parts."""
    if not op.prefers("RMSNormalization", x):
        return None
    attrs = _norm_attrs(x, axes, eps)
    return None if attrs is None or _is_centred(x, attrs.axis) else attrs


@rewrite("rms_norm")
def rms_norm(op, x, axes, eps: Const, scale):
    """x / √(m + ε) · scale, in the orders in which libraries multiply and divide."""
    return _scaled_quotient(op, x, _root_mean_square(op, x, axes, eps), scale)


@rms_norm.becomes
def _(op, x, axes, eps, scale):
    attrs = _rms_attrs(op, x, axes, eps)
    return _normalised(op, "RMSNormalization", x, scale, attrs)


@rewrite("rms_norm_plain")
def rms_norm_plain(op, x, axes, eps: Const):
    """x / √(m + ε)."""
    return _quotient(op, x, _root_mean_square(op, x, axes, eps))


@rms_norm_plain.becomes
def _(op, x, axes, eps):
    attrs = _rms_attrs(op, x, axes, eps)
    return _normalised(op, "RMSNormalization", x, None, attrs)


@rewrite("rms_norm_scale")
def rms_norm_scale(op, x, ones: Const, scale, axis, epsilon):
    """An RMSNormalization without a scale of its own, and a scale, are one."""
    plain = op.RMSNormalization(x, ones, axis=axis, epsilon=epsilon)
    return op.Mul(plain, scale)


@rms_norm_scale.becomes
def _(op, x, ones, scale, axis, epsilon):
    attrs = NormAttrs(axis, epsilon)
    return _with_scale(op, "RMSNormalization", x, ones, scale, attrs)


RMS_NORMS = (rms_norm, rms_norm_plain, rms_norm_scale)
