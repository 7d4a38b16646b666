"""Where JAX and ONNX differ: a case for each row of `docs/semantics.md`, at the values where they do."""

import functools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.ir.types import DType
from tests.harness import normal

PAGE = Path(__file__).parent.parent / "docs" / "semantics.md"
NAN, INF = np.nan, np.inf
LOW, HIGH = np.iinfo(np.int32).min, np.iinfo(np.int32).max


def f32(*values):
    return np.array(values, np.float32)


def i32(*values):
    return np.array(values, np.int32)


def to(dtype):
    return lambda x: lax.convert_element_type(x, jnp.dtype(dtype))


def window(fn, init, **options):
    return lambda x: lax.reduce_window(x, init, fn, (2,), (1,), ((1, 1),), **options)


def pool_gradient(x):
    pooled = functools.partial(
        lax.reduce_window, init_value=-INF, computation=lax.max, window_dimensions=(2,)
    )
    return jax.grad(
        lambda x: jnp.sum(pooled(x, window_strides=(2,), padding="VALID") * f32(1, 2))
    )(x)


def scatter_extremes(x, updates, places):
    """In each mode, and of segments, whose operand is a constant."""
    modes = [
        (x.at[places].max(updates, mode=mode), x.at[places].min(updates, mode=mode))
        for mode in ("drop", "clip")
    ]
    return modes, x.at[0].max(5.0), jax.ops.segment_max(updates, abs(places), 6)


FUNCTIONS = [
    lax.cosh,
    lax.sinh,
    lax.expm1,
    lax.log1p,
    lax.asinh,
    lax.cbrt,
    jax.nn.softplus,
]
# products of the first two overflow, which a product of the second and third would not
CUMULATED = np.concatenate(
    [f32(1e30, 1e30, 1e-30, 1e-30), np.linspace(0.5, 2, 296, dtype=np.float32)]
)
SPECIAL = f32(0.0, -0.0, 1.0, -1.0, INF, -INF, NAN, 2.5, -3.5)
PAIRS = f32(*np.repeat(SPECIAL, 9)), f32(*np.tile(SPECIAL, 9))
HALVES = f32(
    0.5, -0.5, 1.5, 2.5, -2.5, 0.49999997, -0.49999997, 8388609.0, NAN, INF, -0.0
)
DIVIDENDS = i32(7, -7, LOW, LOW, 0, 5, -5), i32(0, 2, -1, 0, 0, -3, -3)
SHIFTS = i32(-8, 1, -1, 3, -3, LOW), i32(1, 31, 32, 40, -1, 31)
LINE = f32(3, NAN, -0.0, 0.0, -INF, INF, 3, NAN, 1)
PLACES = i32(0, 4, 5, -1, -5, -6, 99)
TINY = f32(1e-8, -1e-8, 1e-4, 30.0, -30.0, 0.0, -0.0, INF, -INF, NAN)
KEY = np.array([1, 2], np.uint32)
COMPLEX = np.array([1 + 2j, -2 + 0j, 0.5 - 1j, 3 - 4j], np.complex64)

BASES = np.array([0, 1, 2j, INF], np.complex64)
EXPONENTS = np.array([1, 2j, -1, 1 + 2j, -1 - 2j, 0, 1 - 1j], np.complex64)
COMPLEX_POWERS = np.repeat(BASES, len(EXPONENTS)), np.tile(EXPONENTS, len(BASES))

