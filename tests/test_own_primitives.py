"""Rules of users for their own primitives: an FFI call, a Pallas kernel, a primitive of `jax.extend`."""

import importlib

import jax
import numpy as np
import pytest
from jax.extend.core import Primitive

import j2o
from j2o.passes.lower.table import RULES

X = np.arange(8, dtype=np.float32).reshape(2, 4) - 3


@pytest.fixture(autouse=True)
def own_primitives():
    """The example, whose rules are registered for one test."""
    before = dict(RULES)
    yield importlib.reload(importlib.import_module("examples.own_primitives"))
    RULES.clear()
    RULES.update(before)


def test_an_ffi_call_as_onnx_nodes(own_primitives):
    got = j2o.compile(own_primitives.model, [("B", 4)])(X)
    want = X / np.sqrt((X * X).mean(-1, keepdims=True) + 1e-5) + np.sin(X)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_an_ffi_call_that_has_no_rule():
    fn = jax.ffi.ffi_call("other", jax.ShapeDtypeStruct((2, 4), np.float32))
    with pytest.raises(j2o.UnsupportedError, match="other"):
        j2o.compile(lambda x: fn(x, names={"a": 1}, table=np.arange(3)), [X])


def test_a_kernel_as_an_operator_of_another_domain(own_primitives):
    proto = j2o.compile(lambda x: own_primitives.twice(x) + 1, [X]).to_proto()
    assert ("kernels", "Twice") in [(n.domain, n.op_type) for n in proto.graph.node]
    assert "kernels" in [o.domain for o in proto.opset_import]


def test_a_primitive_of_ones_own():
    softsign = Primitive("softsign_of_mine")
    softsign.def_abstract_eval(lambda x, **_: x)

    @j2o.lower("softsign_of_mine")
    def rule(op, x, *, scale):
        return op.Mul(op.Softsign(x), scale)

    got = j2o.compile(lambda x: softsign.bind(x, scale=3.0), [("B", 4)])(X)
    np.testing.assert_allclose(got, 3 * X / (1 + abs(X)), rtol=1e-6)
