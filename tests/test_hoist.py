"""`invariants`, `sink` and `hoist` with whole programs: what a loop does once instead of in each round."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import agrees, normal, operators

W, R, BIAS = normal(6, 4), normal(4, 4) / 2, normal(4)
X = normal(3, 7, 6)
SPECS = ["f32[B,T,6]"]


def zeros(x):
    return jnp.zeros((x.shape[0], 4))


def in_the_loop(model):
    """The operators in the body of the only Scan."""
    (scan,) = [node for node in model.graph if node.op == "onnx.Scan"]
    body = scan.graphs[0]
    return [node.kind for node in body if node.op not in ("const", "return")]


def over_time(step):
    """A program that scans the second axis of its input."""
    return lambda x: lax.scan(step, zeros(x), x.swapaxes(0, 1))[1]


@pytest.mark.parametrize("reverse", [False, True])
def test_a_network_of_relus_multiplies_its_rows_once(reverse):
    def step(h, x):
        h = jax.nn.relu(x @ W + BIAS + h @ R)
        return h, h

    def fn(x):
        return lax.scan(step, zeros(x), x.swapaxes(0, 1), reverse=reverse)

    model = agrees(fn, [X], SPECS)
    assert in_the_loop(model) == ["MatMul", "Add", "Relu"]


def test_layers_in_front_of_the_state_and_behind_it():
    def step(h, x):
        h = jnp.cos(jax.nn.relu(x @ W + BIAS) @ R + h)
        return h, jax.nn.softmax(h @ R + BIAS) * x[:, :4]

    model = agrees(over_time(step), [X], SPECS)
    assert in_the_loop(model) == ["Add", "Cos"]
    assert operators(model).count("MatMul") == 3


def test_a_matrix_on_the_left_with_and_without_a_batch():
    def step(h, x):
        h = jax.nn.relu(W.T @ x + R @ h)
        return h, R @ h

    fn = lambda x: lax.scan(step, jnp.zeros(4), x)  # noqa: E731
    for program, x, spec in ((fn, X[0], "f32[T,6]"), (jax.vmap(fn), X, SPECS[0])):
        model = agrees(program, [x], [spec])
        assert in_the_loop(model).count("MatMul") == 1


def test_what_is_the_same_in_each_round_is_computed_once():
    def fn(x, w, numbers):
        def step(h, x):
            h = jnp.cos(x @ (w * 2).T + h) * jnp.sum(numbers)
            return h, h

        return lax.scan(step, zeros(x), x.swapaxes(0, 1))

    model = agrees(fn, [X, normal(4, 6), normal(5)], [*SPECS, "f32[4,6]", "f32[N]"])
    assert in_the_loop(model) == ["Add", "Cos", "Mul"]


def test_integers_keep_their_overflow():
    w = np.array([[2**30, 3], [5, 2**31 - 1]], np.int32)

    def step(h, x):
        return h ^ (x @ w), (h + 1) @ w

    def fn(x):
        return lax.scan(step, jnp.zeros(2, jnp.int32), x)

    agrees(fn, [np.arange(10, dtype=np.int32).reshape(5, 2)], ["i32[T,2]"])


def test_many_more_elements_than_a_round_has_stay_in_the_loop():
    wide = normal(6, 10_000)

    def step(h, x):
        h = h + jnp.max(x @ wide)
        return h, h

    fn = lambda x: lax.scan(step, jnp.float32(0), x)[1]  # noqa: E731
    model = agrees(fn, [X[0]], ["f32[T,6]"], rtol=1e-4)
    assert "MatMul" in in_the_loop(model)


def test_a_map_stays_a_loop():
    fn = lambda x: lax.map(lambda row: row @ W, x)  # noqa: E731
    assert "MatMul" in in_the_loop(agrees(fn, [X], SPECS))


def test_a_loop_that_may_run_no_round_gives_what_it_begins_with():
    def step(h, x):
        h = jnp.cos(x @ W + h)
        return h, h @ R

    fn = lambda x: lax.scan(step, zeros(x), x[:, 1:].swapaxes(0, 1))  # noqa: E731
    model = j2o.compile(fn, SPECS)
    for length in (1, 3):
        for got, want in zip(
            jax.tree.leaves(model(X[:, :length])),
            jax.tree.leaves(fn(X[:, :length])),
            strict=True,
        ):
            np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_rows_that_are_turned_round_are_read_from_the_end():
    def step(h, x):
        h = jnp.cos(x @ W + h)
        return h, h

    def fn(x):
        first, rows = zeros(x), jnp.flip(x, 1).swapaxes(0, 1)
        last, hs = lax.scan(step, first, rows)
        return last, jnp.flip(hs.swapaxes(0, 1), 1)

    found = operators(agrees(fn, [X], SPECS))
    assert "Slice" not in found


def test_loops_in_loops():
    def outer(h, x):
        def inner(g, y):
            g = jnp.cos(y @ W + g)
            return g, g @ R

        g, ys = lax.scan(inner, h, x)
        return g + ys.sum(0), ys

    fn = lambda x: lax.scan(outer, jnp.zeros(4), x)  # noqa: E731
    agrees(fn, [X], ["f32[A,T,6]"], rtol=1e-4, atol=1e-5)


def test_numbers_that_are_none_stay_in_their_rows():
    def step(h, x):
        h = jax.nn.relu(x @ W + BIAS + h @ R)
        return h, h @ R

    x = X.copy()
    x[0, 3, 2], x[1, 2, 0], x[2, 5, 1] = np.nan, np.inf, -np.inf
    got, want = j2o.compile(over_time(step), SPECS)(x), over_time(step)(x)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
