"""The rewriting language, on textual IR."""

import dataclasses

import jax
import numpy as np
import pytest

import j2o
from examples.custom_pass import relu6
from j2o.backend.kernels import target
from j2o.errors import NotConvergingError, PassError
from j2o.ir.build import Builder
from j2o.ir.parser import parse
from j2o.ir.types import DType
from j2o.passes import Const, RuleSet, identities, rewrite, why
from j2o.passes.context import Context
from j2o.passes.rewriting.candidates import RuleTable
from j2o.passes.rewriting.matching import Match, matches, used_outside
from j2o.passes.rewriting.rule import Rule
from tests.test_golden import CASES, PASSES


def rewritten(rule, *body, inputs="%x: f32[B,4], %y: f32[B,4]", result="%r", level=2):
    """The operations left after a rule ran, and how often it fired."""
    names = ", ".join(f'"output_{i}"' for i in range(result.count("%")))
    text = f"graph @main({inputs}) -> ({names})\n    dims (B) {{\n" + "\n".join(
        f"  {line}" for line in body
    )
    graph = parse(f"{text}\n  return {result}\n}}\n")
    fired = rule(graph, Context(opt_level=level))
    graph.verify()
    return [n.kind for n in graph if n.op.startswith("onnx.")], fired


ZERO, SIX = "%zero = const 0.0 : f32[]", "%six = const 6.0 : f32[]"


def test_the_example_pass_on_text():
    ops, fired = rewritten(
        relu6,
        ZERO,
        SIX,
        "%m = onnx.Max(%x, %zero) : f32[B,4]",
        "%r = onnx.Min(%m, %six) : f32[B,4]",
    )
    assert (ops, fired) == (["Clip"], 1)


def test_commutative_operations_match_in_both_orders():
    ops, _ = rewritten(
        relu6,
        ZERO,
        SIX,
        "%m = onnx.Max(%zero, %x) : f32[B,4]",
        "%r = onnx.Min(%six, %m) : f32[B,4]",
    )
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
    body = [
        ZERO,
        SIX,
        "%m = onnx.Max(%x, %zero) : f32[B,4]",
        "%r = onnx.Min(%m, %six) : f32[B,4]",
    ]
    assert rewritten(relu6, *body, result="%r, %m")[1] == 0


def test_a_rule_above_the_optimisation_level_does_not_run():
    body = [
        ZERO,
        SIX,
        "%m = onnx.Max(%x, %zero) : f32[B,4]",
        "%r = onnx.Min(%m, %six) : f32[B,4]",
    ]
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
    mean_of_sum.becomes(
        lambda op, x, axes, keep, c: seen.append((axes.known, keep, c.const.scalar))
    )
    start = [
        "%a = const [1] : i64[1]",
        "%s = onnx.ReduceSum(%x, %a) {keepdims = 0} : f32[B]",
    ]
    rewritten(
        mean_of_sum, *start, "%c = const 2.0 : f32[]", "%r = onnx.Add(%c, %s) : f32[B]"
    )
    rewritten(mean_of_sum, *start, "%r = onnx.Add(%s, %s) : f32[B]")
    assert seen == [((1,), 0, 2.0)]


def test_an_attribute_that_is_not_mentioned_must_have_its_default():
    @rewrite("gemm")
    def gemm(op, a, b):
        return op.Gemm(a, b)

    gemm.becomes(lambda op, a, b: op.MatMul(a, b))
    inputs = "%x: f32[B,4], %y: f32[4,4]"
    assert rewritten(gemm, "%r = onnx.Gemm(%x, %y) : f32[B,4]", inputs=inputs)[0] == [
        "MatMul"
    ]
    assert rewritten(
        gemm, "%r = onnx.Gemm(%x, %y) {alpha = 2.0} : f32[B,4]", inputs=inputs
    )[0] == ["Gemm"]


