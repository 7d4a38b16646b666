"""Special functions, compared with XLA's at edges and all over their domains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64

EDGES = [
    0.0,
    -0.0,
    np.nan,
    np.inf,
    -np.inf,
    1.0,
    -1.0,
    0.5,
    -0.5,
    2.0,
    -2.0,
    1e-30,
    0.999999,
    -7.5,
    26.7,
    171.0,
]


def line(low, high):
    random = np.random.default_rng(0)
    return (
        np.concatenate(
            [EDGES, random.uniform(low, high, 300), random.uniform(-1, 1, 300)]
        ),
    )


def plane(*ranges):
    """All pairs or triples of edges, and random points."""
    random = np.random.default_rng(0)
    edges = (
        EDGES if len(ranges) == 2 else [0.0, np.nan, np.inf, 1.0, -1.0, 0.5, 2.0, 1e-30]
    )
    grid = np.meshgrid(*[edges] * len(ranges))
    return tuple(
        np.concatenate([g.ravel(), random.uniform(*r, 300)])
        for g, r in zip(grid, ranges, strict=True)
    )


ORDERS = np.tile(np.arange(-1.0, 7), len(EDGES)), np.repeat(EDGES, 8)
CASES = {
    "erf": (lax.erf, line(-8, 8)),
    "erfc": (lax.erfc, line(-28, 28)),
    "erf_inv": (lax.erf_inv, line(-1, 1)),
    "lgamma": (lax.lgamma, line(-50, 200)),
    "digamma": (lax.digamma, line(-50, 200)),
    "bessel_i0e": (lax.bessel_i0e, line(-50, 50)),
    "bessel_i1e": (lax.bessel_i1e, line(-50, 50)),
    "zeta": (lax.zeta, plane((0, 20), (-5, 50))),
    "polygamma": (lax.polygamma, ORDERS),
    "igamma": (lax.igamma, plane((0, 60), (0, 60))),
    "igammac": (lax.igammac, plane((0, 60), (0, 60))),
    "igamma_grad_a": (lax.igamma_grad_a, plane((0, 60), (0, 60))),
    "random_gamma_grad": (lax.random_gamma_grad, plane((0, 60), (0, 60))),
    "betainc": (lax.betainc, plane((0, 20), (0, 20), (0, 1))),
}
# of the last bits, how many may differ: powers and logarithms of onnxruntime are not XLA's, and
# differences cancel
TOLERANCE = {
    "float32": (1e-4, 1e-6),
    "float64": (1e-11, 1e-13),
    "float16": (2e-3, 1e-4),
    "bfloat16": (2e-2, 1e-3),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_xla(name, dtype):
    fn, points = CASES[name]
    args = [p.astype(jnp.dtype(dtype)) for p in points]
    with enable_x64(True):
        model = j2o.compile(fn, [jax.ShapeDtypeStruct(a.shape, a.dtype) for a in args])
        got, want = np.asarray(model(*args)), np.asarray(jax.jit(fn)(*args))
    assert got.dtype == want.dtype
    got, want = got.astype(np.float64), want.astype(np.float64)
    np.testing.assert_allclose(got, want, *TOLERANCE[dtype])
    zero = (got == 0) & (want == 0) & (len(args) == 1)
    np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(want[zero]))


def test_symbolic_sizes_and_scalars():
    x = np.random.default_rng(0).uniform(0.1, 9, (3, 4)).astype(np.float32)
    j2o.compile(
        lambda x: (lax.igamma(x, x + 1), lax.lgamma(x), lax.bessel_i1e(x)), [("B", "T")]
    ).verify(x, rtol=1e-5)
    j2o.compile(
        lambda a, x: jax.scipy.special.betainc(a, 2.0, x), ["f32[]", (4,)]
    ).verify(np.float32(3), x[0] / 9)


def test_gradients():
    x = np.random.default_rng(0).uniform(0.2, 5, 20).astype(np.float32)

    def fn(a):
        def total(a):
            return (
                lax.igamma(a, 1.5 * a)
                + lax.bessel_i0e(a)
                + lax.digamma(a)
                + lax.lgamma(a)
            ).sum()

        return jax.grad(total)(a)

    j2o.compile(fn, [("B",)]).verify(x, rtol=1e-4)


@pytest.mark.parametrize(
    "dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
)
def test_bits(dtype):
    info = np.iinfo(dtype)
    x = np.array(
        [info.min, info.max, *(1 << i for i in range(info.bits - 1)), *range(50)], dtype
    )
    with enable_x64(True):
        model = j2o.compile(
            lambda x: (lax.population_count(x), lax.clz(x)),
            [jax.ShapeDtypeStruct(x.shape, x.dtype)],
        )
        for got, want in zip(
            model(x), (lax.population_count(x), lax.clz(x)), strict=True
        ):
            np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_nextafter(dtype):
    dtype = jnp.dtype(dtype)
    info = jnp.finfo(dtype)
    ends = np.array(
        [0.0, -0.0, 1, -1, np.inf, -np.inf, np.nan, info.max, info.min, info.tiny, 3.3]
    ).astype(dtype)
    x, y = (g.ravel() for g in np.meshgrid(ends, ends))
    with enable_x64(True):
        model = j2o.compile(lax.nextafter, [jax.ShapeDtypeStruct(x.shape, dtype)] * 2)
        got, want = np.asarray(model(x, y)), np.asarray(lax.nextafter(x, y))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    known = ~np.isnan(want)
    np.testing.assert_array_equal(
        got[known].view(f"u{dtype.itemsize}"), want[known].view(f"u{dtype.itemsize}")
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_odd_functions_keep_the_sign_of_zero(dtype):
    odd = [
        lax.sign,
        lax.round,
        lax.log1p,
        lax.expm1,
        lax.atan,
        lax.asin,
        lax.sinh,
        lax.asinh,
        lax.atanh,
        lax.cbrt,
        lax.erf,
    ]
    x = np.array([0.0, -0.0], dtype)
    with enable_x64(True):
        spec = jax.ShapeDtypeStruct(x.shape, x.dtype)
        model = j2o.compile(
            lambda x: [*(f(x) for f in odd), lax.atan2(x, jnp.ones_like(x))], [spec]
        )
        for got in model(x):
            np.testing.assert_array_equal(np.signbit(got), [False, True])
