"""Complex arithmetic on pairs of reals: one formula a primitive, in plain JAX.

Operands that are complex come as `Z(re, im)`, real ones as arrays; complex results are `Z`. The formulas keep what is
finite finite (Kahan, "Branch cuts for complex elementary functions", 1987, for square roots and the inverse functions).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from j2o.errors import UnsupportedError
from j2o.ir.types import DType


class Z(NamedTuple):
    re: Any
    im: Any


Binary = Callable[[Z, Z], Z]


def _each(fn: Callable[..., Any], *numbers: Z) -> Z:
    """`fn` of the real parts and of the imaginary parts."""
    return Z(*map(fn, *numbers))


def _where(test: Any, a: Z, b: Z) -> Z:
    return _each(functools.partial(jnp.where, test), a, b)


def _one(like: Z) -> Z:
    return Z(jnp.ones_like(like.re), jnp.zeros_like(like.re))


def _part(dtype: DType) -> Any:
    return jnp.float32 if dtype == DType.C64 else jnp.float64


def convert(z: Any, *, new_dtype: DType, **_: Any) -> Any:
    if new_dtype.is_complex:
        part = _part(new_dtype)
        z = z if isinstance(z, Z) else Z(z, jnp.zeros(z.shape, part))
        return Z(z.re.astype(part), z.im.astype(part))
    return (
        (z.re != 0) | (z.im != 0)
        if new_dtype == DType.BOOL
        else z.re.astype(new_dtype.numpy)
    )


def iota(*, dtype: DType, shape: Sequence[Any], dimension: int) -> Z:
    re = lax.broadcasted_iota(_part(dtype), tuple(shape), dimension)
    return Z(re, jnp.zeros_like(re))


# ---------------------------------------------------------------------------------------------- comparison


def _less(a: Z, b: Z) -> Any:
    """Lexicographic order, as JAX has it."""
    return (a.re < b.re) | ((a.re == b.re) & (a.im < b.im))


def _less_equal(a: Z, b: Z) -> Any:
    return (a.re < b.re) | ((a.re == b.re) & (a.im <= b.im))


def max_(a: Z, b: Z) -> Z:
    """The second where they do not compare: JAX's complex extremes do not propagate NaN."""
    return _where(_less(b, a), a, b)


def min_(a: Z, b: Z) -> Z:
    return _where(_less(a, b), a, b)


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


def _ordered(z: Z) -> tuple[Any, Any]:
    """The larger and the smaller of |re| and |im|."""
    a, b = jnp.abs(z.re), jnp.abs(z.im)
    return jnp.maximum(a, b), jnp.minimum(a, b)


def abs_(z: Z) -> Any:
    """Without overflow where the result is finite."""
    large, small = _ordered(z)
    ratio = small / jnp.where(large == 0, jnp.ones_like(large), large)
    infinite = jnp.isinf(z.re) | jnp.isinf(z.im)
    return jnp.where(
        infinite, jnp.full_like(large, jnp.inf), large * jnp.sqrt(1 + ratio * ratio)
    )


def multiplied(a: Any, b: Any, *, out_dtype: DType) -> Z:
    """Of operands that are converted first; other products are made part by part."""
    return _mul(convert(a, new_dtype=out_dtype), convert(b, new_dtype=out_dtype))


def div(a: Z, b: Z) -> Z:
    """Smith's method: scaled by the larger part of the divisor."""
    wide = jnp.abs(b.re) >= jnp.abs(b.im)
    large, small = jnp.where(wide, b.re, b.im), jnp.where(wide, b.im, b.re)
    ratio = jnp.where(small == 0, jnp.zeros_like(small), small / large)
    below = large + small * ratio
    p, q = jnp.where(wide, a.re, a.im), jnp.where(wide, a.im, a.re)
    re = (p + q * ratio) / below
    im = (q - p * ratio) / below
    return Z(re, jnp.where(wide, im, -im))


def integer_pow(z: Z, *, y: int) -> Z:
    if y < 0:
        return div(_one(z), integer_pow(z, y=-y))
    result, base = None, z
    while y:
        if y & 1:
            result = base if result is None else _mul(result, base)
        base, y = _mul(base, base) if y > 1 else base, y >> 1
    return _one(z) if result is None else result


