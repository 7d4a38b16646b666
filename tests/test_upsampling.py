"""`upsampling` with whole programs: images get one Resize however they are repeated, and rows Gathers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import agrees, convolved_nhwc, normal, operators

KERNEL = normal(3, 3, 4, 4)


def by_repeat(x):
    return x.repeat(2, 1).repeat(3, 2)


def by_nearest(x):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, 2 * h, 3 * w, c), "nearest")


def by_broadcast(x):
    n, h, w, c = x.shape
    wide = jnp.broadcast_to(x[:, :, None, :, None], (n, h, 2, w, 3, c))
    return wide.reshape(n, 2 * h, 3 * w, c)


def by_tile(x):
    n, h, w, c = x.shape
    return jnp.tile(x[:, :, None, :, None], (1, 1, 2, 1, 3, 1)).reshape(
        n, 2 * h, 3 * w, c
    )


FORMS = [by_repeat, by_nearest, by_broadcast, by_tile]


def convolved(x):
    return convolved_nhwc(x, KERNEL)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("spec", ["f32[B,5,6,4]", "f32[B,H,W,4]"])
def test_between_convolutions_nothing_is_transposed(form, spec):
    model = agrees(
        lambda x: convolved(form(convolved(x))),
        [normal(2, 5, 6, 4)],
        [spec],
        atol=1e-4,
    )
    moved = ["Transpose", "Conv", "Resize", "Conv", "Transpose"]
    assert operators(model) == moved


@pytest.mark.parametrize("form", FORMS)
def test_rows_are_looked_up(form):
    model = agrees(form, [normal(2, 5, 6, 4)], ["f32[B,5,6,4]"])
    assert operators(model) == ["Gather", "Gather"]


@pytest.mark.parametrize("factor", [2, 3, 5, 7])
def test_every_place_is_the_right_one(factor):
    """The runtime divides places by the factor in floats."""
    x = np.arange(3 * 4099, dtype=np.float32).reshape(1, 3, 4099)
    x[0, 0, :4] = [np.nan, -0.0, np.inf, -np.inf]
    model = j2o.compile(lambda x: jnp.repeat(x, factor, 2), ["f32[B,3,T]"])
    assert operators(model) == ["Resize"]
    given = np.asarray(model(x))
    np.testing.assert_array_equal(given, np.repeat(x, factor, 2))
    assert np.signbit(given[0, 0, factor])


def test_a_size_that_is_no_multiple_is_looked_up():
    def enlarged(x):
        return jax.image.resize(x, (x.shape[0], 7, x.shape[2]), "nearest")

    model = agrees(enlarged, [normal(2, 5, 4)], ["f32[B,5,4]"])
    assert operators(model) == ["Gather"]


# ------------------------------------------------------------------------ interpolation


def by_linear(x):
    n, h, w, c = x.shape
    return jax.image.resize(x, (n, 2 * h, 4 * w, c), "bilinear")


@pytest.mark.parametrize("spec", ["f32[B,5,6,4]", "f32[B,H,W,4]"])
def test_interpolation_is_one_resize(spec):
    inputs = [normal(2, 5, 6, 4)]
    model = agrees(by_linear, inputs, [spec])
    assert operators(model) == ["Resize"]
    model = agrees(
        lambda x: convolved(by_linear(convolved(x))), inputs, [spec], atol=1e-4
    )
    moved = ["Transpose", "Conv", "Resize", "Conv", "Transpose"]
    assert operators(model) == moved


@pytest.mark.parametrize(
    "shape", [(5,), (5, 3), (2, 5, 3), (2, 5, 4, 3), (2, 5, 4, 3, 2)]
)
def test_every_axis_may_be_interpolated(shape):
    """Where there is no kernel the matrix is left."""
    for axis in range(len(shape)):
        wanted = [*shape]
        wanted[axis] = 13
        spec = f"f32[{','.join(map(str, shape))}]"
        agrees(
            lambda x, wanted=wanted: jax.image.resize(x, wanted, "linear"),
            [normal(*shape)],
            [spec],
        )


@pytest.mark.parametrize(("height", "width"), [(5, 13), (20, 13), (9, 36), (10, 30)])
@pytest.mark.parametrize("antialias", [True, False])
def test_other_sizes_are_interpolated(height, width, antialias):
    def resized(x):
        n, _, _, c = x.shape
        return jax.image.resize(x, (n, height, width, c), "linear", antialias=antialias)

    for spec in ("f32[B,10,9,3]", "f32[B,H,W,3]"):
        agrees(resized, [normal(2, 10, 9, 3)], [spec], atol=1e-5)


def test_examples_do_not_meet():
    """What is NaN in one example is nothing to the others."""
    x = normal(3, 5, 2)
    x[1] = np.nan
    model = j2o.compile(
        lambda x: jax.image.resize(x, (x.shape[0], 10, 2), "linear"), ["f32[B,5,2]"]
    )
    assert "Resize" in operators(model)
    assert np.isfinite(np.asarray(model(x))[[0, 2]]).all()
