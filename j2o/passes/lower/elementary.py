"""Elementary functions: exponentials and logarithms, trigonometric and hyperbolic functions, their inverses.

Those that are one ONNX operator for every dtype are rows of the table in `elementwise.py`. Here are those for
which ONNX has no operator, or onnxruntime one that is poor or takes no float64. `docs/semantics.md` says what
the rules make up for. onnxruntime's Where turns a -0 of its first branch into 0: where the sign of zero
matters, it stands in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import ArrayLike

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.table import Lowering, lower, lower_formula, lower_with


def operator_or_formula(
    op: Lowering, operator: str, x: Value, formula: Callable[[Array], Array]
) -> Value:
    """The operator where the target has it for the dtype, else the formula (for f64)."""
    if x.type.dtype != DType.F64 or op.supports(operator, x.type.dtype):
        return op.apply(f"onnx.{operator}", x)
    return op.jax(formula, x)


def odd(x: Array, out: Array) -> Array:
    """An odd function of x, by its values `out` at |x|. Zeros and NaN are their own values."""
    signed = jnp.where(x < 0, -out, out)
    has_sign = jnp.abs(x) > 0
    return jnp.where(has_sign, signed, x)


# ------------------------------------------------------------------------------- exponential, logarithm


@lower("logistic")
def logistic(op: Lowering, x: Value) -> Value:
    """Sigmoid; its parts where a logarithm follows.

    onnxruntime's kernel is 0 from about -16 on, and the logarithm of that -inf.
    """
    has_logarithm = any(user.op == "lax.log" for user in op.source.out.users())
    if has_logarithm and x.type.dtype in (DType.F32, DType.F64):
        return op.Reciprocal(op.Add(op.Exp(op.Neg(x)), 1.0))
    return op.Sigmoid(x)


@lower_with("exp2")
def exp2(x: Array) -> Array:
    """XLA rounds the product to the operand's dtype, too."""
    return lax.exp(x * math.log(2))


@lower_formula("log1p")
def log1p(x: Array) -> Array:
    """Kahan's: log(u) * x / (u - 1) with u = 1 + x corrects what rounding u lost."""
    u = 1 + x
    d = u - 1
    safe = jnp.where(d == 0, jnp.ones_like(d), d)
    near = lax.log(u) * (x / safe)
    out = jnp.where(jnp.isinf(u), lax.log(u), near)
    return jnp.where(jnp.abs(d) > 0, out, x)


@lower_formula("expm1")
def expm1(x: Array) -> Array:
    """Kahan's: (u - 1) * x / log(u) with u = exp(x)."""
    u = lax.exp(x)
    d = u - 1
    log_u = lax.log(u)
    is_useless = (log_u == 0) | jnp.isinf(log_u)
    safe = jnp.where(is_useless, jnp.ones_like(x), log_u)
    near = d * (x / safe)
    is_far = (d == -1) | jnp.isinf(u)
    out = jnp.where(is_far, d, near)
    return jnp.where(jnp.abs(d) > 0, out, x)


@lower_formula("cbrt")
def cbrt(x: Array) -> Array:
    """exp(log|x| / 3), then one Newton step for the last bits."""
    a = jnp.abs(x)
    is_its_own_root = (a == 0) | jnp.isinf(a)
    safe = jnp.where(is_its_own_root, jnp.ones_like(a), a)
    guess = lax.exp(lax.log(safe) / 3)
    error = guess - safe / (guess * guess)
    root = guess - error / 3
    return odd(x, jnp.where(is_its_own_root, a, root))


# ---------------------------------------------------------------------- trigonometric and their inverses