# name of the row: function, operands; rounding errors are allowed where APPROXIMATE has the name
CASES = {
    "round-half-away": (
        lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
        HALVES,
    ),
    "integer-division": (lax.div, *DIVIDENDS),
    "integer-remainder": (lax.rem, *DIVIDENDS),
    "float-remainder": (lax.rem, *PAIRS),
    "floor-modulo": (jnp.mod, *DIVIDENDS),
    "integer-overflow": (
        lambda x, y: (x + y, x * y, x - y, -x, abs(x)),
        i32(HIGH, LOW, LOW),
        i32(1, -1, HIGH),
    ),
    "narrow-overflow": (lambda x: (x * x, x + x), np.array([200, 16, 255], np.uint8)),
    "shift-left": (lax.shift_left, *SHIFTS),
    "shift-right-logical": (lax.shift_right_logical, *SHIFTS),
    "shift-right-arithmetic": (lax.shift_right_arithmetic, *SHIFTS),
    "unsigned-negation": (lambda x: -x, np.array([0, 1, 2**31], np.uint32)),
    "sign": (lax.sign, SPECIAL),
    "max-min": (lambda x, y: (lax.max(x, y), lax.min(x, y)), *PAIRS),
    "clamp": (lambda x: lax.clamp(np.float32(2), x, np.float32(-1)), SPECIAL),
    "power": (lax.pow, *PAIRS),
    "power-of-integers": (
        lambda x: (lax.integer_pow(x, 31), jnp.power(x, x)),
        i32(0, 2, -1, 3, 1, 12),
    ),
    "bool-arithmetic": (
        lambda x, y: (jnp.maximum(x, y), jnp.minimum(x, y), x != y, x + y),
        np.array([True, False]),
        np.array([True, True]),
    ),
    "select-bool": (
        lambda c, x: jnp.where(c, x, ~x),
        np.array([True, False]),
        np.array([True, True]),
    ),
    "float-to-int": (
        to("int32"),
        f32(1.9, -1.9, 3e9, -3e9, NAN, INF, -INF, 2147483520.0),
    ),
    "float-to-narrow-int": (to("uint8"), f32(-1, 255.9, 256, 1e9, NAN)),
    "float-to-bool": (to("bool"), f32(0.0, -0.0, 0.25, NAN, -1)),
    "float-to-float8": (
        lambda x: to("float32")(to("float8_e5m2")(x)),
        f32(61439, 61440, -1e9, INF, NAN, -0.0),
    ),
    "int-to-int4": (
        lambda x: to("int8")(to("int4")(x)),
        np.array([7, 8, -8, -9, 100], np.int8),
    ),
    "bits-of-floats": (
        lambda x: lax.bitcast_convert_type(x, jnp.int32),
        f32(1.0, -0.0, INF, 1e-38),
    ),
    "reduce-precision": (
        lambda x: lax.reduce_precision(x, 5, 10),
        f32(1.00049, 70000.0, 1e-9, -0.0, NAN),
    ),
    "reduce-max-nan": (lambda x: (jnp.max(x), jnp.min(x), jnp.max(x[4:6])), LINE),
    "reduce-empty": (
        lambda x: (jnp.sum(x), jnp.prod(x), jnp.max(x, initial=-INF), jnp.all(x > 0)),
        f32(),
    ),
    "reduce-integers": (
        lambda x: (jnp.sum(x, dtype=x.dtype), jnp.prod(x, dtype=x.dtype)),
        i32(2**31 - 1, 2**31 - 3, 2**30 + 7, -9),
    ),
    "reduce-bits": (
        lambda x: lax.reduce(x, np.int32(0), lax.bitwise_xor, (0,)),
        i32(5, 9, 12),
    ),
    "argmax-nan": (lambda x: (jnp.argmax(x), jnp.argmin(x)), LINE),
    "cumulative-sum": (lambda x: lax.cumsum(x), np.array([200, 100, 7], np.uint8)),
    "cumulative-max": (lambda x: lax.cummax(x), LINE),
    "cumulative-product": (lambda x: (lax.cumprod(x), lax.cumprod(x[4:])), CUMULATED),
    "sort": (lambda x: lax.sort((x, lax.iota("int32", 9)), num_keys=1), LINE),
    "top-k": (lambda x: lax.top_k(x, 4), f32(1, 3, 3, -0.0, 0.0, -INF)),
    "gather-out-of-bounds": (
        lambda x, i: (x[i], x.at[i].get(mode="fill"), x.at[i].get(mode="clip")),
        SPECIAL[:5],
        PLACES,
    ),
    "dynamic-slice": (
        lambda x, i: (
            lax.dynamic_slice(x, (i[6],), (2,)) + lax.dynamic_slice(x, (i[5],), (2,))
        ),
        SPECIAL[:4],
        PLACES,
    ),
    "scatter-out-of-bounds": (
        lambda x, i: (x.at[i].set(7.0), x.at[i].add(1.0)),
        np.zeros(5, np.float32),
        PLACES,
    ),
    "scatter-max-nan": (
        scatter_extremes,
        f32(NAN, 1, NAN, -2, INF),
        f32(5, NAN, NAN, 7, 3, -INF, NAN),
        PLACES,
    ),
    "negative-padding": (
        lambda x: lax.pad(x, np.float32(9), ((-1, 2, 1),)),
        f32(1, 2, 3),
    ),
    "window-padding": (window(lax.max, -INF), f32(-3, -2, 0, -1)),
    "window-integers": (window(lax.add, 0), i32(HIGH, 1, 2)),
    "pool-gradient": (pool_gradient, f32(3, 3, NAN, 1)),
    "convolution-integers": (
        lambda x, w: lax.conv(x, w, (1, 1), "SAME"),
        np.full((1, 2, 3, 3), 100, np.int16),
        np.full((1, 2, 2, 2), 99, np.int16),
    ),
    "convolution-float16": (
        lambda x, w: lax.conv(x, w, (2, 1), [(1, 0), (0, -1)]),
        np.ones((1, 1, 4, 4), np.float16),
        np.ones((1, 1, 2, 2), np.float16),
    ),
    "product-of-integers": (
        lambda x, y: x @ y,
        np.full((2, 3), 100, np.int8),
        np.full((3, 2), 100, np.int8),
    ),
    "product-preferred": (
        lambda x, y: lax.dot(x, y, preferred_element_type=jnp.float32),
        np.ones((2, 3), np.float16),
        np.ones((3, 2), np.float16),
    ),
    "sum-of-float16": (lambda x: jnp.sum(x), np.full(5000, 1, np.float16)),
    "functions-of-float16": (
        lambda x: [fn(x) for fn in FUNCTIONS],
        np.array([11.2, -11.2, 0.01, -0.01, INF, NAN, -0.0], np.float16),
    ),
    "bfloat16": (lambda x: to("float32")(jnp.sin(to("bfloat16")(x)) * 3), f32(1, 2, 3)),
    "expm1-log1p": (lambda x: (lax.expm1(x), lax.log1p(x)), TINY),
    "erf": (
        lambda x: (lax.erf(x), lax.erfc(x), jax.nn.gelu(x, approximate=False)),
        TINY,
    ),
    "hyperbolic": (lambda x: (lax.sinh(x), lax.asinh(x), lax.atanh(x * 0.01)), TINY),
    "atan2": (lax.atan2, *PAIRS),
    "nextafter": (lax.nextafter, *PAIRS),
    "is-finite": (lambda x: (lax.is_finite(x), x != x, jnp.signbit(x)), SPECIAL),
    "total-order": (lambda x, y: lax.sort((x, y), num_keys=2), *PAIRS),
    "random-bits": (lambda k: jax.random.bits(jax.random.wrap_key_data(k), (7,)), KEY),
    "random-normal": (
        lambda k: jax.random.normal(jax.random.wrap_key_data(k), (7,)),
        KEY,
    ),
    "complex-product": (lambda z: (z * z, abs(z), z == z[::-1]), COMPLEX),
    "complex-functions": (lambda z: (jnp.exp(z[:3]), jnp.sqrt(z), jnp.log(z)), COMPLEX),
    "complex-power": (lax.pow, *COMPLEX_POWERS),
    "resize": (
        lambda x: jax.image.resize(x, (5,), "linear", antialias=True),
        f32(1, 4, 2, 8, 5, 7, 3),
    ),
    "cholesky-indefinite": (
        lambda a: lax.linalg.cholesky(a),
        np.array([[1, 2], [2, 1]], np.float32),
    ),
    "singular-solve": (
        lambda a: lax.linalg.triangular_solve(a, a, lower=True),
        np.array([[0, 0], [1, 2]], np.float32),
    ),
    "loop-of-no-steps": (
        lambda x: lax.fori_loop(0, x.astype("int32"), lambda i, c: c + x, x),
        f32(0)[0],
    ),
    "zero-of-sum": (lambda x: x + 0.0, f32(-0.0, 1.0, NAN)),
    "branch-out-of-range": (
        lambda i: lax.switch(i, [lambda: 1, lambda: 2, lambda: 3]),
        np.int32(9),
    ),
}
APPROXIMATE = {
    "power",
    "expm1-log1p",
    "erf",
    "hyperbolic",
    "atan2",
    "random-normal",
    "complex-product",
    "complex-functions",
    "complex-power",
    "resize",
    "bfloat16",
}


