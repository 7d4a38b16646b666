"""Small programs through the whole compiler, compared with JAX at several sizes and levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import normal, sized

PROGRAMS = {
    "mlp": (lambda x, w: jnp.tanh(x @ w + 1.0), [("B", 6), (6, 8)]),
    "softmax": (lambda x: jax.nn.softmax(x, axis=-1), [("B", "T")]),
    "layer_norm": (
        lambda x: (
            (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        ),
        [("B", 8)],
    ),
    "reshape": (
        lambda x: x.reshape(-1, 2, x.shape[1] // 2).transpose(2, 0, 1),
        [("B", 6)],
    ),
    "slice": (lambda x: x[:, 1:] - x[:, :-1], [("B", 5)]),
    "concat": (lambda x: jnp.concatenate([x, x], 1), [("B", "T")]),
    "arange": (lambda x: jnp.arange(x.shape[0]) + x.shape[1], [("B", "T")]),
    "pad": (lambda x: jax.lax.pad(x, 0.5, ((1, -1, 1), (0, 2, 0))), [("B", 3)]),
    "gather": (lambda x, i: x[i], [(7, 3), "i32[B]"]),
    "take_fill": (lambda x, i: jnp.take(x, i * 3, axis=0), [(7, 3), "i32[B]"]),
    "along_axis": (
        lambda x, i: jnp.take_along_axis(x, i, axis=1),
        [("B", 7), "i32[B,2]"],
    ),
    "scatter_add": (lambda x, i: x.at[i].add(1.0), [(7,), "i32[B]"]),
    "scatter_drop": (lambda x, i: x.at[i * 4].set(2.0, mode="drop"), [(7,), "i32[B]"]),
    "dynamic_slice": (
        lambda x, i: jax.lax.dynamic_slice(x, (i[0] + 3, 1), (2, 2)),
        [("B+2", 5), "i32[B]"],
    ),
    "update_slice": (
        lambda x, u, i: jax.lax.dynamic_update_slice(x, u, (i[0], 0)),
        [("B", 4), (1, 4), "i32[B]"],
    ),
    "einsum": (
        lambda q, k: jnp.einsum("bqhd,bkhd->bhqk", q, k),
        [("B", 3, 2, 4), ("B", "T", 2, 4)],
    ),
    "gradient": (
        lambda x, w: jax.grad(lambda v: (jnp.tanh(x @ v) ** 2).mean())(w),
        [("B", 4), (4, 3)],
    ),
    "argmax": (lambda x: jnp.argmax(x, -1), [("B", "T")]),
    "cumsum": (lambda x: jnp.cumsum(x, 0), [("B", 3)]),
    "int_division": (lambda i: (i - 3) // 2 + (i - 3) % 3, ["i32[B]"]),
    "to_int": (lambda x: (x * 1e10).astype(jnp.int32), [("B", 3)]),
}


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
