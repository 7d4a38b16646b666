"""`batch_norms` with whole programs: norms that no convolution takes in are one node, their values JAX's."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tests.harness import agrees, convolved_nhwc, normal, operators

KERNEL = normal(3, 3, 4, 4)
MEAN, SCALE, BIAS = normal(4), normal(4) + 2, normal(4)


def convolved(x):
    return convolved_nhwc(x, KERNEL)


def test_a_norm_in_front_of_an_activation_is_one_node():
    def program(x):
        y = convolved(x)
        return convolved(jax.nn.relu((y - MEAN) * SCALE + BIAS)) + y

    model = agrees(program, [normal(2, 5, 5, 4)], ["f32[B,5,5,4]"], atol=1e-4)
    made = operators(model)
    assert made.count("BatchNormalization") == 1
    assert made.count("Transpose") == 2


def test_infinities_and_nan_stay():
    x = normal(1, 4, 6)
    x[0, :, 0] = [np.nan, np.inf, -np.inf, -0.0]
    model = agrees(lambda x: x * SCALE[:, None] + BIAS[:, None], [x], ["f32[B,4,6]"])
    assert operators(model) == ["BatchNormalization"]


def test_a_mean_far_from_zero_is_taken_off_first():
    """The values lie near the mean, of which float32 holds few digits behind the point."""
    far = np.full((4, 1), 5e5, np.float32)
    x = far + normal(1, 4, 6).round(1)
    model = agrees(lambda x: (x - far) * 2.0 + 1.0, [x], ["f32[B,4,6]"])
    assert operators(model) == ["Sub", "Mul", "Add"]


def test_an_average_is_not_summed_and_divided():
    def pooled(x):
        total = lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return total / jnp.float32(4)

    model = agrees(pooled, [normal(2, 4, 4, 3)], ["f32[B,4,4,3]"])
    assert operators(model) == ["Transpose", "AveragePool", "Transpose"]


def test_a_quotient_and_its_weight_are_one_node():
    """Equinox divides by the deviation, and multiplies by the weight behind that."""

    def program(x):
        normalised = (x - MEAN[:, None]) / SCALE[:, None]
        return normalised * BIAS[:, None] + MEAN[:, None]

    model = agrees(program, [normal(2, 4, 6)], ["f32[B,4,6]"])
    assert operators(model) == ["BatchNormalization"]
