"""`j2o.bisect`: faults that are planted, and the node, the line and the pass that it names."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.backend.session import Session
from j2o.ir.build import Builder
from j2o.passes import graph_pass, rewrite
from j2o.passes.lower.table import lower, lower_with, temporary_rules


def line_of(fn, text):
    """The line of this file on which the first line of a function with this text stands."""
    with open(__file__) as file:
        lines = file.read().splitlines()
    first = lines.index(next(row for row in lines if f"def {fn.__name__}(" in row))
    found = [i for i in range(first, len(lines)) if text in lines[i]]
    return f"tests/test_bisect.py:{found[0] + 1}"


def fault_of(fn, specs, wrong=None, *, after="lower", **options):
    """The fault that is found where a pass is put in, at a place in the default pipeline."""
    if wrong is not None:
        options["passes"] = lambda pipeline: pipeline.after(after, wrong)
    found = j2o.bisect(fn, specs, **options)
    assert found.differs
    assert found.fault is not None
    print(found)
    return found.fault


def nodes_of(graph, op):
    return [node for node in graph if node.op == op]


# ---------------------------------------------------------------------------------- passes


def layers(x):
    y = jnp.tanh(x @ jnp.full((4, 4), 0.7))
    z = jnp.exp(y) + 1.0
    return jnp.maximum(z.T @ z, 0.0)


@graph_pass("forget_tanh", at="onnx", level=1)
def forget_tanh(graph):
    found = nodes_of(graph, "onnx.Tanh")
    for node in found:
        node.replace_by(node.operand(0))
    return len(found)


def test_a_value_that_is_left_out():
    fault = fault_of(layers, ["f32[B,4]"], forget_tanh)
    assert (fault.stage, fault.pass_name) == ("pass", "forget_tanh")
    assert fault.instead_of.operation == "onnx.Tanh"
    assert fault.in_jax.operation == "lax.tanh"
    assert fault.place.source == line_of(layers, "jnp.tanh")


@rewrite("wrong_relu6", at="onnx", level=2)
def wrong_relu6(op, x):
    return op.Min(op.Max(x, 0.0), 6.0)


@wrong_relu6.becomes
def _(op, x):
    return op.Clip(x, 0.0, 0.5)


def clipped(x):
    y = x * 2.0
    return jnp.minimum(jnp.maximum(y, 0.0), 6.0) - y


def test_a_rule_that_makes_the_wrong_operator():
    fault = fault_of(clipped, ["f32[B,4]"], wrong_relu6, after="fold")
    assert fault.pass_name == "wrong_relu6"
    assert fault.value.operation == "onnx.Clip"
    assert fault.place.source == line_of(clipped, "jnp.minimum")


@graph_pass("wrong_fold", at="onnx", level=1)
def wrong_fold(graph):
    """Exp of a constant is computed as 2**x."""
    count = 0
    for node in nodes_of(graph, "onnx.Exp"):
        tensor = node.operand(0).const
        if tensor is not None:
            op = Builder(graph, node, node.loc)
            node.replace_by(op.const(np.exp2(tensor.load())))
            count += 1
    return count


def weighted(x):
    weights = jnp.exp(jnp.asarray([0.5, 1.5, 2.5, 3.5]))
    return jnp.tanh(x) * weights


def test_a_constant_that_is_folded_wrongly():
    fn = jax.jit(weighted)  # so that JAX does not compute the constant itself
    fault = fault_of(fn, ["f32[B,4]"], wrong_fold)
    assert fault.pass_name == "wrong_fold"
    assert fault.value.operation == "const"
    assert fault.instead_of.operation == "onnx.Exp"
    assert fault.place.source == line_of(weighted, "jnp.exp")


@graph_pass("wrong_layout", at="onnx", level=1)
def wrong_layout(graph):
    """A transpose of a square is left out."""
    count = 0
    for node in nodes_of(graph, "onnx.Transpose"):
        if node.out.type == node.operand(0).type:
            node.replace_by(node.operand(0))
            count += 1
    return count


def squares(x):
    y = jnp.sin(x)
    return (y.T + x).sum(axis=0)


def test_a_transpose_that_is_left_out():
    fault = fault_of(squares, ["f32[4,4]"], wrong_layout)
    assert fault.pass_name == "wrong_layout"
    assert fault.instead_of.operation == "onnx.Transpose"
    assert fault.place.source == line_of(squares, "y.T")


@graph_pass("wrong_cast", at="onnx", level=1)
def wrong_cast(graph):
    """What a tangent gives goes through integers."""
    count = 0
    for node in nodes_of(graph, "onnx.Tanh"):
        op = Builder(graph, node.next, node.loc)
        through = op.cast(op.cast(node.out, j2o.ir.DType.I32), node.out.type.dtype)
        inner = through.producer.operand(0).producer
        node.out.replace_by(through, where=lambda user, inner=inner: user is not inner)
        count += 1
    return count


def test_a_cast_that_loses_digits():
    fault = fault_of(layers, ["f32[B,4]"], wrong_cast)
    assert fault.pass_name == "wrong_cast"
    assert fault.value.operation == "onnx.Cast"
    assert fault.instead_of.operation == "onnx.Tanh"
    assert fault.place.source == line_of(layers, "jnp.tanh")


@graph_pass("wrong_axis", at="onnx", level=1)
def wrong_axis(graph):
    """A vector is added to the columns, not to the rows."""
    count = 0
    for node in nodes_of(graph, "onnx.Add"):
        vector = node.operand(1)
        if vector.type.rank == 1 and node.out.type.rank == 2:
            op = Builder(graph, node, node.loc)
            node.set_input(1, op.unsqueeze(vector, (1,)))
            count += 1
    return count


def biased(x, b):
    y = jnp.exp(x)
    return lax.add(y, jnp.broadcast_to(b, (4, 4))) * 2.0


def test_an_axis_that_is_another_one():
    fault = fault_of(biased, ["f32[4,4]", "f32[4]"], wrong_axis, after="broadcasts")
    assert fault.pass_name == "wrong_axis"
    assert fault.value.operation == "onnx.Add"
    assert fault.place.source == line_of(biased, "lax.add")


@graph_pass("wrong_cse", at="onnx", level=1)
def wrong_cse(graph):
    """Nodes of one operation are taken for equal, whatever their operands."""
    first, *others = nodes_of(graph, "onnx.Sin")
    for node in others:
        node.replace_by(first.out)
    return len(others)


def waves(x):
    a = jnp.sin(x)
    b = jnp.sin(x + 1.0)
    return a * 2.0 + b * 3.0


def test_two_values_that_become_one():
    fault = fault_of(waves, ["f32[B]"], wrong_cse)
    assert fault.pass_name == "wrong_cse"
    assert fault.value.operation == fault.instead_of.operation == "onnx.Sin"
    assert fault.place.source == line_of(waves, "b = ")


@graph_pass("wrong_attribute", at="onnx", level=1)
def wrong_attribute(graph):
    found = nodes_of(graph, "onnx.Softmax")
    for node in found:
        node.set_attr("axis", 0)
    return len(found)


def attention(x):
    scores = x @ jnp.full((4, 4), 0.7) + x
    return jax.nn.softmax(scores, axis=-1) * 2.0


def test_an_attribute_that_is_another_one():
    fault = fault_of(attention, ["f32[4,4]"], wrong_attribute, after="gemm")
    assert fault.pass_name == "wrong_attribute"
    assert fault.value.operation == "onnx.Softmax"
    assert fault.instead_of is None
    assert fault.place.source == line_of(attention, "jax.nn.softmax")


@graph_pass("wrong_on_lax", at="lax", level=0)
def wrong_on_lax(graph):
    """An exponential of what is negative is not the exponential."""
    found = nodes_of(graph, "lax.exp")
    for node in found:
        negative = graph.insert(
            type(node)("lax.neg", node.inputs, [node.out.type], {}, (), node.loc),
            before=node,
        )
        node.set_input(0, negative.out)
    return len(found)


@pytest.mark.parametrize("level", [0, 1, 2, 3])
def test_a_pass_before_lowering(level):
    passes = j2o.default_pipeline(level).after("inline", wrong_on_lax)
    fault = fault_of(layers, ["f32[B,4]"], passes=passes)
    assert fault.pass_name == "wrong_on_lax"
    assert fault.value.operation == "lax.neg"
    assert fault.place.source == line_of(layers, "jnp.exp")


@graph_pass("wrong_target", at="target", level=0)
def wrong_target(graph):
    found = nodes_of(graph, "onnx.Tanh")
    for node in found:
        op = Builder(graph, node, node.loc)
        node.replace_by(op.Sin(node.operand(0)))
    return len(found)


def test_a_pass_at_the_end():
    fault = fault_of(layers, ["f32[B,4]"], wrong_target, after="legalize")
    assert fault.pass_name == "wrong_target"
    assert fault.value.operation == "onnx.Sin"


@graph_pass("wrong_size", at="onnx", level=0)
def wrong_size(graph):
    """The size B is taken for 3."""
    found = [node for node in graph if node.op == "dims"]
    for node in found:
        sizes = [3 if str(size) == "B" else size for size in node.attrs["dims"]]
        node.set_attr("dims", tuple(sizes))
    return len(found)


def tiled(x):
    return jnp.broadcast_to(jnp.sin(x)[:, None], (x.shape[0], x.shape[0], 4)).sum(0)


def test_an_error_at_one_size_alone():
    passes = j2o.default_pipeline(0).after("lower", wrong_size)
    right = j2o.bisect(tiled, ["f32[B,4]"], passes=passes)
    assert not right.differs
    wrong = j2o.bisect(tiled, ["f32[B,4]"], passes=passes, sizes={"B": 4})
    assert wrong.differs
    assert wrong.fault.pass_name == "wrong_size"
    assert wrong.fault.place.source == line_of(tiled, "broadcast_to")
    assert "B = 4" in wrong.inputs


# ------------------------------------------------------------------------ rules for operations


def test_an_operation_that_is_lowered_wrongly():
    with temporary_rules():
        lower("exp")(lambda op, x, **_: op.Exp(op.Neg(x)))
        fault = fault_of(layers, ["f32[B,4]"])
    assert fault.pass_name == "lower"
    assert fault.value.operation == "lax.exp"
    assert "test_an_operation_that_is_lowered_wrongly" in fault.rule
    assert fault.place.source == line_of(layers, "jnp.exp")


def test_a_decomposition_that_is_wrong():
    with temporary_rules():
        lower_with("tanh")(lambda x, **_: jnp.sin(x))
        fault = fault_of(layers, ["f32[B,4]"], opt_level=0)
    assert fault.pass_name == "lower"
    assert fault.value.operation == "lax.tanh"


def test_a_dtype_that_an_operation_has_no_kernel_for():
    """int8 is added through a wider dtype: a wrong rule for it is found as others are."""

    def add(x, y):
        return x + y

    with temporary_rules():
        lower("add")(lambda op, x, y, **_: op.Sub(x, y))
        fault = fault_of(add, ["i8[B]", "i8[B]"])
    assert fault.value.operation == "lax.add"
    assert isinstance(fault.difference.expected, int)


def test_random_bits_that_are_others():
    def noise(key, x):
        return x + jax.random.uniform(key, x.shape)

    with temporary_rules():
        lower("shift_right_logical")(
            lambda op, x, y, **_: op.BitShift(x, y, direction="LEFT")
        )
        fault = fault_of(noise, [jax.eval_shape(lambda: jax.random.key(0)), "f32[4]"])
    assert fault.pass_name == "lower"


# ----------------------------------------------------------------------- regions and functions


def rounds(x):
    def body(carry, row):
        carry = jnp.tanh(carry + row)
        return carry, jnp.exp(carry)

    return lax.scan(body, jnp.zeros(4), x)


def test_a_rule_in_a_scan():
    with temporary_rules():
        lower("tanh")(lambda op, x, **_: op.Sin(x))
        fault = fault_of(rounds, ["f32[5,4]"])
    assert fault.value.operation == "lax.tanh"
    assert fault.place.source == line_of(rounds, "jnp.tanh")
    assert fault.inside == (f"round 0 of scan at {line_of(rounds, 'lax.scan')}",)


def test_a_pass_in_a_scan():
    fault = fault_of(rounds, ["f32[5,4]"], forget_tanh)
    assert fault.pass_name == "forget_tanh"
    assert fault.instead_of.operation == "onnx.Tanh"
    assert fault.place.source == line_of(rounds, "jnp.tanh")
    assert fault.inside[0].startswith("round 0 of Scan")


@graph_pass("late_fault", at="onnx", level=1)
def late_fault(graph):
    """In rounds from the fourth on a wave is another one."""
    found = nodes_of(graph, "onnx.Sin")
    for node in found:
        op = Builder(graph, node, node.loc)
        x = node.operand(0)
        (step,) = [v for v in graph.inputs if v.type.dtype.is_int and v.hint == "step"]
        node.replace_by(op.Where(op.Less(step, 3), op.Sin(x), op.Cos(x)))
    return len(found)


def repeated(x):
    return lax.fori_loop(0, 6, lambda i, y: jnp.sin(y) + x, x)


def test_the_round_in_which_a_loop_goes_wrong():
    fault = fault_of(repeated, ["f32[4]"], late_fault)
    assert fault.pass_name == "late_fault"
    assert fault.inside[0].startswith("round 3 of Loop")
    assert fault.place.source == line_of(repeated, "jnp.sin")


def chosen(x):
    return lax.cond(x.sum() > 0, lambda y: jnp.tanh(y) + 1, lambda y: y * 2, x)


def test_a_pass_in_a_branch():
    x = np.ones(4, np.float32)
    fault = fault_of(chosen, ["f32[4]"], forget_tanh, inputs=(x,))
    assert fault.pass_name == "forget_tanh"
    assert fault.instead_of.operation == "onnx.Tanh"
    assert fault.inside[0].startswith("the then_branch of If")
    other = j2o.bisect(
        chosen, ["f32[4]"], (-x,), passes=lambda p: p.after("lower", forget_tanh)
    )
    assert not other.differs  # the branch does not run


@j2o.function
def block(x, w):
    return jnp.tanh(x @ w) + x


def blocks(x, w):
    for i in range(3):
        x = block(x, w[i])
    return x


def test_a_pass_in_a_function():
    fault = fault_of(blocks, ["f32[B,4]", "f32[3,4,4]"], forget_tanh)
    assert fault.pass_name == "forget_tanh"
    assert fault.instead_of.operation == "onnx.Tanh"
    assert fault.inside[0].startswith("function @block of call")
    assert fault.place.source == line_of(block, "jnp.tanh")


def test_a_rule_in_a_function():
    with temporary_rules():
        lower("tanh")(lambda op, x, **_: op.Sin(x))
        fault = fault_of(blocks, ["f32[B,4]", "f32[3,4,4]"])
    assert fault.pass_name == "lower"
    assert fault.value.operation == "lax.tanh"
    assert fault.inside[0].startswith("function @block")


# ------------------------------------------------------------------------- after the passes


def test_onnxruntime_that_optimises_wrongly(monkeypatch):
    run = Session.run
    make = Session.__init__

    def made(self, model, *, optimise=True, level="all", threads=0):
        self.is_wrong = optimise and level != "basic"
        make(self, model, optimise=optimise, level=level, threads=threads)

    def wrong(self, feeds):
        results = run(self, feeds)
        return [y + 1 for y in results] if self.is_wrong else results

    monkeypatch.setattr(Session, "__init__", made)
    monkeypatch.setattr(Session, "run", wrong)
    fault = fault_of(layers, ["f32[B,4]"])
    assert fault.stage == "onnxruntime"
    assert "'extended'" in fault.hint


def test_an_attribute_that_is_written_wrongly(monkeypatch):
    from j2o.backend import proto

    attribute = proto._attribute

    def wrong(name, value):
        return attribute(name, 0 if name == "axis" else value)

    monkeypatch.setattr(proto, "_attribute", wrong)
    fault = fault_of(attention, ["f32[4,4]"])
    assert fault.stage == "writing"
    assert fault.value.operation == "onnx.Softmax"
    assert fault.place.source == line_of(attention, "jax.nn.softmax")


# ---------------------------------------------------------------------------- no difference


def test_no_difference():
    found = j2o.bisect(layers, ["f32[B,4]"], sizes={"B": 6}, seed=3)
    assert not found.differs
    assert found.fault is None
    assert found.inputs == "random inputs, seed 3, B = 6"
    assert str(found).startswith("no difference")
    assert found.outputs[0].difference.absolute < 1e-5
    assert json.loads(json.dumps(found.to_json()))["differs"] is False


def test_nan_and_infinities_are_equal():
    def edges(x):
        return jnp.log(x), 1 / x

    x = np.array([-1, 0, np.inf, np.nan], np.float32)
    assert not j2o.bisect(edges, ["f32[4]"], (x,)).differs


@graph_pass("other_order", at="onnx", level=1)
def other_order(graph):
    """Right, but for rounding: (x + y) * 3.99 is computed as x * 3.99 + y * 3.99."""
    count = 0
    for node in nodes_of(graph, "onnx.Mul"):
        total, factor = node.operands
        if total.op == "onnx.Add":
            op = Builder(graph, node, node.loc)
            x, y = total.producer.operands
            node.replace_by(op.Add(op.Mul(x, factor), op.Mul(y, factor)))
            count += 1
    return count


def chaotic(x):
    y = (x + 0.1) * 1.7
    for _ in range(40):
        y = 3.99 * y * (1 - y)
    return y


def test_rounding_that_grows_is_no_fault_of_a_pass():
    x = np.linspace(0.05, 0.45, 16, dtype=np.float32)
    passes = j2o.default_pipeline(1).after("lower", other_order)
    found = j2o.bisect(chaotic, ["f32[B]"], (x,), passes=passes)
    assert found.differs
    assert found.fault.stage == "rounding"
    assert "moving the last digits" in found.fault.hint


def test_a_fault_beside_rounding_that_grows():
    """The outputs differ before the pass, too, by more than the tolerance, though by less than after it."""

    def fn(x):
        return jnp.stack([chaotic(x) * 1e-3, jnp.tanh(x) * 100])

    x = np.linspace(0.05, 0.45, 16, dtype=np.float32)
    passes = j2o.default_pipeline(1).after("lower", other_order, forget_tanh)
    found = j2o.bisect(fn, ["f32[B]"], (x,), passes=passes)
    assert found.fault.pass_name == "forget_tanh"


def test_a_function_that_is_not_what_it_is_traced_as():
    calls = itertools.count()

    def counting(x):
        return x + next(calls)

    fault = fault_of(counting, ["f32[3]"])
    assert fault.stage == "tracing"


def test_a_rule_that_is_wrong_beside_another_operation_alone():
    """By itself the operation is lowered rightly."""
    with temporary_rules():

        @lower("sin")
        def sin(op, x, **_):
            return op.Cos(x) if x.op == "onnx.Tanh" else op.Sin(x)

        fault = fault_of(lambda x: jnp.sin(jnp.tanh(jnp.sin(x))), ["f32[B]"])
    assert fault.pass_name == "lower"
    assert fault.value.operation == "onnx.Cos"
    assert fault.instead_of.operation == "lax.sin"


def test_inputs_by_name_and_what_does_not_fit():
    def named(image, step):
        return image + step

    specs = ["f32[B,4]", "f32[]"]
    inputs = {"image": np.ones((2, 4), np.float32), "arr_1": np.float32(2)}
    found = j2o.bisect(named, specs, inputs)
    assert found.inputs == "the inputs given, B = 2"
    with pytest.raises(j2o.SpecError, match=r"'imag'.*there are image, step"):
        j2o.bisect(named, specs, {"imag": np.ones(4)})
    with pytest.raises(j2o.SpecError, match="'step' is missing"):
        j2o.bisect(named, specs, {"image": np.ones((2, 4), np.float32)})
    with pytest.raises(j2o.SpecError, match=r"'arr_0'.*gives 'image' a second time"):
        j2o.bisect(named, specs, {**inputs, "arr_0": np.ones((2, 4), np.float32)})
    with pytest.raises(j2o.SpecError, match="inputs: given 3"):
        j2o.bisect(named, specs, 3)
    with pytest.raises(j2o.SpecError, match=r"sizes.*leave one of both out"):
        j2o.bisect(named, specs, inputs, sizes={"B": 2})
    with pytest.raises(j2o.SpecError, match="size T=3: there is no such"):
        j2o.bisect(named, specs, sizes={"T": 3})
    with pytest.raises(j2o.SpecError, match="sizes=3: a mapping"):
        j2o.bisect(named, specs, sizes=3)
    for size in (-1, 0, "2", 2.5):
        with pytest.raises(j2o.SpecError, match=r"size B=.*at least 1 is needed"):
            j2o.bisect(named, specs, sizes={"B": size})
    for seed in (-1, 2**70, 1.5):
        with pytest.raises(j2o.SpecError, match=r"seed=.*from 0 to"):
            j2o.bisect(named, specs, seed=seed)


def test_the_result_as_text_and_data():
    passes = j2o.default_pipeline(2).after("lower", forget_tanh)
    found = j2o.bisect(layers, ["f32[B,4]"], passes=passes)
    text = str(found)
    assert "comes from   the pass forget_tanh" in text
    assert line_of(layers, "jnp.tanh") in text
    data = json.loads(json.dumps(found.to_json()))
    assert data["fault"]["pass_name"] == "forget_tanh"
    assert data["fault"]["place"]["source"] == line_of(layers, "jnp.tanh")