def test_either_and_maybe():
    @rewrite("neg_abs")
    def neg_abs(op, x):
        return op.Neg(op.either(op.Abs(x), op.Sqrt(op.maybe("Identity", x))))

    neg_abs.becomes(lambda op, x: op.Sin(x))
    for body in (
        ["%a = onnx.Abs(%x) : f32[B,4]"],
        ["%a = onnx.Sqrt(%x) : f32[B,4]"],
        ["%i = onnx.Identity(%x) : f32[B,4]", "%a = onnx.Sqrt(%i) : f32[B,4]"],
    ):
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
    with pytest.raises(PassError, match="anything"):
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
    model = j2o.compile(
        jax.nn.relu, [("B",)], passes=lambda p: p.after("tidy", Capped(limit=6.0))
    )
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
    model = j2o.compile(
        jax.nn.relu, [("B",)], passes=lambda p: p.fixpoint("mine", "transposes", "gemm")
    )
    assert np.array_equal(model(np.float32([-1, 3])), np.float32([0, 3]))
    pipeline = j2o.default_pipeline().fixpoint("mine", "transposes", "gemm")
    assert [
        p.name for step in pipeline.steps if step.name == "mine" for p in step.passes
    ] == ["transposes", "gemm"]
    assert not {"transposes", "gemm"} & {step.name for step in pipeline.steps}


@pytest.mark.parametrize(
    ("factor", "kinds"),
    [(np.sqrt(0.5), ["Gelu"]), (np.sqrt(2), ["Mul", "Erf", "Add", "Mul", "Mul"])],
)
def test_gelu_has_one_factor(factor, kinds):
    program = lambda x: 0.5 * x * (1 + jax.lax.erf(x * np.float32(factor)))  # noqa: E731
    model = j2o.compile(program, [("B",)], opset=20)
    assert sorted(n.kind for n in model.graph if n.op.startswith("onnx.")) == sorted(
        kinds
    )
    x = np.linspace(-3, 3, 16, dtype=np.float32)
    assert np.allclose(model(x), program(x), atol=1e-6)


# --------------------------------------------- patterns and replacements that cannot be

PATTERNS = [
    (
        lambda op, x: op.Thanh(x),
        "there is no ONNX operator 'Thanh'; did you mean 'Tanh'?",
    ),
    (
        lambda op, x: op.relu(x),
        "there is no ONNX operator 'relu'; did you mean 'Relu'?",
    ),
    (
        lambda op, x: op.Neg(op.either(op.Abs(x), op.Sqroot(x))),
        "no ONNX operator 'Sqroot'",
    ),
    (
        lambda op, x: op.maybe("Casts", x),
        "must be an operation, not the parameter 'x' alone",
    ),
    (
        lambda op, x: op.Neg(op.maybe("Casts", x)),
        "no ONNX operator 'Casts'; did you mean 'Cast'?",
    ),
    (
        lambda op, x: op.Softmax(x, axes=1),
        "Softmax has no attribute 'axes'; did you mean 'axis'?",
    ),
    (lambda op, x: op.Neg(x, 1.0), "Neg takes 1 operands, the pattern gives it 2"),
    (lambda op, x: op.Where(x), "Where takes 3 operands, the pattern gives it 1"),
    (
        lambda op, x: op.Clip(x, 0.0, 1.0, 2.0, ...),
        "Clip takes 1 to 3 operands, the pattern gives it 4",
    ),
    (lambda op, x: op.TopK(x, 1), "TopK has 2 results"),
    (lambda op, x: op.lax.exp(x), "there is no lax.exp"),
    (lambda op, x: op.apply("lax.exp", x), "there is no lax.exp"),
    (lambda op, x: op.Concat(..., x, axis=0), "must be the last"),
    (lambda op, x: op.ReduceSum(x, [1]), "[1] is no operand"),
    (lambda op, x: op.Add(x, "one"), "'one' is no operand"),
    (lambda op, x: op.Add(x, np.ones(2)), "is no operand"),
    (lambda op, x: op.Add(x, op.either()), "either() needs options"),
    (
        lambda op, x: op.Softmax(x, axis=op.Neg(x)),
        "the attribute axis of Softmax cannot be an operation",
    ),
    (
        lambda op, x, y: op.Neg(x),
        "the parameter 'y' does not occur in the pattern Neg(x)",
    ),
    (lambda op, x: op.Softmax(x, axis=x), "both an operand and an attribute"),
    (lambda op, x: x.type, "the pattern raised AttributeError"),
    (lambda op, x: None, "must be an operation, not None"),
    (lambda op, x: 5, "must be an operation, not 5"),
    (lambda: 5, "must take op and plain parameters"),
    (lambda op, *xs: op.Neg(xs[0]), "must take op and plain parameters"),
    (lambda op, *, x: op.Neg(x), "must take op and plain parameters"),
    (5, "given 5"),
]