@lower("tan")
def tan(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Tan", x, _tan)


@lower("asin")
def asin(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Asin", x, _asin)


@lower("acos")
def acos(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Acos", x, _acos)


@lower("atan")
def atan(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Atan", x, _atan)


def _tan(x: Array) -> Array:
    return lax.sin(x) / lax.cos(x)


def _asin(x: Array) -> Array:
    return 2 * lax.atan2(x, 1 + _cosine_of_asin(x))


def _acos(x: Array) -> Array:
    out = 2 * lax.atan2(_cosine_of_asin(x), 1 + x)
    pi = jnp.asarray(math.pi, x.dtype)
    return jnp.where(x == -1, pi, out)


def _cosine_of_asin(x: Array) -> Array:
    """sqrt(1 - x²), with no digits lost near 1."""
    return jnp.sqrt((1 - x) * (1 + x))


# Cephes, atan.c: numerator and denominator
_ATAN_P = (
    -8.750608600031904122785e-1,
    -1.615753718733365076637e1,
    -7.500855792314704667340e1,
    -1.228866684490136173410e2,
    -6.485021904942025371773e1,
)
_ATAN_Q = (
    1.0,
    2.485846490142306297962e1,
    1.650270098316988542046e2,
    4.328810604912902668951e2,
    4.853903996359136964868e2,
    1.945506571482613964425e2,
)
_HALF_PI = math.pi / 2
_QUARTER_PI = math.pi / 4
_HALF_PI_REST = 6.123233995736765886130e-17  # pi / 2 less the float64 nearest to it
_QUARTER_PI_REST = 3.061616997868382943065e-17
_TAN_3PI_8 = 2.41421356237309504880


def _atan(x: Array) -> Array:
    """Cephes: reduce the argument to [0, 0.66], then a rational approximation (Moshier, 1989)."""
    a = jnp.abs(x)
    is_large = a > _TAN_3PI_8
    is_middle = a > 0.66

    def by_size(large: ArrayLike, middle: ArrayLike, small: ArrayLike) -> Array:
        return jnp.where(is_large, large, jnp.where(is_middle, middle, small))

    turned = by_size(_HALF_PI, _QUARTER_PI, 0.0)
    rest = by_size(_HALF_PI_REST, _QUARTER_PI_REST, 0.0)
    from_half_pi = -1.0 / jnp.where(a == 0, 1.0, a)
    from_quarter_pi = (a - 1) / (a + 1)
    a = by_size(from_half_pi, from_quarter_pi, a)
    z = a * a
    p = jnp.polyval(jnp.array(_ATAN_P), z)
    q = jnp.polyval(jnp.array(_ATAN_Q), z)
    near = a * (z * p / q) + a
    return odd(x, turned + (near + rest))


@lower_formula("atan2")
def atan2(y: Array, x: Array) -> Array:
    """The angle of (x, y), quadrant by quadrant, signed zeros and infinities as C has them."""
    x, y = jnp.broadcast_arrays(x, y)
    ax = jnp.abs(x)
    ay = jnp.abs(y)
    angle = _angle_up_to_quarter_pi(ax, ay)
    angle = jnp.where(ay > ax, _HALF_PI - angle, angle)
    angle = jnp.where(_is_negative(x), math.pi - angle, angle)
    is_above = (y > 0) | ((y == 0) & (1 / y > 0))
    out = jnp.where(is_above, angle, -angle).astype(x.dtype)
    is_nan = jnp.isnan(x) | jnp.isnan(y)
    return jnp.where(is_nan, jnp.asarray(jnp.nan, x.dtype), out)


def _angle_up_to_quarter_pi(ax: Array, ay: Array) -> Array:
    """The arctangent of the smaller by the larger of two magnitudes; of 1 for two infinities."""
    low = jnp.minimum(ax, ay)
    high = jnp.maximum(ax, ay)
    quotient = low / jnp.where(high == 0, jnp.ones_like(high), high)
    both_infinite = jnp.isinf(ax) & jnp.isinf(ay)
    tangent = jnp.where(both_infinite, 1.0, quotient)
    return lax.atan(tangent.astype(ax.dtype))


def _is_negative(x: Array) -> Array:
    """Return True below zero, and for -0."""
    return (x < 0) | ((x == 0) & (1 / x < 0))


# ---------------------------------------------------------------------- hyperbolic and their inverses
# onnxruntime's own are poor near 0 (sinh, asinh, atanh cancel) or overflow early


@lower_formula("sinh")
def sinh(x: Array) -> Array:
    """By expm1 near 0, and by two factors, neither of which overflows, for large arguments."""
    a = jnp.abs(x)
    e = lax.expm1(a)
    small = 0.5 * (e + e / (e + 1))
    out = jnp.where(a > 20, _half_exponential(a), small)
    has_sign = (a > 0) & (a < jnp.inf)
    signed = jnp.where(x < 0, -out, out)
    return jnp.where(has_sign, signed, x)


@lower_formula("cosh")
def cosh(x: Array) -> Array:
    """The mean of two exponentials; by two factors for large arguments, where the other one is nothing."""
    a = jnp.abs(x)
    e = lax.exp(a)
    mean = 0.5 * (e + 1 / e)
    return jnp.where(a > 20, _half_exponential(a), mean)


def _half_exponential(a: Array) -> Array:
    """exp(a) / 2, by two factors: it may be finite where exp(a) is not."""
    root = lax.exp(0.5 * a)
    return 0.5 * root * root


@lower_formula("asinh")
def asinh(x: Array) -> Array:
    """sign(x) * log(|x| + sqrt(x² + 1)), by log1p near 0 and in the logarithm's scale for large arguments."""
    a = jnp.abs(x)
    is_large = a > _square_overflows(x)
    safe = jnp.where(is_large, 1.0, a)
    root = jnp.sqrt(safe * safe + 1)
    near = lax.log1p(safe + safe * safe / (1 + root))
    far = lax.log(a) + math.log(2)
    out = jnp.where(is_large, far, near).astype(x.dtype)
    return odd(x, out)


@lower_formula("acosh")
def acosh(x: Array) -> Array:
    """log(x + sqrt(x² - 1)), by log1p near 1 and in the logarithm's scale for large arguments."""
    is_large = x > _square_overflows(x)
    t = jnp.where(is_large, 1.0, x - 1)
    near = lax.log1p(t + jnp.sqrt(t * (t + 2)))
    far = lax.log(x) + math.log(2)
    out = jnp.where(is_large, far, near)
    return jnp.where(x < 1, jnp.nan, out).astype(x.dtype)


@lower_formula("atanh")
def atanh(x: Array) -> Array:
    """Half of log((1 + x) / (1 - x)); 0 keeps its sign."""
    out = 0.5 * (lax.log1p(x) - lax.log1p(-x))
    return jnp.where(jnp.abs(x) > 0, out, x)


def _square_overflows(x: Array) -> float:
    """A number from which on squares overflow in the dtype of `x`, or nearly so."""
    greatest = float(jnp.finfo(x.dtype).max)
    return math.sqrt(greatest) / 2
