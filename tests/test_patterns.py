"""The rewriting language, on textual IR."""

import dataclasses

import jax
import numpy as np
import pytest

import j2o
from examples.custom_pass import relu6
from j2o.errors import NotConvergingError
from j2o.ir.build import Builder
from j2o.ir.text import parse
from j2o.ir.types import DType
from j2o.passes import Const, RuleSet, identities, rewrite
from j2o.passes.pipeline import Context


def rewritten(rule, *body, inputs="%x: f32[B,4], %y: f32[B,4]", result="%r", level=2):
    """The operations left after a rule ran, and how often it fired."""
    text = f'graph @main({inputs}) -> ("output")\n    dims (B) {{\n' + "\n".join(f"  {line}" for line in body)
    graph = parse(f"{text}\n  return {result}\n}}\n")
    fired = rule(graph, Context(opt_level=level))
    graph.verify()
    return [n.kind for n in graph if n.op.startswith("onnx.")], fired


ZERO, SIX = "%zero = const 0.0 : f32[]", "%six = const 6.0 : f32[]"


def test_the_example_pass_on_text():
    ops, fired = rewritten(
        relu6, ZERO, SIX, "%m = onnx.Max(%x, %zero) : f32[B,4]", "%r = onnx.Min(%m, %six) : f32[B,4]"
    )
    assert (ops, fired) == (["Clip"], 1)


def test_commutative_operations_match_in_both_orders():
    ops, _ = rewritten(relu6, ZERO, SIX, "%m = onnx.Max(%zero, %x) : f32[B,4]", "%r = onnx.Min(%six, %m) : f32[B,4]")
    assert ops == ["Clip"]


def test_a_constant_of_another_value_does_not_match():
    ops, fired = rewritten(
        relu6,
        ZERO,
        "%six = const 6.5 : f32[]",
        "%m = onnx.Max(%x, %zero) : f32[B,4]",
        "%r = onnx.Min(%m, %six) : f32[B,4]",
    )
    assert (ops, fired) == (["Max", "Min"], 0)


def test_a_value_inside_the_match_that_is_used_outside_refuses_it():
    body = [ZERO, SIX, "%m = onnx.Max(%x, %zero) : f32[B,4]", "%r = onnx.Min(%m, %six) : f32[B,4]"]
    assert rewritten(relu6, *body, result="%r, %m")[1] == 0


def test_a_rule_above_the_optimisation_level_does_not_run():
    body = [ZERO, SIX, "%m = onnx.Max(%x, %zero) : f32[B,4]", "%r = onnx.Min(%m, %six) : f32[B,4]"]
    assert rewritten(relu6, *body, level=1)[1] == 0


def test_the_same_parameter_twice_is_the_same_value():
    @rewrite("square")
    def square(op, x):
        return op.Mul(x, x)

    square.becomes(lambda op, x: op.Pow(x, 2.0))
    assert rewritten(square, "%r = onnx.Mul(%x, %x) : f32[B,4]")[0] == ["Pow"]
    assert rewritten(square, "%r = onnx.Mul(%x, %y) : f32[B,4]")[0] == ["Mul"]


def test_parameters_bind_attributes_and_const_binds_only_constants():
    @rewrite("mean_of_sum")
    def mean_of_sum(op, x, axes, keep, c: Const):
        return op.Add(op.ReduceSum(x, axes, keepdims=keep), c)

    seen = []
    mean_of_sum.becomes(lambda op, x, axes, keep, c: seen.append((axes.known, keep, c.const.scalar)))
    start = ["%a = const [1] : i64[1]", "%s = onnx.ReduceSum(%x, %a) {keepdims = 0} : f32[B]"]
    rewritten(mean_of_sum, *start, "%c = const 2.0 : f32[]", "%r = onnx.Add(%c, %s) : f32[B]")
    rewritten(mean_of_sum, *start, "%r = onnx.Add(%s, %s) : f32[B]")
    assert seen == [((1,), 0, 2.0)]


def test_an_attribute_that_is_not_mentioned_must_have_its_default():
    @rewrite("gemm")
    def gemm(op, a, b):
        return op.Gemm(a, b)

    gemm.becomes(lambda op, a, b: op.MatMul(a, b))
    inputs = "%x: f32[B,4], %y: f32[4,4]"
    assert rewritten(gemm, "%r = onnx.Gemm(%x, %y) : f32[B,4]", inputs=inputs)[0] == ["MatMul"]
    assert rewritten(gemm, "%r = onnx.Gemm(%x, %y) {alpha = 2.0} : f32[B,4]", inputs=inputs)[0] == ["Gemm"]