@pytest.mark.parametrize(("pattern", "words"), PATTERNS)
def test_a_pattern_that_can_never_match_is_refused_where_it_is_made(pattern, words):
    with pytest.raises(PassError) as error:
        rewrite("mine")(pattern)
    assert str(error.value).startswith("rule mine")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_rule_on_lax_operations_has_no_onnx_operators():
    with pytest.raises(PassError, match=r"works at 'lax', where there is no onnx\.Exp"):
        rewrite("mine", at="lax")(lambda op, x: op.Exp(x))
    rewrite("mine", at="target")(
        lambda op, x: op.Exp(op.ort.QuickGelu(op.apply("mine.Op", x)))
    )
    rewrite("mine", at="lax")(lambda op, x: op.lax.exp(x))


@pytest.mark.parametrize(
    "options", [{"at": "lex"}, {"level": 7}, {"name": "a b"}, {"name": abs}]
)
def test_headers_of_rules(options):
    options = {"name": "mine", **options}
    with pytest.raises(PassError):
        rewrite(options.pop("name"), **options)(lambda op, x: op.Exp(x))


def test_numbers_and_lists_of_numpy_are_as_pythons():
    @rewrite("mine")
    def mine(op, x):
        return op.Transpose(op.Add(x, np.float32(2)), perm=[1, np.int64(0)])

    mine.becomes(lambda op, x: op.Transpose(x, perm=[1, 0]))
    body = ["%two = const 2.0 : f32[]", "%a = onnx.Add(%x, %two) : f32[B,4]"]
    assert rewritten(mine, *body, "%r = onnx.Transpose(%a) {perm = [1, 0]} : f32[4,B]")[
        0
    ] == ["Transpose"]


def test_a_nan_in_a_pattern_is_a_nan():
    @rewrite("mine")
    def mine(op, x):
        return op.Max(x, float("nan"))

    mine.becomes(lambda op, x: op.Neg(x))
    assert rewritten(
        mine, "%c = const nan : f32[]", "%r = onnx.Max(%x, %c) : f32[B,4]"
    )[0] == ["Neg"]
    assert rewritten(
        mine, "%c = const 1.0 : f32[]", "%r = onnx.Max(%x, %c) : f32[B,4]"
    )[0] == ["Max"]


def test_const_is_told_by_its_name_where_annotations_are_text():
    def pattern(op, x, c):
        return op.Add(x, c)

    pattern.__annotations__ = {"x": "Value", "c": "passes.Const"}
    rule = rewrite("mine")(pattern)
    assert [wild.const for wild in rule.pattern.inputs] == [False, True]


REPLACEMENTS = [
    (lambda op, y, x: x, "takes (op, y, x), the pattern (op, x, y)"),
    (lambda op, x: x, "takes (op, x), the pattern (op, x, y)"),
    (lambda op, x, y, z: x, "takes (op, x, y, z), the pattern (op, x, y)"),
    (lambda: None, "must take op and plain parameters"),
    (5, "given 5"),
]


def subtraction(replacement=None):
    rule = rewrite("mine")(lambda op, x, y: op.Sub(x, y))
    if replacement is not None:
        rule.becomes(replacement)
    return rule


@pytest.mark.parametrize(("replacement", "words"), REPLACEMENTS)
def test_a_replacement_takes_what_the_pattern_takes(replacement, words):
    with pytest.raises(PassError) as error:
        subtraction(replacement)
    assert words in str(error.value)


def test_parameters_that_a_replacement_does_not_use_may_say_so():
    kind = "Neg"
    rule = subtraction(lambda op, x, _y, kind=kind: getattr(op, kind)(x))
    assert rewritten(rule, "%r = onnx.Sub(%x, %y) : f32[B,4]")[0] == ["Neg"]


@pytest.mark.parametrize(
    "body", ["%r = onnx.Sub(%x, %y) : f32[B,4]", "%r = onnx.Add(%x, %y) : f32[B,4]"]
)
def test_a_rule_without_a_replacement_says_so_wherever_it_runs(body):
    with pytest.raises(
        PassError,
        match=r"rule mine has no replacement: give it one with @mine\.becomes",
    ):
        rewritten(subtraction(), body)


