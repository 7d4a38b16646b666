"""Incomplete gamma and beta functions, as plain JAX: series and continued fractions.

The formulas and the numbers of iterations are XLA's, so that the last bits agree. A formula is given
operands of one shape, f32 or f64; `lower_formula` converts what comes and goes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from j2o.passes.lower.table import lower_formula

Iteration: TypeAlias = Callable[[Array, Any], "tuple[Array, Any]"]


def _iterate(step: Iteration, active: Array, start: Any, limit: int) -> Any:
    """Repeat a step on the elements that are `active` still, as long as there are any; the state in the end.

    `step(i, state)` gives which elements go on, and the new state, a tree of arrays. `i` counts from 1 to
    `limit`, in their dtype.
    """
    dtype = jax.tree.leaves(start)[0].dtype

    def any_goes_on(loop: Any) -> Any:
        i, active, _ = loop
        return (i <= limit) & jnp.any(active)

    def once_more(loop: Any) -> Any:
        i, active, state = loop
        goes_on, new = step(i.astype(dtype), state)
        kept = functools.partial(jnp.where, active)
        return i + 1, active & goes_on, jax.tree.map(kept, new, state)

    first = jnp.int32(1)
    _, _, last = lax.while_loop(any_goes_on, once_more, (first, active, start))
    return last


# -------------------------------------------------------------------- incomplete gamma


class WithSlope(NamedTuple):
    """A function of a and x: its value, and its derivative by a."""

    value: Array
    slope: Array


class Series(NamedTuple):
    """A series so far: its last term, x^n / divisors, and its sum, both with their derivatives by a."""

    divisor: Array  # a + n
    term: Array
    total: Array
    term_slope: Array
    slope: Array


def _series(a: Array, x: Array, active: Array, derive: bool) -> WithSlope:
    """The sum of x^n / ((a+1) … (a+n)) and its derivative by a (DLMF 8.11.4).

    With `derive` it ends where the derivative is exact, else where the sum is.
    """
    eps = jnp.finfo(x.dtype).eps

    def step(_: Array, s: Series) -> tuple[Array, Series]:
        divisor = s.divisor + 1
        ratio = x / divisor
        # the derivative of term · ratio by a: that of the ratio is -x / divisor²
        less = (s.term * x) / (divisor * divisor)
        term_slope = s.term_slope * ratio - less
        slope = s.slope + term_slope
        term = s.term * ratio
        total = s.total + term
        new = Series(divisor, term, total, term_slope, slope)
        if derive:
            return jnp.abs(term_slope / slope) > eps, new
        return term / total > eps, new

    one = jnp.ones_like(a)
    zero = jnp.zeros_like(a)
    start = Series(a, one, one, zero, zero)
    end: Series = _iterate(step, active, start, 2**31 - 2)
    return WithSlope(end.total, end.slope)


class Convergent(NamedTuple):
    """A continued fraction cut off: p / q, and the derivatives of both by a."""

    p: Array
    q: Array
    dp: Array
    dq: Array

    def scaled(self, scale: Array) -> Convergent:
        """The same fraction, of other numbers."""
        return Convergent(*(v * scale for v in self))


class Fraction(NamedTuple):
    """A continued fraction so far: the coefficients of its last step, its value, the last two convergents."""

    y: Array
    z: Array
    value: Array
    slope: Array  # the derivative of `value` by a
    last: Convergent
    before: Convergent


def _fraction(a: Array, x: Array, active: Array, derive: bool) -> WithSlope:
    """The continued fraction of Γ(a, x) eˣ x⁻ᵃ and its derivative by a (DLMF 8.9.2, Cephes' igamc).

    With `derive` it ends where the derivative is exact, else where the value is.
    """
    eps = float(jnp.finfo(x.dtype).eps)

    def step(i: Array, so_far: Fraction) -> tuple[Array, Fraction]:
        y = so_far.y + 1
        z = so_far.z + 2
        new = _next_convergent(so_far.last, so_far.before, y, z, i)
        is_known = new.q != 0
        ratio = new.p / new.q
        error = jnp.abs((so_far.value - ratio) / ratio)
        value = jnp.where(is_known, ratio, so_far.value)
        new_slope = (new.dp - value * new.dq) / new.q
        slope = jnp.where(is_known, new_slope, so_far.slope)
        change = jnp.abs(slope - so_far.slope) if derive else error
        goes_on = jnp.where(is_known, change, 1) > eps
        # large numbers are made small before they overflow
        is_large = jnp.abs(new.p) > 1 / eps
        scale = jnp.where(is_large, eps, 1).astype(x.dtype)
        last = new.scaled(scale)
        before = so_far.last.scaled(scale)
        return goes_on, Fraction(y, z, value, slope, last, before)

    start = _first_fraction(a, x)
    end: Fraction = _iterate(step, active, start, 2000)
    return WithSlope(end.value, end.slope)


def _first_fraction(a: Array, x: Array) -> Fraction:
    """The fraction before the first step: its first two convergents."""
    one = jnp.ones_like(x)
    zero = jnp.zeros_like(x)
    y = 1 - a
    z = x + y + 1
    last = Convergent(p=x + 1, q=z * x, dp=zero, dq=-x)
    before = Convergent(p=one, q=x, dp=zero, dq=zero)
    value = last.p / last.q
    return Fraction(y, z, value, value * x / last.q, last, before)


def _next_convergent(
    last: Convergent, before: Convergent, y: Array, z: Array, i: Array
) -> Convergent:
    """The convergent with one step more: z times the last one less y i times the one before it."""
    factor = y * i
    p = last.p * z - before.p * factor
    q = last.q * z - before.q * factor
    # the derivatives of z and of the factor are -1 and -i
    dp = last.dp * z - last.p - before.dp * factor
    dq = last.dq * z - last.q - before.dq * factor
    return Convergent(p, q, dp + before.p * i, dq + before.q * i)


def _scale(a: Array, x: Array) -> tuple[Array, Array]:
    """x^a e^-x / Γ(a), and where it does not underflow."""
    power = a * lax.log(x)
    log = power - x - lax.lgamma(a)
    greatest = jnp.finfo(x.dtype).max
    underflows = log < -math.log(greatest)
    return lax.exp(log), ~underflows


class Regularised(NamedTuple):
    """The upper function Q(a, x) and the lower one P(a, x) = 1 - Q(a, x), and where they are defined.

    Each has its value where its own formula was asked for.
    """

    domain: Array
    upper: Array
    lower: Array


def _regularised(a: Array, x: Array, beyond: Array, active: Array) -> Regularised:
    """Q by its fraction where `beyond`, and P by its series elsewhere."""
    is_nan = jnp.isnan(a) | jnp.isnan(x)
    both_zero = (a == 0) & (x == 0)
    is_negative = (x < 0) | (a < 0)
    domain = ~(is_negative | both_zero | is_nan)
    scale, representable = _scale(a, x)
    active = active & domain & representable & ~jnp.isinf(x)
    fraction = _fraction(a, x, active & beyond, derive=False)
    series = _series(a, x, active & ~beyond, derive=False)
    upper = fraction.value * scale
    lower = series.value * scale / a
    return Regularised(domain, upper, lower)


@lower_formula("igamma")
def igamma(a: Array, x: Array) -> Array:
    """P(a, x), the regularised lower incomplete gamma function."""
    beyond = (x >= 1) & (x > a)
    domain, upper, lower = _regularised(a, x, beyond, active=x != 0)
    out = jnp.where(beyond, 1 - upper, lower)
    out = jnp.where(x == 0, 0, out)
    out = jnp.where(x == jnp.inf, 1, out)
    return jnp.where(domain, out, jnp.nan)


@lower_formula("igammac")
def igammac(a: Array, x: Array) -> Array:
    """Q(a, x) = 1 - P(a, x)."""
    beyond = ~((x < 1) | (x < a))
    domain, upper, lower = _regularised(a, x, beyond, active=a != 0)
    out = jnp.where(beyond, upper, 1 - lower)
    is_zero = (x == jnp.inf) | (a == 0)
    out = jnp.where(is_zero, 0, out)
    return jnp.where(domain, out, jnp.nan)


# P(a, x) is scale · f(a, x): from the scale, x and f' to the derivative that is asked for
Finish: TypeAlias = Callable[[Array, Array, Array], Array]


def _gradient(a: Array, x: Array, finish: Finish) -> Array:
    """The derivative of P(a, x) by a, as `finish` makes it of scale and slope; of 1 - Q where `beyond`.

    Q is x^a e^-x / Γ(a) · F, and P is x^a e^-x / Γ(a+1) · S, with the fraction F and the series S. So

        ∂Q/∂a = x^a e^-x / Γ(a) · (F (log x - ψ(a)) + ∂F/∂a)
        ∂P/∂a = x^a e^-x / Γ(a+1) · (S (log x - ψ(a+1)) + ∂S/∂a)
    """
    is_nan = jnp.isnan(a) | jnp.isnan(x)
    domain = ~((x < 0) | (a <= 0) | is_nan)
    beyond = (x > 1) & (x > a)
    scale, representable = _scale(a, x)
    active = domain & representable & (x != 0)
    log_x = lax.log(x)
    fraction = _fraction(a, x, active & beyond, derive=True)
    log_slope = log_x - lax.digamma(a)
    slope_of_upper = fraction.value * log_slope + fraction.slope
    upper = finish(scale, x, -slope_of_upper)
    series = _series(a, x, active & ~beyond, derive=True)
    log_slope = log_x - lax.digamma(a + 1)
    slope_of_lower = series.value * log_slope + series.slope
    lower = finish(scale, x, slope_of_lower) / a
    out = jnp.where(beyond, upper, lower)
    out = jnp.where(x == 0, 0, out)
    return jnp.where(domain, out, jnp.nan)


def _scaled(scale: Array, x: Array, slope: Array) -> Array:
    """The derivative by a."""
    return scale * slope


def _by_sample(scale: Array, x: Array, slope: Array) -> Array:
    """The derivative by a divided by the negative density ∂P/∂x, which is `scale / x`: the scale cancels."""
    return -slope * x


@lower_formula("igamma_grad_a")
def igamma_grad_a(a: Array, x: Array) -> Array:
    """∂P/∂a."""
    return _gradient(a, x, _scaled)


@lower_formula("random_gamma_grad")
def random_gamma_grad(a: Array, x: Array) -> Array:
    """-(∂P/∂a) / (∂P/∂x): of a sample of Gamma(a, 1) by a."""
    return _gradient(a, x, _by_sample)


# --------------------------------------------------------------------- incomplete beta


@lower_formula("regularized_incomplete_beta")
def regularized_incomplete_beta(a: Array, b: Array, x: Array) -> Array:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), with Lentz' algorithm.

    Mirrored where that converges faster: I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    mean = (a + 1) / (a + b + 2)
    is_fast = x < mean
    first = jnp.where(is_fast, a, b)
    second = jnp.where(is_fast, b, a)
    place = jnp.where(is_fast, x, 1 - x)
    fraction = _beta_fraction(first, second, place)
    value = fraction * _beta_factor(first, second, place)
    out = jnp.where(is_fast, value, 1 - value)
    return _beta_at_edges(a, b, x, out)


def _beta_factor(a: Array, b: Array, x: Array) -> Array:
    """x^a (1 - x)^b / (a B(a, b)), which is in front of the continued fraction."""
    rest = lax.lgamma(b) - lax.lgamma(a + b)
    tail = lax.log1p(-x) * b
    power = lax.log(x) * a + tail
    log_beta = lax.lgamma(a) + rest
    factor = lax.exp(power - log_beta) / a
    # a Γ(a) = Γ(a + 1) is 1
    near_zero = lax.exp(tail - rest)
    tiny = float(jnp.finfo(x.dtype).tiny)
    return jnp.where(a < 2 * tiny, near_zero, factor)


def _beta_at_edges(a: Array, b: Array, x: Array, out: Array) -> Array:
    """`out`, but where a or b is 0 or infinite: then all of the distribution lies at 0 or at 1."""
    all_at_0 = (a == 0) | (b == jnp.inf)
    all_at_1 = (b == 0) | (a == jnp.inf)
    is_zero = (all_at_1 & (x != 1)) | (all_at_0 & (x == 0))
    is_one = (all_at_0 & (x != 0)) | (all_at_1 & (x == 1))
    has_shape = (a >= 0) & (b >= 0)
    is_inside = has_shape & (x >= 0) & (x <= 1)
    is_undefined = ~is_inside | (all_at_0 & all_at_1)
    out = jnp.where(is_zero, 0, out)
    out = jnp.where(is_one, 1, out)
    return jnp.where(is_undefined, jnp.nan, out)


class Lentz(NamedTuple):
    """Lentz' algorithm so far: ratios of numerators and of denominators, and their product."""

    c: Array
    d: Array
    value: Array


def _beta_fraction(a: Array, b: Array, x: Array) -> Array:
    """The continued fraction of I_x(a, b) (DLMF 8.17.22), by Lentz' algorithm."""
    eps = float(jnp.finfo(x.dtype).eps)
    small = eps / 2

    def moved_off_zero(v: Array) -> Array:
        return jnp.where(jnp.abs(v) < small, small, v)

    def step(i: Array, so_far: Lentz) -> tuple[Array, Lentz]:
        numerator = _beta_numerator(a, b, x, i)
        c = moved_off_zero(1 + numerator / so_far.c)
        d = 1 / moved_off_zero(1 + numerator * so_far.d)
        change = c * d
        is_done = jnp.abs(change - 1) < small
        return ~is_done, Lentz(c, d, so_far.value * change)

    ones = jnp.ones_like(x)
    limit = 199 if x.dtype == jnp.float32 else 599
    start = Lentz(c=ones * (2 / eps), d=ones, value=ones)
    end: Lentz = _iterate(step, ones > 0, start, limit)
    return end.value


def _beta_numerator(a: Array, b: Array, x: Array, i: Array) -> Array:
    """The numerator number i, from 1 on: d_i of DLMF 8.17.23."""
    m = jnp.floor(i / 2)
    place = a + 2 * m
    odd = -(a + m) * (a + b + m) * x
    odd = odd / (place * (place + 1))
    # for m = 0, a cancels, which may be 0
    first = -(a + b) * x / (a + 1)
    odd = jnp.where(m == 0, first, odd)
    even = m * (b - m) * x
    even = even / ((place - 1) * place)
    return jnp.where(i % 2 == 1, odd, even)
