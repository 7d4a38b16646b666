"""Loops and branches, compared with JAX; every case at two optimisation levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import normal, sized

CASES = {}  # by name: a function, and the specs of its arguments


def case(*specs):
    """Decorator that makes a case of a function."""

    def register(fn):
        CASES[fn.__name__] = (fn, list(specs))
        return fn

    return register


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax(name, level):
    fn, specs = CASES[name]
    model = j2o.compile(fn, specs, opt_level=level)
    for sizes in ({"B": 3, "T": 4}, {"B": 1, "T": 1}):
        arguments = [value(spec, sizes) for spec in specs]
        model.verify(*arguments, rtol=1e-5, atol=1e-6)


def value(spec, sizes):
    """An argument: 6 for an integer, else random numbers."""
    if spec == "i32[]":
        return np.int32(6)
    return normal(*sized(spec, sizes))


# --------------------------------------------------------------------------------- scan

ROWS = ("T", "B", 3)
ROW = ("B", 3)


def step(c, x):
    return c * 0.5 + x, (c - x, c.sum() > 0)


@case(ROWS, ROW)
def scan(x, c):
    return lax.scan(step, c, x)


@case(ROWS, ROW)
def scan_reverse(x, c):
    return lax.scan(step, c, x, reverse=True)


@case(ROWS, ROW)
def scan_may_be_empty(x, c):
    return lax.scan(step, c, x[1:])


@case(ROWS, ROW)
def scan_may_be_empty_reverse(x, c):
    return lax.scan(step, c, x[1:], reverse=True)


@case(ROWS, ROW)
def scan_empty(x, c):
    return lax.scan(step, c, x[:0])


@case(ROW, ROW)
def scan_once(x, c):
    return lax.scan(step, c, x[None])


def doubled(c, _):
    return c * 2, c.sum()


@case(("B",))
def scan_no_xs(c):
    return lax.scan(doubled, c, None, length=4)


@case(("B",))
def scan_no_xs_reverse(c):
    return lax.scan(doubled, c, None, length=4, reverse=True)


@case(ROW)
def scan_no_carry(x):
    return lax.map(lambda row: row * row.sum(), x)


@case(ROW)
def scan_ys_unchanged(x):
    return lax.scan(lambda c, row: (c, row), x.sum(), x)


@case(ROW)
def scan_ys_constant(x):
    def count(c, _):
        return c + 1, (jnp.zeros(2), x[0])

    return lax.scan(count, 0, x)


@case(("B", "T"))
def nested(x):
    def row(total, r):
        def element(c, v):
            return c + v * total, c

        inner, ys = lax.scan(element, 0.0, r)
        return total + inner, ys

    return lax.scan(row, 1.0, x)


@case(ROW)
def associative(x):
    return lax.associative_scan(jnp.add, x, axis=1)


# ------------------------------------------------------------------- fori_loop and while


@case(("B",))
def fori_static(x):
    return lax.fori_loop(0, 5, lambda i, c: c + x * i, x)


@case((3,), "i32[]")
def fori_dynamic(x, n):
    return lax.fori_loop(1, n, lambda i, c: c + x[i % 3], 0.0)


@case(ROW)
def fori_symbolic(x):
    return lax.fori_loop(0, x.shape[0], lambda i, c: c + x[i], jnp.zeros(3))


@case(("B",))
def fori_backwards(x):
    return lax.fori_loop(4, 2, lambda i, c: c + 1.0, x)


@case("i32[]")
def while_collatz(n):
    def goes_on(state):
        return state[0] != 1

    def body(state):
        n, count = state
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return lax.while_loop(goes_on, body, (n, 0))


@case(("B",))
def while_never(x):
    return lax.while_loop(lambda c: c.sum() > 1e9, lambda c: c * 2, x)


@case(("B",), ("B",))
def while_swaps(x, y):
    def goes_on(state):
        return state[0] < 5

    def body(state):
        n, first, second = state
        return n + 2, second, first

    return lax.while_loop(goes_on, body, (0, x, y))


@case(("B",))
@jax.vmap
def while_batched(x):
    return lax.while_loop(lambda c: c < 10, lambda c: c * 2 + 1, jnp.abs(x))


# --------------------------------------------------------------------------------- cond


@case(("B",))
def cond(x):
    def positive(v):
        return v, v.sum()

    def other(v):
        return -v, 1.0

    return lax.cond(x.sum() > 0, positive, other, x)


@case(("B",), ("B",))
def cond_captures(x, y):
    return lax.cond(x[0] > 0, lambda: x, lambda: y)


@case(("B",))
def cond_constants(x):
    return lax.cond(x[0] > 0, lambda: 1, lambda: 2)


@case(("B",))
def cond_in_scan(x):
    def step(c, r):
        return lax.cond(r > 0, jnp.sin, jnp.cos, c + r), c

    return lax.scan(step, 0.0, x)


@case(("B",))
@jax.vmap
def cond_vmap(x):
    return lax.cond(x > 0, jnp.sin, jnp.cos, x)


# ---------------------------------------------------------------------------- gradients


@case(("B",))
@jax.grad
def grad_of_scan(x):
    def step(c, r):
        return jnp.tanh(c + r), c

    _, ys = lax.scan(step, 0.1, x)
    return ys.sum()


@case(("B",))
@jax.grad
def grad_of_cond(x):
    return lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x).sum()


# --------------------------------------------------------------------- switch and dtypes


@pytest.mark.parametrize("branches", [1, 2, 3, 5, 8])
def test_switch_clamps_its_index(branches):
    fns = [lambda x, k=k: x * k + k for k in range(branches)]
    model = j2o.compile(lambda i, x: lax.switch(i, fns, x), ["i32[]", ("B",)])
    for i in range(-2, branches + 2):
        model.verify(np.int32(i), np.ones(3, np.float32))


@pytest.mark.parametrize(
    "dtype", ["bool", "int8", "uint8", "int16", "uint32", "float16", "bfloat16"]
)
def test_every_dtype_is_carried(dtype):
    x = jnp.arange(6).reshape(3, 2).astype(dtype)

    def one_later(x):
        return lax.scan(lambda c, row: (row, c), x[0], x)

    j2o.compile(one_later, [x]).verify(x)


def sums_in_scan(x, one):
    return lax.scan(lambda c, row: (c + row, row + row), one, x)


def counts_in_while(x, one):
    def goes_on(c):
        return jnp.all(c.astype("int32") < 5)

    return lax.while_loop(goes_on, lambda c: c + one, x)


def sums_in_cond(x, one):
    return lax.cond(x[0] > one, lambda v: v + v, lambda v: v, x)


def largest_in_scan(x, one):
    def step(c, row):
        return lax.cond(row > c, lambda: row, lambda: c), c

    return lax.scan(step, one, x)


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
@pytest.mark.parametrize(
    "program", [sums_in_scan, counts_in_while, sums_in_cond, largest_in_scan]
)
def test_4_bits_in_control_flow(program, dtype):
    """For which Scan, Loop and If have no kernels."""
    x = np.array([2, 3, 7, 1], np.int32)

    def results(x):
        found = program(x.astype(dtype), jnp.asarray(1, dtype))
        return [v.astype("int32") for v in jax.tree.leaves(found)]

    j2o.compile(results, [x]).verify(x)


def test_what_a_body_does_not_change_is_not_carried():
    def multiple(x, n):
        return lax.fori_loop(0, n, lambda i, c: c + x, x)

    model = j2o.compile(multiple, [("B",), "i32[]"])
    loop = next(n for n in model.graph if n.op == "onnx.Loop")
    # rounds, no condition, the sum: nobody looks at the counter
    assert len(loop.inputs) == 2 + 1
    assert loop.inputs[1] is None


def test_a_counter_that_nobody_looks_at_is_not_carried():
    def powers(x, n):
        squares, _ = lax.fori_loop(
            0, n, lambda i, c: (c[0] * c[0], c[1] + c[0]), (x, x)
        )
        return squares

    def last_of_two(xs):
        (_, last), (rows, _) = lax.scan(
            lambda c, x: ((c[0] + c[1], x), (x + 1, c[0])), (xs[0], xs[0]), xs
        )
        return last, rows

    model = j2o.compile(powers, ["f32[B]", "i32[]"])
    for n in (0, 1, 3):
        model.verify(np.float32([1, 2, 0.5]), np.int32(n))
    (loop,) = model.graph.nodes_of("onnx.Loop")
    # the round, whether to go on, the square
    assert len(loop.graphs[0].inputs) == 3


def test_what_nobody_uses_is_not_carried_or_stacked():
    def last_of_two(xs):
        def body(carry, x):
            total, _ = carry
            return (total + x, x * 2), (x + 1, total)

        (_, last), (rows, _) = lax.scan(body, (xs[0], xs[0]), xs)
        return last, rows

    model = j2o.compile(last_of_two, ["f32[T,2]"])
    for length in (1, 4):
        model.verify(np.ones((length, 2), np.float32))
    (loop,) = model.graph.nodes_of("onnx.Loop", "onnx.Scan")
    assert len(loop.outputs) == 2
