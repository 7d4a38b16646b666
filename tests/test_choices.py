"""`jnp.select` and `jnp.piecewise`: a Where for each case, and the cases of JAX."""

import jax.numpy as jnp
import numpy as np
import pytest

from tests.harness import agrees, operators

# some hold none of the conditions below, some one, some several
X = np.array([-2, -1, -0.5, 0.5, 1, 1.5, 2, np.nan, np.inf, -np.inf], np.float32)


def select(x):
    return jnp.select([x > 1, x > 0, x > -1], [jnp.sin(x), x * 2, x], 5.0)


def select_other_order(x):
    return jnp.select([x > -1, x > 0, x > 1], [jnp.sin(x), x * 2, x], 5.0)


def select_columns(x):
    column = x[:, None]
    return jnp.select([column > 1, column > x], [column, x], column - x)


def piecewise(x):
    return jnp.piecewise(
        x, [x < 0, x > 1, x > 1.5], [jnp.negative, 3.0, jnp.sqrt, jnp.exp]
    )


@pytest.mark.parametrize("fn", [select, select_other_order, piecewise])
def test_one_where_a_case(fn):
    model = agrees(fn, [X], ["f32[B]"])
    assert operators(model).count("Where") == 3
    assert "ArgMax" not in operators(model)


def test_conditions_that_broadcast():
    model = agrees(select_columns, [X], ["f32[B]"])
    assert operators(model).count("Where") == 2


def test_a_condition_for_whole_tensors():
    def fn(x, flag):
        return jnp.select([flag, x.sum() > 0], [x, -x], 0)

    for flag in (False, True):
        for x in (X[:3], X[3:5]):
            model = agrees(fn, [x, np.array(flag)], ["f32[B]", "bool[]"])
    assert "ArgMax" not in operators(model)
