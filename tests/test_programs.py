"""Small programs through the whole compiler, compared with JAX at several sizes and levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import normal, sized

PROGRAMS = {}


def program(*specs):
    """Add a program under its function's name."""

    def register(fn):
        PROGRAMS[fn.__name__.rstrip("_")] = (fn, list(specs))
        return fn

    return register


@program(("B", 6), (6, 8))
def mlp(x, w):
    return jnp.tanh(x @ w + 1.0)


@program(("B", "T"))
def softmax(x):
    return jax.nn.softmax(x, axis=-1)


@program(("B", 8))
def layer_norm(x):
    centred = x - x.mean(-1, keepdims=True)
    return centred / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)


@program(("B", 6))
def reshape(x):
    halves = x.reshape(-1, 2, x.shape[1] // 2)
    return halves.transpose(2, 0, 1)


@program(("B", 5))
def slice_(x):
    return x[:, 1:] - x[:, :-1]


@program(("B", "T"))
def concat(x):
    return jnp.concatenate([x, x], 1)


@program(("B", "T"))
def arange(x):
    return jnp.arange(x.shape[0]) + x.shape[1]


@program(("B", 3))
def pad(x):
    return jax.lax.pad(x, 0.5, ((1, -1, 1), (0, 2, 0)))


@program((7, 3), "i32[B]")
def gather(x, i):
    return x[i]


@program((7, 3), "i32[B]")
def take_fill(x, i):
    return jnp.take(x, i * 3, axis=0)


@program(("B", 7), "i32[B,2]")
def along_axis(x, i):
    return jnp.take_along_axis(x, i, axis=1)


@program((7,), "i32[B]")
def scatter_add(x, i):
    return x.at[i].add(1.0)


@program((7,), "i32[B]")
def scatter_drop(x, i):
    return x.at[i * 4].set(2.0, mode="drop")


@program(("B+2", 5), "i32[B]")
def dynamic_slice(x, i):
    return jax.lax.dynamic_slice(x, (i[0] + 3, 1), (2, 2))


@program(("B", 4), (1, 4), "i32[B]")
def update_slice(x, u, i):
    return jax.lax.dynamic_update_slice(x, u, (i[0], 0))


@program(("B", 3, 2, 4), ("B", "T", 2, 4))
def einsum(q, k):
    return jnp.einsum("bqhd,bkhd->bhqk", q, k)


@program(("B", 4), (4, 3))
def gradient(x, w):
    def loss(v):
        return (jnp.tanh(x @ v) ** 2).mean()

    return jax.grad(loss)(w)


@program(("B", "T"))
def argmax(x):
    return jnp.argmax(x, -1)


@program(("B", 3))
def cumsum(x):
    return jnp.cumsum(x, 0)


@program("i32[B]")
def int_division(i):
    return (i - 3) // 2 + (i - 3) % 3


@program(("B", 3))
def to_int(x):
    return (x * 1e10).astype(jnp.int32)


def value(spec, sizes):
    text = spec if isinstance(spec, str) else f"f32[{','.join(map(str, spec))}]"
    dtype, _, shape = text.rstrip("]").partition("[")
    numbers = sized(shape, sizes)
    if dtype == "f32":
        return normal(*numbers)
    return np.arange(np.prod(numbers)).astype(np.int32).reshape(numbers) % 5


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", PROGRAMS)
def test_agrees_with_jax(name, level):
    fn, specs = PROGRAMS[name]
    model = j2o.compile(fn, specs, opt_level=level)
    for sizes in ({"B": 1, "T": 2}, {"B": 4, "T": 7}):
        model.verify(*(value(s, sizes) for s in specs), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("opset", [18, 21, 28])
def test_opsets(opset):
    fn, specs = PROGRAMS["layer_norm"]
    model = j2o.compile(fn, specs, opset=opset)
    assert model.to_proto().opset_import[0].version == opset
    model.verify(normal(3, 8))
