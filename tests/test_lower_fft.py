"""Fourier transforms of every kind: lengths done by one matrix, factored, prime, and symbolic."""

import jax.numpy as jnp
import numpy as np
import pytest

import j2o

random = np.random.default_rng(0)
FORWARD = {"fft": jnp.fft.fft, "ifft": jnp.fft.ifft, "rfft": jnp.fft.rfft}
# 400 is the last length of one matrix for real numbers, 256 for others; 257 and 263 are primes beyond it
LENGTHS = [1, 2, 7, 256, 300, 400, 402, 512, 257, 263]


@pytest.mark.parametrize("kind", FORWARD)
@pytest.mark.parametrize("length", LENGTHS)
def test_one_axis(kind, length):
    x = random.standard_normal((2, length)).astype(np.float32)
    j2o.compile(FORWARD[kind], [x]).verify(x, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize("length", [2, 7, 256, 400, 512, 263, 402])
def test_back_to_real(length):
    x = random.standard_normal((2, length)).astype(np.float32)
    spectrum = np.fft.rfft(x).astype(np.complex64)
    model = j2o.compile(lambda y: jnp.fft.irfft(y, length), [spectrum])
    model.verify(spectrum, rtol=1e-4, atol=2e-4)
    np.testing.assert_allclose(model(spectrum), x, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["fftn", "ifftn", "rfftn", "irfftn"])
def test_several_axes(kind):
    x = random.standard_normal((2, 3, 4, 5)).astype(np.float32)
    if kind == "irfftn":
        x = x.astype(np.complex64)
    program = getattr(jnp.fft, kind)
    j2o.compile(lambda y: program(y, axes=(1, 2, 3)), [x]).verify(
        x, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("kind", ["fft", "ifft", "rfft"])
def test_symbolic_length(kind):
    model = j2o.compile(FORWARD[kind], ["f32[B,N]"])
    for length in (1, 6, 9):
        model.verify(random.standard_normal((2, length)).astype(np.float32))
