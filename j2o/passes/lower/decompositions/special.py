"""Special functions, as plain JAX: error, gamma, zeta and Bessel functions.

The formulas and the numbers of iterations are XLA's, so that the last bits agree. A formula is given
operands of one shape, f32 or f64; `lower_formula` converts what comes and goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array, lax

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
from j2o.passes.lower.elementary import operator_or_formula
from j2o.passes.lower.table import Lowering, lower, lower_formula


def _polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    """Horner's scheme, the highest power first."""
    out = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + c
    return out


def _chebyshev(x: Array, coefficients: Sequence[float]) -> Array:
    """A Chebyshev series in x / 2 by Clenshaw's scheme, the highest order first, as Cephes' chbevl.

    For x in [-2, 2]; the last term counts half.
    """
    out = jnp.zeros_like(x)
    last = before = out
    for c in coefficients:
        before = last
        last = out
        out = x * last - before + c
    return 0.5 * (out - before)


# ----------------------------------------------------------------------- error function


def _erf(x: Array) -> Array:
    """By a rational function of x² where |x| < 1, beyond by erfc."""
    z = x * x
    near = x * _polynomial(z, ERF_T) / _polynomial(z, ERF_U)
    far = 1 - _erfc_beyond_1(x)
    return jnp.where(jnp.abs(x) >= 1, far, near)


@lower("erf")
def erf(op: Lowering, x: Value) -> Value:
    return operator_or_formula(op, "Erf", x, _erf)


def _erfc_beyond_1(x: Array) -> Array:
    """erfc where |x| >= 1; it is 0 or 2 long before |x| = 30."""
    a = jnp.abs(x)
    at_most_30 = jnp.where(a > 30, 30, a)
    a = jnp.where(a < 1, 1, at_most_30)
    is_double = x.dtype == jnp.float64
    tail = _erfc_tail_f64(a) if is_double else _erfc_tail_f32(a)
    return jnp.where(x < 0, 2 - tail, tail)


def _erfc_tail_f64(a: Array) -> Array:
    """erfc from 1 on, by one of two rational functions."""
    is_near = a < 8
    near = _polynomial(a, ERFC_P)
    far = _polynomial(a, ERFC_R)
    top = jnp.where(is_near, near, far)
    near = _polynomial(a, ERFC_Q)
    far = _polynomial(a, ERFC_S)
    bottom = jnp.where(is_near, near, far)
    return lax.exp(-a * a) * top / bottom


def _erfc_tail_f32(a: Array) -> Array:
    """erfc from 1 on, by one of two polynomials in 1 / a²."""
    y = 1 / (a * a)
    near = _polynomial(y, ERFC_NEAR)
    far = _polynomial(y, ERFC_FAR)
    factor = jnp.where(a < 2, near, far)
    return lax.exp(-a * a) * (1 / a) * factor


@lower_formula("erfc")
def erfc(x: Array) -> Array:
    """1 - erf where |x| < 1; beyond that would lose digits."""
    near = 1 - lax.erf(x)
    return jnp.where(jnp.abs(x) < 1, near, _erfc_beyond_1(x))


@lower_formula("erf_inv")
def erf_inv(x: Array) -> Array:
    """The inverse of erf: x times a polynomial in w = -log(1 - x²), or in its root (Giles, 2012)."""
    w = -lax.log1p(-x * x)
    is_double = x.dtype == jnp.float64
    factor = _erf_inv_f64(w) if is_double else _erf_inv_f32(w)
    return jnp.where(jnp.abs(x) == 1, x * jnp.inf, factor * x)


def _erf_inv_f64(w: Array) -> Array:
    """erf⁻¹(x) / x by one of three polynomials."""
    near, middle, far = ERFINV_F64
    root = jnp.sqrt(w)
    in_middle = _polynomial(root - 3.25, middle)
    beyond = _polynomial(root - 5, far)
    out = jnp.where(w < 16, in_middle, beyond)
    return jnp.where(w < 6.25, _polynomial(w - 3.125, near), out)


def _erf_inv_f32(w: Array) -> Array:
    """erf⁻¹(x) / x by one of two polynomials."""
    near, far = ERFINV_F32
    inside = _polynomial(w - 2.5, near)
    beyond = _polynomial(jnp.sqrt(w) - 3, far)
    return jnp.where(w < 5, inside, beyond)


# ----------------------------------------------------------------------- gamma function


LOG_ROOT_2PI = math.log(math.sqrt(2 * math.pi))


def _lanczos(z: Array) -> tuple[Array, Array, Array]:
    """Lanczos' sum (g = 7, n = 9), its derivative, and log t, t = z + 7.5, for lgamma and digamma of z + 1.

    Γ(z + 1) = √(2π) t^(z + ½) e^-t · sum.
    """
    total = jnp.full_like(z, LANCZOS[0])
    slope = jnp.zeros_like(z)
    for i, c in enumerate(LANCZOS[1:]):
        place = z + i + 1
        total = total + c / place
        slope = slope - c / (place * place)
    log_t = math.log(7.5) + lax.log1p(z / 7.5)
    return total, slope, log_t


