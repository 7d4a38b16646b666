"""Limits of floats in whole programs: Clip, and conversions of limited numbers to integers."""

import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import operators

EDGES = np.float32([np.nan, np.inf, -np.inf, -0.0, 0.3, 1, -0.7, 300, 1e20, -1e20])

PROGRAMS = {
    "limits": (lambda x: jnp.clip(x, -1.0, 1.0), ["Clip"]),
    "the upper limit first": (
        lambda x: jnp.maximum(jnp.minimum(x, 6.0), -2.0),
        ["Clip"],
    ),
    "crossed limits": (
        lambda x: jnp.minimum(jnp.maximum(x, 2.0), 1.0),
        ["Max", "Min"],
    ),
    "pixels": (
        lambda x: jnp.round((jnp.clip(x, -1, 1) + 1) * 127.5).astype(jnp.uint8),
        ["Clip", "Add", "Mul", "Round", "IsNaN", "Where", "Cast"],
    ),
    "bins": (
        lambda x: jnp.floor(jnp.clip(x * 10, 0, 9)).astype(jnp.int32),
        ["Mul", "Clip", "Floor", "IsNaN", "Where", "Cast"],
    ),
    "beyond the integers": (
        lambda x: (jnp.clip(x, -1, 1) * 3e9).astype(jnp.int32),
        [*["Clip", "Mul", "IsNaN", "Where", "Clip", "Cast"], "GreaterOrEqual", "Where"],
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_limits(name):
    fn, expected = PROGRAMS[name]
    model = j2o.compile(fn, ["f32[B]"])
    model.verify(EDGES)
    assert operators(model) == expected
