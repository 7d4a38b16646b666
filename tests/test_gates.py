"""Activations of `jax.nn` and by hand: each is one operator, with JAX's values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import agrees, operators

X = np.concatenate(
    [
        -np.logspace(-8, 2, 50),
        np.logspace(-8, 38, 50),
        [0.0, np.inf, -np.inf, np.nan],
    ]
).astype(np.float32)


def elu_by_hand(x):
    return jnp.where(x < 0, 0.7 * jnp.expm1(x), x)


def elu_of_exp(x):
    return jnp.where(x > 0, x, 1.5 * (jnp.exp(x) - 1))


UNITS = {
    "elu": (jax.nn.elu, "Elu"),
    "elu with a factor": (lambda x: jax.nn.elu(x, 0.3), "Elu"),
    "elu by hand": (elu_by_hand, "Elu"),
    "elu by exp": (elu_of_exp, "Elu"),
    "selu": (jax.nn.selu, "Selu"),
    "celu": (jax.nn.celu, "Elu"),
    "celu with a factor": (lambda x: jax.nn.celu(x, 2.0), "Celu"),
}


@pytest.mark.parametrize("name", UNITS)
def test_exponential_units_are_one_operator(name):
    fn, kind = UNITS[name]
    assert operators(agrees(fn, [X], ["f32[B]"])) == [kind]


@pytest.mark.parametrize("name", UNITS)
def test_exponential_units_of_16_bits_have_no_kernel(name):
    fn, kind = UNITS[name]
    assert kind not in operators(j2o.compile(fn, ["f16[B]"]))


ALONG = {
    "softmax": (jax.nn.softmax, "Softmax"),
    "log_softmax": (jax.nn.log_softmax, "LogSoftmax"),
    "softmax along the first axis": (lambda x: jax.nn.softmax(x, axis=0), "Softmax"),
}


@pytest.mark.parametrize("shape", [(7,), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("name", ALONG)
def test_softmax_is_one_operator_of_any_rank(name, shape):
    fn, operator = ALONG[name]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    model = agrees(fn, [x])
    assert operators(model) == [operator]