def pow_(a: Z, b: Any) -> Z:
    """exp(b log a), and what XLA has where that is undefined: a base of 0, 1 or infinity, an exponent of 0."""
    exponent = (
        b
        if isinstance(b, Z)
        else Z(b.astype(a.re.dtype), jnp.zeros(b.shape, a.re.dtype))
    )
    general = exp(_mul(exponent, log(a)))
    nothing = jnp.zeros_like(general.re)
    none, one, undefined, infinite = (
        Z(nothing + v, nothing) for v in (0, 1, math.nan, math.inf)
    )
    positive, negative = (
        (exponent.im == 0) & side for side in (exponent.re > 0, exponent.re < 0)
    )
    is_real = a.im == 0
    zero, unit, endless = (is_real & (a.re == v) for v in (0, 1, math.inf))
    out = _where(
        zero, _where(positive & zero, none, Z(undefined.re, undefined.re)), general
    )
    out = _where(endless & positive, infinite, _where(endless & negative, none, out))
    return _where(unit | ((exponent.re == 0) & (exponent.im == 0)), one, out)


def sign(z: Z) -> Z:
    size = abs_(z)
    none = size == 0
    size = jnp.where(none, jnp.ones_like(size), size)
    return _each(lambda p: jnp.where(none, p, p / size), z)


# --------------------------------------------------------------------------- powers, exponentials, logarithms


def sqrt(z: Z) -> Z:
    half = jnp.sqrt(0.5 * jnp.abs(z.re) + 0.5 * abs_(z))
    safe = jnp.where(half == 0, jnp.ones_like(half), half)
    other = jnp.abs(z.im) / (2 * safe)
    right, infinite = z.re >= 0, jnp.isinf(z.im)
    re, im = jnp.where(right, half, other), jnp.where(right, other, half)
    re, im = (jnp.where(infinite, jnp.full_like(p, jnp.inf), p) for p in (re, im))
    return Z(re, jnp.copysign(im, z.im))


def exp(z: Z) -> Z:
    size = jnp.exp(z.re)
    flat = z.im == 0
    return Z(
        jnp.where(flat, size, size * jnp.cos(z.im)),
        jnp.where(flat, z.im, size * jnp.sin(z.im)),
    )


def expm1(z: Z) -> Z:
    half = jnp.sin(0.5 * z.im)
    return Z(
        jnp.expm1(z.re) * jnp.cos(z.im) - 2 * half * half, jnp.exp(z.re) * jnp.sin(z.im)
    )


def log(z: Z) -> Z:
    """Near the unit circle the logarithm of the size comes from |z|² - 1."""
    large, small = _ordered(z)
    near = 0.5 * jnp.log1p((large - 1) * (large + 1) + small * small)
    size = jnp.where((large > 0.5) & (large < 2), near, jnp.log(abs_(z)))
    return Z(size, jnp.arctan2(z.im, z.re))


def log1p(z: Z) -> Z:
    tiny = (jnp.abs(z.re) < 0.5) & (jnp.abs(z.im) < 0.5)
    near = 0.5 * jnp.log1p(z.re * (2 + z.re) + z.im * z.im)
    return Z(jnp.where(tiny, near, log(_plus(z, 1)).re), jnp.arctan2(z.im, 1 + z.re))


# ------------------------------------------------------------------------------------------- trigonometry


def sin(z: Z) -> Z:
    return Z(jnp.sin(z.re) * jnp.cosh(z.im), jnp.cos(z.re) * jnp.sinh(z.im))


def cos(z: Z) -> Z:
    return Z(jnp.cos(z.re) * jnp.cosh(z.im), -jnp.sin(z.re) * jnp.sinh(z.im))


def tanh(z: Z) -> Z:
    far = jnp.abs(z.re) > 20
    a = jnp.where(far, jnp.zeros_like(z.re), z.re)
    t, s = jnp.tan(z.im), jnp.sinh(a)
    beta, rho = 1 + t * t, jnp.sqrt(1 + s * s)
    below = 1 + beta * s * s
    im = 4 * jnp.sin(z.im) * jnp.cos(z.im) * jnp.exp(-2 * jnp.abs(z.re))
    return Z(
        jnp.where(far, jnp.sign(z.re), beta * rho * s / below),
        jnp.where(far, im, t / below),
    )


def _cross(a: Z, b: Z) -> Any:
    """Im(conj(a)·b)."""
    return a.re * b.im - a.im * b.re


def asin(z: Z) -> Z:
    below, above = sqrt(Z(1 - z.re, -z.im)), sqrt(_plus(z, 1))
    return Z(
        jnp.arctan2(z.re, _mul(below, above).re), jnp.arcsinh(_cross(below, above))
    )


