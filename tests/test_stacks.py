"""`stacks` and `flat_parts` with whole programs: queries, keys and values that one product gives."""

import jax
import jax.numpy as jnp
import pytest

from tests.harness import agrees, normal, operators

HEADS = 4
KERNEL = normal(32, 96) / 8


def third_axis(x):
    batch, time, size = x.shape
    qkv = (x @ KERNEL).reshape(batch, time, 3, HEADS, size // HEADS)
    q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
    return jax.nn.dot_product_attention(q, k, v).reshape(batch, time, size)


def moved_to_the_front(x):
    batch, time, size = x.shape
    qkv = (x @ KERNEL).reshape(batch, time, 3, HEADS, size // HEADS)
    q, k, v = qkv.transpose(2, 0, 3, 1, 4)
    weights = jax.nn.softmax(q @ jnp.swapaxes(k, -1, -2) * 0.25, axis=-1)
    return (weights @ v).transpose(0, 2, 1, 3).reshape(batch, time, size)


@pytest.mark.parametrize("spec", ["f32[B,T,32]", "f32[2,5,32]"])
@pytest.mark.parametrize("function", [third_axis, moved_to_the_front])
def test_queries_keys_and_values_are_one_split(function, spec):
    model = agrees(function, [normal(2, 5, 32)], [spec], atol=1e-5)
    assert operators(model) == ["MatMul", "Split", "Attention"]
