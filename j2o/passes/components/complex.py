"""Complex arithmetic of single numbers, on pairs of reals: one formula a primitive, in plain JAX.

A complex operand comes as `Pair(re, im)`, two floats of one shape and dtype, a real one as an
array; a complex result is a `Pair`. The formulas are XLA's on CPU or keep finite what is finite:
square roots, tanh and the inverse functions follow Kahan, "Branch cuts for complex elementary
functions, or much ado about nothing's sign bit" (1987).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir.types import Dim, DType
from j2o.passes.components.tables import on_pairs

Array: TypeAlias = jax.Array
LN2 = math.log(2)


class Pair(NamedTuple):
    """A complex array as two real ones of its shape."""

    re: Array
    im: Array


Binary: TypeAlias = Callable[[Pair, Pair], Pair]


def each(fn: Callable[..., Any], *numbers: Pair) -> Pair:
    """`fn` of the real parts and of the imaginary parts."""
    return Pair(*map(fn, *numbers))


def _where(test: Array, a: Pair, b: Pair) -> Pair:
    """`a` where the test is true, else `b`."""
    return each(functools.partial(jnp.where, test), a, b)


def _real(re: Array) -> Pair:
    """A real number as a complex one."""
    return Pair(re, jnp.zeros_like(re))


def _one(like: Pair) -> Pair:
    """1 + 0i, in the shape of another number."""
    return _real(jnp.ones_like(like.re))


def _part(dtype: DType) -> Any:
    """The dtype of the parts of a complex dtype."""
    return jnp.float32 if dtype == DType.C64 else jnp.float64


# -------------------------------------------------------------------- making and taking


@on_pairs("complex")
def from_parts(re: Array, im: Array) -> Pair:
    return Pair(*jnp.broadcast_arrays(re, im))


@on_pairs("real")
def real_part(z: Pair) -> Array:
    return z.re


@on_pairs("imag")
def imaginary_part(z: Pair) -> Array:
    return z.im


@on_pairs("conj")
def conjugate(z: Pair | Array, **_: Any) -> Pair:
    """The conjugate; a real operand becomes complex."""
    if isinstance(z, Pair):
        return Pair(z.re, -z.im)
    return Pair(z, z * 0)


@on_pairs("convert_element_type")
def convert(z: Pair | Array, *, new_dtype: DType, **_: Any) -> Pair | Array:
    """A conversion from or to a complex dtype.

    A real dtype takes the real part, a bool says whether the number is not 0.
    """
    if new_dtype.is_complex:
        return _complex(z, new_dtype)
    assert isinstance(z, Pair)
    if new_dtype == DType.BOOL:
        return (z.re != 0) | (z.im != 0)
    return z.re.astype(new_dtype.numpy)


def _complex(z: Pair | Array, dtype: DType) -> Pair:
    """A real or complex operand in a complex dtype."""
    part = _part(dtype)
    if not isinstance(z, Pair):
        z = Pair(z, jnp.zeros(z.shape, part))
    return Pair(z.re.astype(part), z.im.astype(part))


@on_pairs("iota")
def iota(*, dtype: DType, shape: Sequence[Dim], dimension: int) -> Pair:
    sizes: Any = tuple(shape)
    return _real(lax.broadcasted_iota(_part(dtype), sizes, dimension))


# --------------------------------------------------------------------------- comparison


@on_pairs("is_finite")
def is_finite(z: Pair) -> Array:
    return jnp.isfinite(z.re) & jnp.isfinite(z.im)


@on_pairs("eq")
def equal(a: Pair, b: Pair) -> Array:
    return (a.re == b.re) & (a.im == b.im)


@on_pairs("ne")
def not_equal(a: Pair, b: Pair) -> Array:
    return (a.re != b.re) | (a.im != b.im)


@on_pairs("lt")
def less(a: Pair, b: Pair) -> Array:
    """Whether a comes before b: the real parts count first, as in JAX."""
    is_less = a.re < b.re
    is_tie = a.re == b.re
    return is_less | (is_tie & (a.im < b.im))


@on_pairs("le")
def less_equal(a: Pair, b: Pair) -> Array:
    """As `less`, or equal."""
    is_less = a.re < b.re
    is_tie = a.re == b.re
    return is_less | (is_tie & (a.im <= b.im))


@on_pairs("gt")
def greater(a: Pair, b: Pair) -> Array:
    return less(b, a)


@on_pairs("ge")
def greater_equal(a: Pair, b: Pair) -> Array:
    return less_equal(b, a)


@on_pairs("max")
def maximum(a: Pair, b: Pair) -> Pair:
    """The greater, and b where one is NaN: JAX's complex extremes do not hand NaN on."""
    return _where(less(b, a), a, b)


