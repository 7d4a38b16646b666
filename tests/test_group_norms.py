"""GroupNormalization and InstanceNormalization with whole programs: spellings, layouts, sizes, edges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import agrees, operators

EPSILON = 1e-5


def split(x, groups, axis):
    """The shape with the channels as [groups, channels of a group], and the axes to reduce."""
    shape = (*x.shape[:axis], groups, x.shape[axis] // groups, *x.shape[axis + 1 :])
    return shape, tuple(a for a in range(1, len(shape)) if a != axis)


def one_pass(x, axes):
    mean = x.mean(axes, keepdims=True)
    square = jnp.square(x).mean(axes, keepdims=True)
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def two_passes(x, axes):
    mean = x.mean(axes, keepdims=True)
    return mean, jnp.square(x - mean).mean(axes, keepdims=True)


def in_groups(x, scale, bias, groups, axis, statistics):
    """Normalised in the shape with the groups, as haiku and equinox have it."""
    shape, axes = split(x, groups, axis)
    y = x.reshape(shape)
    mean, variance = statistics(y, axes)
    normal = ((y - mean) / jnp.sqrt(variance + EPSILON)).reshape(x.shape)
    return normal * along(x, scale, axis) + along(x, bias, axis)


def broadcast_back(x, scale, bias, groups, axis, statistics):
    """Normalised in the shape without, with the statistics broadcast, as flax has it."""
    shape, axes = split(x, groups, axis)
    members = shape[axis + 1]
    factors = []
    for statistic in statistics(x.reshape(shape), axes):
        each = jnp.squeeze(statistic, axes)[:, :, None]
        wide = jnp.broadcast_to(each, (*each.shape[:2], members))
        flat = wide.reshape(x.shape[0], x.shape[axis])
        others = [a for a in range(1, x.ndim) if a != axis]
        factors.append(jnp.expand_dims(flat, others))
    mean, variance = factors
    factor = jax.lax.rsqrt(variance + EPSILON) * along(x, scale, axis)
    return (x - mean) * factor + along(x, bias, axis)


def along(x, numbers, axis):
    return numbers.reshape((-1, *[1] * (x.ndim - 1 - axis)))


def feeds(shape, channels):
    random = np.random.default_rng(0)
    sizes = shape, (channels,), (channels,)
    return [random.normal(size=size).astype(np.float32) for size in sizes]


SPELLINGS = [in_groups, broadcast_back]
LAYOUTS = {
    "last": ("f32[B,4,6,8]", (2, 4, 6, 8), 3),
    "first": ("f32[B,8,4,6]", (2, 8, 4, 6), 1),
    "one place axis": ("f32[B,6,8]", (3, 6, 8), 2),
    "three place axes": ("f32[B,2,3,4,8]", (2, 2, 3, 4, 8), 4),
    "no place axes": ("f32[B,8]", (3, 8), 1),
    "open": ("f32[B,H,W,8]", (2, 3, 5, 8), 3),
    "open first": ("f32[B,8,H,W]", (2, 8, 1, 1), 1),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_one_pass_is_one_normalisation(spelling, layout, groups):
    spec, shape, axis = LAYOUTS[layout]

    def fn(x, scale, bias):
        return spelling(x, scale, bias, groups, axis, one_pass)

    model = agrees(fn, feeds(shape, 8), [spec, "f32[8]", "f32[8]"])
    assert "ReduceMean" not in operators(model)


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("layout", ["last", "first", "one place axis"])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_two_passes_are_one_normalisation_of_rows(spelling, layout, groups):
    spec, shape, axis = LAYOUTS[layout]

    def fn(x, scale, bias):
        return spelling(x, scale, bias, groups, axis, two_passes)

    model = agrees(fn, feeds(shape, 8), [spec, "f32[8]", "f32[8]"])
    found = operators(model)
    assert "LayerNormalization" in found
    assert "ReduceMean" not in found


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("statistics", [one_pass, two_passes])
def test_one_value_that_is_no_number_spoils_its_group_alone(value, statistics):
    x, scale, bias = feeds((2, 3, 4, 8), 8)
    x[0, 1, 2, 5] = value

    def fn(x, scale, bias):
        return in_groups(x, scale, bias, 2, 3, statistics)

    agrees(fn, [x, scale, bias], ["f32[B,3,4,8]", "f32[8]", "f32[8]"])


def test_two_passes_are_as_exact_as_in_jax_far_from_zero():
    x, scale, bias = feeds((2, 16, 16, 8), 8)
    x += 1e4

    def fn(x, scale, bias):
        return in_groups(x, scale, bias, 2, 3, two_passes)

    y = x.astype(np.float64).reshape(2, 16, 16, 2, 4)
    y -= y.mean((1, 2, 4), keepdims=True)
    y /= np.sqrt(np.square(y).mean((1, 2, 4), keepdims=True) + EPSILON)
    exact = y.reshape(x.shape) * scale + bias
    model = j2o.compile(fn, ["f32[B,16,16,8]", "f32[8]", "f32[8]"])
    mine = np.abs(model(x, scale, bias) - exact).max()
    theirs = np.abs(jax.jit(fn)(x, scale, bias) - exact).max()
    assert mine <= 2 * theirs


@pytest.mark.parametrize("value", [0.1, 7.7, 1e3 / 3, 1e4])
def test_groups_of_equal_numbers_are_no_nan(value):
    x = np.full((1, 3, 5, 8), value, np.float32)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)

    def fn(x):
        return in_groups(x, ones, zeros, 2, 3, one_pass)

    model = j2o.compile(fn, ["f32[B,3,5,8]"])
    assert np.abs(model(x)).max() < 0.5


def test_scale_and_bias_of_an_instance_go_into_the_operator():
    x, scale, bias = feeds((2, 3, 4, 8), 8)

    def fn(x):
        mean, variance = one_pass(x, (1, 2))
        normal = (x - mean) * jax.lax.rsqrt(variance + EPSILON)
        return jnp.moveaxis(normal * scale + bias, -1, 1)

    model = agrees(fn, [x], ["f32[B,3,4,8]"])
    assert operators(model) == ["Transpose", "InstanceNormalization"]


def test_channels_in_front_of_one_axis_are_instances():
    x, scale, bias = feeds((2, 8, 6), 8)

    def fn(x):
        return broadcast_back(x, scale, bias, 8, 1, one_pass)

    assert operators(agrees(fn, [x], ["f32[B,8,6]"])) == ["InstanceNormalization"]


def rows_normalised(x):
    mean, variance = one_pass(x, -1)
    return (x - mean) * jax.lax.rsqrt(variance + EPSILON)


def test_rows_that_a_mean_over_places_leaves_are_normalised_as_rows():
    x, scale, bias = feeds((2, 3, 4, 8), 8)

    def fn(x):
        return rows_normalised(x.mean((1, 2))) * scale + bias

    model = agrees(fn, [x], ["f32[B,3,4,8]"])
    assert operators(model) == ["ReduceMean", "LayerNormalization"]


def test_rows_with_a_scale_that_is_computed_for_each_example():
    x, scale, _ = feeds((2, 5, 8), 8)
    gates = np.stack([scale, -scale])

    def fn(x, gates):
        return rows_normalised(x) * (1 + gates[:, None])

    model = agrees(fn, [x, gates], ["f32[B,T,8]", "f32[B,8]"])
    assert operators(model).count("LayerNormalization") == 1
    assert "Reshape" not in operators(model)


def test_rows_by_their_root_mean_square_with_a_scale_for_each_example():
    x, scale, _ = feeds((2, 5, 8), 8)
    gates = np.stack([scale, -scale])

    def fn(x, gates):
        square = jnp.square(x).mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(square + EPSILON) * (1 + gates[:, None])

    specs = ["f32[B,T,8]", "f32[B,8]"]
    model = agrees(fn, [x, gates], specs, opset=23)
    assert operators(model).count("RMSNormalization") == 1
