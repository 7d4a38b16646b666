"""Sorting and selecting the greatest, compared with JAX bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import assert_same

SPECIAL = [np.nan, 1, -0.0, 0.0, -np.inf, 3, np.inf, 0.0, -0.0, 1, np.nan, -5]
DTYPES = [
    *("float16", "bfloat16", "float32", "float64"),
    *("int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64"),
    "bool",
]


def data(dtype, shape=(12,), seed=0):
    random = np.random.default_rng(seed)
    dtype = jnp.dtype(dtype)
    if dtype.kind == "b":
        return random.integers(0, 2, shape).astype(bool)
    if jnp.issubdtype(dtype, jnp.floating):
        return np.resize(random.permutation(np.array(SPECIAL)), shape).astype(dtype)
    info = jnp.iinfo(dtype)
    return random.choice(
        np.array([info.min, info.max, 0, 1, 2, info.max // 2 + 1], dtype), shape
    )


def check(fn, specs, *cases, **options):
    """Equal to JAX in every bit but NaN's."""
    with enable_x64(True):
        model = j2o.compile(fn, specs, **options)
        for args in cases:
            assert_same(model(*args), jax.jit(fn)(*args))
    return model


def operators(model):
    return [node.kind for node in model.graph]


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    def fn(x, y):
        a, b, c = lax.sort((x, y, jnp.arange(12)), num_keys=2)
        return (
            jnp.sort(x),
            jnp.argsort(x),
            jnp.argsort(x, descending=True),
            a,
            b,
            c,
            *lax.top_k(x, 7),
        )

    spec = jax.ShapeDtypeStruct((12,), jnp.dtype(dtype))
    check(fn, [spec, spec], (data(dtype), data(dtype, seed=1)))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_axes_and_symbolic_sizes(axis):
    def fn(x, i):
        return (
            lax.sort((x, i), dimension=axis),
            lax.sort(x, dimension=axis),
            jnp.argsort(x, axis, stable=False),
        )

    def args(*shape):
        return data("float32", shape), np.arange(
            np.prod(shape), dtype=np.int32
        ).reshape(shape)

    check(fn, [("B", "T", 4), "i32[B,T,4]"], args(3, 5, 4), args(1, 1, 4))


def test_sizes_0_and_1():
    for shape in ((0,), (1,), (3, 0), (0, 3), (3, 1)):

        def fn(x):
            return (
                lax.sort(x),
                lax.top_k(x, min(1, x.shape[-1])),
                lax.sort((x, x + 1, x), num_keys=2),
            )

        check(fn, [shape], (data("float32", shape),))


def test_keys_from_the_last_to_the_first():
    random = np.random.default_rng(0)
    keys = [
        random.integers(0, 3, (4, 50)).astype(t)
        for t in (np.int8, np.float32, np.uint64)
    ]

    def fn(a, b, c):
        return lax.sort(
            (a, b, c, jnp.broadcast_to(jnp.arange(50), (4, 50))), num_keys=3
        ), jnp.lexsort((c, b, a))

    check(fn, ["i8[4,50]", "f32[4,50]", "u64[4,50]"], keys)


def test_complex_keys():
    z = np.array([1 + 2j, 1 - 2j, -1 + 0j, 1 + 0j], np.complex64)
    check(
        lambda x: jnp.sort(lax.complex(x[0], x[1])).imag,
        [(2, 4)],
        (np.stack([z.real, z.imag]),),
    )


def test_argsort_is_one_topk():
    model = check(lambda x: jnp.argsort(x, 1), [("B", "T")], (data("float32", (3, 7)),))
    assert operators(model).count("TopK") == 1
    assert "GatherElements" not in operators(model)
    model = check(
        lambda x: lax.sort((x, jnp.arange(12)), num_keys=2), [(12,)], (data("float32"),)
    )
    assert operators(model).count("TopK") == 1


def test_a_key_that_only_looks_like_positions():
    def rows(x):
        return lax.sort(
            (lax.broadcasted_iota(jnp.int32, (3, 3), 0), x), dimension=1, num_keys=2
        )

    check(rows, [(3, 3)], (data("float32", (3, 3)),))
    check(
        lambda x: lax.sort((x, jnp.arange(12)[::-1]), num_keys=2),
        [(12,)],
        (data("float32"),),
    )
    check(lambda x: lax.sort((x, jnp.arange(12) * 2)), [(12,)], (data("float32"),))


@pytest.mark.parametrize("opset", [18, 28])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_top_k_is_in_total_order(opset, dtype):
    spec = jax.ShapeDtypeStruct((12,), jnp.dtype(dtype))
    check(
        lambda x: [lax.top_k(x, k) for k in (1, 5, 12)],
        [spec],
        (data(dtype),),
        opset=opset,
    )


def test_top_k_axis_and_symbolic_k():
    check(
        lambda x: lax.top_k(x, 2, axis=0),
        [("B+2", 3)],
        (data("float32", (3, 3)),),
        (data("float32", (9, 3)),),
    )
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    check(lambda x: lax.top_k(x, x.shape[1] // 2), [("B", "T")], (x,), (x[:1, :5],))
    negative = np.array([1, np.nan, -np.inf], np.float32)
    signed = np.copysign(negative, -1)
    check(lambda x: lax.top_k(x, 3), [(3,)], (signed,), opset=26)


def test_approximate():
    x = np.random.default_rng(0).standard_normal((2, 600)).astype(np.float32)

    def fn(x):
        some = lax.approx_max_k(x, 5, aggregate_to_topk=False)[0].shape[1]
        return (
            lax.approx_max_k(x, 5),
            lax.approx_min_k(x, 5, reduction_dimension=-1),
            jnp.zeros(some),
        )

    check(fn, [(2, 600)], (x,))
    assert (
        j2o.compile(
            lambda x: lax.approx_max_k(x, 5, aggregate_to_topk=False), [(2, 600)]
        )(x)[0].shape[1]
        >= 5
    )


def test_quantiles_and_medians():
    x = data("float32", (3, 12))
    x[0] = np.arange(12)

    def fn(x):
        return (
            jnp.quantile(x, 0.3, axis=1),
            jnp.nanmedian(x, axis=0),
            jnp.unique(x, size=9, return_counts=True),
        )

    x[np.isinf(x)] = 7
    j2o.compile(fn, [("B", 12)]).verify(x, rtol=1e-6)


@pytest.mark.parametrize("method", ["scan", "scan_unrolled", "compare_all", "sort"])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_places_in_a_sorted_array(dtype, side, method):
    fn = lambda table, x: jnp.searchsorted(table, x, side=side, method=method)  # noqa: E731
    table = np.sort(data(dtype))
    numbers = table[~np.isnan(table)]
    x = data(dtype, (30,), seed=1)
    check(fn, [table, x], (table, x), (np.full_like(table, -np.nan), -x))
    check(lambda x: fn(numbers, x), [x], (x,), (-x,))


def test_a_table_without_nan_is_searched_by_one_comparison():
    table = np.linspace(-1, 1, 9, dtype=np.float32)
    model = j2o.compile(lambda x: jnp.searchsorted(table, x, side="right"), ["f32[N]"])
    (loop,) = model.graph.nodes_of("onnx.Loop")
    compared = {"Less", "LessOrEqual", "Equal", "IsNaN"}
    assert [n.kind for n in loop.graphs[0] if n.kind in compared] == ["Less"]
    assert model.opset == 18
