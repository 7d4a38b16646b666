"""Random bits, equal to those of JAX on CPU bit for bit, for every generator and kind of key."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import normal, operators

STATES = [
    np.array([1234567890123456789, 2**64 - 3], np.uint64),
    np.array([1, 2**32 - 1, 3, 2**32 - 1], np.uint32),
]


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "uint64"])
@pytest.mark.parametrize("algorithm", lax.RandomAlgorithm)
def test_rng_bit_generator(algorithm, dtype):
    def fn(state):
        shapes = ((), (5,), (4, 3), (3, 5), (0, 3))
        return [
            lax.rng_bit_generator(state, shape, dtype, algorithm) for shape in shapes
        ]

    with enable_x64(True):
        for state in STATES:
            j2o.compile(fn, [state]).verify(state, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["uint32", "uint64"])
@pytest.mark.parametrize("algorithm", lax.RandomAlgorithm)
def test_bits_over_a_symbolic_shape(algorithm, dtype):
    def fn(state, x):
        return lax.rng_bit_generator(state, x.shape, dtype, algorithm)

    with enable_x64(True):
        model = j2o.compile(fn, [STATES[1], "f32[B,T,3]"])
        for batch, time in [(1, 1), (2, 3), (5, 2), (3, 5)]:
            x = np.ones((batch, time, 3), np.float32)
            model.verify(STATES[1], x, rtol=0, atol=0)


PROGRAMS = {
    "bits": lambda k: [
        jax.random.bits(k, (5,), t) for t in ("uint8", "uint16", "uint32")
    ],
    "split": lambda k: jax.random.key_data(jax.random.split(k, (2, 3))),
    "fold_in": lambda k: jax.random.key_data(jax.random.fold_in(k, 7)),
    "seed": lambda k: jax.random.key_data(
        jax.random.key(jax.random.bits(k), impl=jax.random.key_impl(k))
    ),
    "batched": lambda k: jax.vmap(lambda k: jax.random.bits(k, (3,)))(
        jax.random.split(k, 3)
    ),
    "scan": lambda k: lax.scan(
        lambda k, _: (jax.random.split(k)[0], jax.random.bits(k)), k, None, length=3
    )[1],
    "clone": lambda k: jax.random.bits(jax.random.clone(k)),
    "wrap": lambda k: jax.random.split(
        jax.random.wrap_key_data(jax.random.key_data(k), impl=jax.random.key_impl(k))
    ),
    "permutation": lambda k: jax.random.permutation(k, 20),
    "randint": lambda k: jax.random.randint(k, (5,), -3, 100, "int8"),
    "normal": lambda k: jax.random.normal(k, (7,)),
    "gamma": lambda k: jax.random.gamma(k, jnp.array([0.3, 1.0, 4.0])),
    "gamma_gradient": lambda k: jax.grad(lambda a: jax.random.loggamma(k, a).sum())(
        jnp.array([0.5, 2.0])
    ),
    "orthogonal": lambda k: jnp.abs(jax.random.orthogonal(k, 3)),
}


@pytest.mark.parametrize("implementation", ["threefry2x32", "rbg", "unsafe_rbg"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_kind_of_key(name, implementation):
    key = jax.random.key(3, impl=implementation)
    j2o.compile(PROGRAMS[name], [key]).verify(key, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    "sample", [jax.random.normal, jax.random.uniform, jax.random.gumbel]
)
def test_numbers_of_a_fixed_key_are_constants(sample):
    def fn(x):
        key, _ = jax.random.split(jax.random.key(3))
        return x * sample(key, (4, 8))

    model = j2o.compile(fn, ["f32[B,4,8]"])
    assert operators(model) == ["Mul"]
    model.verify(normal(2, 4, 8))
