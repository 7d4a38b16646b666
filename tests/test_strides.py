"""Slices with steps: one Slice each, at symbolic sizes too."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators

CASES = {
    "two axes": (lambda x: x[:, 0::2, 1::2], "f32[B,6,8,3]", (2, 6, 8, 3)),
    "an open axis": (lambda x: x[:, ::2], "f32[B,2*H]", (2, 6)),
    "an open axis that is odd": (lambda x: x[:, ::3], "f32[B,H]", (3, 8)),
    "a part of an axis": (lambda x: x[:, 1:7:3], "f32[B,9]", (3, 9)),
    "axes apart": (lambda x: x[:, 1::2, :, ::2], "f32[B,2*H,3,H]", (1, 8, 3, 4)),
    "back": (lambda x: x[:, ::-2], "f32[B,H]", (2, 5)),
    "back, one place": (lambda x: x[::-1], "f32[H,3]", (1, 3)),
    "back, a part": (lambda x: x[:, 7:2:-2], "f32[B,9]", (3, 9)),
    "back and forth": (lambda x: x[:, ::-1, 1::2], "f32[B,H,2*H]", (2, 3, 6)),
}


@pytest.mark.parametrize("name", CASES)
def test_one_slice(name):
    fn, spec, shape = CASES[name]
    x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    assert operators(agrees(fn, [x], [spec])) == ["Slice"]


def test_a_step_back_that_may_begin_in_front_of_the_axis():
    """Where H is 1 nothing is left, and Slice would count the start from the end."""

    def fn(x):
        return x[:, -2:0:-2]

    for size in (1, 2, 3, 6):
        x = np.arange(size, dtype=np.float32)[None]
        agrees(fn, [x], ["f32[B,H]"])


def test_two_by_two_patches_are_four_slices():
    def fn(x):
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return jnp.concatenate(corners, -1)

    x = np.arange(2 * 6 * 8 * 3, dtype=np.float32).reshape(2, 6, 8, 3)
    found = operators(agrees(fn, [x], ["f32[B,6,8,3]"]))
    assert found == ["Slice"] * 4 + ["Concat"]