@on_pairs("min")
def minimum(a: Pair, b: Pair) -> Pair:
    """The lesser, and b where one is NaN."""
    return _where(less(a, b), a, b)


@on_pairs("clamp")
def clamp(low: Pair, z: Pair, high: Pair) -> Pair:
    return minimum(maximum(low, z), high)


# --------------------------------------------------------------------------- arithmetic


def product(a: Pair, b: Pair) -> Pair:
    """a·b, both complex."""
    re = a.re * b.re - a.im * b.im
    return Pair(re, a.re * b.im + a.im * b.re)


def _cross(a: Pair, b: Pair) -> Array:
    """Im(conj(a)·b)."""
    return a.re * b.im - a.im * b.re


def _times_i(z: Pair) -> Pair:
    """i·z, exact."""
    return Pair(-z.im, z.re)


def _over_i(z: Pair) -> Pair:
    """z/i, exact."""
    return Pair(z.im, -z.re)


def _plus(z: Pair, x: float) -> Pair:
    """z + x for a real x."""
    return Pair(z.re + x, z.im)


def _times(z: Pair, x: float) -> Pair:
    """z · x for a real x."""
    return Pair(z.re * x, z.im * x)


def _ordered(z: Pair) -> tuple[Array, Array]:
    """The larger and the smaller of |re| and |im|."""
    re = jnp.abs(z.re)
    im = jnp.abs(z.im)
    return jnp.maximum(re, im), jnp.minimum(re, im)


@on_pairs("abs")
def modulus(z: Pair) -> Array:
    """|z|, without overflow where it is finite; infinite where a part is, whatever the other."""
    large, small = _ordered(z)
    ratio = small / jnp.where(large == 0, jnp.ones_like(large), large)
    infinite = jnp.isinf(z.re) | jnp.isinf(z.im)
    finite_size = large * jnp.sqrt(1 + ratio * ratio)
    return jnp.where(infinite, jnp.full_like(large, jnp.inf), finite_size)


@on_pairs("sign")
def sign(z: Pair) -> Pair:
    """z / |z|, and 0 for 0."""
    size = modulus(z)
    is_zero = size == 0
    size = jnp.where(is_zero, jnp.ones_like(size), size)
    return each(lambda part: jnp.where(is_zero, part, part / size), z)


@on_pairs("mul")
def mul(a: Pair | Array, b: Pair | Array, *, out_dtype: DType) -> Pair:
    """a·b in `out_dtype`. (Products without one are made part by part, in `split.py`.)"""
    return product(_complex(a, out_dtype), _complex(b, out_dtype))


@on_pairs("div")
def div(a: Pair, b: Pair) -> Pair:
    """Smith's method (Algorithm 116, 1962): all is scaled by the larger part of the divisor."""
    re_is_larger = jnp.abs(b.re) >= jnp.abs(b.im)
    large = jnp.where(re_is_larger, b.re, b.im)
    small = jnp.where(re_is_larger, b.im, b.re)
    ratio = jnp.where(small == 0, jnp.zeros_like(small), small / large)
    divisor = large + small * ratio
    # where the imaginary part is the larger, both numbers are divided by i
    p = jnp.where(re_is_larger, a.re, a.im)
    q = jnp.where(re_is_larger, a.im, a.re)
    re = (p + q * ratio) / divisor
    im = (q - p * ratio) / divisor
    return Pair(re, jnp.where(re_is_larger, im, -im))


@on_pairs("square")
def square(z: Pair) -> Pair:
    """z², with re² - im² as a product, which loses fewer digits."""
    re = (z.re - z.im) * (z.re + z.im)
    return Pair(re, 2 * z.re * z.im)


@on_pairs("integer_pow")
def integer_pow(z: Pair, *, y: int) -> Pair:
    """zʸ by repeated squares: those of z, z², z⁴, … that the bits of y choose, multiplied."""
    if y < 0:
        return div(_one(z), integer_pow(z, y=-y))
    chosen: list[Pair] = []
    squared = z
    while y:
        if y & 1:
            chosen.append(squared)
        y >>= 1
        if y:
            squared = product(squared, squared)
    return functools.reduce(product, chosen) if chosen else _one(z)