STRANGER = parse(
    'graph @other(%s: f32[B,4]) -> ("output")\n    dims (B) {\n  return %s\n}\n'
).inputs[0]
RESULTS = [
    (lambda op, x, y: (x,), "the replacement is (<%x"),
    (lambda op, x, y: 0.0, "the replacement is 0.0"),
    (lambda op, x, y: STRANGER, "is a value of another graph"),
    (lambda op, x, y: op.Neg(op.root.out), "is made of the value that it replaces"),
    (lambda op, x, y: 1 / 0, "ZeroDivisionError: division by zero at " + __file__),
    (lambda op, x, y: op.Thanh(x), "KeyError"),
]


@pytest.mark.parametrize(("replacement", "words"), RESULTS)
def test_a_replacement_that_gives_what_can_replace_nothing_is_an_error(
    replacement, words
):
    with pytest.raises(PassError) as error:
        rewritten(subtraction(replacement), "%r = onnx.Sub(%x, %y) : f32[B,4]")
    assert words in str(error.value)
    assert str(error.value).startswith("rule mine at Sub(f32[B,4], f32[B,4])")


def test_rule_sets_that_cannot_be():
    rule = subtraction(lambda op, x, y: None)
    for rules, words in (
        ((rule, rule), "two rules are named 'mine'"),
        (rule, "a list or tuple of rules is needed"),
        ((5,), "5 is no rule"),
        (
            (rewrite("early", at="lax")(lambda op, x: op.lax.exp(x)),),
            "its rule early at 'lax'",
        ),
    ):
        with pytest.raises(PassError, match=words):
            RuleSet("set", rules)
    assert RuleSet("set", [rule]).rules == (rule,)
    with pytest.raises(PassError, match="identities: mine: a pair"):
        identities({"mine": 5})


# ------------------------------------------------------------- why a rule does not fire


def declined(replacement, *body, **options):
    """What the report counts for a rule on Sub, as (reason, how often)."""
    rule = rewrite("mine", **options)(lambda op, x, y: op.Sub(op.Neg(x), y))
    rule.becomes(replacement)
    graph = parse(
        'graph @main(%x: f32[B,4], %y: f32[B,4]) -> ("output")\n    dims (B) {\n  '
        + "\n  ".join(
            ["%n = onnx.Neg(%x) : f32[B,4]", "%s = onnx.Sub(%n, %y) : f32[B,4]", *body]
        )
        + "\n}\n"
    )
    before, context = str(graph), Context()
    rule(graph, context)
    assert str(graph) == before
    node = next(n for n in graph if n.op == "onnx.Sub")
    mismatch = why(rule, node)
    assert str(graph) == before
    return list(context.declined.items()), mismatch


def test_declined_matches_are_counted_with_their_reason():
    body = ["%r = onnx.Add(%s, %y) : f32[B,4]", "return %r"]
    none, mismatch = declined(lambda op, x, y: None, *body)
    assert none == [(("mine", "the rule leaves this one as it is"), 1)]
    assert mismatch.found == "the rule leaves this one as it is"
    said, mismatch = declined(lambda op, x, y: op.decline("not today"), *body)
    assert said == [(("mine", "not today"), 1)]
    assert mismatch.found == "not today"
    typed, mismatch = declined(lambda op, x, y: op.Cast(x, to=DType.F64), *body)
    assert typed == [(("mine", "the replacement is f64[B,4], not f32[B,4]"), 1)]
    assert (mismatch.part, mismatch.expected) == (
        "the replacement",
        "a value of type f32[B,4]",
    )
    used, mismatch = declined(
        lambda op, x, y: x, "%r = onnx.Add(%s, %n) : f32[B,4]", "return %r"
    )
    assert used == [(("mine", "a value inside the match is used outside of it"), 1)]
    assert "%n of onnx.Neg by Add(f32[B,4], f32[B,4])" in mismatch.found


