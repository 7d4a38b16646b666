"""Rotary embeddings with whole programs: how pairs are taken apart, where heads stand, what angles are of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators


def angles_of(places, size):
    return places[..., None] / 100.0 ** (jnp.arange(0, size, 2) / size)


def turned(u, v, cos, sin):
    return u * cos - v * sin, u * sin + v * cos


def halves(x, cos, sin):
    size = x.shape[-1] // 2
    return jnp.concatenate(turned(x[..., :size], x[..., size:], cos, sin), -1)


def split(x, cos, sin):
    u, v = jnp.split(x, 2, -1)
    return jnp.concatenate([cos * u - sin * v, cos * v + sin * u], -1)


def all_by_halves(x, cos, sin):
    size = x.shape[-1] // 2
    other = jnp.concatenate([-x[..., size:], x[..., :size]], -1)
    twice = [jnp.concatenate([angle, angle], -1) for angle in (cos, sin)]
    return x * twice[0] + other * twice[1]


def all_by_tiles(x, cos, sin):
    u, v = jnp.split(x, 2, -1)
    twice = [jnp.tile(angle, 2) for angle in (cos, sin)]
    return x * twice[0] + jnp.concatenate([-v, u], -1) * twice[1]


def reshaped_halves(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], 2, x.shape[-1] // 2)
    both = turned(pairs[..., 0, :], pairs[..., 1, :], cos, sin)
    return jnp.stack(both, -2).reshape(x.shape)


def neighbours(x, cos, sin):
    both = turned(x[..., ::2], x[..., 1::2], cos, sin)
    return jnp.stack(both, -1).reshape(x.shape)


def reshaped_neighbours(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    both = turned(pairs[..., 0], pairs[..., 1], cos, sin)
    return jnp.stack(both, -1).reshape(x.shape)


def complex_numbers(x, cos, sin):
    pairs = x.reshape(*x.shape[:-1], -1, 2)
    product = jax.lax.complex(pairs[..., 0], pairs[..., 1]) * jax.lax.complex(cos, sin)
    return jnp.stack([product.real, product.imag], -1).reshape(x.shape)


def all_by_neighbours(x, cos, sin):
    other = jnp.stack([-x[..., 1::2], x[..., ::2]], -1).reshape(x.shape)
    return x * jnp.repeat(cos, 2, -1) + other * jnp.repeat(sin, 2, -1)


SPELLINGS = [
    halves,
    split,
    all_by_halves,
    all_by_tiles,
    reshaped_halves,
    neighbours,
    reshaped_neighbours,
    complex_numbers,
    all_by_neighbours,
]


def feed(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def behind_time(spelling, x):
    angles = angles_of(jnp.arange(x.shape[-3]), x.shape[-1])[:, None]
    return spelling(x, jnp.cos(angles), jnp.sin(angles))


def before_time(spelling, x):
    angles = angles_of(jnp.arange(x.shape[-2]), x.shape[-1])
    return spelling(x, jnp.cos(angles), jnp.sin(angles))


LAYOUTS = {
    "heads behind time": (behind_time, "f32[B,T,3,8]", (2, 5, 3, 8)),
    "heads behind time, one example": (behind_time, "f32[T,3,8]", (5, 3, 8)),
    "heads behind time, of no size": (behind_time, "f32[2,4,3,8]", (2, 4, 3, 8)),
    "heads before time": (before_time, "f32[B,3,T,8]", (2, 3, 5, 8)),
    "open heads before time": (before_time, "f32[B,H,T,8]", (2, 1, 1, 8)),
    "more axes": (before_time, "f32[A,B,3,T,8]", (2, 1, 3, 5, 8)),
    "no heads": (before_time, "f32[B,T,8]", (2, 5, 8)),
    "no batch": (before_time, "f32[T,8]", (5, 8)),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("layout", ["heads behind time", "heads before time"])
def test_every_spelling_is_one_operator(spelling, layout):
    arranged, spec, shape = LAYOUTS[layout]
    model = agrees(lambda x: arranged(spelling, x), [feed(*shape)], [spec])
    assert operators(model).count("RotaryEmbedding") == 1
    assert operators(model).count("Sub") == 0


@pytest.mark.parametrize("spelling", [halves, all_by_neighbours])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_one_operator(spelling, layout):
    arranged, spec, shape = LAYOUTS[layout]
    model = agrees(lambda x: arranged(spelling, x), [feed(*shape)], [spec])
    assert operators(model).count("RotaryEmbedding") == 1


@pytest.mark.parametrize("spelling", [split, neighbours])
def test_each_example_has_places_of_its_own(spelling):
    def fn(x, places):
        angles = angles_of(places, 8)[:, :, None]
        return spelling(x, jnp.cos(angles), jnp.sin(angles))

    places = np.array([[3, 4, 5], [0, 1, 2]], np.int32)
    model = agrees(fn, [feed(2, 3, 4, 8), places], ["f32[B,T,4,8]", "i32[B,T]"])
    assert operators(model).count("RotaryEmbedding") == 1


def test_one_place_is_that_of_all():
    def fn(x, place):
        angles = angles_of(place, 8)
        return halves(x, jnp.cos(angles), jnp.sin(angles))

    feeds = [feed(3, 1, 4, 8), np.int32(7)]
    model = agrees(fn, feeds, ["f32[B,1,4,8]", "i32[]"])
    assert operators(model).count("RotaryEmbedding") == 1


@pytest.mark.parametrize("count", [4, 8])
def test_some_numbers_of_a_head_are_turned(count):
    def fn(x):
        turned = behind_time(halves, x[..., :count])
        return jnp.concatenate([turned, x[..., count:]], -1)

    model = agrees(fn, [feed(2, 3, 4, 8)], ["f32[B,T,4,8]"])
    assert operators(model).count("RotaryEmbedding") == 1


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_stays_with_its_pair(value):
    x = feed(2, 3, 4, 8)
    x[0, 1, 2, 3] = value
    agrees(lambda x: behind_time(halves, x), [x], ["f32[B,T,4,8]"])


def test_angles_that_differ_between_heads_stay():
    def fn(x):
        angles = angles_of(jnp.arange(12).reshape(3, 4), 8)
        return halves(x, jnp.cos(angles), jnp.sin(angles))

    agrees(fn, [feed(2, 3, 4, 8)], ["f32[B,3,4,8]"])


def test_gradients_turn_back():
    def fn(x):
        return jax.grad(lambda y: (behind_time(halves, y) ** 2).sum())(x)

    agrees(fn, [feed(2, 3, 4, 8)], ["f32[B,T,4,8]"])


@pytest.mark.parametrize("spelling", [halves, all_by_halves, all_by_tiles])
def test_over_heads_by_vmap(spelling):
    """Equinox's rotary embedding is of one head, and is mapped over them."""

    def fn(x):
        of_heads = jax.vmap(
            lambda head: before_time(spelling, head), in_axes=1, out_axes=1
        )
        return jax.vmap(of_heads)(x)

    model = agrees(fn, [feed(2, 5, 3, 8)], ["f32[B,T,3,8]"])
    assert operators(model).count("RotaryEmbedding") == 1
    assert operators(model).count("Transpose") == 0


def test_transposed_before_it_is_turned():
    """The heads go in front of time, as attention of four axes has them."""

    def fn(x):
        return before_time(halves, jnp.swapaxes(x.reshape(2, -1, 3, 8), 1, 2))

    model = agrees(fn, [feed(2, 5, 24)], ["f32[2,T,24]"])
    assert operators(model).count("Reshape") == 1
    assert operators(model)[-1] == "Transpose"
