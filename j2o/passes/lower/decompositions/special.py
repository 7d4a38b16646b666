"""Special functions, as plain JAX: the formulas and iteration counts that XLA has, so that the last bits agree.

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
from j2o.passes.lower.elementwise import operator_or_formula
from j2o.passes.lower.table import Lowering, lower, lower_formula


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Horner's scheme, the highest power first."""
    out = jnp.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + c
    return out


def _chebyshev(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """Clenshaw's scheme, the highest order first, as Cephes' chbevl: for x in [-2, 2], the last term halved."""
    before, b, out = jnp.zeros_like(x), jnp.zeros_like(x), jnp.zeros_like(x)
    for c in coefficients:
        before, b = b, out
        out = x * b - before + c
    return 0.5 * (out - before)


# ------------------------------------------------------------------------------------------ error function

# Moshier, Cephes: erf on [0, 1] (T / U), erfc on [1, 8] (P / Q) and beyond (R / S), in double precision
_ERF_T = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3, 7.00332514112805075473e3,
          5.55923013010394962768e4)  # fmt: skip
_ERF_U = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3, 2.26290000613890934246e4,
          4.92673942608635921086e4)  # fmt: skip
_ERFC_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0, 4.86371970985681366614e1,
           1.96520832956077098242e2, 5.26445194995477358631e2, 9.34528527171957607540e2, 1.02755188689515710272e3,
           5.57535335369399327526e2)  # fmt: skip
_ERFC_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2, 9.75708501743205489753e2,
           1.82390916687909736289e3, 2.24633760818710981792e3, 1.65666309194161350182e3, 5.57535340817727675546e2)  # fmt: skip
_ERFC_R = (5.64189583547755073984e-1, 1.27536670759978104416e0, 5.01905042251180477414e0, 6.16021097993053585195e0,
           7.40974269950448939160e0, 2.97886665372100240670e0)  # fmt: skip
_ERFC_S = (1.0, 2.26052863220117276590e0, 9.39603524938001434673e0, 1.20489539808096656605e1, 1.70814450747565897222e1,
           9.60896809063285878198e0, 3.36907645100081516050e0)  # fmt: skip
# the same in single precision: in 1 / x², for x below 2 and above
_ERFC_NEAR = (2.326819970068386e-2, -1.387039388740657e-1, 3.687424674597105e-1, -5.824733027278666e-1,
              6.210004621745983e-1, -4.944515323274145e-1, 3.404879937665872e-1, -2.741127028184656e-1,
              5.638259427386472e-1)  # fmt: skip
_ERFC_FAR = (-1.047766399936249e1, 1.297719955372516e1, -7.495518717768503e0, 2.921019019210786e0, -1.015265279202700e0,
             4.218463358204948e-1, -2.820767439740514e-1, 5.641895067754075e-1)  # fmt: skip


def _erf(x: jax.Array) -> jax.Array:
    z = x * x
    near = x * _polynomial(z, _ERF_T) / _polynomial(z, _ERF_U)
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
        top = jnp.where(a < 8, _polynomial(a, _ERFC_P), _polynomial(a, _ERFC_R))
        tail = (
            scale
            * top
            / jnp.where(a < 8, _polynomial(a, _ERFC_Q), _polynomial(a, _ERFC_S))
        )
    else:
        y = 1 / (a * a)
        tail = (
            scale
            * (1 / a)
            * jnp.where(a < 2, _polynomial(y, _ERFC_NEAR), _polynomial(y, _ERFC_FAR))
        )
    return jnp.where(x < 0, 2 - tail, tail)


@lower_formula("erfc")
def erfc(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < 1, 1 - lax.erf(x), _erfc_beyond_1(x))


