"""Reductions, positions of extremes, cumulative operations: a row a primitive, compared with JAX.

`test_semantics.py` has the edges at which ONNX differs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import normal, sized

P = functools.partial
SHAPE = "B,T,3"
REAL = ["float32", "float16", "int32", "uint8"]
BOOL = ["bool"]
BITS = ["int32", "uint8", "bool"]


def reduced(computation, init):
    """The second axis reduced by a primitive of two operands."""
    return lambda x: lax.reduce(x, jnp.asarray(init, x.dtype), computation, (1,))


# primitive: function, dtypes
CASES = {
    "argmax": (P(lax.argmax, axis=1, index_dtype=np.int32), REAL + BOOL),
    "argmin": (P(lax.argmin, axis=2, index_dtype=np.int32), REAL),
    "cumlogsumexp": (P(lax.cumlogsumexp, axis=1), ["float32"]),
    "cummax": (P(lax.cummax, axis=1), REAL),
    "cummin": (P(lax.cummin, axis=0, reverse=True), REAL),
    "cumprod": (P(lax.cumprod, axis=2), REAL),
    "cumsum": (P(lax.cumsum, axis=1, reverse=True), REAL),
    "reduce_and": (reduced(lax.bitwise_and, -1), ["int32"]),
    "reduce_and of bools": (P(jnp.all, axis=(0, 2)), BOOL),
    "reduce_max": (P(jnp.max, axis=(0, 1)), REAL + BOOL),
    "reduce_min": (P(jnp.min, axis=1), REAL + BOOL),
    "reduce_or": (reduced(lax.bitwise_or, 0), BITS),
    "reduce_prod": (P(jnp.prod, axis=2, promote_integers=False), REAL),
    "reduce_sum": (P(jnp.sum, axis=(1, 2), promote_integers=False), REAL),
    "reduce_sum of all": (P(jnp.sum, promote_integers=False), REAL),
    "reduce_xor": (reduced(lax.bitwise_xor, 0), BITS),
}
ROWS = [(name, dtype) for name, (_, dtypes) in CASES.items() for dtype in dtypes]
# an extreme of no elements is an error in JAX
WITHOUT_ELEMENTS = [
    name for name in CASES if not name.startswith(("arg", "reduce_max", "reduce_min"))
]


def value(dtype, sizes):
    return (normal(*sized(SHAPE, sizes)) * 3).round().astype(np.int32).astype(dtype)


def agree(model, fn, x):
    """Integers and bools are equal, floats up to the rounding of sums in another order."""
    got, want = model(x), np.asarray(jax.jit(fn)(x))
    assert (got.dtype, got.shape) == (want.dtype, want.shape)
    rounding = {"float32": 1e-5, "float16": 1e-2}.get(want.dtype.name, 0)
    np.testing.assert_allclose(got, want, rtol=rounding, atol=rounding)


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_each_dtype_at_open_sizes(name, dtype):
    fn, _ = CASES[name]
    model = j2o.compile(fn, [f"{dtype}[{SHAPE}]"])
    for sizes in ({"B": 1, "T": 1}, {"B": 2, "T": 5}):
        agree(model, fn, value(dtype, sizes))


@pytest.mark.parametrize("name", WITHOUT_ELEMENTS)
def test_no_elements(name):
    fn, dtypes = CASES[name]
    x = np.zeros((2, 0, 3), dtypes[0])
    agree(j2o.compile(fn, [x]), fn, x)


@pytest.mark.parametrize("reduction", [jnp.max, jnp.min])
def test_the_greatest_of_u32_is_found_in_i64(reduction):
    """The highest bit is not flipped: OpenVINO reduces i32 as f32, which would spoil small numbers, too."""
    x = np.uint32([[3, 2**32 - 1, 7], [2**31, 5, 6]])
    model = j2o.compile(lambda x: reduction(x, 1), ["u32[B,3]"])
    np.testing.assert_array_equal(model(x), reduction(x, 1))
    operators = [node.op for node in model.graph if node.op != "const"]
    assert operators[0] == operators[2] == "onnx.Cast"
    assert len(operators) == 4
