"""Complex arithmetic on pairs of reals: one formula a primitive, in plain JAX.

Operands that are complex come as `Z(re, im)`, real ones as arrays; complex results are `Z`. The formulas keep what is
finite finite (Kahan, "Branch cuts for complex elementary functions", 1987, for square roots and the inverse functions).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from j2o.ir.types import DType

COMPLEX: dict[str, Callable[..., Any]] = {}


class Z(NamedTuple):
    re: Any
    im: Any


def _rule(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            COMPLEX[name] = fn
        return fn

    return register


def _jnp() -> Any:
    import jax.numpy as jnp

    return jnp


# ------------------------------------------------------------------------------------- making and taking apart


@_rule("complex")
def make(re: Any, im: Any) -> Z:
    return Z(*_jnp().broadcast_arrays(re, im))


@_rule("real")
def real(z: Z) -> Any:
    return z.re


@_rule("imag")
def imag(z: Z) -> Any:
    return z.im


@_rule("conj")
def conj(z: Any, **_: Any) -> Z:
    return Z(z.re, -z.im) if isinstance(z, Z) else Z(z, z * 0)


@_rule("convert_element_type")
def convert(z: Any, *, new_dtype: DType, **_: Any) -> Any:
    jnp = _jnp()
    if new_dtype.is_complex:
        part = jnp.float32 if new_dtype == DType.C64 else jnp.float64
        return (
            Z(z.re.astype(part), z.im.astype(part)) if isinstance(z, Z) else Z(z.astype(part), jnp.zeros(z.shape, part))
        )
    return (z.re != 0) | (z.im != 0) if new_dtype == DType.BOOL else z.re.astype(new_dtype.numpy)


@_rule("mul")
def mul(a: Any, b: Any, *, out_dtype: DType) -> Any:
    """Of operands that are converted first; other products are made part by part."""
    return _mul(convert(a, new_dtype=out_dtype), convert(b, new_dtype=out_dtype))


@_rule("iota")
def iota(*, dtype: DType, shape: Sequence[Any], dimension: int) -> Z:
    from jax import lax

    part = "float32" if dtype == DType.C64 else "float64"
    re = lax.broadcasted_iota(part, tuple(shape), dimension)
    return Z(re, _jnp().zeros_like(re))


# ---------------------------------------------------------------------------------------------- comparison


@_rule("eq")
def eq(a: Z, b: Z) -> Any:
    return (a.re == b.re) & (a.im == b.im)


@_rule("ne")
def ne(a: Z, b: Z) -> Any:
    return (a.re != b.re) | (a.im != b.im)


def _compare(name: str) -> None:
    """Lexicographic order, as JAX has it."""

    def rule(a: Z, b: Z) -> Any:
        jnp = _jnp()
        strict = jnp.less if name in ("lt", "le") else jnp.greater
        last = {"lt": jnp.less, "le": jnp.less_equal, "gt": jnp.greater, "ge": jnp.greater_equal}[name]
        return strict(a.re, b.re) | ((a.re == b.re) & last(a.im, b.im))

    COMPLEX[name] = rule


for _name in ("lt", "le", "gt", "ge"):
    _compare(_name)


@_rule("max")
def max_(a: Z, b: Z) -> Z:
    """The second where they do not compare: JAX's complex extremes do not propagate NaN."""
    return _where(COMPLEX["gt"](a, b), a, b)


@_rule("min")
def min_(a: Z, b: Z) -> Z:
    return _where(COMPLEX["lt"](a, b), a, b)


def _window_extreme(z: Z, *, pick: Callable[[Z, Z], Z], unit: float, **windows: Any) -> Z:
    from jax import lax

    scalars = [_jnp().asarray(v, z.re.dtype) for v in (unit, 0)]
    forms = {k: tuple(windows[k]) for k in ("window_dimensions", "window_strides", "base_dilation", "window_dilation")}
    padding = [tuple(pair) for pair in windows["padding"]]
    computation = lambda a, b: tuple(pick(Z(*a), Z(*b)))  # noqa: E731
    return Z(*lax.reduce_window(tuple(z), tuple(scalars), computation, padding=padding, **forms))


COMPLEX["reduce_window_max"] = functools.partial(_window_extreme, pick=max_, unit=-float("inf"))
COMPLEX["reduce_window_min"] = functools.partial(_window_extreme, pick=min_, unit=float("inf"))


@_rule("clamp")
def clamp(low: Z, z: Z, high: Z) -> Z:
    return min_(max_(low, z), high)


@_rule("is_finite")
def is_finite(z: Z) -> Any:
    return _jnp().isfinite(z.re) & _jnp().isfinite(z.im)