def test_a_condition_on_the_node_is_asked_before_anything_else():
    def is_of_floats(node):
        return node.out.type.dtype.is_float

    def is_of_integers(node):
        return node.out.type.dtype.is_int

    body = ["%r = onnx.Add(%s, %y) : f32[B,4]", "return %r"]
    counted, mismatch = declined(lambda op, x, y: None, *body, where=is_of_integers)
    assert counted == []
    assert (mismatch.part, mismatch.expected) == (
        "the condition",
        "a node where is_of_integers",
    )
    counted, mismatch = declined(lambda op, x, y: None, *body, where=is_of_floats)
    assert len(counted) == 1
    assert mismatch.part == "the replacement"


def test_the_report_tells_how_often_a_rule_matched_and_why_that_led_to_nothing():
    rule = rewrite("to_double")(lambda op, x: op.Tanh(x))
    rule.becomes(lambda op, x: op.Cast(op.Tanh(x), to=DType.F64))
    model = j2o.compile(
        jax.numpy.tanh, [("B", 4)], passes=lambda p: p.after("tidy", rule)
    )
    assert (
        "to_double: 1 matched, 1 declined: the replacement is f64[B,4], not f32[B,4]"
        in str(model.report)
    )
    model = j2o.compile(
        jax.nn.relu6, [("B", 8)], passes=lambda p: p.after("fold", relu6)
    )
    assert "relu6: 1 matched\n" in str(model.report) + "\n"


WHYS = [
    (
        ("%r = onnx.Add(%x, %y) : f32[B,4]",),
        "Min(Max(x, 0.0), 6.0), the pattern",
        "Min",
        "Add(f32[B,4], f32[B,4])",
    ),
    (
        (SIX, "%m = onnx.Relu(%x) : f32[B,4]", "%r = onnx.Min(%m, %six) : f32[B,4]"),
        "Max(x, 0.0), operand 0 of Min(Max(x, 0.0), 6.0)",
        "Max",
        "Relu(f32[B,4])",
    ),
    (
        (
            ZERO,
            "%six = const 6.5 : f32[]",
            "%m = onnx.Max(%x, %zero) : f32[B,4]",
            "%r = onnx.Min(%six, %m) : f32[B,4]",
        ),
        "operand 1 of Min(Max(x, 0.0), 6.0)",
        "a constant 6.0",
        "a constant 6.5",
    ),
    (
        (SIX, "%m = onnx.Max(%x, %y) : f32[B,4]", "%r = onnx.Min(%m, %six) : f32[B,4]"),
        "operand 1 of Max(x, 0.0)",
        "a constant 0.0",
        "the input %y: f32[B,4]",
    ),
    (
        (
            SIX,
            "%m = onnx.Max(%x, %y, %y) : f32[B,4]",
            "%r = onnx.Min(%m, %six) : f32[B,4]",
        ),
        "Max(x, 0.0)",
        "2 operands",
        "3 in Max(f32[B,4], f32[B,4], f32[B,4])",
    ),
]


@pytest.mark.parametrize(("body", "part", "expected", "found"), WHYS)
def test_why_names_the_part_what_was_expected_and_what_was_found(
    body, part, expected, found
):
    text = 'graph @main(%x: f32[B,4], %y: f32[B,4]) -> ("output")\n    dims (B) {\n'
    graph = parse(text + "".join(f"  {line}\n" for line in body) + "  return %r\n}\n")
    mismatch = why(relu6, graph.outputs[0].node)
    assert (mismatch.part, mismatch.expected, mismatch.found) == (part, expected, found)
    assert str(mismatch).startswith("relu6 does not fit at ")


