"""Pipelines and passes of users: levels, names, groups, and what is said where something is wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import j2o
from j2o.errors import PassError
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node
from j2o.ir.parser import parse
from j2o.ir.types import DType, Type
from j2o.passes import Context, Fixpoint, PassPipeline, graph_pass, rewrite
from j2o.passes.clean.cse import cse
from j2o.passes.pipeline import Pass

X = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)


def operations(model):
    return [n.op for n in model.graph if n.op not in ("const", "return")]


def compiled(pipeline, fn=jnp.tanh, **options):
    return j2o.compile(fn, [("B", 4)], passes=pipeline, **options)


def tanh_to_sin(name="tanh_to_sin", **options):
    """A rule that shows that it ran."""
    rule = rewrite(name, **options)(lambda op, x: op.Tanh(x))
    rule.becomes(lambda op, x: op.Sin(x))
    return rule


# ------------------------------------------------------------------------------- levels


def swish(x):
    return x * jax.nn.sigmoid(1.5 * x)


def test_a_pipeline_knows_its_level():
    want = operations(j2o.compile(swish, [("B", 4)], opt_level=3))
    assert want == ["ort.QuickGelu"]
    assert operations(compiled(j2o.default_pipeline(3), swish)) == want
    assert operations(compiled(lambda p: j2o.default_pipeline(3), swish)) == want
    assert [j2o.default_pipeline(level).level for level in range(4)] == [0, 1, 2, 3]


def test_a_level_that_contradicts_the_pipelines_is_refused():
    assert operations(compiled(j2o.default_pipeline(3), swish, opt_level=3)) == [
        "ort.QuickGelu"
    ]
    with pytest.raises(
        j2o.SpecError, match="opt_level=1: the pipeline in passes is of level 3"
    ):
        compiled(j2o.default_pipeline(3), opt_level=1)


def test_a_pipeline_made_by_hand_runs_at_the_level_of_the_call():
    rule = tanh_to_sin(level=3)
    steps = (*j2o.default_pipeline(0).steps, rule)
    assert operations(compiled(PassPipeline(steps), opt_level=2)) == ["onnx.Tanh"]
    assert operations(compiled(PassPipeline(steps), opt_level=3)) == ["onnx.Sin"]


def test_a_pass_above_the_level_is_left_out_and_the_report_says_so():
    @graph_pass("late", at="onnx", level=3)
    def late(graph):
        raise AssertionError

    model = compiled(j2o.default_pipeline(2).after("fold", late, tanh_to_sin(level=3)))
    assert operations(model) == ["onnx.Tanh"]
    for name in ("late", "tanh_to_sin"):
        assert (
            f"{name}: left out, it starts at level 3, the pipeline is of level 2"
            in str(model.report)
        )


@pytest.mark.parametrize("level", [-1, 4, "2", None, 2.5, [1], True])
def test_levels_that_there_are_not(level):
    with pytest.raises(j2o.SpecError, match=r"opt_level=.*: 0, 1, 2 or 3"):
        j2o.default_pipeline(level)
    assert j2o.default_pipeline(np.int64(2)).level == 2


# -------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["simplify", "recover", "cse", "tanh_to_sin"])
def test_a_pass_that_bears_anothers_name_runs(name):
    assert operations(compiled(lambda p: p.after("cse", tanh_to_sin(name)))) == [
        "onnx.Sin"
    ]


def test_two_passes_of_one_name_both_run():
    other = rewrite("mine")(lambda op, x: op.Sin(x))
    other.becomes(lambda op, x: op.Cos(x))
    assert operations(
        compiled(lambda p: p.after("cse", tanh_to_sin("mine"), other))
    ) == ["onnx.Cos"]


@pytest.mark.parametrize("name", ["zz", 5, None, "", "gelu ", ["fold"]])
def test_names_that_there_are_not(name):
    pipeline = j2o.default_pipeline(2)
    calls = (
        lambda: pipeline.after(name, cse),
        lambda: pipeline.before(name, cse),
        lambda: pipeline.without(name),
        lambda: pipeline.fixpoint("mine", name),
        lambda: pipeline.fixpoint("mine", "fold", name),
        lambda: pipeline.find(name),
    )
    for call in calls:
        with pytest.raises(
            PassError, match=r"there is no .*; there are inline, .*clean"
        ) as error:
            call()
        assert "\n" not in str(error.value)


def test_find_gives_passes_groups_and_rules():
    pipeline = j2o.default_pipeline(2)
    assert [pipeline.find(name).name for name in ("cse", "clean", "neg_neg")] == [
        "cse",
        "clean",
        "neg_neg",
    ]
    with pytest.raises(PassError, match="did you mean 'neg_neg'"):
        pipeline.find("negneg")


# ------------------------------------------------------------------------------- groups


def test_passes_inside_of_groups_can_be_grouped_anew():
    pipeline = j2o.default_pipeline(2).fixpoint("mine", "simplify", "cse")
    names = [step.name for step in pipeline.steps]
    assert names[names.index("mine") + 1] == "clean"
    assert [p.name for p in pipeline.find("mine").passes] == ["simplify", "cse"]
    assert not {"simplify", "cse"} & {p.name for p in pipeline.find("clean").passes}
    assert "cse" in {p.name for p in pipeline.find("layout").passes}
    compiled(pipeline).verify(X)


def test_a_group_may_stand_for_its_passes():
    pipeline = j2o.default_pipeline(2).fixpoint("mine", "clean", "transposes")
    assert [p.name for p in pipeline.find("mine").passes][-2:] == [
        "recover",
        "transposes",
    ]
    assert "clean" not in [step.name for step in pipeline.steps]


def test_groups_that_cannot_be():
    with pytest.raises(PassError, match="name the passes"):
        j2o.default_pipeline(2).fixpoint("mine")
    with pytest.raises(PassError, match="cannot hold the group 'inner'"):
        j2o.default_pipeline(2).after("fold", Fixpoint("inner", (cse,)))
    with pytest.raises(PassError, match="limit"):
        Fixpoint("mine", (cse,), limit=0)
    assert Fixpoint("mine", [cse]).passes == (cse,)


# -------------------------------------------------------- what is no pass, or misplaced

NO_PASSES = [
    (5, "5 is no pass"),
    (
        lambda graph: 0,
        "no pass: it has no name; @graph_pass(name, at=..., level=...) makes a pass of a function",
    ),
    (j2o.default_pipeline(2), "give the passes in it"),
    (None, "None is no pass"),
    ("fold", "'fold' is no pass"),
    (Type(DType.F32, ()), "no pass"),
]


@pytest.mark.parametrize(("given", "words"), NO_PASSES)
def test_what_is_no_pass_is_refused_where_it_is_added(given, words):
    for add in (
        lambda: j2o.default_pipeline(2).after("fold", given),
        lambda: PassPipeline((given,)),
    ):
        with pytest.raises(PassError) as error:
            add()
        assert words in str(error.value)
        assert "\n" not in str(error.value)


def test_pipelines_and_observers_of_the_wrong_kind():
    with pytest.raises(
        PassError, match="PassPipeline: a list or tuple is needed, given 5"
    ):
        PassPipeline(5)
    with pytest.raises(PassError, match=r"observing: .* given 5"):
        j2o.default_pipeline(2).observing(5)
    with pytest.raises(PassError, match="check="):
        j2o.default_pipeline(2).checking([])
    with pytest.raises(
        PassError, match="observers: a list or tuple is needed, given 5"
    ):
        PassPipeline((), observers=5)


@pytest.mark.parametrize(
    "options",
    [
        {"name": 5},
        {"name": ""},
        {"name": "a b"},
        {"name": "a\n"},
        {"at": "lex"},
        {"at": None},
        {"level": 4},
        {"level": "1"},
        {"level": True},
        {"scope": "all"},
    ],
)
def test_headers_that_no_pass_has(options):
    header = {"name": "mine", "at": "onnx", "level": 1, **options}
    with pytest.raises(PassError) as error:
        graph_pass(header.pop("name"), **header)(lambda graph: 0)
    assert f"{next(iter(options))}=" in str(error.value)


@pytest.mark.parametrize(
    "fn", [5, None, lambda: 0, lambda graph, context, more: 0, lambda *, graph: 0]
)
def test_functions_that_no_pass_is_made_of(fn):
    with pytest.raises(
        PassError, match=r"pass mine: .*\(graph\) or \(graph, context\) is needed"
    ):
        graph_pass("mine", at="onnx", level=1)(fn)


def test_an_option_with_a_default_is_not_the_context():
    seen = []

    @graph_pass("mine", at="onnx", level=1)
    def mine(graph, limit=3):
        seen.append(limit)
        return 0

    @graph_pass("yours", at="onnx", level=1)
    def yours(graph, context=None):
        seen.append(type(context))
        return 0

    compiled(lambda p: p.after("tidy", mine, yours))
    assert seen == [3, Context]


def test_passes_at_the_wrong_place():
    early = graph_pass("early", at="onnx", level=1)(lambda graph: 0)
    late = graph_pass("late", at="lax", level=1)(lambda graph: 0)
    with pytest.raises(
        PassError, match=r"'\w+' \(at='lax'\) stands after 'early' \(at='onnx'\)"
    ):
        j2o.default_pipeline(2).after("inline", early)
    with pytest.raises(PassError, match=r"'late' .* stands after 'lower'"):
        j2o.default_pipeline(2).after("lower", late)
    with pytest.raises(PassError, match=r"'late' .* stands after"):
        j2o.default_pipeline(2).after("transposes", late)
    j2o.default_pipeline(2).before("lower", late).after("legalize", early)


# ----------------------------------------------------------------- passes that go wrong


def broken(fn, **options):
    return lambda p: p.after(
        "tidy", graph_pass("mine", at="onnx", level=1, **options)(fn)
    )


def test_a_pass_that_raises_is_named_with_the_line_and_keeps_its_cause():
    def fails(graph):
        raise KeyError("a\nb")

    with pytest.raises(
        PassError, match=rf"pass mine: KeyError: .* at {__file__}:\d+"
    ) as error:
        compiled(broken(fails))
    assert isinstance(error.value.__cause__, KeyError)
    assert "\n" not in str(error.value)


def test_an_observer_that_raises():
    with pytest.raises(
        PassError, match=r"the observer after pass inline: ZeroDivisionError: .* at "
    ) as error:
        compiled(lambda p: p.observing(lambda name, graph: 1 / 0))
    assert isinstance(error.value.__cause__, ZeroDivisionError)


def test_a_function_of_pipelines_that_raises_or_gives_something_else():
    with pytest.raises(
        j2o.SpecError, match="passes: the function raised ZeroDivisionError"
    ):
        compiled(lambda p: 1 / 0)
    with pytest.raises(j2o.SpecError, match="passes: the function returned 5"):
        compiled(lambda p: 5)
    with pytest.raises(j2o.SpecError, match="passes: the function raised TypeError"):
        compiled(lambda: 5)


def test_errors_of_j2o_and_interrupts_pass_through():
    def interrupted(graph):
        raise KeyboardInterrupt

    def refuses(graph):
        raise j2o.UnsupportedError(["mine"])

    with pytest.raises(KeyboardInterrupt):
        compiled(broken(interrupted))
    with pytest.raises(j2o.UnsupportedError):
        compiled(broken(refuses))


@pytest.mark.parametrize("result", [None, -1, 2.0, "3"])
def test_a_pass_that_does_not_tell_the_number_of_its_changes(result):
    with pytest.raises(
        PassError,
        match=r"pass mine: it returned .*; the number of its changes is needed",
    ):
        compiled(broken(lambda graph: result))


@pytest.mark.parametrize("result", [True, np.int64(1), np.bool_(False)])
def test_numbers_of_changes_of_other_types(result):
    record = next(
        r
        for r in compiled(broken(lambda graph: result)).report.passes
        if r.name == "mine"
    )
    assert type(record.changes) is int


@pytest.mark.parametrize("told", [0, 1])
def test_a_pass_that_breaks_the_graph_is_named_whatever_it_tells(told):
    def breaks(graph):
        node = next(n for n in graph if n.op == "onnx.Tanh")
        stranger = Graph("other").add_input(node.out.type)
        node.set_input(0, stranger)
        return told

    with pytest.raises(
        j2o.InvalidGraphError, match=r"after pass mine: .*Tanh.*not defined"
    ):
        compiled(broken(breaks))


# ------------------------------------------------------- what is not lowered to the end


@pytest.mark.parametrize(
    "pipeline", [PassPipeline(()), j2o.default_pipeline(2).without("lower")]
)
def test_a_graph_that_is_not_lowered_can_be_looked_at_but_neither_saved_nor_run(
    pipeline, tmp_path
):
    model = compiled(pipeline, lambda x: jnp.tanh(x) + 1)
    assert "lax.tanh" in str(model.graph)
    for use in (
        model.to_proto,
        lambda: model(X),
        lambda: model.save(tmp_path / "m.onnx"),
    ):
        with pytest.raises(
            PassError,
            match=r"lax\.tanh\(f32\[B,4\]\) at .* and 1 more operations are not ONNX",
        ):
            use()
    assert list(tmp_path.iterdir()) == []


def test_sizes_that_are_left_as_they_are():
    model = compiled(
        lambda p: p.without("materialize"), lambda x: x.reshape(-1, 2).sum(1)
    )
    with pytest.raises(PassError, match="dims"):
        model.to_proto()


# -------------------------------------------------------- values that compare too equal


def test_equal_operations_are_those_whose_attributes_onnx_cannot_tell_apart():
    def left(*attributes):
        graph = Graph("main")
        x = graph.add_input(Type(DType.F32, (2,)), "x")
        op = Builder(graph)
        graph.set_outputs(
            [op.apply("mine.Op", x, types=[x.type], value=a) for a in attributes]
        )
        graph.input_names, graph.output_names = (
            ["x"],
            [f"y{i}" for i in range(len(attributes))],
        )
        cse(graph)
        return len(set(graph.outputs))

    assert left(0.0, -0.0) == 2
    assert left((1.0, 0.0), (1.0, -0.0)) == 2
    assert left(1, 1.0) == 2
    assert left(1, True) == 1
    assert left(0.5, 0.5) == 1


def test_numpys_integers_are_integers_for_the_builder():
    graph = Graph("main")
    x = graph.add_input(Type(DType.F32, (2, 3)), "x")
    op = Builder(graph)
    two, three = np.array([2, 3])
    assert op.dims(np.array([2, 3])).const is op.dims((2, 3)).const
    assert op.dim(two).const.scalar == 2
    assert op.reshape(x, np.array([2, 3])) is x
    assert op.expand(x, np.array([2, 3])) is x
    assert op.unsqueeze(x, np.array([0])).type.shape == (1, 2, 3)
    assert op.slice(x, 1, np.int64(0), three) is x
    assert op.slice(x, np.int64(1), np.int64(1), three).type.shape == (2, 2)
    softmax = op.Softmax(x, axis=two - 1)
    assert type(softmax.node.attrs["axis"]) is int
    assert op.Transpose(x, perm=np.array([1, 0])).node.attrs["perm"] == (1, 0)
    assert op.Transpose(x, perm=(np.int64(1), np.int64(0))).type.shape == (3, 2)
    assert {
        type(d)
        for d in op.apply(
            "mine.Op", x, types=[Type(DType.F32, (two, three))]
        ).type.shape
    } == {int}
    graph.set_outputs([softmax])
    assert parse(str(graph)).outputs[0].type.shape == (2, 3)


def tanh_of(graph):
    return next(n for n in graph if n.op == "onnx.Tanh")


def renamed(graph):
    old = tanh_of(graph)
    new = graph.insert(Node("onnx.Thanh", old.inputs, [old.out.type]), before=old)
    old.replace_by(new.out)


def set_type(graph, type):
    tanh_of(graph).out.type = type


BREAKS = [
    (renamed, "there is no operation 'onnx.Thanh'"),
    (
        lambda g: tanh_of(g).set_attr("alpha", 3),
        "onnx.Tanh has no attribute 'alpha'; it has none",
    ),
    (
        lambda g: tanh_of(g).set_inputs(tanh_of(g).inputs * 2),
        "onnx.Tanh takes 1 operands, given 2",
    ),
    (lambda g: set_type(g, Type(DType.F64, (2, 4))), "inference says f32[B,4]"),
    (lambda g: set_type(g, Type(DType.F32, (2, 5))), "inference says f32[B,4]"),
    (lambda g: g.unlink(g.ret), "does not end in a return"),
    (lambda g: g.set_outputs(()), "has 0 outputs for the names output"),
    (lambda g: g.set_outputs(g.outputs * 2), "has 2 outputs for the names output"),
    (lambda g: g.add_input(Type(DType.F32, (2,))), "has 2 inputs for the names x"),
    (
        lambda g: g.set_outputs([Builder(g, g.ret).Cast(g.outputs[0], to=DType.F64)]),
        "f32 of rank 2 -> f64 of rank 2, not f32 of rank 2 -> f32 of rank 2",
    ),
]


@pytest.mark.parametrize(("change", "words"), BREAKS)
def test_an_invalid_graph_is_one_line_that_names_the_pass(change, words):
    def breaks(graph):
        change(graph)
        return 1

    with pytest.raises(j2o.InvalidGraphError) as error:
        compiled(broken(breaks))
    assert str(error.value).startswith("after pass mine: ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_pass_in_the_place_of_a_pipeline():
    with pytest.raises(
        j2o.SpecError, match=r"given the pass 'cse' alone; passes=lambda p: p\.after"
    ):
        compiled(cse)
    assert repr(cse) == "<GraphPass cse, at onnx, level 1>"


def test_a_rule_may_run_on_what_the_target_takes():
    rule = tanh_to_sin(at="target")
    assert operations(compiled(lambda p: p.after("legalize", rule))) == ["onnx.Sin"]


class Unfinished(Pass):
    """A subclass that never says its name."""

    def __init__(self, **header):
        vars(self).update(header)


@pytest.mark.parametrize(
    ("header", "words"),
    [({}, "it has no name"), ({"name": "mine", "at": "lex"}, "at='lex'")],
)
def test_a_subclass_of_pass_that_is_not_finished(header, words):
    with pytest.raises(PassError) as error:
        j2o.default_pipeline(2).after("fold", Unfinished(**header))
    assert words in str(error.value)


@pytest.mark.parametrize(
    "name", sorted({*j2o.default_pipeline(3).names(), "clean", "layout", "finish"})
)
def test_every_pass_can_be_left_out_or_what_needs_it_is_told(name):
    key = jax.random.key(0)

    def fn(x):
        return jax.nn.softmax(jnp.reshape(x, (-1, 2)) * 2) + jax.random.uniform(
            key, (2,)
        )

    def result():
        return j2o.compile(
            fn, [("B", 4)], passes=j2o.default_pipeline(3).without(name)
        ).verify(X)

    if name not in ("inline", "components", "lower", "materialize"):
        result()
        return
    with pytest.raises(j2o.J2OError) as error:
        result()
    for told in getattr(error.value, "operations", [str(error.value)]):
        assert "\n" not in told


def test_a_context_without_a_tracer_says_so():
    graph = parse("graph @main(%x: f32[4]) { %y = lax.erf_inv(%x) : f32[4] return %y }")
    message = r"tracing erf_inv: this context has no tracer; Context\(retrace="
    with pytest.raises(PassError, match=message):
        j2o.default_pipeline(0).find("lower")(graph, Context())
