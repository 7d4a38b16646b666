"""Rules of users for their own primitives: an FFI call, a Pallas kernel, a primitive of `jax.extend`."""

import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import Primitive

import j2o
from j2o.errors import PassError
from j2o.ir.types import DType
from j2o.passes.lower.table import DECOMPOSITIONS, LOWERINGS, temporary_rules

X = np.arange(8, dtype=np.float32).reshape(2, 4) - 3


@pytest.fixture(autouse=True)
def own_primitives():
    """The example, whose rules are registered for one test."""
    with temporary_rules():
        yield importlib.reload(importlib.import_module("examples.own_primitives"))


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


def operations(fn, *specs):
    return [
        n.op
        for n in j2o.compile(fn, specs or [("B", 4)]).graph
        if n.op not in ("const", "return")
    ]


def test_a_rule_of_ones_own_wins_over_a_decomposition_and_the_other_way_round():
    @j2o.lower("sinh")
    def as_node(op, x):
        return op.Sinh(x)

    assert operations(jnp.sinh) == ["onnx.Sinh"]

    @j2o.lower_with("sinh")
    def as_code(x):
        return jnp.tanh(x)

    assert operations(jnp.sinh) == ["onnx.Tanh"]

    @j2o.lower_with("sin")
    def code_for_what_is_a_node(x):
        return jnp.cos(x)

    assert operations(jnp.sin) == ["onnx.Cos"]


def test_equal_equations_are_lowered_once():
    lowered = []

    @j2o.lower("sin")
    def counted(op, x):
        lowered.append(x.type)
        return op.Sin(x)

    def fn(x, y):
        return jnp.sin(x) + jnp.sin(y), jnp.sin(x)

    got = j2o.compile(fn, [("B", 4)] * 2)(X, X + 1)
    assert len(lowered) == 2
    np.testing.assert_allclose(got[0], np.sin(X) + np.sin(X + 1), rtol=1e-6)
    np.testing.assert_allclose(got[1], np.sin(X), rtol=1e-6)


def test_level_0_lowers_every_equation():
    graph = j2o.compile(lambda x: (jnp.sin(x), jnp.sin(x)), [X], opt_level=0).graph
    assert [n.op for n in graph].count("onnx.Sin") == 2


def test_equal_equations_that_draw_other_numbers_each_time():
    noise = Primitive("noise_of_mine")
    noise.def_abstract_eval(lambda x: x)

    @j2o.lower("noise_of_mine")
    def drawn(op, x):
        return op.apply("onnx.RandomUniformLike", x, types=[x.type])

    found = operations(lambda x: noise.bind(x) - noise.bind(x))
    assert found == ["onnx.RandomUniformLike", "onnx.RandomUniformLike", "onnx.Sub"]


def test_what_one_branch_computes_is_not_there_in_the_other():
    def fn(i, x):
        halves = [lambda: x + jnp.arange(4.0), lambda: x * jnp.arange(4.0)]
        return jax.lax.cond(i > 0, *halves)

    model = j2o.compile(fn, [np.int32(0), X], opt_level=1)
    model.verify(np.int32(0), X)
    model.verify(np.int32(1), X)


def test_equal_equations_without_a_rule_are_all_named():
    unknown = Primitive("unknown_of_mine")
    unknown.def_abstract_eval(lambda x: x)

    def fn(x):
        first = unknown.bind(x)
        return first + unknown.bind(x)

    with pytest.raises(j2o.UnsupportedError) as caught:
        j2o.compile(fn, [X])
    assert len(caught.value.operations) == 2


def test_a_rule_for_a_primitive_that_calls_gets_the_call():
    one = jax.lax.composite(lambda x: jnp.tanh(x) * 2, "mine.twice_tanh")
    two = jax.lax.composite(lambda x: jnp.tanh(x), "mine.tanh")

    @j2o.lower("composite")
    def composite(op, *operands, name, **_):
        if name != "mine.twice_tanh":
            return op.body()
        return op.apply("mine.TwiceTanh", *operands, types=list(op.out_types))

    assert operations(lambda x: two(one(x))) == ["mine.TwiceTanh", "onnx.Tanh"]


def test_a_primitive_whose_name_has_dots_is_a_primitive():
    dotted = Primitive("my.own.op")
    dotted.def_abstract_eval(lambda x: x)
    with pytest.raises(j2o.UnsupportedError, match=r"my\.own\.op\(f32\[2\]\)"):
        j2o.compile(dotted.bind, [(2,)])
    j2o.lower("my.own.op")(lambda op, x: op.Softsign(x))
    assert operations(dotted.bind) == ["onnx.Softsign"]


@pytest.mark.parametrize("register", [j2o.lower, j2o.lower_with])
@pytest.mark.parametrize(
    ("names", "words"),
    [
        ((), "name the primitives"),
        ((None,), "a string"),
        ((5,), "5"),
        (([],), "([])"),
        (("",), "no primitive"),
        (("sin cos",), "'sin', 'cos'"),
        (("sin\0",), "no primitive"),
        ((abs,), "not @lower"),
    ],
)
def test_names_that_no_primitive_has(register, names, words):
    with pytest.raises(PassError) as error:
        register(*names)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("register", [j2o.lower, j2o.lower_with])
def test_a_rule_that_is_no_function(register):
    with pytest.raises(PassError, match="given 5"):
        register("zz")(5)
    assert "zz" not in {*LOWERINGS, *DECOMPOSITIONS}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda op, x: None, "gave None instead of f32[B,4]"),
        (lambda op, x: 5, "gave 5 instead"),
        (lambda op, x: (x, x), "gave f32[B,4], f32[B,4] instead"),
        (lambda op, x: op.Cast(x, to=DType.F64), "gave f64[B,4] instead"),
        (lambda op: op, "TypeError"),
        (lambda op, x: op.Thanh(x), "onnx.Thanh"),
        (lambda op, x: 1 / 0, "ZeroDivisionError: division by zero at " + __file__),
    ],
)
def test_a_rule_that_fails_is_named_with_its_primitive_and_line(rule, words):
    j2o.lower("sinh")(rule)
    with pytest.raises(PassError) as error:
        j2o.compile(lambda x: jnp.sinh(x), [("B", 4)])
    assert words in str(error.value)
    assert f"sinh(f32[B,4]) at {__file__}" in str(error.value)