@on_pairs("pow")
def power(base: Pair, exponent: Pair | Array) -> Pair:
    """exp(exponent · log(base)), and XLA's results where that is undefined.

    With an exponent of 0 or a base of 1: 1. With a base of 0: 0 for a real exponent over 0, else
    NaN. With a base of +infinity: infinity for a real exponent over 0, 0 for one below.
    """
    if not isinstance(exponent, Pair):
        exponent = _real(exponent.astype(base.re.dtype))
    general = exp(product(exponent, log(base)))
    zero = _real(jnp.zeros_like(general.re))
    one = _plus(zero, 1)
    nan = _plus(zero, math.nan)
    infinity = _plus(zero, math.inf)

    is_positive = (exponent.im == 0) & (exponent.re > 0)
    is_negative = (exponent.im == 0) & (exponent.re < 0)
    is_zero = (exponent.re == 0) & (exponent.im == 0)
    of_zero = _equals(base, 0)
    of_one = _equals(base, 1)
    of_infinity = _equals(base, math.inf)

    result = _where(of_zero, Pair(nan.re, nan.re), general)
    result = _where(of_zero & is_positive, zero, result)
    result = _where(of_infinity & is_negative, zero, result)
    result = _where(of_infinity & is_positive, infinity, result)
    return _where(of_one | is_zero, one, result)


def _equals(z: Pair, x: float) -> Array:
    """Whether z is a real number x."""
    return (z.im == 0) & (z.re == x)


# ----------------------------------------------------- powers, exponentials, logarithms


@on_pairs("sqrt")
def sqrt(z: Pair) -> Pair:
    """The principal root: its larger part is √((|re| + |z|) / 2), the smaller one |im| / (2 · larger).

    The larger one is the real part where re is at least 0. The imaginary part has the sign of im.
    """
    larger = jnp.sqrt(0.5 * jnp.abs(z.re) + 0.5 * modulus(z))
    divisor = jnp.where(larger == 0, jnp.ones_like(larger), larger)
    smaller = jnp.abs(z.im) / (2 * divisor)
    is_right = z.re >= 0
    size = Pair(
        jnp.where(is_right, larger, smaller),
        jnp.where(is_right, smaller, larger),
    )
    is_infinite = jnp.isinf(z.im)

    def with_infinity(part: Array) -> Array:
        return jnp.where(is_infinite, jnp.full_like(part, jnp.inf), part)

    size = each(with_infinity, size)
    return Pair(size.re, jnp.copysign(size.im, z.im))


@on_pairs("rsqrt")
def rsqrt(z: Pair) -> Pair:
    return div(_one(z), sqrt(z))


@on_pairs("cbrt")
def cbrt(z: Pair) -> Pair:
    """The principal cube root."""
    third = each(lambda part: part / 3, log(z))
    return exp(third)


@on_pairs("exp")
def exp(z: Pair) -> Pair:
    """e^re · (cos im + i·sin im).

    An imaginary part of 0 stays as it is, also where the real part overflows.
    """
    size = jnp.exp(z.re)
    is_real = z.im == 0
    re = jnp.where(is_real, size, size * jnp.cos(z.im))
    return Pair(re, jnp.where(is_real, z.im, size * jnp.sin(z.im)))


@on_pairs("exp2")
def exp2(z: Pair) -> Pair:
    return exp(_times(z, LN2))


@on_pairs("expm1")
def expm1(z: Pair) -> Pair:
    """eᶻ - 1, with cos(im) - 1 = -2 sin²(im/2), which loses no digits near 0."""
    half = jnp.sin(0.5 * z.im)
    re = jnp.expm1(z.re) * jnp.cos(z.im) - 2 * half * half
    return Pair(re, jnp.exp(z.re) * jnp.sin(z.im))


@on_pairs("log")
def log(z: Pair) -> Pair:
    """log |z| + i·arg z; near the unit circle log |z| comes from |z|² - 1, which loses no digits there."""
    large, small = _ordered(z)
    square_less_one = (large - 1) * (large + 1) + small * small
    near = 0.5 * jnp.log1p(square_less_one)
    is_near = (large > 0.5) & (large < 2)
    size = jnp.where(is_near, near, jnp.log(modulus(z)))
    return Pair(size, jnp.arctan2(z.im, z.re))


@on_pairs("log1p")
def log1p(z: Pair) -> Pair:
    """log(1 + z); near 0 log |1 + z| comes from |1 + z|² - 1, which loses no digits there."""
    is_tiny = (jnp.abs(z.re) < 0.5) & (jnp.abs(z.im) < 0.5)
    near = 0.5 * jnp.log1p(z.re * (2 + z.re) + z.im * z.im)
    size = jnp.where(is_tiny, near, log(_plus(z, 1)).re)
    return Pair(size, jnp.arctan2(z.im, 1 + z.re))