def acos(z: Z) -> Z:
    below, above = sqrt(Z(1 - z.re, -z.im)), sqrt(_plus(z, 1))
    return Z(2 * jnp.arctan2(below.re, above.re), jnp.arcsinh(_cross(above, below)))


def acosh(z: Z) -> Z:
    below, above = sqrt(_plus(z, -1)), sqrt(_plus(z, 1))
    return Z(
        jnp.arcsinh(below.re * above.re + below.im * above.im),
        2 * jnp.arctan2(below.im, above.re),
    )


def atanh(z: Z) -> Z:
    gap = 1 - z.re
    re = 0.25 * jnp.log1p(4 * z.re / (gap * gap + z.im * z.im))
    return Z(re, 0.5 * jnp.arctan2(2 * z.im, gap * (1 + z.re) - z.im * z.im))


# ------------------------------------------------------------------------------- products and extremes of many


def _reduction(
    z: Z, *, combine: Binary, unit: float, axes: Sequence[int], **_: Any
) -> Z:
    for axis in sorted(axes, reverse=True):
        z = _running(z, axis, combine, unit)[1]
    return z


def _cumulative(z: Z, *, combine: Binary, unit: float, axis: int, reverse: bool) -> Z:
    flipped = functools.partial(_each, lambda p: jnp.flip(p, axis) if reverse else p)
    return flipped(_running(flipped(z), axis, combine, unit)[0])


def _running(z: Z, axis: int, combine: Binary, unit: float) -> tuple[Z, Z]:
    """All of the running results along an axis, and the last; `unit` is that of `combine`, a real number."""
    rows = _each(lambda p: jnp.moveaxis(p, axis, 0), z)
    shape = rows.re.shape[1:]
    start = Z(
        jnp.full_like(rows.re, unit, shape=shape), jnp.zeros_like(rows.re, shape=shape)
    )

    def step(total: Z, row: Z) -> tuple[Z, Z]:
        total = combine(total, row)
        return total, total

    last, results = lax.scan(step, start, rows)
    return _each(lambda p: jnp.moveaxis(p, 0, axis), results), last


def _window_extreme(z: Z, *, combine: Binary, unit: float, **windows: Any) -> Z:
    scalars = tuple(jnp.asarray(v, z.re.dtype) for v in (unit, 0))
    forms = {
        k: tuple(windows[k])
        for k in (
            "window_dimensions",
            "window_strides",
            "base_dilation",
            "window_dilation",
        )
    }
    padding = [tuple(pair) for pair in windows["padding"]]
    computation = lambda a, b: tuple(combine(Z(*a), Z(*b)))  # noqa: E731
    return Z(
        *lax.reduce_window(tuple(z), scalars, computation, padding=padding, **forms)
    )


# ------------------------------------------------------------------------------------------------ scatters


def _scatter(
    z: Z,
    indices: Any,
    updates: Z,
    *,
    combine: Binary,
    dimension_numbers: Any,
    mode: str,
    **_: Any,
) -> Z:
    """One window after the other: each is read, combined and put back."""
    d, batch = dimension_numbers, indices.shape[:-1]
    lines = [
        lax.broadcasted_iota(indices.dtype, (*batch, 1), i)
        for i in d.scatter_indices_batching_dims
    ]
    starts = jnp.concatenate([indices, *lines], -1)
    axes = (*d.scatter_dims_to_operand_dims, *d.operand_batching_dims)
    single = tuple(sorted((*d.inserted_window_dims, *d.operand_batching_dims)))
    window = tuple(range(len(d.update_window_dims)))
    rest = [i for i in range(updates.re.ndim) if i not in d.update_window_dims]
    seen = tuple(updates.re.shape[i] for i in d.update_window_dims)
    news = _each(
        lambda u: jnp.transpose(u, (*rest, *d.update_window_dims)).reshape(-1, *seen),
        updates,
    )
    sizes = iter(seen)
    sizes = tuple(1 if i in single else next(sizes) for i in range(z.re.ndim))
    read, write = (
        lax.GatherDimensionNumbers(window, single, axes),
        lax.ScatterDimensionNumbers(window, single, axes),
    )
    outside = "clip" if mode == "clip" else "drop"

    def step(z: Z, row: Any) -> tuple[Z, None]:
        start, new = row
        old = _each(lambda p: lax.gather(p, start, read, sizes, mode="clip"), z)
        return _each(
            lambda p, n: lax.scatter(p, start, n, write, mode=outside),
            z,
            combine(old, new),
        ), None

    return lax.scan(step, z, (starts.reshape(-1, len(axes)), news))[0]


