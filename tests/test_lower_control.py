"""Loops and branches, compared with JAX; every case at two optimisation levels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o


def step(c, x):
    return c * 0.5 + x, (c - x, c.sum() > 0)


def nested(x):
    def row(total, r):
        inner, ys = lax.scan(lambda c, v: (c + v * total, c), 0.0, r)
        return total + inner, ys

    return lax.scan(row, 1.0, x)


def collatz(n):
    def body(s):
        n, count = s
        return jnp.where(n % 2 == 0, n // 2, 3 * n + 1), count + 1

    return lax.while_loop(lambda s: s[0] != 1, body, (n, 0))


CASES = {
    "scan": (lambda x, c: lax.scan(step, c, x), [("T", "B", 3), ("B", 3)]),
    "scan_reverse": (
        lambda x, c: lax.scan(step, c, x, reverse=True),
        [("T", "B", 3), ("B", 3)],
    ),
    "scan_may_be_empty": (
        lambda x, c: lax.scan(step, c, x[1:]),
        [("T", "B", 3), ("B", 3)],
    ),
    "scan_may_be_empty_reverse": (
        lambda x, c: lax.scan(step, c, x[1:], reverse=True),
        [("T", "B", 3), ("B", 3)],
    ),
    "scan_empty": (lambda x, c: lax.scan(step, c, x[:0]), [("T", "B", 3), ("B", 3)]),
    "scan_once": (lambda x, c: lax.scan(step, c, x[None]), [("B", 3), ("B", 3)]),
    "scan_no_xs": (
        lambda c: lax.scan(lambda c, _: (c * 2, c.sum()), c, None, length=4),
        [("B",)],
    ),
    "scan_no_xs_reverse": (
        lambda c: lax.scan(
            lambda c, _: (c * 2, c.sum()), c, None, length=4, reverse=True
        ),
        [("B",)],
    ),
    "scan_no_carry": (lambda x: lax.map(lambda r: r * r.sum(), x), [("B", 3)]),
    "scan_ys_unchanged": (
        lambda x: lax.scan(lambda c, r: (c, r), x.sum(), x),
        [("B", 3)],
    ),
    "scan_ys_constant": (
        lambda x: lax.scan(lambda c, r: (c + 1, (jnp.zeros(2), x[0])), 0, x),
        [("B", 3)],
    ),
    "nested": (nested, [("B", "T")]),
    "associative": (lambda x: lax.associative_scan(jnp.add, x, axis=1), [("B", 3)]),
    "fori_static": (lambda x: lax.fori_loop(0, 5, lambda i, c: c + x * i, x), [("B",)]),
    "fori_dynamic": (
        lambda x, n: lax.fori_loop(1, n, lambda i, c: c + x[i % 3], 0.0),
        [(3,), "i32[]"],
    ),
    "fori_symbolic": (
        lambda x: lax.fori_loop(0, x.shape[0], lambda i, c: c + x[i], jnp.zeros(3)),
        [("B", 3)],
    ),
    "fori_backwards": (
        lambda x: lax.fori_loop(4, 2, lambda i, c: c + 1.0, x),
        [("B",)],
    ),
    "while": (collatz, ["i32[]"]),
    "while_never": (
        lambda x: lax.while_loop(lambda c: c.sum() > 1e9, lambda c: c * 2, x),
        [("B",)],
    ),
    "while_swaps": (
        lambda x, y: lax.while_loop(
            lambda s: s[0] < 5, lambda s: (s[0] + 2, s[2], s[1]), (0, x, y)
        ),
        [("B",), ("B",)],
    ),
    "while_batched": (
        jax.vmap(
            lambda x: lax.while_loop(lambda c: c < 10, lambda c: c * 2 + 1, jnp.abs(x))
        ),
        [("B",)],
    ),
    "cond": (
        lambda x: lax.cond(x.sum() > 0, lambda v: (v, v.sum()), lambda v: (-v, 1.0), x),
        [("B",)],
    ),
    "cond_captures": (
        lambda x, y: lax.cond(x[0] > 0, lambda: x, lambda: y),
        [("B",), ("B",)],
    ),
    "cond_constants": (lambda x: lax.cond(x[0] > 0, lambda: 1, lambda: 2), [("B",)]),
    "cond_in_scan": (
        lambda x: lax.scan(
            lambda c, r: (lax.cond(r > 0, jnp.sin, jnp.cos, c + r), c), 0.0, x
        ),
        [("B",)],
    ),
    "cond_vmap": (jax.vmap(lambda x: lax.cond(x > 0, jnp.sin, jnp.cos, x)), [("B",)]),
    "grad_of_scan": (
        jax.grad(
            lambda x: lax.scan(lambda c, r: (jnp.tanh(c + r), c), 0.1, x)[1].sum()
        ),
        [("B",)],
    ),
    "grad_of_cond": (
        jax.grad(lambda x: lax.cond(x.sum() > 0, jnp.sin, jnp.cos, x).sum()),
        [("B",)],
    ),
}


def value(spec, sizes):
    if spec == "i32[]":
        return np.int32(6)
    shape = tuple(sizes.get(d, d) for d in spec)
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_jax(name, level):
    fn, specs = CASES[name]
    model = j2o.compile(fn, specs, opt_level=level)
    for sizes in ({"B": 3, "T": 4}, {"B": 1, "T": 1}):
        model.verify(*(value(s, sizes) for s in specs), rtol=1e-5, atol=1e-6)


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
    j2o.compile(lambda x: lax.scan(lambda c, r: (r, c), x[0], x), [x]).verify(x)


@pytest.mark.parametrize("dtype", ["int4", "uint4"])
def test_4_bits_in_control_flow(dtype):
    """For which Scan, Loop and If have no kernels."""
    one = jnp.asarray(1, dtype)
    programs = [
        lambda x: lax.scan(lambda c, row: (c + row, row + row), one, x),
        lambda x: lax.while_loop(
            lambda c: jnp.all(c.astype("int32") < 5), lambda c: c + one, x
        ),
        lambda x: lax.cond(x[0] > one, lambda v: v + v, lambda v: v, x),
        lambda x: lax.scan(
            lambda c, row: (lax.cond(row > c, lambda: row, lambda: c), c), one, x
        ),
    ]
    x = np.array([2, 3, 7, 1], np.int32)
    for program in programs:

        def results(x, program=program):
            return [
                v.astype("int32") for v in jax.tree.leaves(program(x.astype(dtype)))
            ]

        j2o.compile(results, [x]).verify(x)


def test_what_a_body_does_not_change_is_not_carried():
    model = j2o.compile(
        lambda x, n: lax.fori_loop(0, n, lambda i, c: c + x, x), [("B",), "i32[]"]
    )
    loop = next(n for n in model.graph if n.op == "onnx.Loop")
    assert len(loop.inputs) == 2 + 2  # rounds, no condition; the counter and the sum
    assert loop.inputs[1] is None