@pytest.mark.parametrize("name", CASES)
def test_as_jax_has_it(name):
    fn, *args = CASES[name]
    with np.errstate(all="ignore"):
        got = jax.tree.leaves(j2o.compile(fn, list(args))(*args))
        want = jax.tree.leaves(jax.jit(fn)(*map(jnp.asarray, args)))
    for g, w in zip(map(np.asarray, got), map(np.asarray, want), strict=True):
        assert (g.dtype, g.shape) == (w.dtype, w.shape)
        rounding = {"bfloat16": 2e-2, "functions-of-float16": 2e-3}.get(
            name, 2e-6 if name in APPROXIMATE else 0
        )
        np.testing.assert_allclose(g, w, rtol=rounding, atol=0)
        if (
            w.dtype.kind == "f" and name != "max-min"
        ):  # whose zeros may have either sign
            np.testing.assert_array_equal(np.signbit(g[w == 0]), np.signbit(w[w == 0]))


def convolved(x):
    return lax.conv(x, np.ones((1, 1, 1), np.float32), (1,), "VALID")


def normalised(x):
    """A layer norm with a scale and a shift."""
    centred = x - x.mean(-1, keepdims=True)
    return centred * lax.rsqrt(
        (centred * centred).mean(-1, keepdims=True) + 1e-5
    ) * f32(1, 1, 1, 2) + f32(1, 2, 3, 4)


