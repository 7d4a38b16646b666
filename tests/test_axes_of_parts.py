"""`axes_of_parts` with a whole program: scales and shifts that a condition gives to each example."""

import jax.numpy as jnp

from tests.harness import agrees, normal, operators


def test_modulation_unsqueezes_once():
    weights = normal(3, 12)

    def fn(x, condition):
        shift, scale, gate = jnp.split(condition @ weights, 3, axis=-1)
        return x + gate[:, None] * (x * (1 + scale[:, None]) + shift[:, None])

    specs = ["f32[B,T,4]", "f32[B,3]"]
    for batch, length in [(2, 5), (1, 1), (3, 1)]:
        model = agrees(fn, [normal(batch, length, 4), normal(batch, 3)], specs)
        assert operators(model) == [
            *["MatMul", "Unsqueeze", "Split"],
            *["Add", "Mul", "Add", "Mul", "Add"],
        ]