def _where(test: Any, a: Z, b: Z) -> Z:
    jnp = _jnp()
    return Z(jnp.where(test, a.re, b.re), jnp.where(test, a.im, b.im))


# ---------------------------------------------------------------------------------------------- arithmetic


def _mul(a: Z, b: Z) -> Z:
    return Z(a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re)


def _i(z: Z) -> Z:
    """i·z, exact."""
    return Z(-z.im, z.re)


def _minus_i(z: Z) -> Z:
    return Z(z.im, -z.re)


def _plus(z: Z, x: float) -> Z:
    return Z(z.re + x, z.im)


def _minus(z: Z) -> Z:
    return Z(-z.re, -z.im)


@_rule("abs")
def abs_(z: Z) -> Any:
    """Without overflow where the result is finite."""
    jnp = _jnp()
    a, b = jnp.abs(z.re), jnp.abs(z.im)
    large, small = jnp.maximum(a, b), jnp.minimum(a, b)
    ratio = small / jnp.where(large == 0, jnp.ones_like(large), large)
    infinite = jnp.isinf(a) | jnp.isinf(b)
    return jnp.where(infinite, jnp.full_like(a, jnp.inf), large * jnp.sqrt(1 + ratio * ratio))


@_rule("div")
def div(a: Z, b: Z) -> Z:
    """Smith's method: scaled by the larger part of the divisor."""
    jnp = _jnp()
    wide = jnp.abs(b.re) >= jnp.abs(b.im)
    large, small = jnp.where(wide, b.re, b.im), jnp.where(wide, b.im, b.re)
    ratio = jnp.where(small == 0, jnp.zeros_like(small), small / large)
    below = large + small * ratio
    p, q = jnp.where(wide, a.re, a.im), jnp.where(wide, a.im, a.re)
    re = (p + q * ratio) / below
    im = (q - p * ratio) / below
    return Z(re, jnp.where(wide, im, -im))


@_rule("square")
def square(z: Z) -> Z:
    return Z((z.re - z.im) * (z.re + z.im), 2 * z.re * z.im)


@_rule("integer_pow")
def integer_pow(z: Z, *, y: int) -> Z:
    jnp = _jnp()
    one = Z(jnp.ones_like(z.re), jnp.zeros_like(z.re))
    if y < 0:
        return div(one, integer_pow(z, y=-y))
    result, base = None, z
    while y:
        if y & 1:
            result = base if result is None else _mul(result, base)
        base, y = _mul(base, base) if y > 1 else base, y >> 1
    return one if result is None else result


@_rule("pow")
def pow_(a: Z, b: Any) -> Z:
    jnp = _jnp()
    exponent = b if isinstance(b, Z) else Z(b.astype(a.re.dtype), jnp.zeros(b.shape, a.re.dtype))
    general = exp(_mul(exponent, log(a)))
    zero, unit = (a.re == 0) & (a.im == 0), (exponent.re == 0) & (exponent.im == 0)
    nothing = jnp.zeros_like(general.re)
    general = _where(zero & ~unit, Z(nothing, nothing), general)
    return _where(unit & jnp.ones_like(zero), Z(nothing + 1, nothing), general)


@_rule("sign")
def sign(z: Z) -> Z:
    jnp = _jnp()
    size = abs_(z)
    none = size == 0
    size = jnp.where(none, jnp.ones_like(size), size)
    return Z(jnp.where(none, z.re, z.re / size), jnp.where(none, z.im, z.im / size))


# --------------------------------------------------------------------------- powers, exponentials, logarithms


@_rule("sqrt")
def sqrt(z: Z) -> Z:
    jnp = _jnp()
    size = abs_(z)
    half = jnp.sqrt(0.5 * jnp.abs(z.re) + 0.5 * size)
    safe = jnp.where(half == 0, jnp.ones_like(half), half)
    other = jnp.abs(z.im) / (2 * safe)
    right = z.re >= 0
    im = jnp.where(right, other, half)
    re = jnp.where(right, half, other)
    infinite = jnp.isinf(z.im)
    re = jnp.where(infinite, jnp.full_like(re, jnp.inf), re)
    im = jnp.where(infinite, jnp.full_like(im, jnp.inf), im)
    return Z(re, jnp.copysign(im, z.im))


@_rule("rsqrt")
def rsqrt(z: Z) -> Z:
    jnp = _jnp()
    return div(Z(jnp.ones_like(z.re), jnp.zeros_like(z.re)), sqrt(z))