def test_either_and_maybe():
    @rewrite("neg_abs")
    def neg_abs(op, x):
        return op.Neg(op.either(op.Abs(x), op.Sqrt(op.maybe("Identity", x))))

    neg_abs.becomes(lambda op, x: op.Sin(x))
    for body in (["%a = onnx.Abs(%x) : f32[B,4]"], ["%a = onnx.Sqrt(%x) : f32[B,4]"],
                 ["%i = onnx.Identity(%x) : f32[B,4]", "%a = onnx.Sqrt(%i) : f32[B,4]"]):  # fmt: skip
        assert rewritten(neg_abs, *body, "%r = onnx.Neg(%a) : f32[B,4]")[0] == ["Sin"]


def test_a_declined_or_ill_typed_replacement_leaves_the_graph_as_it_was():
    @rewrite("widen")
    def widen(op, x):
        return op.Neg(x)

    for replacement in (lambda op, x: None, lambda op, x: op.Cast(x, to=DType.F64)):
        widen.becomes(replacement)
        assert rewritten(widen, "%r = onnx.Neg(%x) : f32[B,4]") == (["Neg"], 0)


def test_rules_that_go_round_in_circles_are_named():
    circle = RuleSet(
        "circle",
        tuple(
            identities(
                {
                    "to_abs": (lambda op, x: op.Neg(x), lambda op, x: op.Abs(x)),
                    "to_neg": (lambda op, x: op.Abs(x), lambda op, x: op.Neg(x)),
                }
            )
        ),
    )
    with pytest.raises(NotConvergingError, match=r"to_abs.*to_neg|to_neg.*to_abs"):
        rewritten(circle, "%r = onnx.Neg(%x) : f32[B,4]")


def test_a_pattern_that_is_only_a_parameter_is_refused():
    with pytest.raises(TypeError, match="anything"):
        rewrite("anything")(lambda op, x: x)


def test_the_example_pass_in_a_pipeline_is_verified_and_reported():
    pipeline = j2o.default_pipeline(opt_level=2).after("fold", relu6)
    model = j2o.compile(jax.nn.relu6, [("B", 8)], passes=pipeline)
    assert [n.kind for n in model.graph if n.op.startswith("onnx.")] == ["Clip"]
    model.verify(np.linspace(-3, 9, 16, dtype=np.float32).reshape(2, 8))
    assert "relu6" in str(model.report)


@dataclasses.dataclass(frozen=True)
class Capped:
    """A pass with an option, of a class of the user's own."""

    limit: float
    name = "capped"
    at = "onnx"
    level = 2

    def __call__(self, graph):
        found = [n for n in graph if n.op == "onnx.Relu"]
        for node in found:
            op = Builder(graph, node)
            node.replace_by(op.Min(op.Relu(node.inputs[0]), self.limit))
        return len(found)


def test_a_pass_may_be_any_object_of_that_form():
    model = j2o.compile(jax.nn.relu, [("B",)], passes=lambda p: p.after("tidy", Capped(limit=6.0)))
    assert np.array_equal(model(np.float32([-1, 3, 9])), np.float32([0, 3, 6]))
    record = next(r for r in model.report.passes if r.name == "capped")
    assert (record.runs, record.changes) == (1, 1)


class Counting:
    """A pass that is called once, for the root graph."""

    name, at, level, scope, calls = "counting", "onnx", 2, "root", 0

    def __call__(self, graph):
        self.calls += 1
        return 0


def test_such_an_object_says_whether_it_wants_regions_too():
    counting = Counting()
    program = lambda x: jax.lax.cond(x.sum() > 0, jax.numpy.sin, jax.numpy.cos, x)  # noqa: E731
    j2o.compile(program, [("B",)], passes=lambda p: p.after("tidy", counting))
    assert counting.calls == 1


def test_passes_can_be_grouped():
    model = j2o.compile(jax.nn.relu, [("B",)], passes=lambda p: p.fixpoint("mine", "transposes", "gemm"))
    assert np.array_equal(model(np.float32([-1, 3])), np.float32([0, 3]))
    pipeline = j2o.default_pipeline().fixpoint("mine", "transposes", "gemm")
    assert [p.name for step in pipeline.steps if step.name == "mine" for p in step.passes] == ["transposes", "gemm"]
    assert not {"transposes", "gemm"} & {step.name for step in pipeline.steps}


@pytest.mark.parametrize(
    ("factor", "kinds"), [(np.sqrt(0.5), ["Gelu"]), (np.sqrt(2), ["Mul", "Erf", "Add", "Mul", "Mul"])]
)
def test_gelu_has_one_factor(factor, kinds):
    program = lambda x: 0.5 * x * (1 + jax.lax.erf(x * np.float32(factor)))  # noqa: E731
    model = j2o.compile(program, [("B",)], opset=20)
    assert sorted(n.kind for n in model.graph if n.op.startswith("onnx.")) == sorted(kinds)
    x = np.linspace(-3, 3, 16, dtype=np.float32)
    assert np.allclose(model(x), program(x), atol=1e-6)
