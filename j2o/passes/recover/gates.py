"""Activations that are made of limits and gates: Clip, LeakyRelu, HardSigmoid, HardSwish, Softplus, Mish.

Each is put where the target prefers it to its parts. Their kernels agree with JAX at NaN and infinities, and
elsewhere by some units of the last place of the greatest term. Two others have no rule: the kernel of
ReduceLogSumExp overflows, and onnxruntime inlines Swish at opset 24 alone.
"""

from __future__ import annotations

import math

import ml_dtypes

from j2o.ir.graph import Value
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import rewrite


def _number(value: Value | None) -> float | None:
    """A constant of one finite float."""
    tensor = None if value is None else value.const
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_float:
        return None
    number = float(tensor.scalar)
    return number if math.isfinite(number) else None


def _factor(factor: Value | None, divisor: Value | None) -> float | None:
    """What is multiplied by, given as a factor or as a divisor."""
    by = _number(divisor)
    return 1 / by if by else _number(factor)


def _is_near(number: float, wanted: float, x: Value) -> bool:
    """Return True where two numbers are the same up to the rounding of a dtype."""
    rounding = float(ml_dtypes.finfo(x.type.dtype.numpy).eps)
    return math.isclose(number, wanted, rel_tol=rounding)


# ------------------------------------------------------------------------------------- limits


@rewrite("limited_relu")
def limited_relu(op, x, top: Const):
    """min(max(x, 0), top), with top = 6 Relu6."""
    return op.Min(op.Relu(x), top)


@limited_relu.becomes
def _(op, x, top):
    number = _number(top)
    if number is None or number < 0 or not op.prefers("Clip", x):
        return None
    dtype = x.type.dtype
    return op.Clip(x, op.const(0.0, dtype), op.const(number, dtype))


@rewrite("leaky_relu")
def leaky_relu(op, x, slope: Const):
    """x right of 0, x · slope left of it."""
    left = op.Mul(x, slope)
    return op.either(
        op.Where(op.GreaterOrEqual(x, 0.0), x, left),
        op.Where(op.Greater(x, 0.0), x, left),
        op.Where(op.Less(x, 0.0), left, x),
    )


@leaky_relu.becomes
def _(op, x, slope):
    alpha = _number(slope)
    # a negative slope would change the sign of a zero
    if alpha is None or alpha < 0 or not op.prefers("LeakyRelu", x):
        return None
    return op.LeakyRelu(x, alpha=alpha)


# ------------------------------------------------------------------------------------- hard gates


@rewrite("hard_sigmoid")
def hard_sigmoid(op, x, shift: Const, top: Const, factor: Const, divisor: Const):
    """min(max(x + shift, 0), top) / top."""
    limited = op.Clip(op.Add(x, shift), 0.0, top)
    return op.either(op.Div(limited, divisor), op.Mul(limited, factor))


@hard_sigmoid.becomes
def _(op, x, shift, top, factor, divisor):
    beta, height, alpha = _number(shift), _number(top), _factor(factor, divisor)
    if beta is None or not height or alpha is None:
        return None
    if not _is_near(alpha * height, 1.0, x) or not op.prefers("HardSigmoid", x):
        return None
    return op.HardSigmoid(x, alpha=1 / height, beta=beta / height)


@rewrite("hard_sigmoid_scaled")
def hard_sigmoid_scaled(op, x, shift: Const, factor: Const, divisor: Const):
    """min(max(x · factor + shift, 0), 1)."""
    scaled = op.either(op.Mul(x, factor), op.Div(x, divisor))
    return op.Clip(op.Add(scaled, shift), 0.0, 1.0)


@hard_sigmoid_scaled.becomes
def _(op, x, shift, factor, divisor):
    alpha, beta = _factor(factor, divisor), _number(shift)
    if alpha is None or beta is None or not op.prefers("HardSigmoid", x):
        return None
    return op.HardSigmoid(x, alpha=alpha, beta=beta)


@rewrite("hard_swish")
def hard_swish(op, x, alpha, beta):
    """x · min(max(x / 6 + ½, 0), 1)."""
    return op.Mul(x, op.HardSigmoid(x, alpha=alpha, beta=beta))


@hard_swish.becomes
def _(op, x, alpha, beta):
    fits = _is_near(alpha, 1 / 6, x) and _is_near(beta, 0.5, x)
    return op.HardSwish(x) if fits and op.prefers("HardSwish", x) else None


# ------------------------------------------------------------------------------------- soft gates


@rewrite("softplus", at="lax")
def softplus(op, x):
    """log(eˣ + 1) as max(x, 0) + log(1 + e^-|x|), by itself or as `jnp.logaddexp(x, 0)` has it."""
    zero = 0.0
    gap = op.either(op.lax.sub(x, zero), op.lax.sub(zero, x), x)
    tail = op.lax.log1p(op.lax.exp(op.lax.neg(op.lax.abs(gap))))
    top = op.either(op.lax.max(x, zero), op.lax.max(zero, x))
    both = op.either(op.lax.add(top, tail), op.lax.add(tail, top))
    nan = op.either(op.lax.add(x, zero), op.lax.add(zero, x))
    return op.either(op.lax.select_n(op.lax.ne(gap, gap), both, nan), both)


@softplus.becomes
def _(op, x):
    return op.Softplus(x) if op.prefers("Softplus", x) else None


@rewrite("mish")
def mish(op, x):
    """x tanh(softplus(x))."""
    return op.Mul(x, op.Tanh(op.Softplus(x)))


@mish.becomes
def _(op, x):
    return op.Mish(x) if op.prefers("Mish", x) else None


GATES = (limited_relu, leaky_relu, hard_sigmoid, hard_sigmoid_scaled, hard_swish, mish)
EARLY_GATES = (softplus,)