@_rule("cbrt")
def cbrt(z: Z) -> Z:
    third = log(z)
    return exp(Z(third.re / 3, third.im / 3))


@_rule("exp")
def exp(z: Z) -> Z:
    jnp = _jnp()
    size = jnp.exp(z.re)
    flat = z.im == 0
    return Z(jnp.where(flat, size, size * jnp.cos(z.im)), jnp.where(flat, z.im, size * jnp.sin(z.im)))


@_rule("exp2")
def exp2(z: Z) -> Z:
    ln2 = 0.6931471805599453
    return exp(Z(z.re * ln2, z.im * ln2))


@_rule("expm1")
def expm1(z: Z) -> Z:
    jnp = _jnp()
    half = jnp.sin(0.5 * z.im)
    return Z(jnp.expm1(z.re) * jnp.cos(z.im) - 2 * half * half, jnp.exp(z.re) * jnp.sin(z.im))


@_rule("log")
def log(z: Z) -> Z:
    """Near the unit circle the logarithm of the size comes from |z|² - 1."""
    jnp = _jnp()
    a, b = jnp.abs(z.re), jnp.abs(z.im)
    large, small = jnp.maximum(a, b), jnp.minimum(a, b)
    near = 0.5 * jnp.log1p((large - 1) * (large + 1) + small * small)
    size = jnp.where((large > 0.5) & (large < 2), near, jnp.log(abs_(z)))
    return Z(size, jnp.arctan2(z.im, z.re))


@_rule("log1p")
def log1p(z: Z) -> Z:
    jnp = _jnp()
    tiny = (jnp.abs(z.re) < 0.5) & (jnp.abs(z.im) < 0.5)
    near = 0.5 * jnp.log1p(z.re * (2 + z.re) + z.im * z.im)
    return Z(jnp.where(tiny, near, log(_plus(z, 1)).re), jnp.arctan2(z.im, 1 + z.re))


@_rule("logistic")
def logistic(z: Z) -> Z:
    jnp = _jnp()
    one = Z(jnp.ones_like(z.re), jnp.zeros_like(z.re))
    return div(one, _plus(exp(_minus(z)), 1))


# ------------------------------------------------------------------------------------------- trigonometry


@_rule("sin")
def sin(z: Z) -> Z:
    jnp = _jnp()
    return Z(jnp.sin(z.re) * jnp.cosh(z.im), jnp.cos(z.re) * jnp.sinh(z.im))


@_rule("cos")
def cos(z: Z) -> Z:
    jnp = _jnp()
    return Z(jnp.cos(z.re) * jnp.cosh(z.im), -jnp.sin(z.re) * jnp.sinh(z.im))


@_rule("sinh")
def sinh(z: Z) -> Z:
    return _minus_i(sin(_i(z)))


@_rule("cosh")
def cosh(z: Z) -> Z:
    return cos(_i(z))


@_rule("tanh")
def tanh(z: Z) -> Z:
    jnp = _jnp()
    far = jnp.abs(z.re) > 20
    a = jnp.where(far, jnp.zeros_like(z.re), z.re)
    t, s = jnp.tan(z.im), jnp.sinh(a)
    beta, rho = 1 + t * t, jnp.sqrt(1 + s * s)
    below = 1 + beta * s * s
    return Z(
        jnp.where(far, jnp.sign(z.re), beta * rho * s / below),
        jnp.where(far, 4 * jnp.sin(z.im) * jnp.cos(z.im) * jnp.exp(-2 * jnp.abs(z.re)), t / below),
    )


@_rule("tan")
def tan(z: Z) -> Z:
    return _minus_i(tanh(_i(z)))


def _cross(a: Z, b: Z) -> Any:
    """Im(conj(a)·b)."""
    return a.re * b.im - a.im * b.re


@_rule("asin")
def asin(z: Z) -> Z:
    jnp = _jnp()
    below, above = sqrt(Z(1 - z.re, -z.im)), sqrt(_plus(z, 1))
    return Z(jnp.arctan2(z.re, _mul(below, above).re), jnp.arcsinh(_cross(below, above)))


@_rule("acos")
def acos(z: Z) -> Z:
    jnp = _jnp()
    below, above = sqrt(Z(1 - z.re, -z.im)), sqrt(_plus(z, 1))
    return Z(2 * jnp.arctan2(below.re, above.re), jnp.arcsinh(_cross(above, below)))


@_rule("asinh")
def asinh(z: Z) -> Z:
    return _minus_i(asin(_i(z)))