# Giles, Approximating the erfinv function (2010): polynomials in w = -log(1 - x²), single and double precision
_ERFINV_F32 = (
    (2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087, -0.00125372503, -0.00417768164,
     0.246640727, 1.50140941),
    (-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773, -0.0076224613, 0.00943887047,
     1.00167406, 2.83297682),
)  # fmt: skip
_ERFINV_F64 = (
    (-3.6444120640178196996e-21, -1.685059138182016589e-19, 1.2858480715256400167e-18, 1.115787767802518096e-17,
     -1.333171662854620906e-16, 2.0972767875968561637e-17, 6.6376381343583238325e-15, -4.0545662729752068639e-14,
     -8.1519341976054721522e-14, 2.6335093153082322977e-12, -1.2975133253453532498e-11, -5.4154120542946279317e-11,
     1.051212273321532285e-09, -4.1126339803469836976e-09, -2.9070369957882005086e-08, 4.2347877827932403518e-07,
     -1.3654692000834678645e-06, -1.3882523362786468719e-05, 0.0001867342080340571352, -0.00074070253416626697512,
     -0.0060336708714301490533, 0.24015818242558961693, 1.6536545626831027356),
    (2.2137376921775787049e-09, 9.0756561938885390979e-08, -2.7517406297064545428e-07, 1.8239629214389227755e-08,
     1.5027403968909827627e-06, -4.013867526981545969e-06, 2.9234449089955446044e-06, 1.2475304481671778723e-05,
     -4.7318229009055733981e-05, 6.8284851459573175448e-05, 2.4031110387097893999e-05, -0.0003550375203628474796,
     0.00095328937973738049703, -0.0016882755560235047313, 0.0024914420961078508066, -0.0037512085075692412107,
     0.005370914553590063617, 1.0052589676941592334, 3.0838856104922207635),
    (-2.7109920616438573243e-11, -2.5556418169965252055e-10, 1.5076572693500548083e-09, -3.7894654401267369937e-09,
     7.6157012080783393804e-09, -1.4960026627149240478e-08, 2.9147953450901080826e-08, -6.7711997758452339498e-08,
     2.2900482228026654717e-07, -9.9298272942317002539e-07, 4.5260625972231537039e-06, -1.9681778105531670567e-05,
     7.5995277030017761139e-05, -0.00021503011930044477347, -0.00013871931833623122026, 1.0103004648645343977,
     4.8499064014085844221),
)  # fmt: skip


@lower_formula("erf_inv")
def erf_inv(x: jax.Array) -> jax.Array:
    w = -lax.log1p(-x * x)
    root = jnp.sqrt(w)
    if x.dtype == jnp.float64:
        near, middle, far = _ERFINV_F64
        p = jnp.where(
            w < 16, _polynomial(root - 3.25, middle), _polynomial(root - 5, far)
        )
        p = jnp.where(w < 6.25, _polynomial(w - 3.125, near), p)
    else:
        near, far = _ERFINV_F32
        p = jnp.where(w < 5, _polynomial(w - 2.5, near), _polynomial(root - 3, far))
    return jnp.where(jnp.abs(x) == 1, x * jnp.inf, p * x)


# ----------------------------------------------------------------------------------------- gamma function

_LANCZOS = (
    0.99999999999980993227684700473478, 676.520368121885098567009190444019, -1259.13921672240287047156078755283,
    771.3234287776530788486528258894, -176.61502916214059906584551354, 12.507343278686904814458936853,
    -0.13857109526572011689554707, 9.984369578019570859563e-6, 1.50563273514931155834e-7,
)  # fmt: skip