@lower_formula("lgamma")
def lgamma(x: Array) -> Array:
    """log |Γ(x)|: Lanczos' approximation with the reflection formula under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, _, log_t = _lanczos(z)
    t = z + 7.5
    power = (z + 0.5 - t / log_t) * log_t  # (z + ½) log t - t
    y = LOG_ROOT_2PI + power + lax.log(total)
    # log |Γ(x)| = log π - log |sin πx| - log |Γ(1 - x)|; the angle is made small first
    a = jnp.abs(x)
    fraction = a - jnp.floor(a)
    reduced = jnp.where(fraction > 0.5, 1 - fraction, fraction)
    log_sine = lax.log(jnp.sin(math.pi * reduced))
    reflected = math.log(math.pi) - log_sine - y
    reflected = jnp.where(fraction == 0, jnp.inf, reflected)
    out = jnp.where(reflect, reflected, y)
    return jnp.where(jnp.isinf(x), jnp.inf, out)


@lower_formula("digamma")
def digamma(x: Array) -> Array:
    """The derivative of Lanczos' approximation, reflected under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, slope, log_t = _lanczos(z)
    y = log_t + slope / total - 7 / (z + 7.5)
    # ψ(x) = ψ(1 - x) - π cos πx / sin πx; the angle is made small first
    angle = math.pi * (x + jnp.abs(jnp.floor(x + 0.5)))
    reflected = y - math.pi * jnp.cos(angle) / jnp.sin(angle)
    out = jnp.where(reflect, reflected, y)
    is_pole = (x <= 0) & (x == jnp.floor(x))
    return jnp.where(is_pole, jnp.nan, out)


@lower_formula("zeta")
def zeta(x: Array, q: Array) -> Array:
    """Hurwitz' zeta: ten terms of the series, the rest by the Euler-Maclaurin formula (Cephes)."""
    # ζ(x, q) = q^-x + … + (q+9)^-x + a^(1-x) / (x-1) + a^-x / 2 + corrections, with a = q + 10
    a = q
    series = jnp.zeros_like(q)
    for _ in range(10):
        series = series + a**-x
        a = a + 1
    power = a**-x
    integral = power * a / (x - 1)
    correction = power * (0.5 + x / a * _bernoulli_terms(x, a))
    return _zeta_at_edges(x, q, series + integral + correction)


def _bernoulli_terms(x: Array, a: Array) -> Array:
    """The sum of x (x+1) … (x+2j) / (a^(2j+1) ZETA[j]), nested."""
    total = jnp.zeros_like(a)
    for j in reversed(range(len(ZETA))):
        odd = (x + 2 * j + 1) / a
        even = (x + 2 * j + 2) / a
        total = 1 / ZETA[j] + total * odd * even
    return total


def _zeta_at_edges(x: Array, q: Array, out: Array) -> Array:
    """`out`, but for x up to 1 and q up to 0: poles are infinite, or NaN where both signs meet."""
    x_is_whole = x == jnp.floor(x)
    q_is_whole = q == jnp.floor(q)
    out = jnp.where((q <= 0) & ~x_is_whole, jnp.nan, out)
    out = jnp.where(x < 1, jnp.nan, out)
    x_is_even = (x % 2 == 0) & x_is_whole
    pole = jnp.where(x_is_even, jnp.inf, jnp.nan)
    out = jnp.where((q <= 0) & q_is_whole, pole, out)
    return jnp.where(x == 1, jnp.inf, out)


@lower_formula("polygamma")
def polygamma(m: Array, x: Array) -> Array:
    """(-1)^(m+1) m! ζ(m + 1, x), and digamma for m = 0."""
    sign = jnp.where(m % 2 == 0, -1, 1).astype(x.dtype)
    factorial = lax.exp(lax.lgamma(m + 1))
    out = sign * factorial * lax.zeta(m + 1, x)
    out = jnp.where(m == 0, lax.digamma(x), out)
    is_undefined = (m < 0) | (m != jnp.floor(m))
    return jnp.where(is_undefined, jnp.nan, out)


# --------------------------------------------------------------------- Bessel functions


class BesselParts(NamedTuple):
    """The values for |x| up to 8, and those beyond."""

    near: Array
    far: Array


def _bessel(x: Array, near: Sequence[float], far: Sequence[float]) -> BesselParts:
    """Chebyshev expansions as Cephes has them: in x / 2 - 2, and one in 32 / x - 2 that √x divides."""
    if x.dtype == jnp.float32:  # fewer terms are enough
        near = near[12:]
        far = far[18:]
    inner = _chebyshev(0.5 * x - 2, near)
    outer = _chebyshev(32 / x - 2, far)
    return BesselParts(inner, outer / jnp.sqrt(x))


@lower_formula("bessel_i0e")
def bessel_i0e(x: Array) -> Array:
    """I₀(x) e^-|x|."""
    a = jnp.abs(x)
    near, far = _bessel(a, I0_NEAR, I0_FAR)
    return jnp.where(a <= 8, near, far)


@lower_formula("bessel_i1e")
def bessel_i1e(x: Array) -> Array:
    """I₁(x) e^-|x|; its expansion for |x| up to 8 is that of I₁(x) e^-|x| / |x|."""
    a = jnp.abs(x)
    near, far = _bessel(a, I1_NEAR, I1_FAR)
    size = jnp.where(a <= 8, near * a, far)
    return jnp.sign(x) * size