def test_why_of_attributes_and_of_a_value_that_must_be_the_same():
    @rewrite("mine")
    def mine(op, x, axis):
        return op.Sub(op.Softmax(x, axis=axis), op.LeakyRelu(op.Softmax(x, axis=axis)))

    mine.becomes(lambda op, x, axis: x)

    def of(*lines):
        graph = parse(
            'graph @main(%x: f32[B,4], %y: f32[B,4]) -> ("output")\n    dims (B) {\n'
            + "".join(f"  {line}\n" for line in lines)
            + "  %r = onnx.Sub(%a, %c) : f32[B,4]\n  return %r\n}\n"
        )
        return why(mine, graph.outputs[0].node)

    a, b = (
        "%a = onnx.Softmax(%x) {axis = 1} : f32[B,4]",
        "%b = onnx.Softmax(%x) {axis = 1} : f32[B,4]",
    )
    c = "%c = onnx.LeakyRelu(%b) {alpha = 0.5} : f32[B,4]"
    assert of(a, b, "%c = onnx.LeakyRelu(%b) : f32[B,4]") is None
    assert of(a, b, c).found.startswith("0.5 in LeakyRelu")
    assert "alpha = 0.00999" in of(a, b, c).expected
    other = of(
        a, b.replace("axis = 1", "axis = 0"), "%c = onnx.LeakyRelu(%b) : f32[B,4]"
    )
    assert (other.expected, other.found) == (
        "axis = axis = 1",
        "0 in Softmax(f32[B,4])",
    )
    other = of(a, b.replace("%x", "%y"), "%c = onnx.LeakyRelu(%b) : f32[B,4]")
    assert other.expected == "the x from before, the input %x: f32[B,4]"
    assert other.found == "the input %y: f32[B,4]"


def test_why_of_what_is_no_rule():
    with pytest.raises(PassError, match="a rule is needed"):
        why(j2o.default_pipeline(2).find("fold"), None)


def fits(rule, node):
    """Whether a rule rewrites at a node, by what the driver asks."""
    for match in matches(rule.pattern, node.out, Match(), node.graph):
        if rule.where is not None and not rule.where(node):
            return False
        if rule.shared or not used_outside(match.nodes):
            op, result, _ = rule.build(node, match, target(None))
            op.undo()
            if result is not None:
                return True
    return False


RULE_CASES = [case for case in CASES if isinstance(PASSES.get(case.name), Rule)]


@pytest.mark.parametrize("name", sorted({case.name for case in RULE_CASES}))
def test_why_agrees_with_the_rules_themselves(name):
    rule, fitting = PASSES[name], 0
    for case in RULE_CASES:
        if case.name == name:
            graph = parse(case.before)
            before = str(graph)
            for node in graph.walk():
                if len(node.outputs) == 1 and node.out.uses:
                    mismatch = why(rule, node, target(None))
                    assert (mismatch is None) == fits(rule, node), (case.text, node)
                    fitting += mismatch is None
            assert str(graph) == before
    assert fitting


def test_no_rule_that_matches_is_ruled_out_before():
    rules = [one for one in PASSES.values() if isinstance(one, Rule)]
    table = RuleTable(rules)
    for case in RULE_CASES:
        for node in parse(case.before).walk():
            if len(node.outputs) != 1:
                continue
            left = [one.rule for one in table.candidates(node) if one.fits(node)]
            for rule in rules:
                found = matches(rule.pattern, node.out, Match(), node.home)
                if next(found, None) is not None:
                    assert rule in left, (rule, case.text)


def test_operations_rule_out_most_rules():
    doubled = rewrite("doubled")(lambda op, x: op.Neg(op.Neg(x)))
    of_product = rewrite("of_product")(lambda op, x: op.Neg(op.Mul(x, 2.0)))
    table = RuleTable([doubled, of_product])
    graph = parse(
        'graph @main(%x: f32[2]) -> ("a", "b", "c") {\n'
        "  %two = const 2.0 : f32[]\n"
        "  %a = onnx.Neg(%x) : f32[2]\n"
        "  %b = onnx.Neg(%a) : f32[2]\n"
        "  %m = onnx.Mul(%two, %x) : f32[2]\n"
        "  %c = onnx.Neg(%m) : f32[2]\n"
        "  return %a, %b, %c\n}\n"
    )
    left = {
        node.out.hint: [one.rule.name for one in table.candidates(node)]
        for node in graph
        if node.op == "onnx.Neg"
    }
    assert left == {"a": [], "b": ["doubled"], "c": ["of_product"]}


def test_a_rule_called_by_itself_runs_whatever_its_level():
    rule = rewrite("mine", level=3)(lambda op, x: op.Neg(x))
    rule.becomes(lambda op, x: op.Abs(x))
    text = 'graph @main(%x: f32[2]) -> ("y") {\n  %y = onnx.Neg(%x) : f32[2]\n  return %y\n}\n'
    assert rule(parse(text)) == 1
    assert RuleSet("set", (rule,))(parse(text)) == 1