# ---------------------------------------------------------------------------------------------- matrices


def of_decomposition(primitive: str) -> Callable[..., tuple[Any, ...]]:
    """The plain JAX code that a primitive is lowered with, for operands in parts; its complex arithmetic is split in turn."""

    def rule(*operands: Any, **params: Any) -> tuple[Any, ...]:
        from j2o.passes.lower.table import (
            DECOMPOSITIONS,
        )  # asked when it is needed: a user's rule may have come since

        if primitive not in DECOMPOSITIONS:
            raise UnsupportedError(
                [
                    f"{primitive}: its rule builds ONNX nodes, which take no complex numbers"
                ]
            )
        results = DECOMPOSITIONS[primitive](
            *(lax.complex(*x) if isinstance(x, Z) else x for x in operands), **params
        )
        results = results if isinstance(results, tuple) else (results,)
        return tuple(
            part
            for r in results
            for part in ((r.real, r.imag) if jnp.iscomplexobj(r) else (r,))
        )

    return rule


MATRICES = (
    "cholesky eig eigh geqp3 geqrf hessenberg householder_product lu ormqr qr schur svd triangular_solve tridiagonal "
    "tridiagonal_solve"
)

# --------------------------------------------------------------------------------------------- the table

LN2 = math.log(2)
COMPLEX: dict[str, Callable[..., Any]] = {
    "complex": lambda re, im: Z(*jnp.broadcast_arrays(re, im)),
    "real": lambda z: z.re,
    "imag": lambda z: z.im,
    "conj": lambda z, **_: Z(z.re, -z.im) if isinstance(z, Z) else Z(z, z * 0),
    "convert_element_type": convert,
    "iota": iota,
    "is_finite": lambda z: jnp.isfinite(z.re) & jnp.isfinite(z.im),
    "eq": lambda a, b: (a.re == b.re) & (a.im == b.im),
    "ne": lambda a, b: (a.re != b.re) | (a.im != b.im),
    "lt": _less,
    "le": _less_equal,
    "gt": lambda a, b: _less(b, a),
    "ge": lambda a, b: _less_equal(b, a),
    "max": max_,
    "min": min_,
    "clamp": lambda low, z, high: min_(max_(low, z), high),
    "abs": abs_,
    "sign": sign,
    "div": div,
    "mul": multiplied,
    "square": lambda z: Z((z.re - z.im) * (z.re + z.im), 2 * z.re * z.im),
    "integer_pow": integer_pow,
    "pow": pow_,
    "sqrt": sqrt,
    "rsqrt": lambda z: div(_one(z), sqrt(z)),
    "cbrt": lambda z: exp(_each(lambda p: p / 3, log(z))),
    "exp": exp,
    "exp2": lambda z: exp(_each(lambda p: p * LN2, z)),
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "logistic": lambda z: div(_one(z), _plus(exp(Z(-z.re, -z.im)), 1)),
    "sin": sin,
    "cos": cos,
    "tan": lambda z: _minus_i(tanh(_i(z))),
    "asin": asin,
    "acos": acos,
    "atan": lambda z: _minus_i(atanh(_i(z))),
    "sinh": lambda z: _minus_i(sin(_i(z))),
    "cosh": lambda z: cos(_i(z)),
    "tanh": tanh,
    "asinh": lambda z: _minus_i(asin(_i(z))),
    "acosh": acosh,
    "atanh": atanh,
}
COMPLEX.update({_name: of_decomposition(_name) for _name in MATRICES.split()})
for _name, _cumulated, _combine, _unit in (
    ("prod", "cumprod", _mul, 1.0), ("max", "cummax", max_, -math.inf), ("min", "cummin", min_, math.inf)
):  # fmt: skip
    COMPLEX[f"reduce_{_name}"] = functools.partial(
        _reduction, combine=_combine, unit=_unit
    )
    COMPLEX[_cumulated] = functools.partial(_cumulative, combine=_combine, unit=_unit)
    if _name != "prod":
        COMPLEX[f"reduce_window_{_name}"] = functools.partial(
            _window_extreme, combine=_combine, unit=_unit
        )
for _name, _combine in (("mul", _mul), ("max", max_), ("min", min_)):
    COMPLEX[f"scatter-{_name}"] = COMPLEX[f"scatter_{_name}"] = functools.partial(
        _scatter, combine=_combine
    )
