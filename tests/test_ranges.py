"""What `ranges` removes: operators that are left, and JAX's values inside and outside of axes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jax import lax

import j2o
from j2o.backend.kernels import target
from j2o.frontend.retrace import Retracer
from j2o.ir.build import Builder
from j2o.ir.dims import DimScope, evaluate
from j2o.ir.graph import Graph
from j2o.ir.types import DType, Type
from j2o.numeric_check import NumericCheck
from j2o.passes.clean.facts import Facts
from j2o.passes.clean.ranges import ranges
from j2o.passes.context import Context
from tests.harness import agrees, normal, operators

TABLE = np.arange(20, dtype=np.float32).reshape(10, 2)
INDICES = np.array([0, 3, 9, -1, -10, -11, 10, 127, -128], np.int32)
ENDS = np.array([np.iinfo(np.int32).min, np.iinfo(np.int32).max], np.int32)
EDGES = np.concatenate([INDICES, ENDS])


def left(fn, specs, opset=21):
    """The operators that are left of a function at level 2."""
    return operators(j2o.compile(fn, specs, opt_level=2, opset=opset))


# ------------------------------------------------------------------------------------------ lookups


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.uint8, np.uint32])
@pytest.mark.parametrize("mode", ["fill", "clip", "wrap"])
def test_lookups_at_any_index(dtype, mode):
    def look_up(table, index):
        return jnp.take(table, index, axis=0, mode=mode)

    index = EDGES.astype(dtype)
    for level in range(3):
        model = j2o.compile(look_up, ["f32[10,2]", index], opt_level=level)
        np.testing.assert_array_equal(model(TABLE, index), look_up(TABLE, index))


def test_a_lookup_that_clamps_is_two_operators():
    assert left(lambda x, i: x[i], ["f32[10,2]", "i32[b]"]) == ["Clip", "Gather"]
    assert left(lambda x, i: x[i], ["f32[10,2]", "i32[]"]) == ["Clip", "Gather"]


@pytest.mark.parametrize("mode", ["fill", "clip"])
def test_columns_of_places_count_from_the_end(mode):
    def along(x, i):
        return jnp.take_along_axis(x, i, axis=1, mode=mode)

    index = np.stack([EDGES, EDGES[::-1]])
    model = agrees(along, [TABLE.T.copy(), index], ["f32[b,10]", "i32[b,n]"])
    assert not {"Less", "Min", "Max"} & set(operators(model))


def test_updates_at_any_index():
    def put(x, i, u):
        return (
            x.at[i].set(u),
            x.at[i].add(u),
            lax.dynamic_update_slice(x, u[None], (i, 0)),
        )

    for index in EDGES:
        agrees(put, [TABLE, index, TABLE[3]], ["f32[10,2]", "i32[]", "f32[2]"])


def test_a_lookup_inside_is_one_gather():
    def argmax(x, y):
        return y[jnp.argmax(x > 0, axis=-1)]

    model = agrees(argmax, [TABLE.T.copy(), TABLE], ["f32[b,10]", "f32[10,2]"])
    assert operators(model).count("Gather") == 1
    assert not {"Clip", "Min", "Max", "Less"} & set(operators(model))


def test_a_counter_of_a_loop_lies_in_its_axis():
    def total(x):
        return lax.fori_loop(0, 10, lambda i, s: s + x[i], jnp.zeros(2))

    model = agrees(total, [TABLE], ["f32[10,2]"])
    body = [node.kind for node in model.graph.walk() if node.graph is not model.graph]
    assert not {"Clip", "Min", "Max", "Less", "Where"} & set(body)


def test_a_counter_that_runs_out_of_its_axis_is_clamped():
    def total(x):
        return lax.fori_loop(0, 12, lambda i, s: s + x[i], jnp.zeros(2))

    agrees(total, [TABLE], ["f32[10,2]"])


# -------------------------------------------------------------------------------------------- sizes


def test_places_along_an_axis_of_any_size():
    def rows(x):
        return x[jnp.arange(x.shape[0])]

    model = agrees(rows, [TABLE], ["f32[t,2]"])
    assert operators(model).count("Gather") == 1
    assert not {"Min", "Max", "Where", "Less"} & set(operators(model))


def test_places_that_may_lie_beyond_a_table():
    def rows(table, x):
        return jnp.take(table, jnp.arange(x.shape[0]), axis=0) + x

    for size in (1, 10, 11, 30):
        agrees(rows, [TABLE, np.ones((size, 2), np.float32)], ["f32[10,2]", "f32[t,2]"])


def test_a_constraint_lets_places_lie_inside():
    def rows(table, x):
        return jnp.take(table, jnp.arange(x.shape[0]), axis=0) + x

    specs = ["f32[10,2]", "f32[t,2]"]
    model = j2o.compile(rows, specs, constraints=["t <= 10"], opset=21)
    assert "Where" not in operators(model)


def test_halves_of_places_are_quotients():
    def halves(x):
        return x + jnp.arange(x.shape[0]) // 2

    model = agrees(halves, [TABLE[:, 0]], ["f32[t]"])
    assert not {"Where", "Sign", "Less", "And"} & set(operators(model))


def test_remainders_are_one_operator():
    def remainders(x, i):
        return x + jnp.arange(x.shape[0]) % 3, i % 5, jnp.mod(i, 7)

    index = np.array([0, 4, -1, -5, -6, 2**31 - 1, -(2**31)], np.int32)
    model = agrees(remainders, [TABLE[:, 0], index], ["f32[t]", "i32[n]"])
    assert operators(model).count("Mod") == 3
    assert not {"Where", "Div", "Less"} & set(operators(model))


def test_causal_masks_have_one_comparison():
    def masked(x):
        t = x.shape[0]
        return jnp.where(jnp.tril(jnp.ones((t, t), bool)), x, -1e9)

    model = agrees(masked, [TABLE[:2]], ["f32[t,t]"])
    assert not {"And", "Or", "Not"} & set(operators(model))


# -------------------------------------------------------------------------------- random programs

# operators that take two numbers, of one dtype; those of the second row give Booleans
NUMBERS = ("Add", "Sub", "Mul", "Max", "Min", "Div", "Mod")
COMPARISONS = ("Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
LOGIC = ("And", "Or", "Xor")


@st.composite
def programs(draw):
    """A graph of integers and Booleans of shape `[T]`, all of which are results."""
    scope = DimScope()
    graph = Graph("main", scope)
    size = scope.symbol("T")
    graph.input_names = ["x", "y"]
    values = [
        graph.add_input(Type(dtype, (size,)), name)
        for name, dtype in (("x", DType.I8), ("y", DType.U8))
    ]
    op = Builder(graph)
    end = op.dim(size)
    places = Type(DType.I64, (size,))
    values.append(op.apply("onnx.Range", 0, end, 1, types=[places]))
    made = len(values)
    for _ in range(draw(st.integers(3, 14))):
        values.append(_step(draw, op, values, size))
    graph.set_outputs(values[made:])
    graph.output_names = [f"v{i}" for i in range(len(values) - made)]
    return graph


def _step(draw, op, values, size):
    """One more value, of those that there are."""
    numbers = [v for v in values if v.type.dtype.is_int]
    flags = [v for v in values if v.type.dtype is DType.BOOL]
    x = draw(st.sampled_from(numbers))
    kinds = ["cast", "compare", "clip", "unary", "number"] + ["logic", "where"] * 2
    kind = draw(st.sampled_from(kinds if flags else kinds[:5]))
    if kind == "cast":
        dtypes = [DType.I8, DType.I16, DType.I32, DType.I64, DType.U8]
        return op.Cast(x, to=draw(st.sampled_from(dtypes)))
    if kind == "unary":
        return op.Abs(x) if draw(st.booleans()) else op.Sign(x)
    if kind == "logic":
        a, b = draw(st.sampled_from(flags)), draw(st.sampled_from(flags))
        a = op.Not(a) if draw(st.booleans()) else a
        return getattr(op, draw(st.sampled_from(LOGIC)))(a, b)
    if kind == "clip":
        low = draw(st.integers(0, 20))
        return op.Clip(x, low, draw(st.integers(0, 20)))
    name = draw(st.sampled_from(COMPARISONS if kind == "compare" else NUMBERS))
    y = _second(draw, op, numbers, x, name, size)
    if kind == "where":
        condition = draw(st.sampled_from(flags))
        moved = op.Add(x, y)
        return op.Where(condition, *draw(st.permutations([moved, x])))
    return getattr(op, name)(x, y)


def _second(draw, op, numbers, x, name, size):
    """A second operand: a small number, a size, or another value of the dtype; a divisor is positive."""
    dtype = x.type.dtype
    if name in ("Div", "Mod"):
        return op.const(draw(st.integers(1, 9)), dtype)
    same = [v for v in numbers if v.type.dtype is dtype]
    if dtype is DType.I64 and draw(st.booleans()):
        return op.dims((size - draw(st.integers(-2, 2)),))
    if draw(st.booleans()):
        return draw(st.sampled_from(same))
    least = -20 if dtype.is_signed else 0
    return op.const(draw(st.integers(least, 100)), dtype)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(programs(), st.integers(0, 2**32 - 1))
def test_intervals_hold_and_nothing_changes(graph, seed):
    check = NumericCheck(graph, target(None), Retracer())
    random = np.random.default_rng(seed)
    check.feeds = {
        "x": random.integers(-128, 128, 3, np.int8),
        "y": random.integers(0, 256, 3, np.uint8),
    }
    before, _, _ = check.evaluate(graph)
    facts = Facts()
    for value, array in zip(graph.outputs, before, strict=True):
        interval = facts.of(value)
        lows = [evaluate(low, {"T": 3}) for low in interval.lows]
        highs = [evaluate(high, {"T": 3}) for high in interval.highs]
        assert max(lows) <= array.min(), value
        assert array.max() <= min(highs), value
    context = Context()
    for _ in range(3):
        ranges(graph, context)
        graph.verify()
    after, _, _ = check.evaluate(graph)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


def bucket_of(distance):
    """The bucket of a distance, as T5 has it, in floats."""
    is_near = jnp.abs(distance) < 8
    size = jnp.abs(distance)
    far = 8 + jnp.log(size / 8) / jnp.log(128 / 8) * 8
    bucket = (distance > 0) * 16 + jnp.where(is_near, size, jnp.clip(far, max=15))
    return bucket.astype("int32")


def test_buckets_of_distances_are_converted_as_they_are():
    table = jnp.asarray(normal(32, 4))

    def fn(x):
        places = jnp.arange(x.shape[0])
        return table[bucket_of(places[None, :] - places[:, None])]

    for length in (1, 2, 300):
        model = agrees(fn, [normal(length)], ["f32[T]"])
        assert not {"IsNaN", "GreaterOrEqual"} & set(operators(model))
