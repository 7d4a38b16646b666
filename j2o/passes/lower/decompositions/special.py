"""Special functions, as plain JAX: the formulas and iteration counts that XLA has, so that the last
bits agree.

A formula is given operands of one shape, f32 or f64; `lower_formula` converts what comes and goes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir.graph import Value
from j2o.passes.lower.decompositions.coefficients import (
    ERF_T,
    ERF_U,
    ERFC_FAR,
    ERFC_NEAR,
    ERFC_P,
    ERFC_Q,
    ERFC_R,
    ERFC_S,
    ERFINV_F32,
    ERFINV_F64,
    I0_FAR,
    I0_NEAR,
    I1_FAR,
    I1_NEAR,
    LANCZOS,
    ZETA,
)
from j2o.passes.lower.elementwise import operator_or_formula
from j2o.passes.lower.table import Lowering, lower, lower_formula


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Horner's scheme, the highest power first."""
    out = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + c
    return out


def _chebyshev(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Clenshaw's scheme, the highest order first, as Cephes' chbevl.

    For x in [-2, 2], the last term halved.
    """
    before, b, out = jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(x)
    for c in coefficients:
        before, b = b, out
        out = x * b - before + c
    return 0.5 * (out - before)


# ----------------------------------------------------------------------- error function


def _erf(x: jax.Array) -> jax.Array:
    z = x * x
    near = x * _polynomial(z, ERF_T) / _polynomial(z, ERF_U)
    return jnp.where(jnp.abs(x) >= 1, 1 - _erfc_beyond_1(x), near)


@lower("erf")
def erf(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Erf", x, _erf)


def _erfc_beyond_1(x: jax.Array) -> jax.Array:
    """erfc where |x| >= 1; it is 0 or 2 long before |x| = 30."""
    a = jnp.abs(x)
    a = jnp.where(a < 1, 1, jnp.where(a > 30, 30, a))
    scale = lax.exp(-a * a)
    if x.dtype == jnp.float64:
        top = jnp.where(a < 8, _polynomial(a, ERFC_P), _polynomial(a, ERFC_R))
        tail = (
            scale
            * top
            / jnp.where(a < 8, _polynomial(a, ERFC_Q), _polynomial(a, ERFC_S))
        )
    else:
        y = 1 / (a * a)
        tail = (
            scale
            * (1 / a)
            * jnp.where(a < 2, _polynomial(y, ERFC_NEAR), _polynomial(y, ERFC_FAR))
        )
    return jnp.where(x < 0, 2 - tail, tail)


@lower_formula("erfc")
def erfc(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < 1, 1 - lax.erf(x), _erfc_beyond_1(x))


@lower_formula("erf_inv")
def erf_inv(x: jax.Array) -> jax.Array:
    w = -lax.log1p(-x * x)
    root = jnp.sqrt(w)
    if x.dtype == jnp.float64:
        near, middle, far = ERFINV_F64
        p = jnp.where(
            w < 16, _polynomial(root - 3.25, middle), _polynomial(root - 5, far)
        )
        p = jnp.where(w < 6.25, _polynomial(w - 3.125, near), p)
    else:
        near, far = ERFINV_F32
        p = jnp.where(w < 5, _polynomial(w - 2.5, near), _polynomial(root - 3, far))
    return jnp.where(jnp.abs(x) == 1, x * jnp.inf, p * x)


# ----------------------------------------------------------------------- gamma function


def _lanczos(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lanczos' sum (g = 7, n = 9), its derivative, and log(z + 7.5), for lgamma and digamma of z + 1."""
    total, slope = jnp.full_like(z, LANCZOS[0]), jnp.zeros_like(z)
    for i, c in enumerate(LANCZOS[1:]):
        total = total + c / (z + i + 1)
        slope = slope - c / ((z + i + 1) * (z + i + 1))
    return total, slope, math.log(7.5) + lax.log1p(z / 7.5)


@lower_formula("lgamma")
def lgamma(x: jax.Array) -> jax.Array:
    """log |Γ(x)|: Lanczos' approximation with the reflection formula under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, _, log_t = _lanczos(z)
    t = z + 7.5
    y = (
        math.log(math.sqrt(2 * math.pi))
        + (z + 0.5 - t / log_t) * log_t
        + lax.log(total)
    )
    fraction = jnp.abs(x) - jnp.floor(jnp.abs(x))
    reduced = jnp.where(fraction > 0.5, 1 - fraction, fraction)
    reflected = math.log(math.pi) - lax.log(jnp.sin(math.pi * reduced)) - y
    reflected = jnp.where(fraction == 0, jnp.inf, reflected)
    out = jnp.where(reflect, reflected, y)
    return jnp.where(jnp.isinf(x), jnp.inf, out)


@lower_formula("digamma")
def digamma(x: jax.Array) -> jax.Array:
    """The derivative of Lanczos' approximation, reflected under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, slope, log_t = _lanczos(z)
    y = log_t + slope / total - 7 / (z + 7.5)
    reduced = x + jnp.abs(jnp.floor(x + 0.5))
    reflected = y - math.pi * jnp.cos(math.pi * reduced) / jnp.sin(math.pi * reduced)
    pole = (x <= 0) & (x == jnp.floor(x))
    return jnp.where(pole, jnp.nan, jnp.where(reflect, reflected, y))


@lower_formula("zeta")
def zeta(x: jax.Array, q: jax.Array) -> jax.Array:
    """Hurwitz' zeta: ten terms of the series, the rest by the Euler-Maclaurin formula (Cephes)."""
    a, series = q, jnp.zeros_like(q)
    for _ in range(10):
        series, a = series + a**-x, a + 1
    power = a**-x
    # the sum of x (x+1) … (x+2j) / (a^(2j+1) ZETA[j]), nested
    correction = jnp.zeros_like(q)
    for j in reversed(range(len(ZETA))):
        odd = (x + 2 * j + 1) / a
        even = (x + 2 * j + 2) / a
        correction = 1 / ZETA[j] + correction * odd * even
    out = series + power * a / (x - 1) + power * (0.5 + x / a * correction)
    x_is_whole = x == jnp.floor(x)
    q_is_whole = q == jnp.floor(q)
    out = jnp.where((q <= 0) & ~x_is_whole, jnp.nan, out)
    out = jnp.where(x < 1, jnp.nan, out)
    pole = jnp.where((x % 2 == 0) & x_is_whole, jnp.inf, jnp.nan)
    out = jnp.where((q <= 0) & q_is_whole, pole, out)
    return jnp.where(x == 1, jnp.inf, out)


@lower_formula("polygamma")
def polygamma(m: jax.Array, x: jax.Array) -> jax.Array:
    """(-1)^(m+1) m! ζ(m + 1, x), and digamma for m = 0."""
    sign = jnp.where(m % 2 == 0, -1, 1).astype(x.dtype)
    out = sign * lax.exp(lax.lgamma(m + 1)) * lax.zeta(m + 1, x)
    out = jnp.where(m == 0, lax.digamma(x), out)
    return jnp.where((m < 0) | (m != jnp.floor(m)), jnp.nan, out)


# ------------------------------------------------------------ incomplete gamma and beta

Step = Callable[[jax.Array, Any], "tuple[jax.Array, Any]"]


def _iterate(step: Step, active: jax.Array, start: Any, limit: int) -> Any:
    """Repeat `step(i, state)`, which gives what goes on and the new state, on the elements that are
    `active` still.

    `i` counts from 1; a state is a tuple of arrays.
    """

    def goes_on(loop: Any) -> Any:
        i, active, _ = loop
        return (i <= limit) & jnp.any(active)

    def body(loop: Any) -> Any:
        i, active, state = loop
        more, new = step(i.astype(state[0].dtype), state)
        pairs = zip(new, state, strict=True)
        state = tuple(jnp.where(active, after, before) for after, before in pairs)
        return i + 1, active & more, state

    _, _, last = lax.while_loop(goes_on, body, (jnp.int32(1), active, start))
    return last


def _series(
    a: jax.Array, x: jax.Array, active: jax.Array, derive: bool
) -> tuple[jax.Array, jax.Array]:
    """The sum of x^n / ((a+1) … (a+n)) and its derivative by a (DLMF 8.11.4)."""
    eps = jnp.finfo(x.dtype).eps

    def step(i: jax.Array, state: Any) -> Any:
        r, c, total, slope_c, slope = state
        r = r + 1
        slope_c = slope_c * (x / r) - (c * x) / (r * r)
        slope = slope + slope_c
        c = c * (x / r)
        total = total + c
        change = jnp.abs(slope_c / slope) if derive else c / total
        return change > eps, (r, c, total, slope_c, slope)

    one = jnp.ones_like(a)
    zero = jnp.zeros_like(a)
    start = (a, one, one, zero, zero)
    _, _, total, _, slope = _iterate(step, active, start, 2**31 - 2)
    return total, slope


def _fraction(
    a: jax.Array, x: jax.Array, active: jax.Array, derive: bool
) -> tuple[jax.Array, jax.Array]:
    """The continued fraction of Γ(a, x) eˣ x⁻ᵃ and its derivative by a (DLMF 8.9.2, Cephes' igamc)."""
    eps = float(jnp.finfo(x.dtype).eps)

    def step(i: jax.Array, state: Any) -> Any:
        y, z, value, slope, p1, q1, p2, q2, dp1, dq1, dp2, dq2 = state
        y = y + 1
        z = z + 2
        yc = y * i
        p = p1 * z - p2 * yc
        q = q1 * z - q2 * yc
        dp = dp1 * z - p1 - dp2 * yc + p2 * i
        dq = dq1 * z - q1 - dq2 * yc + q2 * i
        known = q != 0
        r = p / q
        error = jnp.where(known, jnp.abs((value - r) / r), 1)
        value = jnp.where(known, r, value)
        new_slope = jnp.where(known, (dp - value * dq) / q, slope)
        change = jnp.where(known, jnp.abs(new_slope - slope), 1)
        scale = jnp.where(jnp.abs(p) > 1 / eps, eps, 1).astype(x.dtype)
        rest = tuple(v * scale for v in (p, q, p1, q1, dp, dq, dp1, dq1))
        return (change if derive else error) > eps, (y, z, value, new_slope, *rest)

    one = jnp.ones_like(x)
    zero = jnp.zeros_like(x)
    y = 1 - a
    z = x + y + 1
    p1 = x + 1
    q1 = z * x
    value = p1 / q1
    start = (y, z, value, value * x / q1, p1, q1, one, x, zero, -x, zero, zero)
    _, _, value, slope, *_ = _iterate(step, active, start, 2000)
    return value, slope


def _scale(a: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x^a e^-x / Γ(a), and where it does not underflow."""
    log = a * lax.log(x) - x - lax.lgamma(a)
    return lax.exp(log), ~(log < -math.log(jnp.finfo(x.dtype).max))


def _incomplete(
    a: jax.Array, x: jax.Array, beyond: jax.Array, active: jax.Array
) -> tuple[jax.Array, ...]:
    """Where P(a, x) and Q(a, x) are defined.

    Q by its fraction where `beyond`, and P by its series elsewhere.
    """
    is_nan = jnp.isnan(a) | jnp.isnan(x)
    both_zero = (a == 0) & (x == 0)
    domain = ~((x < 0) | (a < 0) | both_zero | is_nan)
    scale, representable = _scale(a, x)
    active = active & domain & representable & ~jnp.isinf(x)
    fraction, _ = _fraction(a, x, active & beyond, False)
    series, _ = _series(a, x, active & ~beyond, False)
    return domain, fraction * scale, series * scale / a


@lower_formula("igamma")
def igamma(a: jax.Array, x: jax.Array) -> jax.Array:
    """P(a, x), the regularised lower incomplete gamma function."""
    beyond = (x >= 1) & (x > a)
    domain, upper, lower = _incomplete(a, x, beyond, x != 0)
    out = jnp.where(beyond, 1 - upper, lower)
    out = jnp.where(x == 0, 0, out)
    out = jnp.where(x == jnp.inf, 1, out)
    return jnp.where(domain, out, jnp.nan)


@lower_formula("igammac")
def igammac(a: jax.Array, x: jax.Array) -> jax.Array:
    """Q(a, x) = 1 - P(a, x)."""
    beyond = ~((x < 1) | (x < a))
    domain, upper, lower = _incomplete(a, x, beyond, a != 0)
    out = jnp.where((x == jnp.inf) | (a == 0), 0, jnp.where(beyond, upper, 1 - lower))
    return jnp.where(domain, out, jnp.nan)


def _gradient(
    a: jax.Array, x: jax.Array, finish: Callable[..., jax.Array]
) -> jax.Array:
    """Of P(a, x) by a: `finish(scale, x, slope)` of the logarithmic derivative's numerator on each side."""
    domain = ~((x < 0) | (a <= 0) | jnp.isnan(a) | jnp.isnan(x))
    beyond = (x > 1) & (x > a)
    scale, representable = _scale(a, x)
    active = domain & representable & (x != 0)
    value, slope = _fraction(a, x, active & beyond, True)
    numerator = value * (lax.log(x) - lax.digamma(a)) + slope
    upper = finish(scale, x, -numerator)
    value, slope = _series(a, x, active & ~beyond, True)
    numerator = value * (lax.log(x) - lax.digamma(a + 1)) + slope
    lower = finish(scale, x, numerator) / a
    out = jnp.where(beyond, upper, lower)
    out = jnp.where(x == 0, 0, out)
    return jnp.where(domain, out, jnp.nan)


@lower_formula("igamma_grad_a")
def igamma_grad_a(a: jax.Array, x: jax.Array) -> jax.Array:
    return _gradient(a, x, lambda scale, x, slope: scale * slope)


@lower_formula("random_gamma_grad")
def random_gamma_grad(a: jax.Array, x: jax.Array) -> jax.Array:
    """-(∂P/∂a) / (∂P/∂x): of a sample of Gamma(a, 1) by a."""
    return _gradient(a, x, lambda scale, x, slope: -slope * x)


@lower_formula("regularized_incomplete_beta")
def regularized_incomplete_beta(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), with Lentz' algorithm.

    Mirrored where that converges faster.
    """
    info = jnp.finfo(x.dtype)
    no_a = (a == 0) | (b == jnp.inf)
    no_b = (b == 0) | (a == jnp.inf)
    zero = (no_b & (x != 1)) | (no_a & (x == 0))
    one = (no_a & (x != 0)) | (no_b & (x == 1))
    inside = (a >= 0) & (b >= 0) & (x >= 0) & (x <= 1)
    outside = ~inside | (no_a & no_b)
    fast = x < (a + 1) / (a + b + 2)
    a, b = jnp.where(fast, a, b), jnp.where(fast, b, a)
    x = jnp.where(fast, x, 1 - x)
    value = _beta_fraction(a, b, x)
    rest = lax.lgamma(b) - lax.lgamma(a + b)
    tail = lax.log1p(-x) * b
    factor = lax.exp(lax.log(x) * a + tail - (lax.lgamma(a) + rest)) / a
    # a Γ(a) = Γ(a + 1) is 1
    factor = jnp.where(a < 2 * float(info.tiny), lax.exp(tail - rest), factor)
    out = jnp.where(fast, value * factor, 1 - value * factor)
    out = jnp.where(zero, 0, out)
    out = jnp.where(one, 1, out)
    return jnp.where(outside, jnp.nan, out)


def _beta_fraction(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22), by Lentz' algorithm."""
    eps = float(jnp.finfo(x.dtype).eps)
    small = eps / 2

    def step(i: jax.Array, state: Any) -> Any:
        c, d, value = state
        m = jnp.floor(i / 2)
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        # for m = 0, a cancels, which may be 0
        odd = jnp.where(m == 0, -(a + b) * x / (a + 1), odd)
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        numerator = jnp.where(i % 2 == 1, odd, even)
        c = 1 + numerator / c
        d = 1 + numerator * d
        c = jnp.where(jnp.abs(c) < small, small, c)
        d = 1 / jnp.where(jnp.abs(d) < small, small, d)
        is_done = jnp.abs(c * d - 1) < small
        return ~is_done, (c, d, value * (c * d))

    ones = jnp.ones_like(x)
    limit = 199 if x.dtype == jnp.float32 else 599
    start = (ones * (2 / eps), ones, ones)
    _, _, value = _iterate(step, ones > 0, start, limit)
    return value


# --------------------------------------------------------------------- Bessel functions


def _bessel(
    x: jax.Array, near: Sequence[float], far: Sequence[float], cut: int
) -> tuple[jax.Array, jax.Array]:
    if x.dtype == jnp.float32:
        near, far = near[cut:], far[18:]
    inner = _chebyshev(0.5 * x - 2, near)
    outer = _chebyshev(32 / x - 2, far)
    return inner, outer / jnp.sqrt(x)


@lower_formula("bessel_i0e")
def bessel_i0e(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    near, far = _bessel(a, I0_NEAR, I0_FAR, 12)
    return jnp.where(a <= 8, near, far)


@lower_formula("bessel_i1e")
def bessel_i1e(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    near, far = _bessel(a, I1_NEAR, I1_FAR, 12)
    return jnp.sign(x) * jnp.where(a <= 8, near * a, far)