@_rule("acosh")
def acosh(z: Z) -> Z:
    jnp = _jnp()
    below, above = sqrt(_plus(z, -1)), sqrt(_plus(z, 1))
    return Z(jnp.arcsinh(below.re * above.re + below.im * above.im), 2 * jnp.arctan2(below.im, above.re))


@_rule("atanh")
def atanh(z: Z) -> Z:
    jnp = _jnp()
    gap = 1 - z.re
    re = 0.25 * jnp.log1p(4 * z.re / (gap * gap + z.im * z.im))
    return Z(re, 0.5 * jnp.arctan2(2 * z.im, gap * (1 + z.re) - z.im * z.im))


@_rule("atan")
def atan(z: Z) -> Z:
    return _minus_i(atanh(_i(z)))


# ------------------------------------------------------------------------------- products and extremes of many


def _many(combine: Callable[[Z, Z], Z], unit: float) -> tuple[Callable[..., Z], Callable[..., Z]]:
    """The reduction and the cumulative operation of a monoid with a real unit."""

    def reduction(z: Z, *, axes: Sequence[int], **_: Any) -> Z:
        for axis in sorted(axes, reverse=True):
            z = _running(z, axis, combine, unit)[1]
        return z

    def cumulative(z: Z, *, axis: int, reverse: bool) -> Z:
        jnp = _jnp()
        if reverse:
            z = Z(jnp.flip(z.re, axis), jnp.flip(z.im, axis))
        running = _running(z, axis, combine, unit)[0]
        return Z(*(jnp.flip(p, axis) for p in running)) if reverse else running

    return reduction, cumulative


def _running(z: Z, axis: int, combine: Callable[[Z, Z], Z], unit: float) -> tuple[Z, Z]:
    """All of the running results along an axis, and the last."""
    from jax import lax

    jnp = _jnp()
    rows = Z(jnp.moveaxis(z.re, axis, 0), jnp.moveaxis(z.im, axis, 0))
    shape = rows.re.shape[1:]
    start = Z(jnp.full_like(rows.re, unit, shape=shape), jnp.zeros_like(rows.re, shape=shape))

    def step(total: Z, row: Z) -> tuple[Z, Z]:
        total = combine(total, row)
        return total, total

    last, results = lax.scan(step, start, rows)
    return Z(*(jnp.moveaxis(p, 0, axis) for p in results)), last


COMPLEX["reduce_prod"], COMPLEX["cumprod"] = _many(_mul, 1)
COMPLEX["reduce_max"], COMPLEX["cummax"] = _many(max_, -float("inf"))
COMPLEX["reduce_min"], COMPLEX["cummin"] = _many(min_, float("inf"))


# ------------------------------------------------------------------------------------------------ scatters


def _scatter(
    z: Z, indices: Any, updates: Z, *, combine: Callable[[Z, Z], Z], dimension_numbers: Any, mode: str, **_: Any
) -> Z:
    """One window after the other: each is read, combined and put back."""
    from jax import lax

    jnp = _jnp()
    d, batch = dimension_numbers, indices.shape[:-1]
    lines = [lax.broadcasted_iota(indices.dtype, (*batch, 1), i) for i in d.scatter_indices_batching_dims]
    starts = jnp.concatenate([indices, *lines], -1)
    axes = (*d.scatter_dims_to_operand_dims, *d.operand_batching_dims)
    single = tuple(sorted((*d.inserted_window_dims, *d.operand_batching_dims)))
    window = tuple(range(len(d.update_window_dims)))
    rest = [i for i in range(updates.re.ndim) if i not in d.update_window_dims]
    news = [
        jnp.transpose(u, (*rest, *d.update_window_dims)).reshape(-1, *(u.shape[i] for i in d.update_window_dims))
        for u in updates
    ]
    sizes = iter(news[0].shape[1:])
    sizes = tuple(1 if i in single else next(sizes) for i in range(z.re.ndim))
    read, write = lax.GatherDimensionNumbers(window, single, axes), lax.ScatterDimensionNumbers(window, single, axes)

    def step(z: Z, row: Any) -> tuple[Z, None]:
        start, new = row
        old = Z(*(lax.gather(part, start, read, sizes, mode="clip") for part in z))
        new = combine(old, Z(*new))
        return Z(
            *(
                lax.scatter(p, start, n, write, mode="clip" if mode == "clip" else "drop")
                for p, n in zip(z, new, strict=True)
            )
        ), None

    return lax.scan(step, z, (starts.reshape(-1, len(axes)), tuple(news)))[0]


for _name, _combine in (("mul", _mul), ("max", max_), ("min", min_)):
    _rule(f"scatter-{_name}", f"scatter_{_name}")(functools.partial(_scatter, combine=_combine))
