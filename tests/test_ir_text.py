"""The text form: `parse(str(graph))` is the graph again, and its text the same."""

import random
import re
import time

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
from j2o.ir.notation import stem
from j2o.ir.parser import tensors_of
from j2o.ir.printer import to_text
from j2o.ir.same import same
from tests.harness import stable_id


def round_trip(graph):
    text = str(graph)
    again = parse(text, tensors_of(graph))
    assert str(again) == text
    assert same(graph, again) is None
    again.verify()


def loops(x, n):
    def body(c):
        return jax.lax.cond(
            c[1] > 1,
            lambda v: (v[0] * 2, v[1] - 1),
            lambda v: (v[0] + 1.5, v[1] - 1),
            c,
        )

    return (
        jax.lax.while_loop(lambda c: c[1] > 0, body, (x, n))[0],
        jnp.cumsum(x),
        jnp.fft.rfft(x).real,
    )


PROGRAMS = {
    "loops": (loops, [("B",), "i32[]"]),
    "keys": (
        lambda k: jax.random.normal(jax.random.wrap_key_data(k), (3,)),
        ["u32[2]"],
    ),
    "sizes": (lambda x: x.reshape(-1, 2)[1:, :1] + x.shape[0] // 2, [("2*B+2",)]),
    "casts": (lambda x: x.astype("bfloat16").astype("int8") + jnp.int8(3), [("B",)]),
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("level", [0, 3])
def test_after_every_pass(name, level):
    fn, specs = PROGRAMS[name]
    seen = []
    j2o.compile(
        fn,
        specs,
        passes=lambda p: p.observing(lambda n, g: (round_trip(g), seen.append(n))),
        opt_level=level,
    )
    assert "lower" in seen


@pytest.mark.parametrize(
    "name", ["mlp", "attention", "vit_functions", "lstm", "generation", "adam_step"]
)
def test_examples_after_every_pass(name):
    example = zoo.EXAMPLES[name]
    j2o.compile(
        example.build(),
        example.specs,
        passes=lambda p: p.observing(lambda _, g: round_trip(g)),
    )


NUMBERS = [
    0,
    1,
    -1,
    1.5,
    float("nan"),
    float("inf"),
    -float("inf"),
    -0.0,
    1e-45,
    3.4e38,
]
DTYPES = [d for d in DType if not d.is_key and d not in (DType.STRING,)]


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: d.value)
def test_constants_of_every_dtype(dtype):
    graph = Graph("main")
    kind = np.dtype(dtype.numpy)
    values = [
        n
        for n in NUMBERS
        if dtype.is_float or dtype.is_complex or (n == int(n) if abs(n) < 9 else False)
    ]
    with np.errstate(all="ignore"):
        array = np.array(
            [0 if dtype.is_unsigned and n < 0 else n for n in values], np.float64
        ).astype(kind)
    builder = Builder(graph)
    graph.set_outputs(
        [
            builder.const(array),
            builder.const(array.reshape(-1, 1)),
            builder.const(array[:1].reshape(())),
        ]
    )
    graph.output_names = ["a", "b", "c"]
    round_trip(graph)
    again = parse(str(graph))
    for old, new in zip(graph.outputs, again.outputs, strict=True):
        assert old.const.load().tobytes() == new.const.load().tobytes()


names = st.text(st.characters(blacklist_categories=("Cs",)), max_size=8)
dims = st.sampled_from(
    ["B", "T", "2*B", "B*T + 1", "floordiv(T, 2)", "max(B, 4)", "3", "1", "0"]
)


@st.composite
def graphs(draw):
    scope = DimScope()
    graph = Graph(
        draw(st.from_regex("[a-z_][a-zA-Z0-9_]{0,6}", fullmatch=True))
        if draw(st.booleans())
        else "main",
        scope,
    )
    shape = tuple(scope.dim(d) for d in draw(st.lists(dims, max_size=3)))
    dtype = draw(st.sampled_from([DType.F32, DType.F64, DType.BF16]))
    values = [
        graph.add_input(Type(dtype, shape), draw(names))
        for _ in range(draw(st.integers(1, 3)))
    ]
    graph.input_names = [f"{draw(names)}{i}" for i in range(len(values))]
    op = Builder(graph)
    for _ in range(draw(st.integers(0, 6))):
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        kind = draw(
            st.sampled_from(["unary", "binary", "const", "attrs", "expand", "if"])
        )
        if kind == "unary":
            new = getattr(op, draw(st.sampled_from(["Neg", "Abs"])))(x)
        elif kind == "binary":
            new = op.Add(x, y)
        elif kind == "const":
            new = op.Mul(x, draw(st.floats(width=32)))
        elif kind == "attrs":
            attrs = draw(
                st.dictionaries(
                    st.from_regex("[a-z_][a-zA-Z0-9_]{0,6}", fullmatch=True),
                    st.one_of(
                        st.integers(-(2**63), 2**63 - 1),
                        st.floats(),
                        st.booleans(),
                        names,
                        st.lists(st.integers(0, 9), max_size=3).map(tuple),
                        st.sampled_from([DType.F16, scope.dim("B + 1"), None]),
                    ),
                    max_size=3,
                )
            )
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
    graph.set_outputs(
        [draw(st.sampled_from(values)) for _ in range(draw(st.integers(1, 2)))]
    )
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
        (
            'graph @m(%x: f32[2] as "x") -> ("y") {\n  %y = onnx.Neg(%x)\n  return %y }',
            "line 3, column 3.*type",
        ),
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


MANY = 100_000


def with_attribute(text):
    head = 'graph @m(%x: f32[2] as "x") -> ("y")'
    return f"{head} {{\n  %y = onnx.Neg(%x) {{a = {text}}} : f32[2]\n  return %y\n}}"


ATTACKS = {
    "spaces after a brace": with_attribute("1").replace("{a", "{" + " " * MANY + "a")
    + "x",
    "comments after a brace": with_attribute("1").replace(
        "{a", "{" + "// x\n" * MANY + "a"
    )
    + "x",
    "lists": with_attribute("[" * MANY),
    "structs": with_attribute("S(a = " * MANY),
    "tensors": with_attribute("tensor(" * MANY),
    "regions": 'graph @m(%x: f32[2] as "x") -> ("y") {\n'
    + "%y = a.b(%x) : f32[2] {\n graph @r() {\n" * MANY,
    "digits": with_attribute("1" * MANY),
    "digits and a letter": with_attribute("1" * MANY + "x"),
    "dots": with_attribute("1." * MANY),
    "digits of an element": "graph @m() { %y = const " + "1" * MANY + "x",
    "powers": with_attribute("9**9**9**9"),
    "powers in a type": "graph @m(%x: f32[9**9**9**9]) { return %x }",
    "brackets in a type": f"graph @m(%x: f32[{'(' * MANY}]) {{ return %x }}",
    "negative size": "graph @m(%x: f32[-1]) { return %x }",
    "long sum": with_attribute("+".join(["B"] * MANY)),
    "signs": with_attribute("- " * MANY + "B"),
    "numbers behind a name": "graph @m(%a" + "_1" * MANY + "x: f32[2]",
    "open string": 'graph @m(%x: f32[2] as "' + "\\\\" * MANY,
    "open types": "graph @m(" + "%x: f32[1 " * MANY,
    "slashes": "/" * MANY + " x",
    "constant without a name": "graph @m() { const 1 }",
    "dims without a name": "graph @m() { dims [1] }",
    "huge constant": "graph @m() { %y = const 1 : f32[9999999999999]\n return %y }",
    "number for a string": "graph @m() { %y = const 5 : string[]\n return %y }",
    "no text": None,
    "bytes": b"graph",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_wrong_text_takes_long(name):
    start = time.process_time()
    with pytest.raises(j2o.ParseError) as error:
        parse(ATTACKS[name])
    assert time.process_time() - start < 1
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


NUMBERED = "%x" + "_1" * MANY
LONG_TEXTS = {
    "spaces after a brace": with_attribute("1").replace("{a", "{" + " " * MANY + "a"),
    "attributes": with_attribute(
        ", ".join(["1", *(f"a{i} = {i}" for i in range(MANY // 10))])
    ),
    "numbers behind a name": f"graph @m({NUMBERED}: f32[2]) {{ return {NUMBERED} }}",
}


@pytest.mark.parametrize("name", LONG_TEXTS)
def test_no_long_text_takes_long(name):
    """What took time by the square of such a length would take minutes."""
    start = time.process_time()
    parse(LONG_TEXTS[name])
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    "hint", ["x", "x_1", "x_1_2", "x1", "x_", "_1", "7", "12_3", "a_1b", "", "٣", "a_٣"]
)
def test_numbers_are_taken_off_names(hint):
    assert stem(hint) == re.sub(r"(?:_\d+)+$|^\d+$", "", hint)


@pytest.mark.parametrize(
    "tensors",
    [
        5,
        [1],
        "ab",
        *(
            {"k": v}
            for v in (
                5,
                "x",
                object(),
                [1, [2]],
                np.ones(2),
                np.ones(3, np.float32),
                np.zeros(2, "M8[s]"),
            )
        ),
    ],
    ids=stable_id,
)
def test_tensors_that_are_none(tensors):
    with pytest.raises(j2o.ParseError) as error:
        parse(
            'graph @m() -> ("y") {\n  %y = const @"k" : f32[2]\n  return %y\n}', tensors
        )
    assert "\n" not in str(error.value)


WORDS = """{ } ( ) [ ] , : = -> _ %x % @main @"a"
graph function return const dims where as loc( call tensor( dim( none true
nan inf - 0x00 0x0 1e999 1.5 f32 f32[] i64[2] string[] key<fry>[] c64[] bool[] i4[] f32[-1] f32[B]
// " \\ é ² ٣ B//0 max(B,4)
lax.scan onnx.Add dims(B) self name=1 {value=1} {dims=1} {function=1} 99999999999999999999999999""".split()
SAMPLE = """graph @main(%x: f32[B,T] as "x", %k: key<fry>[] as "k") -> ("y", "z")
    dims (B, T) where ("T <= 512") {
  %c = const [1, 2, -3] : i4[3]
  %s = const @"s" ["a", "b"] : string[2]
  %d = dims [B, 2*T, 4, floordiv(T, 2)] : i64[4]
  %y = lax.foo(%x, _, %c) {a = [1, [2.5, true], "s"], b = S(x = 1, y = T(z = none)),
      c = tensor([1.0, nan] : f32[2]), d = dim(true), e = f32, f = B + 1} : f32[B,T] loc("m.py", 3, "f", "")
  %q = onnx.If(%y) : f32[B,T] {
    graph @then() { return %y }
    graph @else() { return %x }
  }
  %r = call @"f"(%q) : f32[B,T]
  return %r, %d
}
function @f(%a: f32[B,T]) { return %a }
"""


def damaged(text, chance):
    """A text with a few places changed."""
    for _ in range(chance.choice([1, 1, 2, 4])):
        start = chance.randrange(len(text) + 1)
        end = start + chance.choice([0, 1, 1, 2, 5, 20])
        copied = chance.randrange(len(text) + 1)
        new = chance.choice(
            [
                "",
                chance.choice(WORDS),
                f" {chance.choice(WORDS)} ",
                chr(chance.randrange(0x300)),
                text[copied : copied + 30],
            ]
        )
        text = text[:start] + new + text[end:]
    return text


def test_damaged_texts_give_parse_errors_or_graphs():
    assert same(parse(SAMPLE), parse(str(parse(SAMPLE)))) is None
    whole, told = 0, ""
    for turn in range(1500):
        try:
            str(parse(damaged(SAMPLE, random.Random(turn))))
            whole += 1
        except j2o.ParseError as error:
            told += str(error)
    assert "\n" not in told
    assert 20 < whole < 700


def test_an_attribute_of_another_kind_is_told_by_verify():
    text = "graph @m(%x: f32[B,5,6]) { %y = onnx.Transpose(%x) {perm = [0, B, 1]} : f32[B,6,5] return %y }"
    with pytest.raises(
        j2o.InvalidGraphError, match=r"Transpose.*operands and attributes do not fit"
    ) as error:
        parse(text).verify()
    assert "\n" not in str(error.value)
