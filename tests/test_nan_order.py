"""NaN in sorting, and in what is the greatest or the least: for kernels that order it, and for others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from j2o.frontend.versions import enable_x64

INF, NAN = np.inf, np.nan
X = np.array(
    [
        [3, NAN, 1, 2, 5, 0],
        [NAN, 2, INF, NAN, -INF, 4],
        [INF, INF, NAN, -INF, 1, 1],
        [1, 2, 3, 3, 2, 1],
        [-0.0, 0, NAN, 0, -0.0, -1],
        [NAN] * 6,
    ]
)
ORDERED, NOT_ORDERED = "onnxruntime-1.32", "onnxruntime-1.31"


def greatest(x):
    return (
        jnp.max(x, 1),
        jnp.max(x, 0, keepdims=True),
        jnp.argmax(x, 1),
        jnp.argmax(x, 0),
    )


def least(x):
    return (
        jnp.min(x, 1),
        jnp.min(x, 0, keepdims=True),
        jnp.argmin(x, 1),
        jnp.argmin(x, 0),
    )


def ascending(x):
    return jnp.sort(x, 1), jnp.argsort(x, 0)


def several_keys(x):
    return jax.lax.sort((x, x[::-1], jnp.ones_like(x)), num_keys=2, dimension=1)


def first_three(x):
    return jax.lax.top_k(x, 3)


PROGRAMS = [greatest, least, ascending, several_keys, first_three]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("target", [ORDERED, NOT_ORDERED, "portable"])
@pytest.mark.parametrize("fn", PROGRAMS)
def test_as_in_jax(fn, target, dtype):
    if target == "portable" and dtype == "float64":
        pytest.skip("there is no portable kernel for float64")
    with enable_x64(dtype == "float64"):
        x = jnp.asarray(X, dtype)
        model = j2o.compile(fn, [f"{dtype}[B,6]"], target=target)
        for got, want in zip(model(x), fn(x), strict=True):
            assert got.dtype == want.dtype
            np.testing.assert_array_equal(
                *(np.asarray(v, np.float64) for v in (got, want))
            )


@pytest.mark.parametrize("fn", [ascending, several_keys, first_three])
def test_keys_without_nan_where_its_order_is_another(fn):
    model = j2o.compile(fn, ["f32[B,6]"], target=NOT_ORDERED)
    sorts = model.graph.nodes_of("onnx.TopK")
    assert sorts
    for sort in sorts:
        key = sort.operand(0)
        assert key.op == "onnx.Where"
        assert key.producer.operand(0).op == "onnx.IsNaN"


def test_integers_need_no_keys():
    model = j2o.compile(lambda x: jnp.sort(x), ["i32[B,6]"], target=NOT_ORDERED)
    assert [node.op for node in model.graph if node.op != "const"] == [
        "onnx.TopK",
        "return",
    ]


def test_the_greatest_and_its_place_are_one_operator():
    def fn(x):
        return jnp.max(x, -1), jnp.argmax(x, -1)

    model = j2o.compile(fn, ["f32[B,6]"], target=ORDERED)
    model.verify(np.float32(X))
    assert len(model.graph.nodes_of("onnx.TopK")) == 1
    assert not model.graph.nodes_of("onnx.IsNaN", "onnx.ArgMax", "onnx.ReduceMax")


def test_the_greatest_of_what_may_be_nothing_is_infinite():
    def fn(x):
        return jax.lax.reduce_max(x, (1,))

    model = j2o.compile(fn, ["f32[B,0]"], target=ORDERED)
    np.testing.assert_array_equal(model(np.ones((2, 0), np.float32)), [-INF, -INF])
