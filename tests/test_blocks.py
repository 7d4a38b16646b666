"""`blocks` with whole programs: pixels that are shuffled are one node between convolutions."""

import jax.numpy as jnp
import pytest

from tests.harness import agrees, convolved_nhwc, normal, operators

KERNEL = normal(1, 1, 12, 12)


def convolved(x):
    return convolved_nhwc(x, KERNEL)


def blocks_first(x):
    n, h, w, _ = x.shape
    apart = x.reshape(n, h, w, 2, 2, 3)
    return apart.transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, 3)


def channels_first(x):
    n, h, w, _ = x.shape
    apart = x.reshape(n, h, w, 3, 2, 2)
    return apart.transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, 3)


def to_depth(x):
    n, h, w, c = x.shape
    apart = x.reshape(n, h // 2, 2, w // 2, 2, c)
    return apart.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // 2, w // 2, 4 * c)


@pytest.mark.parametrize("shuffle", [blocks_first, channels_first])
@pytest.mark.parametrize("spec", ["f32[B,4,5,12]", "f32[B,H,W,12]"])
def test_behind_a_convolution(shuffle, spec):
    model = agrees(
        lambda x: jnp.tanh(shuffle(convolved(x))), [normal(2, 4, 5, 12)], [spec]
    )
    kinds = ["Transpose", "Conv", "DepthToSpace", "Tanh", "Transpose"]
    assert sorted(operators(model)) == sorted(kinds)


def test_in_front_of_a_convolution():
    model = agrees(
        lambda x: convolved(to_depth(x)), [normal(2, 4, 6, 3)], ["f32[B,2*H,2*W,3]"]
    )
    assert operators(model) == ["Transpose", "SpaceToDepth", "Conv", "Transpose"]


@pytest.mark.parametrize("shuffle", [blocks_first, channels_first, to_depth])
def test_alone_they_are_moved_once(shuffle):
    model = agrees(shuffle, [normal(2, 4, 6, 12)], ["f32[B,4,6,12]"])
    assert operators(model) == ["Reshape", "Transpose", "Reshape"]


def one_channel(x):
    """The brightness of an image of twice the size, as super-resolution computes it."""
    n, h, w, _ = x.shape
    apart = x.reshape(n, h, w, 2, 2)
    return apart.transpose(0, 1, 3, 2, 4).reshape(n, 2 * h, 2 * w)


KERNEL_OF_FOUR = normal(1, 1, 12, 4)


@pytest.mark.parametrize("axis", [None, 1, 3])
@pytest.mark.parametrize("spec", ["f32[B,4,5,12]", "f32[B,H,W,12]"])
def test_one_channel_needs_no_transpose(axis, spec):
    def fn(x):
        image = one_channel(convolved_nhwc(x, KERNEL_OF_FOUR))
        return image if axis is None else jnp.expand_dims(image, axis)

    model = agrees(fn, [normal(2, 4, 5, 12)], [spec])
    kinds = operators(model)
    assert kinds[:3] == ["Transpose", "Conv", "DepthToSpace"]
    assert set(kinds[3:]) <= {"Reshape", "Squeeze", "Unsqueeze"}


def test_one_channel_alone_is_moved_once():
    model = agrees(one_channel, [normal(2, 4, 5, 4)], ["f32[B,4,5,4]"])
    assert operators(model) == ["Reshape", "Transpose", "Reshape"]


def test_channels_in_front():
    def shuffle(x):
        n, _, h, w = x.shape
        apart = x.reshape(n, 3, 2, 2, h, w)
        return apart.transpose(0, 1, 4, 2, 5, 3).reshape(n, 3, 2 * h, 2 * w)

    model = agrees(shuffle, [normal(2, 12, 4, 5)], ["f32[B,12,4,5]"])
    assert operators(model) == ["DepthToSpace"]
