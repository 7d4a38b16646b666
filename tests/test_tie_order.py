"""Sorting for a runtime whose TopK leaves the order of equal elements open, and has none of NaN."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

import j2o
from tests.harness import operators

NAN, INF = np.nan, np.inf
ROWS = [
    [3, NAN, 1, 3, 1, 3, -INF, INF],
    [NAN, 2, INF, NAN, -INF, INF, NAN, INF],
    [1, 1, 1, 1, 1, 1, 1, 1],
    [-0.0, 0, -0.0, 0, 2, -2, 0, 2],
    [NAN] * 8,
]


class TopK(OpRun):
    """As OpenVINO may do it: of equal elements the last comes first."""

    op_domain = ""

    def _run(self, x, k, axis=-1, largest=1, sorted=1):
        assert not np.isnan(np.asarray(x, np.float64)).any()
        flipped = np.flip(x, axis)
        key = -flipped if largest else flipped
        order = np.argsort(key, axis=axis, kind="stable")
        places = np.take(x.shape[axis] - 1 - order, np.arange(k[0]), axis)
        return np.take_along_axis(x, places, axis), places


def ascending(x):
    return jnp.sort(x, 1), jnp.argsort(x, 1), jnp.argsort(x, 0)


def descending(x):
    return jnp.argsort(x, 1, descending=True)


def several_keys(x):
    return jax.lax.sort((x, x[::-1], jnp.ones_like(x)), num_keys=2, dimension=1)


def first_three(x):
    return jax.lax.top_k(x, 3)


PROGRAMS = [ascending, descending, several_keys, first_three]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int32", "uint8"])
@pytest.mark.parametrize("fn", PROGRAMS)
def test_as_in_jax(fn, dtype):
    """In onnxruntime, at a size that is open; bfloat16 only there, for the evaluator has no kernels."""
    rows = np.array(ROWS)
    if not jnp.issubdtype(dtype, jnp.floating):
        rows = np.arange(40).reshape(5, 8) // 3 % 4
    x = jnp.asarray(rows, dtype)
    model = j2o.compile(fn, [f"{dtype}[B,8]"], target="portable")
    for operand in (x, x[:1]):
        assert_equal(jax.tree.leaves(model(operand)), fn(operand))
    if dtype != "bfloat16":
        run = ReferenceEvaluator(model.to_proto(), new_ops=[TopK]).run
        assert_equal(run(None, {"x": np.asarray(x)}), fn(x))


def assert_equal(got, wanted):
    for one, other in zip(got, jax.tree.leaves(wanted), strict=True):
        assert one.dtype == other.dtype
        pair = [np.asarray(value, np.float64) for value in (one, other)]
        np.testing.assert_array_equal(*pair)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_rows_of_an_open_size(size):
    x = np.float32([1, 0, 1, 1, 0])[:size]
    model = j2o.compile(jnp.argsort, ["f32[N]"], target="portable")
    run = ReferenceEvaluator(model.to_proto(), new_ops=[TopK]).run
    for [order] in (run(None, {"a": x}), [model(x)]):
        np.testing.assert_array_equal(order, jnp.argsort(x))


def test_integers_that_are_sorted_alone_are_alike():
    model = j2o.compile(jnp.sort, ["i32[B,6]"], target="portable")
    assert operators(model) == ["TopK"]


def test_once_where_ties_are_in_order():
    model = j2o.compile(jnp.argsort, ["i32[B,6]"], target="onnxruntime-1.20")
    assert operators(model) == ["TopK", "Cast"]
