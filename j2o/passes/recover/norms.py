"""LayerNormalization in the spellings of flax, equinox, haiku, keras and hand-written code."""

from __future__ import annotations

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


def _form(x: Value, axes: Value, eps: Value) -> tuple[int, float] | None:
    """The first of the axes, where they are all axes from there on and of known sizes, and epsilon."""
    if (
        axes.known is None
        or x.type.dtype != DType.F32
        or eps.const is None
        or eps.type.size != 1
    ):
        return None
    rank = x.type.rank
    over = sorted(int(a) % rank for a in axes.known)  # type: ignore[arg-type]
    if not over or over != list(range(over[0], rank)):
        return None
    normalised = x.type.shape[over[0] :]
    if (
        not dims.is_static(normalised) or 0 in normalised
    ):  # onnxruntime normalises no rows of nothing
        return None
    return over[0], float(eps.const.scalar)


def _per_feature(op: RuleBuilder, value: Value, x: Value, axis: int) -> Value | None:
    """A scale or shift of the normalised axes alone, in their shape; None where it is something else."""
    want, have = x.type.shape[axis:], value.type.shape
    extra = len(have) - len(want)
    if any(d != 1 for d in have[: max(extra, 0)]):
        return None
    if tuple(have[max(extra, 0) :]) == tuple(want):
        return op.squeeze(value, range(extra)) if extra > 0 else value
    return (
        op.expand(value, want)
        if len(have) <= len(want) and value.const is not None
        else None
    )


def _centred(op, x, axes):
    mean = op.ReduceMean(x, axes, keepdims=1)
    return op.Sub(x, mean), mean


def _variances(op, x, axes):
    """The two-pass form, and the mean of squares less the square of the mean."""
    centred, mean = _centred(op, x, axes)
    two_pass = op.ReduceMean(
        op.either(op.Mul(centred, centred), op.Pow(centred, 2)), axes, keepdims=1
    )
    fast = op.Sub(op.ReduceMean(op.Mul(x, x), axes, keepdims=1), op.Mul(mean, mean))
    return op.either(
        two_pass,
        fast,
        *(
            at_least(v)
            for v in (two_pass, fast)
            for at_least in (op.Relu, lambda v: op.Max(v, 0))
        ),
    )


def _deviation(op, x, axes, eps):
    return op.Sqrt(op.Add(_variances(op, x, axes), eps))


@rewrite("layer_norm")
def layer_norm(op, x, axes, eps: Const, scale):
    centred, _ = _centred(op, x, axes)
    std = _deviation(op, x, axes, eps)
    inverse = op.Reciprocal(std)
    return op.either(
        op.Mul(centred, op.either(op.Mul(inverse, scale), op.Div(scale, std))),
        op.Mul(op.either(op.Div(centred, std), op.Mul(centred, inverse)), scale),
        op.Div(op.Mul(centred, scale), std),
    )


@layer_norm.becomes
def _(op, x, axes, eps, scale):
    form = _form(x, axes, eps)
    if form is None:
        return None
    axis, epsilon = form
    scale = _per_feature(op, scale, x, axis)
    return (
        None
        if scale is None
        else op.LayerNormalization(x, scale, axis=axis, epsilon=epsilon)
    )


@rewrite("layer_norm_plain")
def layer_norm_plain(op, x, axes, eps: Const):
    centred, _ = _centred(op, x, axes)
    std = _deviation(op, x, axes, eps)
    return op.either(op.Div(centred, std), op.Mul(centred, op.Reciprocal(std)))


@layer_norm_plain.becomes
def _(op, x, axes, eps):
    form = _form(x, axes, eps)
    if form is None or _is_scaled(op.root.out):
        return None
    axis, epsilon = form
    ones = op.const(np.ones(x.type.shape[axis:], np.float32))
    return op.LayerNormalization(x, ones, axis=axis, epsilon=epsilon)


def _is_scaled(value: Value) -> bool:
    """Whether a multiplication follows, which the rule with a scale then takes in."""
    users = list(value.users())
    return len(users) == 1 and users[0].op == "onnx.Mul"


@rewrite("layer_norm_bias")
def layer_norm_bias(op, x, scale, bias, axis, epsilon):
    return op.Add(op.LayerNormalization(x, scale, axis=axis, epsilon=epsilon), bias)


@layer_norm_bias.becomes
def _(op, x, scale, bias, axis, epsilon):
    bias = _per_feature(op, bias, x, axis % x.type.rank)
    return (
        None
        if bias is None
        else op.LayerNormalization(x, scale, bias, axis=axis, epsilon=epsilon)
    )


RULES = (layer_norm, layer_norm_plain, layer_norm_bias)
