"""Complex numbers and PRNG keys, which ONNX does not have, compared with JAX."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from tests.harness import operators

rng = np.random.default_rng(0)
Z = (rng.standard_normal((3, 4)) + 1j * rng.standard_normal((3, 4))).astype(
    np.complex64
)
W = (rng.standard_normal((4, 5)) + 1j * rng.standard_normal((4, 5))).astype(
    np.complex64
)
ONE = [
    *("abs", "angle", "conj", "imag", "real", "sign"),
    *("cumprod", "cumsum", "prod", "sum"),
    *("exp", "exp2", "expm1", "log", "log1p", "reciprocal", "sqrt", "square"),
    *("arccos", "arcsin", "arctan", "cos", "sin", "tan"),
    *("arccosh", "arcsinh", "arctanh", "cosh", "sinh", "tanh"),
]


@pytest.mark.parametrize("name", ONE)
def test_function_of_one_complex_array(name):
    j2o.compile(getattr(jnp, name), [Z]).verify(Z)


COMPLEX = {
    "matmul": (lambda a, b: a @ b, (Z, W)),
    "arithmetic": (lambda a, b: a / b + a * b - b**2 + a**b, (Z, Z[::-1].copy())),
    "moving": (
        lambda a: jnp.pad(a[::-1].reshape(2, 6).T, 1, constant_values=2 - 1j),
        (Z,),
    ),
    "indexing": (lambda a: a.at[1:, 0].add(1j)[jnp.array([2, 0])], (Z,)),
    "comparison": (lambda a, b: (a == b, jnp.where(a.real > 0, a, b)), (Z, Z * 2)),
    "conversion": (lambda a: (a.real.astype(jnp.complex64), a.astype(bool)), (Z,)),
    "constant": (lambda a: a[:1] * Z, (Z,)),
    "scan": (lambda a: jax.lax.scan(lambda c, x: (c * x, c.real), a[0], a), (Z,)),
    "while": (
        lambda a: jax.lax.while_loop(
            lambda s: abs(s[0, 0]) < 9, lambda s: s * (1.5 + 1j), a
        ),
        (Z,),
    ),
    "cond": (lambda a: jax.lax.cond(a.real.sum() > 0, lambda: a, lambda: 1j * a), (Z,)),
    "gradient": (
        jax.grad(lambda x: jnp.abs(jnp.exp(1j * x) + x).sum()),
        (Z.real.copy(),),
    ),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_program(name):
    fn, args = COMPLEX[name]
    j2o.compile(fn, args).verify(*args)


def test_a_complex_boundary_is_real_with_a_last_axis_of_two():
    model = j2o.compile(lambda z: z * 2, ["c64[B,4]"])
    assert [str(v.type) for v in (*model.graph.inputs, *model.graph.outputs)] == [
        "f32[B,4,2]",
        "f32[B,4,2]",
    ]
    assert model(Z[:2]).dtype == np.complex64


KEY = jax.random.key(3)
CAPTURED = jax.random.key(5)
RANDOM = {
    "normal": (lambda k: jax.random.normal(k, (3, 4)), (KEY,)),
    "odd_size": (lambda k: jax.random.bits(k, (5,)), (KEY,)),
    "bits_16": (lambda k: jax.random.bits(k, (5,), "uint16"), (KEY,)),
    "seed": (lambda s: jax.random.uniform(jax.random.key(s), (5,)), (np.int32(-3),)),
    "split": (lambda k: jax.random.split(k, 3), (KEY,)),
    "fold_in": (
        lambda k, i: jax.random.key_data(jax.random.fold_in(k, i)),
        (KEY, np.int32(7)),
    ),
    "old_key": (
        lambda k: jax.random.bernoulli(k, 0.3, (3, 4)),
        (jax.random.PRNGKey(2),),
    ),
    "captured": (
        lambda x: x + jax.random.normal(CAPTURED, (3,)),
        (np.ones(3, np.float32),),
    ),
    "many_keys": (
        jax.vmap(lambda k: jax.random.normal(k, (2,))),
        (jax.random.split(KEY, 3),),
    ),
    "categorical": (
        lambda k, x: jax.random.categorical(k, x),
        (KEY, np.ones((5, 3), np.float32)),
    ),
    "in_a_loop": (
        lambda k: jax.lax.fori_loop(
            0,
            3,
            lambda i, s: (jax.random.split(s[0])[0], s[1] + jax.random.uniform(s[0])),
            (k, 0.0),
        )[1],
        (KEY,),
    ),
}


@pytest.mark.parametrize("name", RANDOM)
def test_random_program(name):
    fn, args = RANDOM[name]
    j2o.compile(fn, args).verify(*args, rtol=1e-6, atol=1e-6)


def test_random_bits_over_a_symbolic_shape_are_jax_own():
    model = j2o.compile(lambda k, x: jax.random.bits(k, x.shape), [KEY, ("B", 3)])
    for size in (1, 2, 5):
        model.verify(KEY, np.ones((size, 3), np.float32), rtol=0, atol=0)


def test_operands_of_different_kinds():
    """A real and a complex operand, parts that broadcast, a complex value that is only placed."""
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    model = j2o.compile(
        lambda x: jax.lax.dot(x, jax.lax.complex(x.T, -x.T)), [("B", 3)]
    )
    model.verify(x)
    model = j2o.compile(
        lambda x: jax.device_put(jax.lax.complex(x[:, :1], x)), [("B", 3)]
    )
    model.verify(x)


def test_the_square_of_a_modulus_needs_no_modulus():
    def fn(re, im):
        return jnp.abs(jax.lax.complex(re, im)) ** 2

    edges = np.float32([3, 0, 1e-25, 3e19, np.inf, -np.inf, np.nan])
    re, im = (axis.ravel() for axis in np.meshgrid(edges, edges))
    model = j2o.compile(fn, [("N",), ("N",)])
    model.verify(re, im)
    assert operators(model) == ["Mul", "Mul", "Add"]


def test_gamma_and_beta_are_jaxs():
    def program(words, a):
        key = jax.random.wrap_key_data(words)
        return jax.random.gamma(key, a, (4, 3)), jax.random.beta(key, a, a + 1)

    model = j2o.compile(program, ["u32[2]", (3,)])
    model.verify(
        np.array([1, 2], np.uint32), np.array([0.3, 1.0, 4.0], np.float32), rtol=1e-5
    )


def test_the_table_of_complex_formulas_does_not_depend_on_what_else_is_imported():
    def table(first):
        code = f"import {first}; from j2o.passes.components.tables import COMPLEX; print(sorted(COMPLEX))"
        return subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout

    assert "'eigh'" in table("j2o.passes.components.split")
    assert table("j2o.passes.components.split") == table("j2o.passes.lower")