ROW = f32(3e38, 3e38, -1, 1)[None]
LEAST = f32(1e-40)

# name of the row: function, what comes instead of what JAX gives, operands
GIVEN_UP = {
    "zero-of-max": (
        lambda x, y: (lax.max(x, y), jax.nn.relu(y)),
        (f32(-0.0), f32(-0.0)),
        f32(0.0),
        f32(-0.0),
    ),
    "zero-of-where": (
        lambda x, i: (jnp.where(x < 1, x, 2.0), jnp.ones(2).at[i].set(x[0])),
        (f32(0.0, 2.0), f32(1.0, 0.0)),
        f32(-0.0, 3.0),
        np.int32(1),
    ),
    "zero-of-convolution": (
        lambda x: convolved(x) * -1.0,
        f32(0.0)[None, None],
        f32(0.0)[None, None],
    ),
    "nan-in-pool": (
        lambda x: lax.reduce_window(x, -INF, lax.max, (2,), (1,), "VALID"),
        f32(1, 2),
        f32(1, NAN, 2),
    ),
    "subnormal": (lambda x: x * 2.0, LEAST + LEAST, LEAST),
    "layer-norm-overflow": (normalised, f32(1, 2, 3, 4)[None], ROW),
    "gelu-tail": (lambda x: jax.nn.gelu(x, approximate=False), f32(-0.0), f32(-7)),
    "elu-near-zero": (
        lambda x: (jax.nn.elu(x), jax.nn.selu(x)),
        (f32(0.0, -0.0), f32(0.0, 0.0)),
        f32(-1e-9, -0.0),
    ),
    "logistic-tail": (jax.nn.sigmoid, f32(0.0), f32(-20)),
}


@pytest.mark.parametrize("name", GIVEN_UP)
def test_what_comes_instead(name):
    fn, instead, *args = GIVEN_UP[name]
    got = jax.tree.leaves(j2o.compile(fn, list(args), opset=20)(*args))
    want = jax.tree.leaves(jax.jit(fn)(*map(jnp.asarray, args)))
    for g, w, told in zip(got, want, jax.tree.leaves(instead), strict=True):
        assert _bits(g) == _bits(told)
        assert _bits(g) != _bits(w)


