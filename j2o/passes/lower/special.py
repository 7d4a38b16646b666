"""Special functions, as plain JAX."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax

from j2o.passes.lower.table import lower_with


def erf_wide(x: jax.Array) -> jax.Array:
    """erf in double precision: its Maclaurin series up to |x| = 2.5, the continued fraction of erfc beyond (DLMF 7.6, 7.9)."""
    a = jnp.minimum(jnp.abs(x), 6.5)
    near = jnp.minimum(a, 2.5)
    z = near * near
    total = jnp.ones_like(z)
    for n in range(60, 0, -1):
        total = 1 + total * (2 * z / (2 * n + 1))
    series = 2 / math.sqrt(math.pi) * near * lax.exp(-z) * total
    far = jnp.maximum(a, 2.5)
    fraction = far
    for n in range(70, 0, -1):
        fraction = far + (n / 2) / fraction
    tail = 1 - lax.exp(-far * far) / math.sqrt(math.pi) / fraction
    out = jnp.where(a <= 2.5, series, tail)
    return jnp.where(x < 0, -out, out) + 0 * x


@lower_with("erfc")
def erfc(x: jax.Array) -> jax.Array:
    """1 - erf(x) near 0, the continued fraction beyond, where the difference would cancel."""
    a = jnp.abs(x)
    far = jnp.maximum(a, 1.5)
    fraction = far
    for n in range(60 if x.dtype == jnp.float64 else 20, 0, -1):
        fraction = far + (n / 2) / fraction
    tail = lax.exp(-far * far) / math.sqrt(math.pi) / fraction
    tail = jnp.where(jnp.isinf(a), 0.0, tail).astype(x.dtype)
    return jnp.where(a < 1.5, 1 - lax.erf(x), jnp.where(x < 0, 2 - tail, tail)).astype(x.dtype)


_GILES = (
    (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
    (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)  # fmt: skip


@lower_with("erf_inv")
def erf_inv(x: jax.Array) -> jax.Array:
    """Giles, Approximating the erfinv function (2010); in double precision refined by Newton steps."""
    w = -lax.log1p(-x * x) if x.dtype == jnp.float64 else -lax.log((1 - x) * (1 + x))
    small = w < 5
    u = jnp.where(small, w - 2.5, jnp.sqrt(jnp.where(small, 5.0, w)) - 3).astype(x.dtype)
    p = jnp.where(small, _GILES[0][0], _GILES[1][0]).astype(x.dtype)
    for a, b in zip(_GILES[0][1:], _GILES[1][1:], strict=True):
        p = jnp.where(small, a, b).astype(x.dtype) + p * u
    y = p * x
    if x.dtype == jnp.float64:
        for _ in range(3):
            error = jnp.where(x < 0, lax.erfc(-y) - (1 + x), (1 - x) - lax.erfc(y))
            y = y + jnp.where(x < 0, -1.0, -1.0) * error / (2 / math.sqrt(math.pi) * lax.exp(-y * y))
    return jnp.where(jnp.abs(x) == 1, x * jnp.inf, y).astype(x.dtype)


_LANCZOS = (
    0.99999999999980993227684700473478, 676.520368121885098567009190444019, -1259.13921672240287047156078755283,
    771.3234287776530788486528258894, -176.61502916214059906584551354, 12.507343278686904814458936853,
    -0.13857109526572011689554707, 9.984369578019570859563e-6, 1.50563273514931155834e-7,
)  # fmt: skip


def _lanczos(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lanczos' sum, its derivative, and log(z + 7.5), for lgamma and digamma of z + 1."""
    total, slope = jnp.full_like(z, _LANCZOS[0]), jnp.zeros_like(z)
    for i, c in enumerate(_LANCZOS[1:]):
        total = total + c / (z + i + 1)
        slope = slope - c / ((z + i + 1) * (z + i + 1))
    return total, slope, math.log(7.5) + lax.log1p(z / 7.5)


@lower_with("lgamma")
def lgamma(x: jax.Array) -> jax.Array:
    """Lanczos' approximation (g = 7, n = 9) with the reflection formula under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, _, log_t = _lanczos(z)
    t = z + 7.5
    y = math.log(math.sqrt(2 * math.pi)) + (z + 0.5 - t / log_t) * log_t + lax.log(total)
    fraction = jnp.abs(x) - jnp.floor(jnp.abs(x))
    reduced = jnp.where(fraction > 0.5, 1 - fraction, fraction)
    reflected = math.log(math.pi) - lax.log(jnp.sin(math.pi * reduced)) - y
    out = jnp.where(reflect, jnp.where(fraction == 0, jnp.inf, reflected), y)
    return jnp.where(jnp.isinf(x), jnp.inf, out).astype(x.dtype)


@lower_with("digamma")
def digamma(x: jax.Array) -> jax.Array:
    """The derivative of Lanczos' approximation, reflected under 1/2."""
    reflect = x < 0.5
    z = jnp.where(reflect, -x, x - 1)
    total, slope, log_t = _lanczos(z)
    y = log_t + slope / total - 7 / (z + 7.5)
    reduced = x + jnp.abs(jnp.floor(x + 0.5))
    reflected = y - math.pi * jnp.cos(math.pi * reduced) / jnp.sin(math.pi * reduced)
    pole = (x <= 0) & (x == jnp.floor(x))
    return jnp.where(pole, jnp.nan, jnp.where(reflect, reflected, y)).astype(x.dtype)
