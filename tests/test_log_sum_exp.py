"""log Σ exp x at infinities, NaN and the ends of floats, however it is written."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from j2o.frontend.versions import enable_x64
from tests.harness import agrees, operators

INF, NAN = np.inf, np.nan
ROWS = [
    [1, 2, 3],
    [-INF, -INF, -INF],
    [INF, 1, 2],
    [NAN, 1, 2],
    [1, 2, NAN],
    [-INF, 5, 2],
    [INF, -INF, 0],
    [NAN, INF, 1],
    [3e38, 3e38, -3e38],
    [-3e38, -3.4e38, -3e38],
    [INF, INF, INF],
]
X = np.array(ROWS, np.float32)


def over_last(x):
    return jax.nn.logsumexp(x, -1)


def over_last_kept(x):
    return jax.nn.logsumexp(x, -1, keepdims=True)


def over_first(x):
    return jax.nn.logsumexp(x, 0)


def over_all(x):
    return jax.nn.logsumexp(x)


def by_hand(x):
    m = x.max(-1, keepdims=True)
    return m + jnp.log(jnp.exp(x - m).sum(-1, keepdims=True))


def by_hand_squeezed(x):
    m = x.max(-1, keepdims=True)
    return jnp.log(jnp.sum(jnp.exp(x - m), -1)) + jnp.squeeze(m, -1)


@pytest.mark.parametrize(
    "fn",
    [over_last, over_last_kept, over_first, over_all, by_hand, by_hand_squeezed],
)
def test_edges(fn):
    model = agrees(fn, [X], ["f32[B,3]"])
    assert operators(model).count("ReduceSum") == 1
    assert "IsNaN" not in operators(model)
    for row in X:
        agrees(fn, [row[None]], ["f32[B,3]"])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_other_floats(dtype):
    with enable_x64(True):
        x = jnp.asarray(X).astype(dtype)
        agrees(over_last, [x], rtol=2e-2)


def test_it_is_eight_nodes():
    model = agrees(over_last, [X], ["f32[B,3]"])
    wanted = ["ReduceMax", "Clip", "Sub", "Exp", "ReduceSum", "Log", "Add", "Squeeze"]
    assert operators(model) == wanted


def test_the_gradient_keeps_its_exponentials():
    def fn(x):
        return jax.grad(lambda x: over_last(x).sum())(x)

    model = agrees(fn, [X[5:6]], ["f32[B,3]"])
    assert operators(model).count("Exp") == 1