def _bits(array):
    return np.asarray(array).tobytes()


def test_layer_normalization_is_as_exact_as_jax_where_the_mean_is_large():
    noise = np.random.default_rng(0).normal(size=(64, 512))
    for mean in (0.0, 1e2, 1e4, 1e6):
        x = np.float32(mean + noise)
        centred = x.astype(np.float64) - x.mean(-1, keepdims=True, dtype=np.float64)
        exact = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        program = lambda x: jax.nn.standardize(x, epsilon=1e-5)  # noqa: E731
        model = j2o.compile(program, [("B", 512)])
        assert [n.kind for n in model.graph if n.op.startswith("onnx.")] == [
            "LayerNormalization"
        ]
        ours, theirs = (
            np.abs(np.asarray(f(x), np.float64) - exact).max()
            for f in (model, jax.jit(program))
        )
        assert ours <= 2 * theirs + 1e-6


# ------------------------------------------------------------------------------ how far


def both(fn, *args):
    """What j2o and JAX give, as numpy arrays."""
    with np.errstate(all="ignore"):
        got = j2o.compile(fn, list(args))(*args)
        want = jax.jit(fn)(*map(jnp.asarray, args))
    return np.asarray(got), np.asarray(want)


def nan_in_pool():
    x = f32(3, NAN, -0.5, 7, 2, 1, NAN, NAN)
    got, _ = both(lambda x: lax.reduce_window(x, -INF, lax.max, (2,), (2,), "VALID"), x)
    others = np.nanmax(x.reshape(4, 2)[:3], 1)
    assert (np.isnan(got[:3]) | (got[:3] == others)).all()


def infinity_in_pool():
    got, want = both(window(lax.max, -INF), f32(-INF, -INF, 2, -INF))
    lowest = np.finfo(np.float32).min
    assert (np.isneginf(want) == (np.isneginf(got) | (got == lowest))).all()
    got, _ = both(
        lambda x: lax.reduce_window(x, -INF, lax.max, (2,), (2,), "VALID"),
        f32(-INF, -INF, NAN, NAN),
    )
    assert got[0] in (-INF, lowest)
    assert np.isnan(got[1]) or got[1] in (-INF, lowest)


def infinity_in_resize():
    x = np.ones((1, 8, 8, 1), np.float32)
    x[0, 2, 3] = INF
    got, want = both(lambda x: jax.image.resize(x, (1, 16, 16, 1), "linear"), x)
    assert not np.isfinite(want).any()
    is_near = np.zeros((16, 16), bool)
    is_near[2:8, 4:10] = True
    assert (got[0, ~is_near, 0] == 1).all()


def nan_in_approx_top_k():
    x = f32(1, NAN, 3, 2, 0)
    for fn, exact in ((lax.approx_max_k, [2, 3]), (lax.approx_min_k, [4, 0])):
        (values, places), _ = both(lambda x, fn=fn: _as_rows(fn(x, 2)), x)
        np.testing.assert_array_equal(values, x[places.astype(int)])
        finite = f32(1, 1.5, 3, 2, 0)
        (_, places), (_, want) = both(lambda x, fn=fn: _as_rows(fn(x, 2)), finite)
        assert list(places) == list(want) == exact


def _as_rows(results):
    return jnp.stack([result.astype(jnp.float32) for result in results])


def subnormal():
    x = f32(1e-39, -3e-39, 1.1e-38, 1e-36)
    got, want = both(lambda x: x + x, x)
    assert (got == x + x).all()
    assert np.abs(got - want).max() < 2.4e-38
    quotient, zero = both(lambda x: x / np.float32(3e38), f32(1, 3e30))
    assert (zero == 0).all()
    assert np.abs(quotient - f32(1, 3e30) / np.float32(3e38)).max() < 1e-14


