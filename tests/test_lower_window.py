"""Sliding windows: pooling, its gradients, and `reduce_window`, compared with JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import normal, operators, sized

P = functools.partial
IMAGE = ("B", "H", "W", 3)


# -------------------------------------------------------------- what is done to windows


def window(x, init, computation, sizes, strides=None, padding="SAME", **params):
    strides = strides or (1,) * x.ndim
    return lax.reduce_window(x, init, computation, sizes, strides, padding, **params)


def max_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, -jnp.inf, lax.max, sizes, strides, padding, **params)


def min_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, jnp.inf, lax.min, sizes, strides, padding, **params)


def sum_pool(x, sizes=(1, 3, 3, 1), strides=(1, 2, 2, 1), padding="SAME", **params):
    return window(x, 0.0, lax.add, sizes, strides, padding, **params)


def product(x, sizes=(1, 2, 3, 1), **params):
    return window(x, 1.0, lax.mul, sizes, **params)


def max_of_whole_axes(x):
    return max_pool(x, sizes=(1, *x.shape[1:3], 1), padding="VALID")


def sum_of_whole_axes(x):
    return sum_pool(x, sizes=(1, *x.shape[1:3], 1), padding="VALID")


def max_from_one(x):
    return window(x, 1.0, lax.max, (1, 2, 3, 1))


def sum_from_one(x):
    return window(x, 1.0, lax.add, (1, 2, 3, 1), base_dilation=(1, 2, 1, 1))


def logaddexp(x):
    return window(x, -jnp.inf, jnp.logaddexp, (1, 2, 3, 1))


def average_of_present(x):
    return sum_pool(x) / sum_pool(jnp.ones_like(x))


def larger(a, b):
    """Of two pairs of an element and its place, the one with the larger element; the first of equal ones."""
    x, at = a
    y, other_at = b
    first = (x > y) | ((x == y) & (at <= other_at))
    return jnp.where(first, x, y), jnp.where(first, at, other_at)


def arg_max(x):
    """The largest of each window and where it is: a computation on pairs."""
    places = lax.broadcasted_iota(jnp.int32, x.shape, x.ndim - 1)
    nothing = (jnp.float32(-jnp.inf), jnp.int32(2**31 - 1))
    padding = ((0, 0), (1, 1))
    return lax.reduce_window((x, places), nothing, larger, (1, 3), (1, 2), padding)


# -------------------------------------------------------------------------- derivatives


def gradient(fn):
    def loss(x):
        return (fn(x) ** 2).sum()

    return jax.grad(loss)


def tangent(fn):
    def along_cosine(x):
        return jax.jvp(fn, (x,), (jnp.cos(x),))

    return along_cosine


def max_pool_of_rounded(x):
    return max_pool(jnp.round(x))


def squared_max_pool(x):
    return max_pool(x) ** 2


# -------------------------------------------------------------------------------- cases

FAR = ((0, 0), (4, 1), (-1, 3), (0, 0))
SPREAD = {"base_dilation": (1, 2, 3, 1), "window_dilation": (1, 1, 2, 1)}
DILATED = {"window_dilation": (1, 2, 1, 1)}
PAIRS = {"sizes": (1, 2, 2, 1), "padding": "VALID"}
OVER_CHANNELS = {"sizes": (1, 1, 1, 2), "strides": (1, 1, 1, 2)}
EVERYWHERE = {"sizes": (2, 3, 2, 2), "strides": (1, 2, 1, 1)}
MANY = {"sizes": (2, 11, 7, 2), "strides": (1, 2, 1, 1)}
ONE_AXIS = {"sizes": (3,), "strides": (2,)}
FIVE_AXES = {"sizes": (1, 1, 2, 2, 1), "strides": (1, 1, 1, 2, 1)}
UNBATCHED = {"sizes": (2, 2, 1), "strides": (2, 1, 1)}

CASES = {
    # the greatest
    "max": (max_pool, IMAGE),
    "max_valid": (P(max_pool, padding="VALID"), ("B", "H+2", "W+2", 3)),
    "max_far_padding": (P(max_pool, padding=FAR), IMAGE),
    "max_spread": (P(max_pool, **SPREAD), IMAGE),
    "max_dilated": (P(max_pool, **DILATED), IMAGE),
    "max_over_channels": (P(max_pool, **OVER_CHANNELS), IMAGE),
    "max_everywhere": (P(max_pool, **EVERYWHERE), IMAGE),
    "max_one_axis": (P(max_pool, **ONE_AXIS), ("H",)),
    "max_five_axes": (P(max_pool, **FIVE_AXES), ("B", 2, "H", "W", 2)),
    "max_of_single": (P(max_pool, sizes=(1, 1, 1, 1)), IMAGE),
    "max_of_whole_axes": (max_of_whole_axes, IMAGE),
    "max_from_one": (max_from_one, IMAGE),
    "batched": (jax.vmap(P(max_pool, **UNBATCHED)), IMAGE),
    # the least
    "min": (min_pool, IMAGE),
    "min_far_padding": (P(min_pool, padding=FAR), IMAGE),
    # sums
    "sum": (sum_pool, IMAGE),
    "sum_spread": (P(sum_pool, **SPREAD), IMAGE),
    "sum_everywhere": (P(sum_pool, **EVERYWHERE), IMAGE),
    "sum_of_many": (P(sum_pool, **MANY), IMAGE),
    "sum_of_whole_axes": (sum_of_whole_axes, IMAGE),
    "sum_from_one": (sum_from_one, IMAGE),
    "average_of_present": (average_of_present, IMAGE),
    # other computations
    "product": (product, IMAGE),
    "product_of_many": (P(product, sizes=(1, 13, 6, 1), **DILATED), IMAGE),
    "logaddexp": (logaddexp, IMAGE),
    "pairs": (arg_max, ("B", "W")),
    # derivatives
    "max_gradient": (gradient(max_pool), IMAGE),
    "max_gradient_disjoint": (gradient(P(max_pool, **PAIRS)), ("B", 7, 8, 3)),
    "max_gradient_ties": (gradient(max_pool_of_rounded), IMAGE),
    "min_gradient": (gradient(min_pool), IMAGE),
    "sum_gradient": (gradient(P(sum_pool, padding="VALID")), ("B", 7, 8, 3)),
    "max_tangent": (tangent(max_pool), IMAGE),
    "min_tangent": (tangent(P(min_pool, **DILATED)), IMAGE),
    "sum_tangent": (tangent(sum_pool), IMAGE),
    "second_derivative": (gradient(gradient(squared_max_pool)), ("B", 5, 6, 2)),
    # nothing to do
    "nothing_fits": (P(max_pool, padding="VALID"), ("B", 2, 5, 3)),
    "nothing_there": (sum_pool, ("B", 5, 6, 0)),
}


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax(name, level):
    fn, spec = CASES[name]
    model = j2o.compile(fn, [spec], opt_level=level)
    for sizes in ({"B": 1, "H": 7, "W": 6}, {"B": 3, "H": 8, "W": 9}):
        x = normal(*sized(spec, sizes))
        model.verify(x, rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------- dtypes

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
NUMBERS_AND_BOOLS = [*DTYPES, "bool"]
EVERY_DTYPE = [
    *[(kind, dtype) for kind in ("sum", "product") for dtype in DTYPES],
    *[(kind, dtype) for kind in ("max", "min") for dtype in NUMBERS_AND_BOOLS],
]
COMPUTATIONS = {"sum": lax.add, "product": lax.mul, "max": lax.max, "min": lax.min}


def unit(kind, dtype):
    """What changes nothing in a computation."""
    if kind == "sum":
        return 0
    if kind == "product":
        return 1
    least, greatest = limits(dtype)
    return least if kind == "max" else greatest


def limits(dtype):
    if dtype.kind == "b":
        return False, True
    if jnp.issubdtype(dtype, jnp.integer):
        return jnp.iinfo(dtype).min, jnp.iinfo(dtype).max
    return -np.inf, np.inf


@pytest.mark.parametrize(("kind", "dtype"), EVERY_DTYPE)
def test_every_dtype(kind, dtype):
    computation = COMPUTATIONS[kind]
    with enable_x64(True):
        x = jnp.asarray(normal(2, 7, 6, 3) * 3).astype(dtype)
        init = np.asarray(unit(kind, x.dtype), x.dtype)

        def pooled_and_along_axis(x):
            pooled = window(x, init, computation, (1, 3, 2, 1), (1, 2, 1, 1))
            along_axis = window(x, init, computation, (1, 1, 6, 1))
            return pooled, along_axis

        rounding = 2e-2 if x.dtype.itemsize == 2 else 1e-5
        model = j2o.compile(pooled_and_along_axis, [x])
        model.verify(x, rtol=rounding, atol=0.3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_gradient_of_every_float(dtype):
    x = jnp.asarray(normal(2, 7, 6, 3)).astype(dtype)
    model = j2o.compile(gradient(P(max_pool, **PAIRS)), [x])
    model.verify(x, rtol=1e-2, atol=1e-2)


def test_or_and_and_of_booleans():
    x = normal(3, 9) > 0.3

    def any_and_all(x):
        found = window(x, False, lax.bitwise_or, (1, 3))
        everywhere = window(x, True, lax.bitwise_and, (1, 3), (1, 2))
        return found, everywhere

    j2o.compile(any_and_all, ["bool[B,T]"]).verify(x)


def test_complex_extremes():
    x = (normal(4, 6) + 1j * normal(4, 6)[::-1]).astype(np.complex64)

    def largest(x):
        return window(x, np.complex64(-np.inf), lax.max, (2, 2), padding="VALID")

    j2o.compile(largest, [x]).verify(x)


# -------------------------------------------------------------------------- edge values


def test_infinities_are_kept():
    x = np.full((1, 4, 4, 3), -np.inf, np.float32)
    x[0, 0, 0, 1] = np.inf

    def pools(x):
        return [pool(x, padding="VALID") for pool in (max_pool, min_pool, sum_pool)]

    j2o.compile(pools, [x]).verify(x)


def test_the_gradient_follows_nan_as_jax_does():
    x = np.array([[np.nan, 1, 2, np.nan, 5, 4, np.nan, np.nan]], np.float32)

    def pairs(x):
        return window(x, -jnp.inf, lax.max, (1, 2), (1, 2))

    def total(x):
        return pairs(x).sum()

    model = j2o.compile(gradient(pairs), [("B", "T")], opt_level=0)
    got = np.asarray(model(x))
    want = np.asarray(jax.grad(total)(x))
    assert (got != 0).tolist() == (want != 0).tolist()


# ---------------------------------------------------------------------------- operators


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


@pytest.mark.parametrize("opset", [18, 28])
def test_dilated_sums_at_every_opset(opset):
    pool = P(sum_pool, window_dilation=(1, 2, 2, 1))
    model = j2o.compile(pool, [IMAGE], opset=opset)
    model.verify(normal(2, 6, 7, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", [{"strides": (1, 2, 5, 1)}, DILATED])
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
    assert not {"Shape", "Pad"} & set(operators(model))
    for h in range(1, 8):
        model.verify(normal(2, h, h + 1, 3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pool", [max_pool, sum_pool])
@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2), (3, 1), (3, 3), (4, 2)])
def test_what_is_smaller_than_a_window_has_none(pool, size, stride):
    """No sizes are computed at run time for that; an operator pads by less than its kernel."""
    windows, steps = (1, size, size, 1), (1, stride, stride, 1)
    model = j2o.compile(lambda x: pool(x, windows, steps, "VALID"), [IMAGE])
    found = operators(model)
    assert "Shape" not in found
    assert ("Pad" in found) == ((size - 1) % stride != 0)
    for h, w in ((1, 1), (1, 9), (9, 1), (2, 3), (3, 4), (7, 6)):
        model.verify(normal(2, h, w, 3), rtol=1e-4, atol=1e-4)
