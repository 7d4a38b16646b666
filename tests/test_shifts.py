"""Shifted tensors, as causal models read them, at open sizes of which one is 1."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators

X = np.arange(15, dtype=np.float32).reshape(3, 5)


def padded_and_cut(x):
    return jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]


def zeros_in_front(x):
    return jnp.concatenate([jnp.zeros_like(x[:, :1]), x[:, :-1]], 1)


def a_number_behind(x):
    return jnp.concatenate([x[:, 1:], jnp.full_like(x[:, :1], 3)], 1)


def less_of_a_border(x):
    return jnp.pad(x, ((0, 0), (2, 1)))[:, 1:]


@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize(
    "fn", [padded_and_cut, zeros_in_front, a_number_behind, less_of_a_border]
)
def test_a_shift_is_one_pad(fn, dtype):
    kind = {"float32": "f32", "int32": "i32", "uint8": "u8"}[dtype]
    x = X.astype(dtype)
    model = agrees(fn, [x], [kind + "[B,T]"])
    assert operators(model) == ["Pad"]
    agrees(fn, [x[:, :1]], [kind + "[B,T]"])


def test_all_but_the_first_of_an_open_axis_is_one_slice():
    model = agrees(lambda x: x[:, 1:] * 2, [X], ["f32[B,T]"])
    assert operators(model) == ["Slice", "Mul"]
    agrees(lambda x: x[:, 1:] * 2, [X[:, :1]], ["f32[B,T]"])


def test_a_border_that_goes_again_at_the_same_end_stays():
    agrees(lambda x: jnp.pad(x[:, 1:], ((0, 0), (1, 0))), [X], ["f32[B,T]"])
    agrees(lambda x: jnp.pad(x, ((0, 0), (3, 0)))[:, :-2], [X[:, :1]], ["f32[B,T]"])