def logistic_tail():
    x = np.linspace(-100, 100, 20001, dtype=np.float32)
    got, want = both(lax.logistic, x)
    assert 0 < np.abs(got - want).max() <= 1.2e-7
    got, want = both(lax.logistic, x.astype(np.float16))
    np.testing.assert_allclose(got, want, rtol=2e-3, atol=1.6e-5)
    got, want = both(jax.nn.log_sigmoid, x)  # which is not its logarithm
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1.2e-38)
    got, want = both(lambda x: jnp.log(jax.nn.sigmoid(x)), x[x > -87])
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def ones_of_i4():
    x = np.array([-8, -1, 7], DType.I4.numpy)
    got, want = both(lax.population_count, x)
    assert got.astype(int).tolist() == [1, 4, 3]
    assert want.astype(int).tolist() != [1, 4, 3]


def order_of_sums():
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    bound = 1000 * np.finfo(np.float32).eps * np.abs(x).sum()
    for fn in (
        jnp.sum,
        jnp.mean,
        lax.cumsum,
        lambda x: lax.cumsum(x, reverse=True),
        lambda x: x @ x,
    ):
        got, want = both(fn, x)
        assert np.abs(got - want).max() <= bound
    products, _ = both(lambda x: lax.cumprod(x, reverse=True), x[:50])
    np.testing.assert_allclose(
        products, np.cumprod(x[:50].astype(np.float64)[::-1])[::-1], rtol=50 * 1.2e-7
    )
    # the second block of 16 sums to 0 before what is before it is added
    late = np.zeros(32, np.float32)
    late[15:19] = 3e38, 3e38, -3e38, -3e38
    got, want = both(lax.cumsum, late)
    assert (got == want)[:16].all()


def sums_of_16_bits():
    x = np.random.default_rng(0).normal(size=100).astype(np.float16)
    exact = np.cumsum(x.astype(np.float64))
    got, want = both(lax.cumsum, x)
    assert (got == exact.astype(np.float16)).mean() > 0.99
    assert (want == exact.astype(np.float16)).mean() < 0.9


def fused_16_bits():
    x = np.linspace(2000, 2100, 101).astype(np.float16)
    got, _ = both(lambda x: (x + 1) - x, x)
    np.testing.assert_array_equal(got, (x + np.float16(1)) - x)


def product_with_bool():
    x, m = f32(INF, NAN, -2, 3, -2), np.array([False, False, False, False, True])
    got, _ = both(lambda x, m: x * m, x, m)
    np.testing.assert_array_equal(got, f32(NAN, NAN, 0, 0, -2))
    spread, want = both(lambda x, m: x * m, x, m[:1])
    np.testing.assert_array_equal(spread, want)


def elementary_functions():
    """The table of the page, function by function, which tells how far its results are from XLA's."""
    table = re.findall(
        r"^\| ([a-z0-9_]+) \| (\d+) \| (\d+) \| (\d+) \|$",
        PAGE.read_text(),
        re.MULTILINE,
    )
    names = [row[0] for row in table]

    def all_of_them(x):
        return [getattr(lax, name)(x) for name in names]

    every_16_bits = np.arange(2**16, dtype=np.uint16)
    some_32_bits = (
        np.random.default_rng(0)
        .integers(0, 2**32, 20000, dtype=np.uint32)
        .view(np.float32)
    )
    lines = [np.linspace(-end, end, 20001, dtype=np.float32) for end in (1, 100)]
    operands = [
        np.concatenate([some_32_bits, *lines]),
        every_16_bits.view(np.float16),
        every_16_bits.view(jnp.bfloat16),
    ]
    for column, x in enumerate(operands, 1):
        got = j2o.compile(all_of_them, [x])(x)
        want = jax.jit(
            all_of_them, compiler_options={"xla_allow_excess_precision": False}
        )(x)
        for row, g, w in zip(table, got, want, strict=True):
            assert distance(np.asarray(g), np.asarray(w), x) <= int(row[column]), (
                row[0],
                x.dtype,
            )


