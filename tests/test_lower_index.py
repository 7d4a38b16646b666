"""Gather and scatter at the edges.

Indices out of bounds, repeated ones, NaN and signed zeros among updates.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import assert_same

INDEX = np.array([0, 1, 2, 2, 9, -7, 4, -1], np.int32)
DTYPES = "float32 float16 bfloat16 float64 int8 int32 uint64".split()


@pytest.mark.parametrize("mode", ["drop", "clip", "promise_in_bounds"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["set", "add", "multiply", "max", "min"])
def test_scatter_at_edges(kind, dtype, mode):
    whole = "int" in dtype
    x = np.array([1, 0, 3, 4, 3, 2] if whole else [1, -1, -0.0, np.nan, 3, 2]).astype(
        jnp.dtype(dtype)
    )
    u = np.array(
        [2, 3, 1, 0, 1, 1, 0, 1]
        if whole
        else [2, np.nan, -0.5, -0.5, 5, 5, np.inf, -np.inf]
    )
    u = u.astype(x.dtype)

    def fn(x, i, u):
        return getattr(x.at[i], kind)(u, mode=mode)

    with jax.enable_x64(True):
        assert_same(
            j2o.compile(fn, [x, INDEX, u])(x, INDEX, u), fn(jnp.asarray(x), INDEX, u)
        )


@pytest.mark.parametrize("mode", ["fill", "clip", "promise_in_bounds"])
@pytest.mark.parametrize("dtype", [*DTYPES, "bool", "complex64"])
def test_gather_out_of_bounds(dtype, mode):
    x = np.array([1, 0, 3, 4, 3, 2]).astype(jnp.dtype(dtype))

    def fn(x, i):
        return x.at[i].get(mode=mode)

    with jax.enable_x64(True):
        assert_same(j2o.compile(fn, [x, INDEX])(x, INDEX), fn(jnp.asarray(x), INDEX))


@pytest.mark.parametrize("kind", ["add", "max"])
def test_large_accumulations_at_repeated_indices_lose_nothing(kind):
    """onnxruntime's ScatterND lets its threads overwrite each other."""
    n = 2_000_000
    updates = np.arange(n, dtype=np.float64) % 7
    model = j2o.compile(
        lambda i, u: getattr(jnp.zeros((3, 2)).at[i, 1], kind)(u),
        ["i32[N]", "f32[N]"],
        constraints=["N >= 1"],
    )
    got = model(np.full(n, 2, np.int32), updates.astype(np.float32))
    assert got[2, 1] == (updates.sum() if kind == "add" else 6)


def test_an_operand_of_size_zero_or_unknown_drops_updates_past_it():
    model = j2o.compile(lambda x, i: x.at[i].add(1.0), ["f32[B]", "i32[3]"])
    for size in (1, 4):
        model.verify(np.ones(size, np.float32), np.array([0, 2, 5], np.int32))
    model = j2o.compile(lambda x, i: x.at[i].max(1.0), ["f32[0]", "i32[3]"])
    model.verify(np.ones(0, np.float32), np.array([0, 2, 5], np.int32))


@pytest.mark.parametrize("mode", ["drop", "clip"])
@pytest.mark.parametrize("kind", ["multiply", "max", "min", "add", "set"])
def test_scatter_of_complex_numbers(kind, mode):
    random = np.random.default_rng(0)
    x, u = (
        (random.standard_normal(s) + 1j * random.standard_normal(s)).astype(
            np.complex64
        )
        for s in ((5, 2, 3), (5, 2, 6))
    )
    i = (
        random.integers(0, 4, (5, 6))
        if kind != "set"
        else np.tile(np.array([0, 2, 3, 5, 1, -9]), (5, 1))
    )
    fn = jax.vmap(lambda x, i, u: getattr(x.at[:, i], kind)(u, mode=mode))
    i = i.astype(np.int32)
    j2o.compile(fn, [x, i, u]).verify(x, i, u)


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64"])
@pytest.mark.parametrize("options", [{}, {"mode": "clip"}, {"unique_indices": True}])
def test_a_function_applied_at_indices(options, dtype):
    x = np.arange(30).reshape(2, 5, 3).astype(dtype)
    i = np.array([1, 3, 0] if options.get("unique_indices") else [1, 3, 1, 7, -1, -9])

    def changed(v):
        return ~v if dtype == "bool" else v * v + 1

    fn = jax.vmap(lambda x: x.at[i, 1:].apply(changed, **options))
    assert_same(j2o.compile(fn, [x])(x), fn(jnp.asarray(x)))
    model = j2o.compile(
        fn, [jax.ShapeDtypeStruct(jax.export.symbolic_shape("B, 5, 3"), dtype)]
    )
    assert_same(model(x[:1]), fn(jnp.asarray(x[:1])))
