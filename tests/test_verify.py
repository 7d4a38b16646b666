"""`Model.verify`: what is equal, what is close, what the messages say."""

import itertools

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

import j2o
from j2o.compare import difference


def verify(got, want, rtol=1e-4, atol=1e-5):
    return difference("y", np.asarray(got), np.asarray(want), rtol, atol)


INF, NAN = np.inf, np.nan
CLOSE = [
    (1.00001, 1.0),
    (0.0, -0.0),
    (NAN, NAN),
    (INF, INF),
    (-INF, -INF),
    (1e-6, 0.0),
    (1 + 1e-6j, 1 + 0j),
    (True, True),
    (7, 7),
    (complex(INF, NAN), complex(INF, NAN)),
]
FAR = [
    (1.001, 1.0),
    (NAN, 1.0),
    (1.0, NAN),
    (INF, 1.0),
    (1.0, INF),
    (INF, -INF),
    (NAN, INF),
    (INF, NAN),
    (-1.0, 1.0),
    (1e-4, 0.0),
    (1 + 1e-3j, 1 + 0j),
    (1 - 1j, 1 + 1j),
    (complex(NAN, 1), complex(NAN, 2)),
    (complex(INF, 1), complex(INF, 2)),
    (20001, 20002),
    (2**53, 2**53 + 1),
    (True, False),
    (-128, 127),
]


@pytest.mark.parametrize(("got", "want"), CLOSE)
def test_close(got, want):
    absolute, relative = verify(got, want)
    assert absolute < 1e-4
    assert relative < 1e-4 or want == 0


@pytest.mark.parametrize(("got", "want"), FAR)
def test_far(got, want):
    with pytest.raises(
        j2o.VerificationError,
        match=r"output 'y': 1 of 1 values differ.*; at \(\) the model gives",
    ):
        verify(got, want)


NARROW = [
    "int2",
    "int4",
    "uint2",
    "uint4",
    "bfloat16",
    "float8_e4m3fn",
    "float8_e5m2",
    "float8_e8m0fnu",
    "float4_e2m1fn",
]


@pytest.mark.parametrize("name", NARROW)
def test_dtypes_that_numpy_cannot_subtract(name):
    dtype = getattr(ml_dtypes, name)
    one, other = (
        np.ones(3, dtype),
        np.array([1, 0.5, 1] if "float" in name else [1, 0, 1], dtype),
    )
    assert verify(one, one) == (0, 0)
    with pytest.raises(
        j2o.VerificationError,
        match=r"1 of 3 values differ.*at \(1,\) the model gives 1.*, JAX 0",
    ):
        verify(one, other, rtol=0.1)


@pytest.mark.parametrize(
    ("name", "next_to_one"), [("float16", 1.001), ("bfloat16", 1.0078)]
)
def test_neighbours_in_a_float_of_16_bits_are_close(name, next_to_one):
    dtype = np.dtype(name)
    one, neighbour, far = (np.asarray(x, dtype) for x in (1, next_to_one, 1.4))
    assert neighbour > one
    verify(neighbour, one)
    with pytest.raises(j2o.VerificationError, match="1 of 1 values differ"):
        verify(far, one)
    with pytest.raises(j2o.VerificationError, match=r"\(rtol 0, atol 0\)"):
        verify(neighbour, one, rtol=0.0, atol=0.0)


def test_dtype_and_shape_are_compared():
    with pytest.raises(
        j2o.VerificationError, match=r"int32\[2\] instead of int64\[2\]"
    ):
        verify(np.ones(2, np.int32), np.ones(2, np.int64))
    with pytest.raises(
        j2o.VerificationError, match=r"float32\[1\] instead of float32\[\]"
    ):
        verify(np.ones(1, np.float32), np.ones((), np.float32))


def model_of(fn, specs, other):
    """A model of `fn` that verifies against `other`."""
    model = j2o.compile(fn, specs)
    model.fn = other
    return model


def test_integers_and_keys_are_equal_or_not():
    model = model_of(lambda n: n, ["i32[]"], lambda n: n + 1)
    with pytest.raises(
        j2o.VerificationError,
        match=r"the model gives 20001, JAX 20002 \(all must be equal\)",
    ):
        model.verify(20001)
    keys = model_of(lambda k: k, ["key<fry>[]"], lambda k: jax.random.fold_in(k, 1))
    with pytest.raises(j2o.VerificationError, match="2 of 2 values differ"):
        keys.verify(jax.random.key(0))
    impl = model_of(
        lambda k: k, ["key<fry>[]"], lambda k: jax.random.key(0, impl="rbg")
    )
    with pytest.raises(
        j2o.VerificationError, match=r"key<fry>\[\] instead of key<rbg>\[\]"
    ):
        impl.verify(jax.random.key(0))


TOLERANCES = list(
    itertools.product(
        ("rtol", "atol"), ("a", None, -1, NAN, INF, True, 1j, [1], np.ones(2))
    )
)


@pytest.mark.parametrize(("name", "value"), TOLERANCES, ids=str)
def test_tolerances_are_checked(name, value):
    model = j2o.compile(lambda x: x, ["f32[]"])
    with pytest.raises(
        j2o.SpecError, match=rf"^{name}=.*: a finite number of 0 or more is needed$"
    ):
        model.verify(1.0, **{name: value})
    model.verify(1.0, **{name: 0})
    model.verify(1.0, **{name: np.float32(1e-3)})


def test_wrong_arguments_are_told_as_in_a_call():
    model = j2o.compile(lambda x: x, ["f32[2]"])
    for args in ((), (1.0,), ([1.0, 2.0],), (np.ones(3, np.float32),), (None,)):
        with pytest.raises(j2o.J2OError) as called:
            model(*args)
        with pytest.raises(j2o.J2OError) as verified:
            model.verify(*args)
        assert str(called.value) == str(verified.value)


def test_the_function_gets_what_the_model_gets():
    model = j2o.compile(lambda x, n: x * n, ["bf16[]", "i32[]"])
    model.verify(1.5, 3)  # Python numbers would be weakly typed
    model.verify(1.5, np.int64(3))
    j2o.compile(lambda x: (x, 3, np.arange(2.0)), ["f32[]"]).verify(1.0)


def test_a_function_may_donate_its_arguments():
    model = j2o.compile(jax.jit(lambda x: x + 1, donate_argnums=0), ["f32[3]"])
    x = jnp.ones(3)
    model.verify(x)
    assert float(x.sum()) == 3


def test_a_function_that_does_not_repeat_itself_is_told():
    state = itertools.count()
    model = j2o.compile(lambda x: x + next(state), ["f32[]"])
    with pytest.raises(
        j2o.VerificationError,
        match="the function itself gives other values when called again",
    ):
        model.verify(1.0)
    steady = model_of(lambda x: x, ["f32[]"], lambda x: x + 1)
    with pytest.raises(
        j2o.VerificationError, match=r"JAX 2.0 \(rtol 0.0001, atol 1e-05\)$"
    ):
        steady.verify(1.0)
