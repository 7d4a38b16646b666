"""`block_reductions` with whole programs: means of pixels are AveragePool between convolutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, convolved_nhwc, normal, operators

KERNEL = normal(1, 1, 3, 16)


def convolved(x):
    return convolved_nhwc(x, KERNEL)


def halved(x):
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


@pytest.mark.parametrize("spec", ["f32[B,4,6,3]", "f32[B,2*H,2*W,3]"])
def test_behind_a_convolution(spec):
    model = agrees(
        lambda x: jnp.tanh(halved(jax.nn.relu(convolved(x)))),
        [normal(2, 4, 6, 3)],
        [spec],
    )
    kinds = ["Transpose", "Conv", "Relu", "AveragePool", "Tanh", "Transpose"]
    assert sorted(operators(model)) == sorted(kinds)


def test_one_axis_after_the_other():
    def blocks_along_last(x):
        return x.reshape(*x.shape[:-1], 3, -1).mean(-1)

    def adaptive(x):
        for axis in (2, 3):
            moved = jnp.moveaxis(x, axis, -1)
            x = jnp.moveaxis(blocks_along_last(moved), -1, axis)
        return x

    model = agrees(adaptive, [normal(2, 16, 6, 12)], ["f32[B,16,6,12]"])
    assert operators(model) == ["AveragePool"]


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 3e38])
def test_special_values_reach_their_block_alone(special):
    x = normal(1, 4, 6, 16)
    x[0, 1, 2, 3] = special
    model = agrees(halved, [x], ["f32[B,4,6,16]"])
    assert "AveragePool" in operators(model)


def test_few_channels_are_reduced_as_they_lie():
    model = agrees(halved, [normal(2, 4, 6, 3)], ["f32[B,4,6,3]"])
    assert operators(model) == ["Reshape", "ReduceMean"]