def distance(got, want, x):
    """The greatest number of floats between two results.

    Operands and results that are subnormal, or next to it, do not count.
    """
    with np.errstate(invalid="ignore"):  # signalling NaNs
        g, w, operand = (v.astype(np.float64) for v in (got, want, x))
    least = 0 if x.dtype == np.float16 else 1e-36
    small = (abs(operand) < least) & (operand != 0) | (abs(g) < least) & (
        abs(w) < least
    ) & (g != w)
    assert (np.isnan(g) == np.isnan(w))[~small].all()
    floats = ~small & ~np.isnan(w) & (g != w)
    return abs(rank(got)[floats] - rank(want)[floats]).max(initial=0)


def rank(x):
    """Integers in the order of floats."""
    bits = np.dtype(f"i{x.dtype.itemsize}")
    i = np.ascontiguousarray(x).view(bits).astype(np.int64)
    return np.where(i < 0, -(i & np.iinfo(bits).max), i)


def fewer_roundings():
    x, y = np.random.default_rng(0).normal(size=(2, 100)).astype(np.float32)
    got, want = both(lambda x, y: x / (1 / y), x, y)
    np.testing.assert_array_equal(got, x * y)
    np.testing.assert_allclose(got, want, rtol=3e-7)


def hard_gates():
    """Limits, NaN and infinities are as in JAX."""
    x = np.append(np.linspace(-8, 8, 20001), [NAN, INF, -INF]).astype(np.float32)
    got, want = both(jax.nn.hard_sigmoid, x)
    np.testing.assert_allclose(got, want, rtol=0, atol=6e-8)
    got, want = both(jax.nn.hard_swish, x)
    np.testing.assert_allclose(got, want, rtol=2.4e-7, atol=4e-7)


def masked_attention():
    x = f32(30, 0, 0, 30, INF, INF).reshape(3, 2)
    got, want = both(attended, x)
    assert np.isnan(got[0]).all()
    assert (want[0] == f32(1, 2)).all()
    lowest = f32(-1e5, 1e5, 0, 1e5, 0, 0).reshape(3, 2)
    got, want = both(
        lambda x: attended(x, lowest, -1e9), f32(1e5, 0, 0, 1, 0, 0).reshape(3, 2)
    )
    assert (got[0] == f32(1, 2)).all()
    assert (want[0] == f32(4, 5)).all()


def attended(x, keys=None, masked=-2e38):
    """Attention in which no time looks at a later one. The values are constant."""
    keys = x if keys is None else keys
    scores = jnp.where(np.tri(3, dtype=bool), x @ keys.T, masked)
    return jax.nn.softmax(scores) @ f32(1, 2, 3, 4, 5, 6).reshape(3, 2)


def rows_without_scores():
    bias = f32(0, 0, -INF, -INF, 0, -INF).reshape(3, 2)
    x, v = normal(3, 2), f32(1, 2, 3, 4).reshape(2, 2)

    def attended_with(x, bias):
        return jax.nn.softmax(x @ v.T + bias) @ v

    given, want = both(attended_with, x, bias)
    computed, _ = both(lambda x, seen: attended_with(x, jnp.log(seen)), x, np.exp(bias))
    held, _ = both(lambda x: attended_with(x, bias), x)
    assert np.isnan(want[1]).all()
    assert (given[1] == v.mean(0)).all()
    assert (computed[1] == 0).all()
    assert np.isnan(held[1]).all()
    for got in (given, computed, held):
        np.testing.assert_allclose(got[::2], want[::2], rtol=1e-5)


def gru(bias):
    """A GRU with a bias behind its r, as a loop that begins with a state."""
    w, r = normal(4, 24), normal(8, 24) / 4

    def step(h, x):
        z, reset, new = jnp.split(x @ w, 3, -1)
        inner = jnp.split(h @ r, 3, -1)
        z = jax.nn.sigmoid(z + inner[0])
        reset = jax.nn.sigmoid(reset + inner[1])
        new = jnp.tanh(new + reset * (inner[2] + bias))
        h = (1 - z) * new + z * h
        return h, h

    return lambda h, rows: lax.scan(step, h, rows)[1]


