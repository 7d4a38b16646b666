"""What moves elements or makes axes: reshape, broadcast, slice, pad, split; the same bits as JAX."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import assert_same, normal, sized

P = functools.partial


def beside_itself(x):
    return lax.concatenate([x, x[:, :1], x], 1)


def numbered(x):
    return lax.broadcasted_iota("int32", x.shape, 1)


def padded(x, config):
    return lax.pad(x, jnp.ones((), x.dtype), config)


# name: function, shape of its operand
CASES = {
    "broadcast_in_dim": (lambda x: jnp.broadcast_to(x, (3, *x.shape)), "B,4"),
    "broadcast of one": (lambda x: jnp.broadcast_to(x, (x.shape[0], 5)), "B,1"),
    "concatenate": (beside_itself, "B,4"),
    "expand_dims": (P(lax.expand_dims, dimensions=(0, 3)), "B,4"),
    "iota": (numbered, "B,4"),
    "pad": (P(padded, config=[(1, 0, 0), (0, 2, 1)]), "B,4"),
    "pad less": (P(padded, config=[(0, 1, 0), (-1, -1, 0)]), "B,4"),
    "reshape": (lambda x: x.reshape(-1, 2), "B,4"),
    "reshape of two sizes": (lambda x: x.reshape(-1), "B,T,3"),
    "rev": (P(lax.rev, dimensions=(0, 1)), "B,4"),
    "slice": (lambda x: x[:, 1:4:2], "B,4"),
    "slice of a size": (lambda x: x[: x.shape[0] // 2], "B,4"),
    "split": (P(lax.split, sizes=(1, 0, 3), axis=1), "B,4"),
    "split of one": (P(lax.split, sizes=(4,), axis=1), "B,4"),
    "squeeze": (P(lax.squeeze, dimensions=(1,)), "B,1,4"),
    "tile": (P(jnp.tile, reps=(2, 3)), "B,4"),
    "transpose": (P(lax.transpose, permutation=(2, 0, 1)), "B,T,3"),
    "unstack": (P(jnp.unstack, axis=1), "B,4"),
}
DTYPES = ["float32", "float16", "bfloat16", "int8", "uint32", "bool"]


def value(shape, dtype, **sizes):
    return normal(*sized(shape, sizes)).round().astype(jnp.dtype(dtype))


def same_as_jax(fn, model, x):
    assert_same(model(x), jax.jit(fn)(x))


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_open_sizes(name, level):
    fn, shape = CASES[name]
    model = j2o.compile(fn, [f"f32[{shape}]"], opt_level=level)
    for sizes in ({"B": 1, "T": 1}, {"B": 5, "T": 2}):
        same_as_jax(fn, model, value(shape, "float32", **sizes))


@pytest.mark.parametrize("name", CASES)
def test_no_elements(name):
    fn, shape = CASES[name]
    x = np.zeros(sized(shape, {"B": 0, "T": 2}), np.float32)
    same_as_jax(fn, j2o.compile(fn, [x]), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_each_dtype(name, dtype):
    fn, shape = CASES[name]
    x = value(shape, dtype, B=3, T=2)
    same_as_jax(fn, j2o.compile(fn, [x]), x)
