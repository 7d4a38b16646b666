"""`top_k` with whole programs: weights of Softmax are sorted as they are."""

import jax
import jax.numpy as jnp
import numpy as np

from tests.harness import agrees, normal, operators


def test_the_greatest_weights_of_a_softmax_are_one_node():
    def fn(x):
        return jax.lax.top_k(jax.nn.softmax(x), 2)

    edges = np.array([[0, -0.0, 0, 1], [-np.inf, 3, -np.inf, -200]], np.float32)
    for x in (normal(3, 5, 4), edges[None], np.full((1, 1, 4), np.nan, np.float32)):
        model = agrees(fn, [x], ["f32[B,T,4]"])
        assert operators(model) == ["Softmax", "TopK", "Cast"]


def test_numbers_of_which_some_may_be_negative_zero_keep_their_keys():
    x = np.array([[0.0, -0.0, 0.0, -0.0]], np.float32)
    model = agrees(lambda x: jax.lax.top_k(jnp.round(x), 3), [x], ["f32[B,4]"])
    assert "Reciprocal" in operators(model)
