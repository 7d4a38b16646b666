"""`jnp.pad` with elements of the tensor itself is one Pad."""

import jax.numpy as jnp
import pytest

import j2o
from tests.harness import normal, operators

IMAGE = ((0, 0), (1, 3), (2, 2), (0, 0))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap"])
@pytest.mark.parametrize("opset", [18, None])
def test_borders_of_known_sizes(mode, opset):
    model = j2o.compile(
        lambda x: jnp.pad(x, IMAGE, mode=mode), ["f32[B,8,9,3]"], opset=opset
    )
    model.verify(normal(2, 8, 9, 3))
    is_one = mode != "wrap" or opset is None
    assert (operators(model) == ["Pad"]) == is_one


@pytest.mark.parametrize("mode", ["reflect", "edge"])
def test_borders_of_open_sizes(mode):
    model = j2o.compile(
        lambda x: jnp.pad(x, IMAGE, mode=mode),
        ["f32[B,H,W,3]"],
        constraints=["H >= 4", "W >= 4"],
    )
    assert operators(model) == ["Pad"]
    model.verify(normal(2, 4, 5, 3))


@pytest.mark.parametrize("mode", ["reflect", "edge", "wrap", "symmetric"])
def test_borders_wider_than_the_tensor(mode):
    model = j2o.compile(
        lambda x: jnp.pad(x, ((9, 10), (0, 1)), mode=mode), ["f32[4,1]"]
    )
    model.verify(normal(4, 1))


def test_a_border_of_another_tensor_stays():
    def fn(x):
        return jnp.concatenate([jnp.flip(x[:, 1:3], 1) * 2, x], 1)

    model = j2o.compile(fn, ["f32[B,8]"])
    model.verify(normal(2, 8))
    assert "Pad" not in operators(model)
