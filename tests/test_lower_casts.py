"""Conversions between dtypes: of values as XLA does them, and of bits, with and without ONNX's BitCast."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.frontend.versions import enable_x64
from tests.harness import assert_same

OPSETS = [21, None]
# no subnormal numbers: XLA takes them for 0 on CPU
EDGES = [
    0.0,
    -0.0,
    1.5,
    -2.5,
    np.inf,
    -np.inf,
    3e38,
    480.0,
    6e4,
    61440.0,
    6e-8,
    1e308,
    126.5,
    -129.0,
    255.5,
    2.0**31,
    2.0**63,
]
INTEGERS = [
    "int8",
    "uint8",
    "int16",
    "uint16",
    "int32",
    "uint32",
    "int64",
    "uint64",
    "int4",
    "uint4",
    "int2",
    "uint2",
    "bool",
]
FLOATS = ["float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2"]
UNSIGNED = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


def points(dtype):
    with np.errstate(all="ignore"):
        return np.array(EDGES, np.float64).astype(jnp.dtype(dtype))


def equal(fn, *args, opset=None):
    with enable_x64(True), np.errstate(all="ignore"):
        got = j2o.compile(fn, list(args), opset=opset)(*args)
        assert_same(got, fn(*map(jnp.asarray, args)))


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_saturate_to_integers(dtype):
    x = np.append(points(dtype), np.array(np.nan, jnp.dtype(dtype)))
    equal(
        lambda x: [lax.convert_element_type(x, t).astype("int64") for t in INTEGERS], x
    )


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats_round_to_floats(dtype):
    equal(
        lambda x: [lax.convert_element_type(x, t).astype("float64") for t in FLOATS],
        points(dtype),
    )


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap(dtype):
    x = np.array(
        [0, 1, -1, 2, -2, 7, 8, 127, 128, 255, 256, -(2**31), 2**40 + 3]
    ).astype(np.int64)
    equal(
        lambda x: [
            x.astype(dtype).astype(t).astype("float64")
            for t in (*INTEGERS, *FLOATS[:4])
        ],
        x,
    )


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_bits_of_floats_and_back(dtype, opset):
    x = points(dtype)
    x = x[~np.isnan(x)]  # the bits of NaN are not kept
    equal(
        lambda x: lax.bitcast_convert_type(x, UNSIGNED[x.dtype.itemsize]),
        x,
        opset=opset,
    )
    bits = np.append(
        x.view(UNSIGNED[x.dtype.itemsize]),
        np.arange(5, dtype=UNSIGNED[x.dtype.itemsize]),
    )
    equal(lambda u: lax.bitcast_convert_type(u, dtype), bits, opset=opset)


def test_bits_of_other_widths():
    words = np.array([[1, 2**32 - 1], [2**31, 12345]], np.uint32)
    for new in ("uint8", "int16", "uint64", "float64", "int32"):
        equal(lambda x, new=new: lax.bitcast_convert_type(x, new), words)


def test_integers_that_an_8_bit_float_cannot_hold():
    for dtype in (np.uint16, np.int32):
        x = np.array([0, 447, 465, 500, 57344, 61439, 65535], dtype)
        equal(
            lambda x: [
                x.astype(t).astype("float32")
                for t in (jnp.float8_e4m3fn, jnp.float8_e5m2)
            ],
            x,
        )


def test_powers_of_two():
    ends = [
        2.0**-127,
        2.0**-126,
        1.49 * 2.0**127,
        1.5 * 2.0**127,
        np.inf,
        np.nan,
        0.0,
        -0.0,
        -1.0,
        -np.inf,
    ]
    x = np.array([1, 1.4999, 1.5, 2.5, 3, 3.5, 5, 6, *ends], np.float32)
    equal(lambda x: x.astype(jnp.float8_e8m0fnu).astype("float32"), x)
    equal(
        lambda x: x.astype(jnp.float8_e8m0fnu).astype("float32"),
        np.arange(-3, 40, dtype=np.int32),
    )


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_fewer_bits_of_precision(dtype, opset):
    x = np.append(points(dtype), np.array(np.nan, jnp.dtype(dtype)))
    forms = list(itertools.product((2, 5, 8, 11), (0, 3, 7, 23)))
    equal(
        lambda x: [
            lax.reduce_precision(x, exponent, mantissa) for exponent, mantissa in forms
        ],
        x,
        opset=opset,
    )


def test_the_next_float():
    for opset, t in itertools.product(OPSETS, FLOATS[:4]):
        x, y = (a.ravel() for a in np.meshgrid(points(t), points(t)))
        equal(lax.nextafter, x, y, opset=opset)


def test_parts_of_complex_numbers_are_kept():
    z = np.array(
        [complex(1, np.inf), complex(-0.0, np.nan), complex(np.inf, -0.0)], np.complex64
    )
    got = np.asarray(j2o.compile(lambda z: z[::-1], [z])(z))
    np.testing.assert_array_equal(
        got.view(np.float32).view(np.int32),
        z[::-1].copy().view(np.float32).view(np.int32),
    )


@pytest.mark.parametrize("dtype", ["float32", "int8", "complex64"])
def test_products_in_another_dtype(dtype):
    x = np.array([100, -3, 0, 7], np.int32 if dtype != "complex64" else np.float32)
    j2o.compile(lambda x: lax.mul(x, x[::-1], out_dtype=dtype), [x]).verify(x)


def test_composites_have_any_attributes():
    fn = lax.composite(lambda x, **attributes: x + 1, name="my.op")
    attributes = dict(
        table=np.arange(3), dtype=np.dtype("float32"), shape=(1, 2), none=None
    )
    equal(lambda x: fn(x, **attributes), np.ones(3, np.float32))
