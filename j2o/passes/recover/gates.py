"""Activations made of gates: LeakyRelu, hard gates, Softplus and Mish, Elu and its kin.

Each is put where the target prefers it to its parts. Their kernels agree with JAX at NaN and infinities, and
elsewhere by some units of the last place of the greatest term. Others have no rule: the kernel of
ReduceLogSumExp overflows, those of ReduceL1, ReduceL2 and ReduceSumSquare take up to six times as long as
their parts, and onnxruntime inlines Swish at opset 24 alone.
"""

from __future__ import annotations

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.recover.constants import finite_float_of, is_near
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


def _factor(factor: Value | None, divisor: Value | None) -> float | None:
    """What is multiplied by, given as a factor or as a divisor."""
    by = finite_float_of(divisor)
    return 1 / by if by else finite_float_of(factor)


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
    alpha = finite_float_of(slope)
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
    beta, height = finite_float_of(shift), finite_float_of(top)
    alpha = _factor(factor, divisor)
    if beta is None or not height or alpha is None:
        return None
    is_one = is_near(alpha * height, 1.0, x.type.dtype)
    if not is_one or not op.prefers("HardSigmoid", x):
        return None
    return op.HardSigmoid(x, alpha=1 / height, beta=beta / height)


@rewrite("hard_sigmoid_scaled")
def hard_sigmoid_scaled(op, x, shift: Const, factor: Const, divisor: Const):
    """min(max(x · factor + shift, 0), 1)."""
    scaled = op.either(op.Mul(x, factor), op.Div(x, divisor))
    return op.Clip(op.Add(scaled, shift), 0.0, 1.0)


@hard_sigmoid_scaled.becomes
def _(op, x, shift, factor, divisor):
    alpha, beta = _factor(factor, divisor), finite_float_of(shift)
    if alpha is None or beta is None or not op.prefers("HardSigmoid", x):
        return None
    return op.HardSigmoid(x, alpha=alpha, beta=beta)


@rewrite("hard_swish")
def hard_swish(op, x, alpha, beta):
    """x · min(max(x / 6 + ½, 0), 1)."""
    return op.Mul(x, op.HardSigmoid(x, alpha=alpha, beta=beta))


@hard_swish.becomes
def _(op, x, alpha, beta):
    fits = is_near(alpha, 1 / 6, x.type.dtype) and is_near(beta, 0.5, x.type.dtype)
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


@rewrite("softplus_below_zero", at="lax")
def softplus_below_zero(op, x):
    """log(1 + e^-|x|), as losses of logits have it: e^-|x| never overflows, and so it is a Softplus too."""
    return op.lax.log1p(op.lax.exp(op.lax.neg(op.lax.abs(x))))


@softplus_below_zero.becomes
def _(op, x):
    return op.Softplus(op.Neg(op.Abs(x))) if op.prefers("Softplus", x) else None


@rewrite("mish")
def mish(op, x):
    """x tanh(softplus(x))."""
    return op.Mul(x, op.Tanh(op.Softplus(x)))


@mish.becomes
def _(op, x):
    return op.Mish(x) if op.prefers("Mish", x) else None


# ------------------------------------------------------------------------------------- exponential units
#
# The kernels subtract 1 from an exponential, which loses the digits of expm1 near 0: `elu-near-zero` in
# semantics.md. That of Elu gives -0 for -0, the others 0.


def _has_unit(op: RuleBuilder, kind: str, x: Value) -> bool:
    """Return True for float32: the kernels of fewer bits round each step."""
    return x.type.dtype == DType.F32 and op.prefers(kind, x)


def _cast(op, number):
    """A number, which `jit` may have been given in another dtype."""
    return op.either(number, op.lax.convert_element_type(number, new_dtype=...))


def _zeros(op):
    """0, or a tensor of it."""
    number = _cast(op, 0.0)
    wide = op.lax.broadcast_in_dim(number, broadcast_dimensions=..., shape=...)
    return op.either(number, wide)


def _times(op, value, factor):
    """A product with a constant, or the value itself."""
    number = _cast(op, factor)
    return op.either(op.lax.mul(number, value), op.lax.mul(value, number), value)


@rewrite("elu", at="lax")
def elu(op, x, alpha: Const):
    """x right of 0, α expm1(x) left of it; `jax.nn.elu` keeps what is right of 0 from overflowing."""
    zero = 0.0
    is_right = op.either(op.lax.gt(x, zero), op.lax.ge(x, zero))
    is_left = op.either(op.lax.lt(x, zero), op.lax.le(x, zero))
    kept = op.either(
        op.lax.select_n(is_right, x, _zeros(op)),
        op.lax.select_n(is_left, _zeros(op), x),
        op.lax.min(x, zero),
        x,
    )
    left = _times(op, op.lax.expm1(kept), alpha)
    return op.either(
        op.lax.select_n(is_right, left, x), op.lax.select_n(is_left, x, left)
    )


@elu.becomes
def _(op, x, alpha):
    return _elu(op, x, alpha)


def _elu(op: RuleBuilder, x: Value, alpha: Value | None) -> Value | None:
    """Elu with the number that alpha is, 1 where it is left out."""
    factor = 1.0 if alpha is None else finite_float_of(alpha)
    if factor is None or not _has_unit(op, "Elu", x):
        return None
    return op.Elu(x, alpha=factor)


@rewrite("elu_of_exp")
def elu_of_exp(op, x, alpha: Const):
    """x right of 0, α (eˣ - 1) left of it."""
    grown = op.Sub(op.Exp(x), 1.0)
    left = op.either(op.Mul(grown, alpha), grown)
    return op.either(
        op.Where(op.Greater(x, 0.0), x, left),
        op.Where(op.Less(x, 0.0), left, x),
    )


@elu_of_exp.becomes
def _(op, x, alpha):
    return _elu(op, x, alpha)


@rewrite("selu")
def selu(op, x, alpha, gamma: Const):
    """γ Elu(x)."""
    return op.Mul(op.Elu(x, alpha=alpha), gamma)


@selu.becomes
def _(op, x, alpha, gamma):
    factor = finite_float_of(gamma)
    if factor is None or not op.prefers("Selu", x):
        return None
    return op.Selu(x, alpha=alpha, gamma=factor)


@rewrite("celu", at="lax")
def celu(op, x, alpha: Const):
    """max(x, 0) + α expm1(min(x, 0) / α)."""
    zero = 0.0
    number = _cast(op, alpha)
    grown = op.lax.expm1(op.lax.div(op.lax.min(x, zero), number))
    right, left = op.lax.max(x, zero), op.lax.mul(number, grown)
    return op.either(op.lax.add(right, left), op.lax.add(left, right))


@celu.becomes
def _(op, x, alpha):
    factor = finite_float_of(alpha)
    if factor == 1 and _has_unit(op, "Elu", x):
        return op.Elu(x)
    if not factor or factor < 0 or not _has_unit(op, "Celu", x):
        return None
    return op.Celu(x, alpha=factor)


GATES = (
    leaky_relu,
    hard_sigmoid,
    hard_sigmoid_scaled,
    hard_swish,
    mish,
    elu_of_exp,
    selu,
)
EARLY_GATES = (softplus, elu, celu)
