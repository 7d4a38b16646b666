"""Averages of windows without their padding: one AveragePool, whoever wrote them."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

import j2o
from tests.harness import normal, operators

SIZES = [(1, 1), (2, 3), (5, 4), (8, 9)]
WINDOW = (1, 3, 2, 1)
STRIDES = (1, 2, 1, 1)


def of_linen(x):
    return linen.avg_pool(x, (3, 2), (2, 1), "SAME", count_include_pad=False)


def by_ones_of_one_channel(x):
    ones = jnp.ones((1, *x.shape[1:3], 1), x.dtype)
    return sums(x) / sums(ones)


def by_ones_alike(x):
    return sums(x) / sums(jnp.ones_like(x))


def sums(x):
    zero = np.zeros((), x.dtype)
    return lax.reduce_window(x, zero, lax.add, WINDOW, STRIDES, "SAME")


@pytest.mark.parametrize(
    ("fn", "dtype"),
    [
        (of_linen, "float32"),
        (by_ones_of_one_channel, "bfloat16"),
        (by_ones_alike, "float32"),
        (by_ones_alike, "float16"),
    ],
)
def test_is_one_operator_at_any_size(fn, dtype):
    model = j2o.compile(fn, [f"{dtype}[B,H,W,3]"])
    pooled = [name for name in operators(model) if name != "Cast"]
    assert pooled == ["Transpose", "AveragePool", "Transpose"]
    for height, width in SIZES:
        image = jnp.asarray(normal(2, height, width, 3), dtype)
        model.verify(image, rtol=1e-5 if dtype == "float32" else 3e-2, atol=1e-2)


def test_what_is_no_number_stays_in_its_windows():
    image = normal(1, 6, 5, 2)
    image[0, 0, 0, 0] = np.nan
    image[0, 3, 2, 1] = np.inf
    j2o.compile(of_linen, [image]).verify(image)


@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_any_padding(data):
    length = data.draw(st.integers(1, 9))
    size = data.draw(st.integers(1, 4))
    stride = data.draw(st.integers(1, 3))
    low = data.draw(st.integers(0, 4))
    high = data.draw(st.integers(0, 4))

    def average(x):
        def summed(y):
            padding = [(0, 0), (low, high), (0, 0)]
            return lax.reduce_window(
                y, 0.0, lax.add, (1, size, 1), (1, stride, 1), padding
            )

        return summed(x) / summed(jnp.ones((1, length, 1)))

    row = normal(2, length, 3)
    j2o.compile(average, [("B", length, 3)]).verify(row, rtol=1e-5, atol=1e-5)