def small_means():
    inputs = 30
    weights, bias = normal(inputs, 4), normal(4)
    deviation = 1 + abs(normal(inputs))
    mean = np.linspace(-4, 4, inputs, dtype=np.float32) * deviation
    # far from the mean, at it, and near it
    x = np.concatenate([normal(20, inputs) * 5, mean[None], mean[None] * f32(1 + 1e-6)])
    got, want = both(lambda x: ((x - mean) / deviation) @ weights + bias, x)
    size = (abs(x / deviation) + 4) @ abs(weights)
    bound = inputs * np.finfo(np.float32).eps * size
    assert (abs(got - want) <= bound).all()
    assert (got != want).any()


def gates_of_cells():
    rows, first = normal(50, 3, 4) * 3, normal(3, 8)
    got, want = both(gru(normal(8)), first, rows)
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)


def nan_in_gru():
    rows, first = normal(5, 3, 4), normal(3, 8)
    rows[2, 1, 0] = NAN
    got, want = both(gru(normal(8)), first, rows)
    is_nan = np.isnan(want)
    assert is_nan[2:, 1].all()
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got[~is_nan], want[~is_nan], rtol=0, atol=3e-6)
    got, want = both(gru(0.0), first, rows)
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-6)


def nan_bits():
    x = np.array([0xFFC00001, 0x7FC00001, 0x7F800001], np.uint32).view(np.float32)
    got, _ = both(lambda x: lax.bitcast_convert_type(x, jnp.uint32) & 0x7F800000, x)
    assert (got == 0x7F800000).all()
    greatest, _ = both(
        lambda x: lax.top_k(x, 2)[0], np.concatenate([f32(1, INF), x[:1]])
    )
    assert np.isnan(greatest[0]) or greatest[0] == INF


def complex_edges():
    parts = np.array([0.5, 1, -1, 2, -3], np.float32)
    z = (parts[:, None] + 1j * parts).ravel()
    for fn in (
        lax.sqrt,
        lax.exp,
        lax.log,
        lax.sin,
        lax.tanh,
        lax.asinh,
        lax.acosh,
        lax.atanh,
        lax.asin,
        lax.acos,
        lax.atan,
    ):
        got, want = both(fn, z)  # finite, and on no branch cut
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    got, want = both(lax.sqrt, np.array([complex(-4, -0.0)], np.complex64))
    assert abs(got) == abs(want) == 2


def free_choices():
    a = f32([2, 1, 0], [1, 2, 1], [0, 1, 2])
    vectors, _ = both(lambda a: jnp.linalg.eigh(a).eigenvectors, a)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(3), atol=1e-5)
    np.testing.assert_allclose(
        np.diag(vectors.T @ a @ vectors), np.linalg.eigvalsh(a), rtol=1e-5
    )


BOUNDED = {
    "nan-in-pool": nan_in_pool,
    "infinity-in-pool": infinity_in_pool,
    "infinity-in-resize": infinity_in_resize,
    "nan-in-approx-top-k": nan_in_approx_top_k,
    "subnormal": subnormal,
    "logistic-tail": logistic_tail,
    "order-of-sums": order_of_sums,
    "sums-of-16-bits": sums_of_16_bits,
    "fused-16-bits": fused_16_bits,
    "product-with-bool": product_with_bool,
    "elementary-functions": elementary_functions,
    "fewer-roundings": fewer_roundings,
    "small-means": small_means,
    "hard-gates": hard_gates,
    "masked-attention": masked_attention,
    "rows-without-scores": rows_without_scores,
    "gates-of-cells": gates_of_cells,
    "nan-in-gru": nan_in_gru,
    "nan-bits": nan_bits,
    "ones-of-i4": ones_of_i4,
    "complex-edges": complex_edges,
    "free-choices": free_choices,
}


@pytest.mark.parametrize("name", BOUNDED)
def test_what_differs_is_bounded(name):
    BOUNDED[name]()


def test_the_page_has_a_row_for_each_case():
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert rows == list(dict.fromkeys([*CASES, *GIVEN_UP, *BOUNDED]))
