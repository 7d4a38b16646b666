"""`affine` with whole programs: what is folded, and that the values stay JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators

HEADS, SIZE = 3, 4
MODEL = HEADS * SIZE


def normal(rng, *shape):
    return rng.standard_normal(shape).astype(np.float32)


def test_a_batch_norm_behind_a_dense_layer_goes_into_it():
    rng = np.random.default_rng(0)
    w, b, mean, scale, bias = normal(rng, 5, 7), *normal(rng, 4, 7)
    variance = np.abs(normal(rng, 7))

    def fn(x):
        y = x @ w + b
        return (y - mean) * (jax.lax.rsqrt(variance + 1e-5) * scale) + bias

    model = agrees(fn, [normal(rng, 2, 5)], ["f32[B,5]"])
    assert operators(model) == ["Gemm"]


def test_the_scale_of_attention_goes_into_a_projection():
    rng = np.random.default_rng(1)
    wq, wk = normal(rng, 2, MODEL, HEADS, SIZE)
    bq, bk = normal(rng, 2, HEADS, SIZE)

    def fn(x):
        q = jnp.einsum("btm,mhs->bths", x, wq) + bq
        k = jnp.einsum("btm,mhs->bths", x, wk) + bk
        return jnp.einsum("bqhs,bkhs->bhqk", q, k) / np.sqrt(SIZE).astype(np.float32)

    x = normal(rng, 2, 5, MODEL)
    model = agrees(fn, [x], [f"f32[B,T,{MODEL}]"], atol=1e-5)
    assert operators(model) == [
        *["MatMul", "Add", "Reshape", "Split"],  # of queries and keys
        *["Transpose", "Transpose", "MatMul"],
    ]


def test_a_factor_of_normalised_observations_goes_into_the_layer():
    rng = np.random.default_rng(2)
    w, mean, deviation = normal(rng, 5, 7), normal(rng, 5), 1 + np.arange(5.0)
    deviation = deviation.astype(np.float32)
    model = agrees(
        lambda x: ((x - mean) / deviation) @ w, [normal(rng, 2, 5)], ["f32[B,5]"]
    )
    assert operators(model) == ["Sub", "MatMul"]


def test_a_small_mean_of_normalised_observations_goes_into_the_bias():
    rng = np.random.default_rng(3)
    w, bias, mean = normal(rng, 5, 7), normal(rng, 7), normal(rng, 5)
    deviation = 1 + np.arange(5, dtype=np.float32)

    def fn(x):
        return ((x - mean) / deviation) @ w + bias

    model = agrees(fn, [normal(rng, 2, 5)], ["f32[B,5]"])
    assert operators(model) == ["Gemm"]


def test_a_large_mean_is_taken_away_first():
    rng = np.random.default_rng(4)
    w, bias = normal(rng, 5, 7), normal(rng, 7)
    mean = np.full(5, 1e6, np.float32)

    def fn(x):
        return ((x - mean) / 2) @ w + bias

    model = agrees(fn, [mean + normal(rng, 2, 5)], ["f32[B,5]"])
    assert operators(model) == ["Sub", "Gemm"]


def test_pixels_that_are_normalised_for_patches():
    rng = np.random.default_rng(5)
    kernel, bias = normal(rng, 4, 4, 3, 8), normal(rng, 8)
    mean, deviation = normal(rng, 2, 3)
    deviation = 1 + abs(deviation)

    def fn(x):
        x = (x - mean) / deviation
        layout = ("NHWC", "HWIO", "NHWC")
        return (
            jax.lax.conv_general_dilated(
                x, kernel, (4, 4), "VALID", dimension_numbers=layout
            )
            + bias
        )

    model = agrees(fn, [normal(rng, 1, 8, 8, 3)], ["f32[B,8,8,3]"], atol=1e-5)
    assert operators(model) == ["Transpose", "Conv", "Transpose"]


STEPS = {
    "add": lambda y, c: y + c,
    "multiply": lambda y, c: y * c,
    "subtract": lambda y, c: y - c,
    "take off": lambda y, c: c - y,
    "divide": lambda y, c: y / (c + 3),
    "negate": lambda y, c: -y,
    "swap": lambda y, c: jnp.swapaxes(y, 1, 2),
    "split": lambda y, c: y.reshape(*y.shape[:-1], 2, -1) if y.ndim < 5 else y,
    "merge": lambda y, c: y.reshape(*y.shape[:-2], -1) if y.ndim > 3 else y,
}


@pytest.mark.parametrize("is_padded_before", [True, False])
def test_pixels_that_are_normalised_for_a_padded_convolution(is_padded_before):
    rng = np.random.default_rng(5)
    kernel = normal(rng, 3, 3, 3, 8)
    mean, deviation = np.float32([0.4, 0.5, 0.6]), np.float32([0.2, 0.3, 0.2])

    def fn(image):
        x = (image.astype(jnp.float32) / 255 - mean) / deviation
        padding = "SAME"
        if is_padded_before:
            x = jnp.pad(x, ((0, 0), (0, 1), (0, 1), (0, 0)))
            padding = "VALID"
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), padding, dimension_numbers=layout
        )

    image = rng.integers(0, 255, (2, 8, 8, 3), dtype=np.uint8)
    model = agrees(fn, [image], ["u8[B,8,8,3]"], atol=1e-5)
    assert operators(model) == ["Cast", "Add", "Transpose", "Conv", "Transpose"]


@pytest.mark.parametrize("seed", range(12))
def test_chains_of_random_steps_behind_a_product(seed):
    rng = np.random.default_rng(seed)
    w = normal(rng, 6, 8)
    names = rng.choice(list(STEPS), 7)

    def fn(x):
        drawn = np.random.default_rng(seed)
        y = x @ w
        for name in names:
            some = [size if drawn.random() < 0.5 else 1 for size in y.shape]
            constant = np.clip(normal(drawn, *some), -2, 2)
            y = STEPS[name](y, constant)
        return y

    agrees(fn, [normal(rng, 2, 4, 6)], rtol=1e-4, atol=1e-5)


def test_a_product_with_what_a_loop_gives():
    rng = np.random.default_rng(6)
    w = normal(rng, 5, 7)

    def fn(x):
        return jax.lax.fori_loop(0, x.shape[0], lambda _, y: jnp.sin(y), x) @ w

    agrees(fn, [normal(rng, 2, 5)], ["f32[B,5]"])