@on_pairs("logistic")
def logistic(z: Pair) -> Pair:
    """1 / (1 + e^-z)."""
    negative = Pair(-z.re, -z.im)
    return div(_one(z), _plus(exp(negative), 1))


# ------------------------------------------------------------------------- trigonometry


@on_pairs("sin")
def sin(z: Pair) -> Pair:
    re = jnp.sin(z.re) * jnp.cosh(z.im)
    return Pair(re, jnp.cos(z.re) * jnp.sinh(z.im))


@on_pairs("cos")
def cos(z: Pair) -> Pair:
    re = jnp.cos(z.re) * jnp.cosh(z.im)
    return Pair(re, -jnp.sin(z.re) * jnp.sinh(z.im))


@on_pairs("tan")
def tan(z: Pair) -> Pair:
    """tanh(iz) / i."""
    return _over_i(tanh(_times_i(z)))


@on_pairs("sinh")
def sinh(z: Pair) -> Pair:
    """sin(iz) / i."""
    return _over_i(sin(_times_i(z)))


@on_pairs("cosh")
def cosh(z: Pair) -> Pair:
    """cos(iz)."""
    return cos(_times_i(z))


@on_pairs("tanh")
def tanh(z: Pair) -> Pair:
    """Kahan's CTANH, with his names: t = tan(im), s = sinh(re), beta = 1 + t², rho = √(1 + s²).

    The result is (beta·rho·s + i·t) / (1 + beta·s²); far from 0 it is ±1, with an imaginary part
    that vanishes.
    """
    is_far = jnp.abs(z.re) > 20
    t = jnp.tan(z.im)
    s = jnp.sinh(jnp.where(is_far, jnp.zeros_like(z.re), z.re))
    beta = 1 + t * t
    rho = jnp.sqrt(1 + s * s)
    divisor = 1 + beta * s * s
    far_im = 4 * jnp.sin(z.im) * jnp.cos(z.im) * jnp.exp(-2 * jnp.abs(z.re))
    return Pair(
        jnp.where(is_far, jnp.sign(z.re), beta * rho * s / divisor),
        jnp.where(is_far, far_im, t / divisor),
    )


def _roots(z: Pair) -> tuple[Pair, Pair]:
    """√(1 - z) and √(1 + z)."""
    return sqrt(Pair(1 - z.re, -z.im)), sqrt(_plus(z, 1))


@on_pairs("asin")
def asin(z: Pair) -> Pair:
    """Kahan's CASIN: atan(re / Re(√(1 - z) √(1 + z))) + i·asinh(Im(conj(√(1 - z)) √(1 + z)))."""
    minus, plus = _roots(z)
    re = jnp.arctan2(z.re, product(minus, plus).re)
    return Pair(re, jnp.arcsinh(_cross(minus, plus)))


@on_pairs("acos")
def acos(z: Pair) -> Pair:
    """Kahan's CACOS: 2 atan(Re √(1 - z) / Re √(1 + z)) + i·asinh(Im(conj(√(1 + z)) √(1 - z)))."""
    minus, plus = _roots(z)
    re = 2 * jnp.arctan2(minus.re, plus.re)
    return Pair(re, jnp.arcsinh(_cross(plus, minus)))


@on_pairs("atan")
def atan(z: Pair) -> Pair:
    """atanh(iz) / i."""
    return _over_i(atanh(_times_i(z)))


@on_pairs("asinh")
def asinh(z: Pair) -> Pair:
    """asin(iz) / i."""
    return _over_i(asin(_times_i(z)))


@on_pairs("acosh")
def acosh(z: Pair) -> Pair:
    """Kahan's CACOSH: asinh(Re(conj(√(z - 1)) √(z + 1))) + 2i·atan(Im √(z - 1) / Re √(z + 1))."""
    minus = sqrt(_plus(z, -1))
    plus = sqrt(_plus(z, 1))
    re = jnp.arcsinh(minus.re * plus.re + minus.im * plus.im)
    return Pair(re, 2 * jnp.arctan2(minus.im, plus.re))


@on_pairs("atanh")
def atanh(z: Pair) -> Pair:
    """¼ log1p(4 re / ((1 - re)² + im²)) + ½ i·atan2(2 im, (1 - re)(1 + re) - im²)."""
    gap = 1 - z.re
    re = 0.25 * jnp.log1p(4 * z.re / (gap * gap + z.im * z.im))
    im = 0.5 * jnp.arctan2(2 * z.im, gap * (1 + z.re) - z.im * z.im)
    return Pair(re, im)
