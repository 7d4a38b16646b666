"""The text form: `parse(str(graph))` is the graph again, and its text the same."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import j2o
from examples import zoo
from j2o.ir import Builder, DimScope, DType, Graph, Type, parse
from j2o.ir.same import same
from j2o.ir.text import tensors_of, to_text


def round_trip(graph):
    text = str(graph)
    again = parse(text, tensors_of(graph))
    assert str(again) == text
    assert same(graph, again) is None
    again.verify()


def loops(x, n):
    def body(c):
        return jax.lax.cond(c[1] > 1, lambda v: (v[0] * 2, v[1] - 1), lambda v: (v[0] + 1.5, v[1] - 1), c)

    return jax.lax.while_loop(lambda c: c[1] > 0, body, (x, n))[0], jnp.cumsum(x), jnp.fft.rfft(x).real


PROGRAMS = {
    "loops": (loops, [("B",), "i32[]"]),
    "keys": (lambda k: jax.random.normal(jax.random.wrap_key_data(k), (3,)), ["u32[2]"]),
    "sizes": (lambda x: x.reshape(-1, 2)[1:, :1] + x.shape[0] // 2, [("2*B+2",)]),
    "casts": (lambda x: x.astype("bfloat16").astype("int8") + jnp.int8(3), [("B",)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("level", [0, 3])
def test_after_every_pass(name, level):
    fn, specs = PROGRAMS[name]
    seen = []
    j2o.compile(fn, specs, passes=lambda p: p.observing(lambda n, g: (round_trip(g), seen.append(n))), opt_level=level)
    assert "lower" in seen


@pytest.mark.parametrize("name", ["mlp", "attention", "vit_functions", "lstm", "generation", "adam_step"])
def test_examples_after_every_pass(name):
    example = zoo.EXAMPLES[name]
    j2o.compile(example.build(), example.specs, passes=lambda p: p.observing(lambda _, g: round_trip(g)))


NUMBERS = [0, 1, -1, 1.5, float("nan"), float("inf"), -float("inf"), -0.0, 1e-45, 3.4e38]
DTYPES = [d for d in DType if not d.is_key and d not in (DType.STRING,)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.value)
def test_constants_of_every_dtype(dtype):
    graph = Graph("main")
    kind = np.dtype(dtype.numpy)
    values = [n for n in NUMBERS if dtype.is_float or dtype.is_complex or (n == int(n) if abs(n) < 9 else False)]
    with np.errstate(all="ignore"):
        array = np.array([0 if dtype.is_unsigned and n < 0 else n for n in values], np.float64).astype(kind)
    builder = Builder(graph)
    graph.set_outputs([builder.const(array), builder.const(array.reshape(-1, 1)), builder.const(array[:1].reshape(()))])
    graph.output_names = ["a", "b", "c"]
    round_trip(graph)
    again = parse(str(graph))
    for old, new in zip(graph.outputs, again.outputs, strict=True):
        assert old.const.load().tobytes() == new.const.load().tobytes()


names = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
dims = st.sampled_from(["B", "T", "2*B", "B*T + 1", "floordiv(T, 2)", "max(B, 4)", "3", "1", "0"])


@st.composite
def graphs(draw):
    scope = DimScope()
    graph = Graph(
        draw(st.from_regex("[a-z_][a-zA-Z0-9_]{0,6}", fullmatch=True)) if draw(st.booleans()) else "main", scope
    )
    shape = tuple(scope.dim(d) for d in draw(st.lists(dims, max_size=3)))
    dtype = draw(st.sampled_from([DType.F32, DType.F64, DType.BF16]))
    values = [graph.add_input(Type(dtype, shape), draw(names)) for _ in range(draw(st.integers(1, 3)))]
    graph.input_names = [f"{draw(names)}{i}" for i in range(len(values))]
    op = Builder(graph)
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(st.sampled_from(["unary", "binary", "const", "attrs", "expand", "if"]))
        if kind == "unary":
            new = getattr(op, draw(st.sampled_from(["Neg", "Abs"])))(x)
        elif kind == "binary":
            new = op.Add(x, y)
        elif kind == "const":
            new = op.Mul(x, draw(st.floats(width=32)))
        elif kind == "attrs":
            attrs = draw(st.dictionaries(st.from_regex("[a-z_][a-zA-Z0-9_]{0,6}", fullmatch=True), st.one_of(
                st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), names, st.lists(st.integers(0, 9), max_size=3).map(tuple),
                st.sampled_from([DType.F16, scope.dim("B + 1"), None]),
            ), max_size=3))  # fmt: skip
            new = op.node("custom.op", [x, None, y], attrs, [x.type]).outputs[0]
        elif kind == "expand":
            new = op.Add(x, op.full(shape, 1.0, dtype))
        else:
            test = op.const(np.array(True))
            then = op.region(
                draw(st.from_regex("[a-z_][a-zA-Z0-9_]{0,6}", fullmatch=True)) or "a",
                (),
                lambda inner, x=x: inner.Neg(x),
            )
            other = op.region("b", (), lambda inner, y=y: inner.Add(y, 1.0))
            new = op.apply("onnx.If", test, graphs=[then, other], types=[x.type])
        new.hint = draw(names)
        values.append(new)
    graph.set_outputs([draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 2)))])
    graph.output_names = [f"{draw(names)}{i}" for i in range(len(graph.outputs))]
    return graph


@settings(max_examples=150, deadline=None, derandomize=True)
@given(graphs())
def test_random_graphs(graph):
    round_trip(graph)


def test_source_lines_can_be_shown():
    model = j2o.compile(lambda x: x + 1, [("B",)])
    assert __file__ in to_text(model.graph, loc=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1, column 1: expected"),
        ('graph @m(%x: f32[2] as "x") -> ("y") { return %z }', "%z"),
        ('graph @m(%x: f32[2] as "x") -> ("y") {\n  %y = onnx.Neg(%x)\n  return %y }', "line 3, column 3.*type"),
        ('graph @m(%x: f33[2] as "x") -> ("y") { return %x }', "element type"),
    ],
)
def test_what_is_no_graph(text, message):
    with pytest.raises(j2o.ParseError, match=message):
        parse(text)


def test_bfloat16_data_is_exact():
    graph = Graph("main")
    array = np.arange(-4, 4, dtype=np.float32).astype(ml_dtypes.bfloat16) / 3
    graph.set_outputs([Builder(graph).const(array)])
    graph.output_names = ["y"]
    assert (parse(str(graph)).outputs[0].const.load() == array).all()