def _lanczos(z: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Lanczos' sum (g = 7, n = 9), its derivative, and log(z + 7.5), for lgamma and digamma of z + 1."""
    total, slope = jnp.full_like(z, _LANCZOS[0]), jnp.zeros_like(z)
    for i, c in enumerate(_LANCZOS[1:]):
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
    out = jnp.where(reflect, jnp.where(fraction == 0, jnp.inf, reflected), y)
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


# (2j)! / B(2j), the denominators of the Euler-Maclaurin correction
_ZETA = (12.0, -720.0, 30240.0, -1209600.0, 47900160.0, -1.8924375803183791606e9, 7.47242496e10, -2.950130727918164224e12,
         1.1646782814350067249e14, -4.5979787224074726105e15, 1.8152105401943546773e17, -7.1661652561756670113e18)  # fmt: skip


@lower_formula("zeta")
def zeta(x: jax.Array, q: jax.Array) -> jax.Array:
    """Hurwitz' zeta: ten terms of the series, the rest by the Euler-Maclaurin formula (Cephes)."""
    a, series = q, jnp.zeros_like(q)
    for _ in range(10):
        series, a = series + a**-x, a + 1
    power = a**-x
    correction = jnp.zeros_like(q)
    for j in range(
        len(_ZETA) - 1, -1, -1
    ):  # the sum of x (x+1) … (x+2j) / (a^(2j+1) _ZETA[j]), nested
        correction = 1 / _ZETA[j] + correction * ((x + 2 * j + 1) / a) * (
            (x + 2 * j + 2) / a
        )
    out = series + power * a / (x - 1) + power * (0.5 + x / a * correction)
    out = jnp.where((q <= 0) & (x != jnp.floor(x)), jnp.nan, out)
    pole = jnp.where((x % 2 == 0) & (x == jnp.floor(x)), jnp.inf, jnp.nan)
    out = jnp.where(
        (q <= 0) & (q == jnp.floor(q)), pole, jnp.where(x < 1, jnp.nan, out)
    )
    return jnp.where(x == 1, jnp.inf, out)


@lower_formula("polygamma")
def polygamma(m: jax.Array, x: jax.Array) -> jax.Array:
    """(-1)^(m+1) m! ζ(m + 1, x), and digamma for m = 0."""
    sign = jnp.where(m % 2 == 0, -1, 1).astype(x.dtype)
    out = sign * lax.exp(lax.lgamma(m + 1)) * lax.zeta(m + 1, x)
    out = jnp.where(m == 0, lax.digamma(x), out)
    return jnp.where((m < 0) | (m != jnp.floor(m)), jnp.nan, out)


# ------------------------------------------------------------------------------- incomplete gamma and beta

Step = Callable[[jax.Array, Any], "tuple[jax.Array, Any]"]


def _iterate(step: Step, active: jax.Array, start: Any, limit: int) -> Any:
    """Repeat `step(i, state)`, which gives what goes on and the new state, on the elements that are `active` still.

    `i` counts from 1; a state is a tuple of arrays.
    """

    def body(loop: Any) -> Any:
        i, active, state = loop
        more, new = step(i.astype(state[0].dtype), state)
        state = tuple(
            jnp.where(active, n, old) for n, old in zip(new, state, strict=True)
        )
        return i + 1, active & more, state

    return lax.while_loop(
        lambda s: (s[0] <= limit) & jnp.any(s[1]), body, (jnp.int32(1), active, start)
    )[2]


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
        return (jnp.abs(slope_c / slope) if derive else c / total) > eps, (
            r,
            c,
            total,
            slope_c,
            slope,
        )

    one, zero = jnp.ones_like(a), jnp.zeros_like(a)
    _, _, total, _, slope = _iterate(step, active, (a, one, one, zero, zero), 2**31 - 2)
    return total, slope


def _fraction(
    a: jax.Array, x: jax.Array, active: jax.Array, derive: bool
) -> tuple[jax.Array, jax.Array]:
    """The continued fraction of Γ(a, x) eˣ x⁻ᵃ and its derivative by a (DLMF 8.9.2, Cephes' igamc)."""
    eps = float(jnp.finfo(x.dtype).eps)

    def step(i: jax.Array, state: Any) -> Any:
        y, z, value, slope, p1, q1, p2, q2, dp1, dq1, dp2, dq2 = state
        y, z = y + 1, z + 2
        yc = y * i
        p, q = p1 * z - p2 * yc, q1 * z - q2 * yc
        dp, dq = dp1 * z - p1 - dp2 * yc + p2 * i, dq1 * z - q1 - dq2 * yc + q2 * i
        known, r = q != 0, p / q
        error = jnp.where(known, jnp.abs((value - r) / r), 1)
        value = jnp.where(known, r, value)
        new_slope = jnp.where(known, (dp - value * dq) / q, slope)
        change = jnp.where(known, jnp.abs(new_slope - slope), 1)
        scale = jnp.where(jnp.abs(p) > 1 / eps, eps, 1).astype(x.dtype)
        rest = tuple(v * scale for v in (p, q, p1, q1, dp, dq, dp1, dq1))
        return (change if derive else error) > eps, (y, z, value, new_slope, *rest)

    one, zero = jnp.ones_like(x), jnp.zeros_like(x)
    y = 1 - a
    z = x + y + 1
    p1, q1 = x + 1, z * x
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
    """Where P(a, x) and Q(a, x) are defined; Q by its fraction where `beyond`, and P by its series elsewhere."""
    domain = ~((x < 0) | (a < 0) | ((a == 0) & (x == 0)) | jnp.isnan(a) | jnp.isnan(x))
    scale, representable = _scale(a, x)
    active = active & domain & representable & ~jnp.isinf(x)
    upper = _fraction(a, x, active & beyond, False)[0] * scale
    return domain, upper, _series(a, x, active & ~beyond, False)[0] * scale / a


@lower_formula("igamma")
def igamma(a: jax.Array, x: jax.Array) -> jax.Array:
    """P(a, x), the regularised lower incomplete gamma function."""
    beyond = (x >= 1) & (x > a)
    domain, upper, lower = _incomplete(a, x, beyond, x != 0)
    out = jnp.where(
        x == jnp.inf, 1, jnp.where(x == 0, 0, jnp.where(beyond, 1 - upper, lower))
    )
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
    upper = finish(scale, x, -(value * (lax.log(x) - lax.digamma(a)) + slope))
    value, slope = _series(a, x, active & ~beyond, True)
    lower = finish(scale, x, (value * (lax.log(x) - lax.digamma(a + 1)) + slope)) / a
    return jnp.where(
        domain, jnp.where(x == 0, 0, jnp.where(beyond, upper, lower)), jnp.nan
    )


@lower_formula("igamma_grad_a")
def igamma_grad_a(a: jax.Array, x: jax.Array) -> jax.Array:
    return _gradient(a, x, lambda scale, x, slope: scale * slope)


@lower_formula("random_gamma_grad")
def random_gamma_grad(a: jax.Array, x: jax.Array) -> jax.Array:
    """-(∂P/∂a) / (∂P/∂x): of a sample of Gamma(a, 1) by a."""
    return _gradient(a, x, lambda scale, x, slope: -slope * x)


@lower_formula("regularized_incomplete_beta")
def regularized_incomplete_beta(a: jax.Array, b: jax.Array, x: jax.Array) -> jax.Array:
    """I_x(a, b) by its continued fraction (DLMF 8.17.22), with Lentz' algorithm; mirrored where that converges faster."""
    info = jnp.finfo(x.dtype)
    no_a, no_b = (a == 0) | (b == jnp.inf), (b == 0) | (a == jnp.inf)
    zero = (no_b & (x != 1)) | (no_a & (x == 0))
    one = (no_a & (x != 0)) | (no_b & (x == 1))
    outside = ~((a >= 0) & (b >= 0) & (x >= 0) & (x <= 1)) | (no_a & no_b)
    fast = x < (a + 1) / (a + b + 2)
    a, b, x = jnp.where(fast, a, b), jnp.where(fast, b, a), jnp.where(fast, x, 1 - x)
    small = float(info.eps) / 2

    def step(i: jax.Array, state: Any) -> Any:
        c, d, value = state
        m = jnp.floor(i / 2)
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        odd = jnp.where(
            m == 0, -(a + b) * x / (a + 1), odd
        )  # a cancels, which may be 0
        numerator = jnp.where(
            i % 2 == 1, odd, m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        )
        c, d = 1 + numerator / c, 1 + numerator * d
        c = jnp.where(jnp.abs(c) < small, small, c)
        d = 1 / jnp.where(jnp.abs(d) < small, small, d)
        return ~(jnp.abs(c * d - 1) < small), (c, d, value * (c * d))

    ones = jnp.ones_like(x)
    limit = 199 if x.dtype == jnp.float32 else 599
    _, _, value = _iterate(
        step, ones > 0, (ones * (2 / float(info.eps)), ones, ones), limit
    )
    rest = lax.lgamma(b) - lax.lgamma(a + b)
    tail = lax.log1p(-x) * b
    factor = lax.exp(lax.log(x) * a + tail - (lax.lgamma(a) + rest)) / a
    factor = jnp.where(
        a < 2 * float(info.tiny), lax.exp(tail - rest), factor
    )  # a Γ(a) = Γ(a + 1) is 1
    out = jnp.where(fast, value * factor, 1 - value * factor)
    return jnp.where(outside, jnp.nan, jnp.where(one, 1, jnp.where(zero, 0, out)))


# ---------------------------------------------------------------------------------------- Bessel functions

# Cephes' Chebyshev series of e^-x I0(x), and e^-x I1(x) / x, on [0, 8]; of either times √x beyond, in 1 / x.
# Their tails are the series for single precision.
_I0_NEAR = (
    -4.41534164647933937950e-18, 3.33079451882223809783e-17, -2.43127984654795469359e-16, 1.71539128555513303061e-15,
    -1.16853328779934516808e-14, 7.67618549860493561688e-14, -4.85644678311192946090e-13, 2.95505266312963983461e-12,
    -1.72682629144155570723e-11, 9.67580903537323691224e-11, -5.18979560163526290666e-10, 2.65982372468238665035e-9,
    -1.30002500998624804212e-8, 6.04699502254191894932e-8, -2.67079385394061173391e-7, 1.11738753912010371815e-6,
    -4.41673835845875056359e-6, 1.64484480707288970893e-5, -5.75419501008210370398e-5, 1.88502885095841655729e-4,
    -5.76375574538582365885e-4, 1.63947561694133579842e-3, -4.32430999505057594430e-3, 1.05464603945949983183e-2,
    -2.37374148058994688156e-2, 4.93052842396707084878e-2, -9.49010970480476444210e-2, 1.71620901522208775349e-1,
    -3.04682672343198398683e-1, 6.76795274409476084995e-1,
)  # fmt: skip
_I0_FAR = (
    -7.23318048787475395456e-18, -4.83050448594418207126e-18, 4.46562142029675999901e-17, 3.46122286769746109310e-17,
    -2.82762398051658348494e-16, -3.42548561967721913462e-16, 1.77256013305652638360e-15, 3.81168066935262242075e-15,
    -9.55484669882830764870e-15, -4.15056934728722208663e-14, 1.54008621752140982691e-14, 3.85277838274214270114e-13,
    7.18012445138366623367e-13, -1.79417853150680611778e-12, -1.32158118404477131188e-11, -3.14991652796324136454e-11,
    1.18891471078464383424e-11, 4.94060238822496958910e-10, 3.39623202570838634515e-9, 2.26666899049817806459e-8,
    2.04891858946906374183e-7, 2.89137052083475648297e-6, 6.88975834691682398426e-5, 3.36911647825569408990e-3,
    8.04490411014108831608e-1,
)  # fmt: skip
_I1_NEAR = (
    2.77791411276104639959e-18, -2.11142121435816608115e-17, 1.55363195773620046921e-16, -1.10559694773538630805e-15,
    7.60068429473540693410e-15, -5.04218550472791168711e-14, 3.22379336594557470981e-13, -1.98397439776494371520e-12,
    1.17361862988909016308e-11, -6.66348972350202774223e-11, 3.62559028155211703701e-10, -1.88724975172282928790e-9,
    9.38153738649577178388e-9, -4.44505912879632808065e-8, 2.00329475355213526229e-7, -8.56872026469545474066e-7,
    3.47025130813767847674e-6, -1.32731636560394358279e-5, 4.78156510755005422638e-5, -1.61760815825896745588e-4,
    5.12285956168575772895e-4, -1.51357245063125314899e-3, 4.15642294431288815669e-3, -1.05640848946261981558e-2,
    2.47264490306265168283e-2, -5.29459812080949914269e-2, 1.02643658689847095384e-1, -1.76416518357834055153e-1,
    2.52587186443633654823e-1,
)  # fmt: skip
_I1_FAR = (
    7.51729631084210481353e-18, 4.41434832307170791151e-18, -4.65030536848935832153e-17, -3.20952592199342395980e-17,
    2.96262899764595013876e-16, 3.30820231092092828324e-16, -1.88035477551078244854e-15, -3.81440307243700780478e-15,
    1.04202769841288027642e-14, 4.27244001671195135429e-14, -2.10154184277266431302e-14, -4.08355111109219731823e-13,
    -7.19855177624590851209e-13, 2.03562854414708950722e-12, 1.41258074366137813316e-11, 3.25260358301548823856e-11,
    -1.89749581235054123450e-11, -5.58974346219658380687e-10, -3.83538038596423702205e-9, -2.63146884688951950684e-8,
    -2.51223623787020892529e-7, -3.88256480887769039346e-6, -1.10588938762623716291e-4, -9.76109749136146840777e-3,
    7.78576235018280120474e-1,
)  # fmt: skip


def _bessel(
    x: jax.Array, near: Sequence[float], far: Sequence[float], cut: int
) -> tuple[jax.Array, jax.Array]:
    if x.dtype == jnp.float32:
        near, far = near[cut:], far[18:]
    return _chebyshev(0.5 * x - 2, near), _chebyshev(32 / x - 2, far) / jnp.sqrt(x)


@lower_formula("bessel_i0e")
def bessel_i0e(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    near, far = _bessel(a, _I0_NEAR, _I0_FAR, 12)
    return jnp.where(a <= 8, near, far)


@lower_formula("bessel_i1e")
def bessel_i1e(x: jax.Array) -> jax.Array:
    a = jnp.abs(x)
    near, far = _bessel(a, _I1_NEAR, _I1_FAR, 12)
    return jnp.sign(x) * jnp.where(a <= 8, near * a, far)
