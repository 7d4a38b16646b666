"""The package raises no warnings of its own making, whatever the constants of a program come to.

Warnings are errors here.
"""

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o

EDGES = np.array(
    [0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 3e38, -3e38, 1e-45, 89, 1e30, 2.0**31],
    np.float32,
)
# more than is folded at once: what is done to them is recorded
MANY = np.tile(EDGES, (2000, 1))
ZEROS = np.zeros(4, np.float32)
KERNEL = np.ones((3, 3, 2, 4), np.float32)


def convolved(x):
    return lax.conv_general_dilated(
        x, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


PROGRAMS = {
    "exp": (lambda x: (jnp.exp(jnp.asarray(EDGES)), x), (1,)),
    "half": (lambda x: (jnp.exp(jnp.asarray(EDGES)).astype("float16"), x), (1,)),
    "sinh": (lambda x: (jnp.sinh(jnp.asarray(EDGES, "bfloat16")), x), (1,)),
    "logs": (
        lambda x: (jnp.log(jnp.asarray(EDGES)), jnp.log1p(jnp.asarray(EDGES)), x),
        (1,),
    ),
    "sums": (
        lambda x: (jnp.sum(jnp.asarray(EDGES)), jnp.cumprod(jnp.asarray(EDGES)), x),
        (1,),
    ),
    "powers": (lambda x: (jnp.asarray(EDGES) ** jnp.asarray(EDGES[::-1]), x), (1,)),
    "quotients": (lambda x: (jnp.asarray(EDGES) / jnp.asarray(EDGES[::-1]), x), (1,)),
    "remainders": (lambda x: (jnp.asarray(EDGES) % jnp.asarray(EDGES[::-1]), x), (1,)),
    "integers": (
        lambda x: (
            jnp.asarray(EDGES).astype("int32"),
            jnp.asarray(EDGES).astype("uint8"),
            x,
        ),
        (1,),
    ),
    "eighths": (lambda x: (jnp.asarray(EDGES).astype("float8_e5m2"), x), (1,)),
    "many": (
        lambda x: (
            x * (jnp.asarray(MANY) * 3e38 / jnp.asarray(MANY)),
            jnp.asarray(MANY).astype("float16"),
        ),
        (1,),
    ),
    "wrapping": (
        lambda x: (jnp.asarray([2**31 - 1, -(2**31)]) * jnp.asarray([2, -1]), x),
        (1,),
    ),
    "convolution divided": (lambda x: convolved(x) / ZEROS, ("B", 5, 5, 2)),
    "convolution scaled": (lambda x: convolved(x) * 3e38 * 3e38, ("B", 5, 5, 2)),
    "clip": (lambda x: jnp.clip(x, np.nan, np.inf) ** np.float32(3e38), (1,)),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("level", [0, 3])
def test_constants_may_come_to_anything(tmp_path, name, level):
    fn, spec = PROGRAMS[name]
    with np.errstate(all="raise"):
        model = j2o.compile(fn, [spec], opt_level=level)
        model.save(tmp_path / "m.onnx", external_data=True)
        model(np.ones([2 if n == "B" else n for n in spec], np.float32))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "int8"])
@pytest.mark.parametrize("value", [0.0, 3e38, 1e-45])
def test_weights_of_any_size_are_stored(tmp_path, dtype, value):
    weights = np.full((64, 320), value, np.float32)
    with np.errstate(all="raise"):
        model = j2o.compile(lambda x: x @ weights, [("B", 64)], weights_dtype=dtype)
        model.save(tmp_path / "m.onnx", external_data=True)
        assert model.report.quantisation
