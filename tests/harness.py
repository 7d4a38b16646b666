"""What several test files share."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import j2o
from j2o.ir import dims
from j2o.ir.dims import DimScope


def stable_id(value):
    """The name of a parameter in a test's id: its repr, short, the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))[:40]


# ----------------------------------------------------------------------------- operands


def normal(*shape, dtype=np.float32):
    """Normally distributed numbers, the same for each shape."""
    random = np.random.default_rng(sum(shape))
    return random.standard_normal(shape).astype(dtype)


def convolved_nhwc(x, kernel):
    """A convolution with channels last, as Flax has it; the kernel is [height, width, inputs, outputs]."""
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )


def sized(shape, sizes):
    """The numbers that a shape is at these sizes: `("B", "H+2", 4)`, or the text `"B,H+2,4"`."""
    text = shape if isinstance(shape, str) else ",".join(map(str, shape))
    return tuple(dims.evaluate(d, sizes) for d in DimScope().shape(text))


def operators(model):
    """The operators of a model's graph in order, without their domain; constants are left out."""
    return [
        node.op.removeprefix("onnx.")
        for node in model.graph
        if node.op not in ("const", "return")
    ]


# ------------------------------------------------------------------- comparing with JAX


def agrees(fn, args, specs=None, *, rtol=1e-5, atol=1e-6, **options):
    """Compile a function, and compare the pytree that the model gives with the function's own; the model."""
    model = j2o.compile(fn, list(args) if specs is None else specs, **options)
    got = model(*args)
    want = fn(*(jnp.asarray(a) if isinstance(a, np.ndarray) else a for a in args))
    assert jax.tree.structure(got) == jax.tree.structure(want)
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=atol)
    return model


def assert_same(got, want):
    """Two pytrees of arrays are equal, signs of zeros included; NaN is equal to NaN."""
    for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        one, other = _comparable(one), _comparable(other)
        np.testing.assert_array_equal(one, other)
        if other.dtype.kind == "f":
            zero = other == 0
            np.testing.assert_array_equal(
                np.signbit(one[zero]), np.signbit(other[zero])
            )


def _comparable(array):
    """An array that numpy compares: floats as float64, complex numbers as complex128."""
    array = np.asarray(array)
    if array.dtype.kind in "iub":
        return array
    return array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
