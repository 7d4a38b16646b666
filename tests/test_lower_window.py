"""Sliding windows: pooling, its gradients, and `reduce_window`, compared with JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import normal, operators, sized

P = functools.partial
IMAGE = ("B", "H", "W", 3)


def window(x, init, computation, sizes, strides=None, padding="SAME", **params):
    return lax.reduce_window(
        x, init, computation, sizes, strides or (1,) * x.ndim, padding, **params
    )


def max_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, -jnp.inf, lax.max, sizes, strides, padding, **params)


def min_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, jnp.inf, lax.min, sizes, strides, padding, **params)


def sum_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, 0.0, lax.add, sizes, strides, padding, **params)


def gradient(fn):
    return jax.grad(lambda x: (fn(x) ** 2).sum())


def tangent(fn):
    return lambda x: jax.jvp(fn, (x,), (jnp.cos(x),))


def arg_max(x):
    """The largest of each window and where it is: a computation on pairs."""

    def larger(a, b):
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] <= b[1]))
        return jnp.where(first, a[0], b[0]), jnp.where(first, a[1], b[1])

    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    none = (jnp.float32(-jnp.inf), jnp.int32(2**31 - 1))
    return lax.reduce_window(
        (x, places), none, larger, (1, 3), (1, 2), ((0, 0), (1, 1))
    )


SPREAD = {"base_dilation": (1, 2, 3, 1), "window_dilation": (1, 1, 2, 1)}
CASES = {
    "max": (max_pool, IMAGE),
    "max_valid": (P(max_pool, padding="VALID"), ("B", "H+2", "W+2", 3)),
    "max_far_padding": (P(max_pool, padding=((0, 0), (4, 1), (-1, 3), (0, 0))), IMAGE),
    "max_spread": (P(max_pool, **SPREAD), IMAGE),
    "max_dilated": (P(max_pool, window_dilation=(1, 2, 1, 1)), IMAGE),
    "max_over_channels": (P(max_pool, sizes=(1, 1, 1, 2), strides=(1, 1, 1, 2)), IMAGE),
    "max_everywhere": (P(max_pool, sizes=(2, 3, 2, 2), strides=(1, 2, 1, 1)), IMAGE),
    "max_one_axis": (P(max_pool, sizes=(3,), strides=(2,)), ("H",)),
    "max_five_axes": (
        P(max_pool, sizes=(1, 1, 2, 2, 1), strides=(1, 1, 1, 2, 1)),
        ("B", 2, "H", "W", 2),
    ),
    "max_of_single": (P(max_pool, sizes=(1, 1, 1, 1)), IMAGE),
    "max_of_whole_axes": (
        lambda x: max_pool(x, sizes=(1, *x.shape[1:3], 1), padding="VALID"),
        IMAGE,
    ),
    "min": (min_pool, IMAGE),
    "min_far_padding": (P(min_pool, padding=((0, 0), (4, 1), (-1, 3), (0, 0))), IMAGE),
    "sum": (sum_pool, IMAGE),
    "sum_spread": (P(sum_pool, **SPREAD), IMAGE),
    "sum_everywhere": (P(sum_pool, sizes=(2, 3, 2, 2), strides=(1, 2, 1, 1)), IMAGE),
    "sum_of_many": (P(sum_pool, sizes=(2, 11, 7, 2), strides=(1, 2, 1, 1)), IMAGE),
    "sum_of_whole_axes": (
        lambda x: sum_pool(x, sizes=(1, *x.shape[1:3], 1), padding="VALID"),
        IMAGE,
    ),
    "product": (lambda x: window(x, 1.0, lax.mul, (1, 2, 3, 1)), IMAGE),
    "product_of_many": (
        lambda x: window(x, 1.0, lax.mul, (1, 13, 6, 1), window_dilation=(1, 2, 1, 1)),
        IMAGE,
    ),
    "max_from_one": (lambda x: window(x, 1.0, lax.max, (1, 2, 3, 1)), IMAGE),
    "sum_from_one": (
        lambda x: window(x, 1.0, lax.add, (1, 2, 3, 1), base_dilation=(1, 2, 1, 1)),
        IMAGE,
    ),
    "logaddexp": (lambda x: window(x, -jnp.inf, jnp.logaddexp, (1, 2, 3, 1)), IMAGE),
    "pairs": (arg_max, ("B", "W")),
    "batched": (jax.vmap(P(max_pool, sizes=(2, 2, 1), strides=(2, 1, 1))), IMAGE),
    "average_of_present": (lambda x: sum_pool(x) / sum_pool(jnp.ones_like(x)), IMAGE),
    "max_gradient": (gradient(max_pool), IMAGE),
    "max_gradient_disjoint": (
        gradient(P(max_pool, sizes=(1, 2, 2, 1), padding="VALID")),
        ("B", 7, 8, 3),
    ),
    "max_gradient_ties": (gradient(lambda x: max_pool(jnp.round(x))), IMAGE),
    "min_gradient": (gradient(min_pool), IMAGE),
    "sum_gradient": (gradient(P(sum_pool, padding="VALID")), ("B", 7, 8, 3)),
    "max_tangent": (tangent(max_pool), IMAGE),
    "min_tangent": (tangent(P(min_pool, window_dilation=(1, 2, 1, 1))), IMAGE),
    "sum_tangent": (tangent(sum_pool), IMAGE),
    "second_derivative": (
        gradient(gradient(lambda x: max_pool(x) ** 2)),
        ("B", 5, 6, 2),
    ),
    "nothing_fits": (P(max_pool, padding="VALID"), ("B", 2, 5, 3)),
    "nothing_there": (sum_pool, ("B", 5, 6, 0)),
}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax(name, level):
    fn, spec = CASES[name]
    model = j2o.compile(fn, [spec], opt_level=level)
    for sizes in ({"B": 1, "H": 7, "W": 6}, {"B": 3, "H": 8, "W": 9}):
        model.verify(normal(*sized(spec, sizes)), rtol=1e-3, atol=1e-4)


DTYPES = [
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "uint16",
    "uint32",
    "uint64",
]
MONOIDS = {"sum": lax.add, "product": lax.mul, "max": lax.max, "min": lax.min}


def unit(kind, dtype):
    if kind in ("sum", "product"):
        return {"sum": 0, "product": 1}[kind]
    low, high = (False, True) if dtype.kind == "b" else (-np.inf, np.inf)
    if jnp.issubdtype(dtype, jnp.integer):
        low, high = jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return low if kind == "max" else high


@pytest.mark.parametrize("dtype", [*DTYPES, "bool"])
@pytest.mark.parametrize("kind", MONOIDS)
def test_every_dtype(dtype, kind):
    if dtype == "bool" and kind in ("sum", "product"):
        pytest.skip("booleans are combined by or and and")
    with jax.enable_x64(True):
        x = jnp.asarray(normal(2, 7, 6, 3) * 3).astype(dtype)
        init = np.asarray(unit(kind, x.dtype), x.dtype)

        def fn(x):
            pooled = window(x, init, MONOIDS[kind], (1, 3, 2, 1), (1, 2, 1, 1))
            return pooled, window(x, init, MONOIDS[kind], (1, 1, 6, 1))

        j2o.compile(fn, [x]).verify(
            x, rtol=2e-2 if x.dtype.itemsize == 2 else 1e-5, atol=0.3
        )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradient_of_every_float(dtype):
    x = jnp.asarray(normal(2, 7, 6, 3)).astype(dtype)
    model = j2o.compile(gradient(P(max_pool, sizes=(1, 2, 2, 1), padding="VALID")), [x])
    model.verify(x, rtol=1e-2, atol=1e-2)


def test_or_and_and_of_booleans():
    x = normal(3, 9) > 0.3

    def fn(x):
        return (
            window(x, False, lax.bitwise_or, (1, 3)),
            window(x, True, lax.bitwise_and, (1, 3), (1, 2)),
        )

    j2o.compile(fn, ["bool[B,T]"]).verify(x)


def test_complex_extremes():
    x = (normal(4, 6) + 1j * normal(4, 6)[::-1]).astype(np.complex64)

    def fn(x):
        return window(x, np.complex64(-np.inf), lax.max, (2, 2), padding="VALID")

    j2o.compile(fn, [x]).verify(x)


def test_infinities_are_kept():
    x = np.full((1, 4, 4, 3), -np.inf, np.float32)
    x[0, 0, 0, 1] = np.inf
    pools = [P(pool, padding="VALID") for pool in (max_pool, min_pool, sum_pool)]
    j2o.compile(lambda x: [pool(x) for pool in pools], [x]).verify(x)


def test_the_gradient_follows_nan_as_jax_does():
    x = np.array([[np.nan, 1, 2, np.nan, 5, 4, np.nan, np.nan]], np.float32)
    model = j2o.compile(
        gradient(lambda x: window(x, -jnp.inf, lax.max, (1, 2), (1, 2))),
        [("B", "T")],
        opt_level=0,
    )
    want = jax.grad(lambda x: window(x, -jnp.inf, lax.max, (1, 2), (1, 2)).sum())(x)
    assert (np.asarray(model(x)) != 0).tolist() == (np.asarray(want) != 0).tolist()


@pytest.mark.parametrize("opset", [18, 28])
def test_channels_first_is_one_node(opset):
    pool = P(
        max_pool,
        sizes=(1, 1, 3, 3),
        strides=(1, 1, 2, 2),
        padding=((0, 0), (0, 0), (1, 1), (1, 1)),
    )
    model = j2o.compile(pool, [("B", 3, "H", "W")], opset=opset)
    assert operators(model) == ["MaxPool"]
    dilated = j2o.compile(
        P(sum_pool, window_dilation=(1, 2, 2, 1)), [IMAGE], opset=opset
    )
    dilated.verify(normal(2, 6, 7, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "form", [{"strides": (1, 2, 5, 1)}, {"window_dilation": (1, 2, 1, 1)}]
)
@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER"])
@pytest.mark.parametrize("pool", [max_pool, sum_pool])
def test_same_padding_with_gaps(pool, padding, form):
    model = j2o.compile(P(pool, padding=padding, **form), [IMAGE])
    for h in range(1, 8):
        model.verify(normal(2, h, h + 1, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("padding", ["SAME", "SAME_LOWER"])
@pytest.mark.parametrize("pool", [max_pool, sum_pool])
def test_same_padding_needs_no_sizes_at_run_time(pool, padding):
    model = j2o.compile(P(pool, padding=padding, strides=(1, 2, 3, 1)), [IMAGE])
    assert not {"onnx.Shape", "onnx.Pad"} & {n.op for n in model.graph}
    for h in range(1, 8):
        model.verify(normal(2, h, h + 1, 3), rtol=1e-4, atol=1e-5)
