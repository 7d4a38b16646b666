"""`scan_axes` with whole programs: time is the second axis of what they take and give."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, normal, operators


@pytest.mark.parametrize("reverse", [False, True])
def test_a_recurrence_over_the_second_axis_transposes_nothing(reverse):
    def fn(z, h):
        def step(state, row):
            gate, new = row
            state = (1 - gate) * state + gate * new
            return state, state

        rows = z.swapaxes(0, 1), jnp.moveaxis(h, 1, 0)
        start = jnp.zeros((z.shape[0], 4))
        last, states = jax.lax.scan(step, start, rows, reverse=reverse)
        return states.swapaxes(0, 1), last

    specs = ["f32[B,T,4]", "f32[B,T,4]"]
    for batch, length in [(2, 5), (1, 1), (3, 1)]:
        z, h = normal(2, batch, length, 4)
        model = agrees(fn, [np.abs(z) / 4, h], specs, rtol=1e-5, atol=1e-5)
        assert operators(model) == ["Shape", "Concat", "Expand", "Scan"]
