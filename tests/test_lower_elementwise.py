"""Elementwise primitives that give JAX's own bits: all pairs of edge values of each dtype, a row a primitive.

`test_semantics.py` has more of where ONNX differs, and functions that round.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from tests.harness import assert_same

FLOATS = ["float32", "float16", "bfloat16"]
INTEGERS = ["int32", "int8", "uint8", "uint32"]
NUMBERS = FLOATS + INTEGERS
BOOL = ["bool"]
ALL = NUMBERS + BOOL

# primitive: how many operands, dtypes
CASES = {
    "abs": (1, ["float32", "float16", "int32", "int8"]),
    "add": (2, NUMBERS),
    "and": (2, INTEGERS + BOOL),
    "ceil": (1, FLOATS),
    "clz": (1, INTEGERS),
    "div": (2, ["float32", *INTEGERS]),
    "eq": (2, ALL),
    "floor": (1, FLOATS),
    "ge": (2, NUMBERS),
    "gt": (2, NUMBERS),
    "is_finite": (1, FLOATS),
    "le": (2, NUMBERS),
    "lt": (2, NUMBERS),
    "mul": (2, NUMBERS),
    "ne": (2, ALL),
    "neg": (1, NUMBERS),
    "not": (1, INTEGERS + BOOL),
    "or": (2, INTEGERS + BOOL),
    "population_count": (1, INTEGERS),
    "rem": (2, INTEGERS),
    "shift_left": (2, INTEGERS),
    "shift_right_arithmetic": (2, INTEGERS),
    "shift_right_logical": (2, INTEGERS),
    "sign": (1, NUMBERS),
    "square": (1, NUMBERS),
    "sub": (2, NUMBERS),
    "xor": (2, INTEGERS + BOOL),
}
ROWS = [(name, dtype) for name, (_, dtypes) in CASES.items() for dtype in dtypes]
# primitives whose name in Python is another one
NAMES = {
    "and": lax.bitwise_and,
    "not": lax.bitwise_not,
    "or": lax.bitwise_or,
    "xor": lax.bitwise_xor,
}


def edges(dtype):
    """Values at the edges of a dtype."""
    if dtype == "bool":
        return np.array([True, False])
    if dtype in FLOATS:
        values = [0.0, -0.0, 1.0, -2.5, 3.0, np.inf, -np.inf, np.nan]
        return np.array(values).astype(jnp.dtype(dtype))
    info = np.iinfo(dtype)
    return np.array([info.min, info.max, 0, 1, 2, 7, info.max - 1], dtype)


def operands(count, dtype):
    """Arrays that hold all combinations of edge values."""
    grid = np.meshgrid(*[edges(dtype)] * count)
    return [array.ravel() for array in grid]


@pytest.mark.parametrize(("name", "dtype"), ROWS)
def test_edges_of_each_dtype_are_those_of_jax(name, dtype):
    fn = NAMES.get(name) or getattr(lax, name)
    arrays = operands(CASES[name][0], dtype)
    model = j2o.compile(fn, [f"{dtype}[B]"] * len(arrays))
    want = jax.jit(fn)(*arrays)
    assert_same(model(*arrays), want)
    one = [array[:1] for array in arrays]
    assert_same(model(*one), want[:1])
    none = [array[:0] for array in arrays]
    assert_same(j2o.compile(fn, none)(*none), want[:0])
