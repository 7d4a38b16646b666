"""The report as one HTML file: what it tells, that it is sound HTML, and that it is right about the model."""

import dataclasses
import gc
import html.parser
import json
import re
import subprocess
import sys
import weakref

import flax.linen as linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import j2o
from j2o.api import compile_again
from j2o.backend.summary import summary
from j2o.frontend.versions import enable_x64
from j2o.ir.places import portable_lines
from j2o.page import text_of
from j2o.page.data import NO_PROGRAM, OTHER_GRAPH, TOO_LONG, page_of
from j2o.page.difference import rows_of
from j2o.page.html import FOLDER, percent_text, seconds_text, size_text
from j2o.page.steps import Recorder
from j2o.page.weights import tree
from j2o.passes import rewrite
from j2o.report import Report

HOSTILE = "</script><img src=x onerror=alert(1)><!--\"'&"
VOID = {"br", "col", "input", "meta", "link", "img", "hr"}


class Block(linen.Module):
    heads: int = 2

    @linen.compact
    def __call__(self, x):
        y = linen.LayerNorm()(x)
        x = x + linen.MultiHeadDotProductAttention(self.heads)(y, y)
        return x + linen.Dense(8)(linen.gelu(linen.Dense(16)(linen.LayerNorm()(x))))


class ViT(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(8, (4, 4), strides=4)(x)
        x = x.reshape(x.shape[0], -1, 8)
        for _ in range(2):
            x = Block()(x)
        return linen.Dense(10)(x.mean(1))


@pytest.fixture(scope="module")
def vit():
    module = ViT()
    variables = module.init(jax.random.key(0), jnp.ones((1, 16, 16, 3)))
    spec = [j2o.weights(variables), ("B", 16, 16, 3)]
    return j2o.compile(module.apply, spec, constraints=["B <= 64"], name="vit")


def loop(xs):
    def step(carry, x):
        carry = jnp.tanh(carry) + x
        return carry, jnp.where(x > 0, jnp.exp(carry), carry)

    return jax.lax.scan(step, jnp.zeros(xs.shape[1:]), xs)


@j2o.function
def square_plus_one(x):
    return x * x + 1


def with_functions(x):
    return square_plus_one(jnp.sin(square_plus_one(x)))


@pytest.fixture(scope="module")
def models(vit):
    return {
        "vit": vit,
        "scan": j2o.compile(loop, [("T", 3)]),
        "functions": j2o.compile(with_functions, [(4,)]),
    }


class Checker(html.parser.HTMLParser):
    """Fails where an element does not end, or an id is there twice; keeps the text, and scripts apart."""

    def __init__(self):
        super().__init__()
        self.open = []
        self.ids = []
        self.scripts = {}
        self.links = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if "id" in found:
            self.ids.append(found["id"])
        self.links += [found[key] for key in ("href", "src") if key in found]
        if tag not in VOID:
            self.open.append((tag, found.get("id")))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, name = self.open[-1] if self.open else ("", None)
        if tag in ("script", "style"):
            self.scripts[name or tag] = data
        else:
            self.text += data


def parsed(text):
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.open
    assert len(set(checker.ids)) == len(checker.ids)
    return checker


@pytest.mark.parametrize("name", ["vit", "scan", "functions"])
def test_the_page_is_sound_and_needs_nothing_else(models, name):
    page = parsed(text_of(models[name].report))
    assert {"passes-data", "graph-data"} <= set(page.scripts)
    for link in page.links:
        assert link.startswith("#")
        assert link[1:] in page.ids
    assert "url(" not in page.scripts["style"]
    assert "@import" not in page.scripts["style"]


def texts_after(texts):
    """The text before all passes and after each step, as the page makes them."""
    text = texts.start
    yield [texts.lines[i] for i in text]
    for step in texts.steps:
        new = []
        place = 0
        for start, rows in step.hunks:
            new += text[place:start]
            place = start
            for has_old, line in rows:
                new += [line] if line >= 0 else []
                place += has_old
        text = new + text[place:]
        yield [texts.lines[i] for i in text]


@pytest.mark.parametrize("name", ["vit", "scan", "functions"])
def test_compiling_again_gives_the_models_graph_step_by_step(models, name):
    model = models[name]
    recorder = Recorder()
    wanted = []

    def observe(pass_name, graph):
        recorder(pass_name, graph)
        text = without_names(str(graph).rstrip("\n").split("\n"))
        if not wanted or wanted[-1] != text:
            wanted.append(text)

    graph, _ = compile_again(model.report.compiled.recipe, observe)
    assert str(graph) == str(model.graph)
    found = []
    for lines in texts_after(recorder.texts):
        text = "\n".join(lines).split("\n")
        found.append(without_names(text))
    assert found[-1] == wanted[-1]
    assert [text for text in wanted if text not in found] == []


def without_names(lines):
    """Lines without the names of values, which are others in a text alone."""
    return [re.sub(r"%[\w./]+", "%", line) for line in lines]


def test_a_value_keeps_its_name_where_another_goes():
    """In a text alone, `%x_2` would be `%x_1` once the one before it is gone."""
    text = (
        "graph @f(%x: f32[3]) {{\n{}  %x_2 = onnx.Exp(%x) : f32[3]\n  return %x_2\n}}\n"
    )
    graph = j2o.ir.parse(text.format("  %x_1 = onnx.Neg(%x) : f32[3]\n"))
    recorder = Recorder()
    recorder("", graph)
    graph.first.erase()
    recorder("dce", graph)
    (step,) = recorder.texts.steps
    assert (step.removed, step.added) == (1, 0)
    assert "%x_1 = onnx.Exp" in str(graph)


def test_the_same_place_with_a_user_hands_a_name_on():
    graph = j2o.ir.parse(
        "graph @f(%x: f32[3]) {\n"
        "  %y = onnx.Neg(%x) : f32[3]\n"
        "  %y_1 = onnx.Abs(%y) : f32[3]\n"
        "  %z = onnx.Exp(%y_1) : f32[3]\n"
        "  return %z\n"
        "}\n"
    )
    recorder = Recorder()
    recorder("", graph)
    old = graph.first.next
    graph.first.out.hint = ""
    new = j2o.ir.Builder(graph, old).Relu(graph.inputs[0])
    old.replace_by(new)
    recorder("relu", graph)
    (step,) = recorder.texts.steps
    lines = [recorder.texts.lines[row[1]] for hunk in step.hunks for row in hunk[1]]
    assert lines == ["  %y_1 = onnx.Relu(%x) : f32[3]"]


def test_rows_of_two_texts():
    old = ["a", "%x = f(%y)", "%z = g(%x)", "}", "b"]
    new = ["a", "%w = h(%y)", "%x = f(%w)", "}", "}", "b"]
    rows = rows_of(old, new)
    assert rows == [(0, 0), (-1, 1), (1, 2), (2, -1), (-1, 3), (3, 4), (4, 5)]


@pytest.mark.parametrize("seed", range(20))
def test_rows_have_every_line_of_both_texts_once_in_order(seed):
    rng = np.random.default_rng(seed)
    old, new = ([f"%{n} = {k}" for n, k in rng.integers(0, 9, (40, 2))] for _ in "ab")
    rows = rows_of(old, new)
    assert [left for left, _ in rows if left >= 0] == list(range(len(old)))
    assert [right for _, right in rows if right >= 0] == list(range(len(new)))
    for left, right in rows:
        if left >= 0 and right >= 0:
            assert old[left].partition(" = ")[0] == new[right].partition(" = ")[0]


# ------------------------------------------------------------------------------------- the record


def test_the_record_tells_what_the_report_and_the_file_tell(vit, tmp_path):
    page = page_of(vit.report)
    assert json.loads(json.dumps(dataclasses.asdict(page)))
    (x,) = page.interface.inputs
    assert (x.name, x.dtype, x.shape) == ("args_0", "float32", ["B", "16", "16", "3"])
    assert page.interface.symbols == ["B"]
    assert page.interface.constraints == ["B <= 64"]
    stored = {tensor.name for tensor in vit.to_proto().graph.initializer}
    assert {row.name for row in page.weights} == stored
    sizes = [row.nbytes for row in page.weights]
    assert sizes == sorted(sizes, reverse=True)
    assert [row.name for row in page.passes.rows] == [p.name for p in vit.report.passes]
    recover = next(row for row in page.passes.rows if row.name == "recover")
    assert "softmax" in {rule.name for rule in recover.rules}
    assert recover.doc
    assert recover.group == "clean"


def test_a_rule_that_declined_has_its_reasons():
    rule = rewrite("of_tanh")(lambda op, x: op.Tanh(x))
    rule.becomes(lambda op, x: op.decline("not today"))
    model = j2o.compile(jnp.tanh, [("B", 4)], passes=lambda p: p.after("tidy", rule))
    rows = page_of(model.report).passes.rows
    (told,) = next(row for row in rows if row.name == "of_tanh").rules
    assert told.declined == [("not today", 1)]


def test_each_step_belongs_to_the_pass_that_made_it(vit):
    page = page_of(vit.report)
    steps = page.passes.texts.steps
    owners = {number: row.name for row in page.passes.rows for number in row.steps}
    assert owners == {i: step.name for i, step in enumerate(steps)}
    for row in page.passes.rows:
        assert row.changes or not row.steps, row.name


def test_runtimes_are_those_that_inspect_tells(vit, tmp_path):
    vit.save(tmp_path / "vit.onnx")
    told = summary(tmp_path / "vit.onnx")
    rows = page_of(vit.report).runtimes.rows
    assert any(not row.reasons for row in rows)
    assert [row for row in rows if row.names not in told] == []


def test_a_node_has_its_source_line_unless_that_is_left_out(models):
    texts = page_of(models["scan"].report).passes.texts
    (place,) = [p for p in texts.places if "jnp.tanh(carry)" in p.code]
    assert place.file.endswith("tests/test_page.py")
    assert place.code == "carry = jnp.tanh(carry) + x"
    silent = text_of(models["scan"].report, sources=False)
    texts = page_of(models["scan"].report, sources=False).passes.texts
    assert texts.places == []
    assert set(texts.place_of) == {-1}
    assert len(silent) < len(text_of(models["scan"].report))


def printing(x):
    jax.debug.print("{x}", x=x)
    return jnp.tanh(x)


def test_messages_tell_no_more_of_the_authors_files_than_the_page_does():
    model = j2o.compile(printing, ["f32[3]"])
    (note,) = model.report.notes
    assert f" at {__file__}:" in note
    (told,) = page_of(model.report).notes
    assert re.search(r" at tests/test_page\.py:\d+ is left out", told)
    (silent,) = page_of(model.report, sources=False).notes
    assert "test_page" not in silent
    assert " is left out" in silent


@pytest.mark.parametrize(
    ("text", "told", "silent"),
    [
        ("A: /r/a.py:3: B: no", "A: a.py:3: B: no", "A: B: no"),
        ("/r/with space.py:3: no", "with space.py:3: no", "no"),
        ("E at /tmp/ipykernel_1/2.py:3.", "E at <cell>:3.", "E."),
        (
            "no file: a/b:3, 1 / 2: 3",
            "no file: a/b:3, 1 / 2: 3",
            "no file: a/b:3, 1 / 2: 3",
        ),
    ],
)
def test_lines_in_a_message(text, told, silent):
    assert portable_lines(text) == told
    assert portable_lines(text, sources=False) == silent


def test_complex_numbers_and_nchw_are_remarked():
    model = j2o.compile(
        lambda x, z: (x * 2, jnp.abs(z)),
        [("B", 4, 4, 3), jax.ShapeDtypeStruct((3,), jnp.complex64)],
        inputs_as_nchw=["x"],
    )
    x, z = page_of(model.report).interface.inputs
    assert x.shape == ["B", "3", "4", "4"]
    assert "NHWC" in x.remark
    assert z.shape == ["3", "2"]
    assert "c64[3]" in z.remark


def test_what_runs_in_another_dtype_is_told():
    report = j2o.compile(lambda x: jnp.tanh(x) * jnp.exp(x), ["bf16[3]"]).report
    told = {"Tanh of bf16 in f32": 1, "Exp of bf16 in f32": 1, "Mul of bf16 in f32": 1}
    assert report.widened == told
    assert "Tanh of bf16 in f32" in str(report)
    assert "Tanh of bf16 in f32" in parsed(text_of(report)).text


def test_weights_are_a_tree_of_their_names():
    row = dataclasses.make_dataclass("Row", ["name", "nbytes"])
    rows = [row("a/b/x", 3), row("a/b/y", 4), row("c/d", 9), row("c", 1), row("", 2)]
    root = tree(rows)
    assert (root.nbytes, root.count) == (19, 5)
    assert [part.name for part in root.parts.values()] == ["c", "a/b", ""]
    assert [part.name for part in root.parts["a"].parts.values()] == ["y", "x"]


def test_figures_are_written_as_people_read_them():
    assert size_text(0) == "0 bytes"
    assert size_text(1536) == "1.5 KiB"
    assert size_text(5 * 2**40) == "5.0 TiB"
    assert seconds_text(0.0123) == "12.3 ms"
    assert seconds_text(2.046) == "2.05 s"
    assert percent_text(0) == "0.0 %"
    assert percent_text(1e-5) == "< 0.1 %"


# ------------------------------------------------------------------------------------- what changes meanwhile


class Scaled:
    def __init__(self):
        self.factor = 2.0

    def __call__(self, x):
        return x * self.factor


def test_a_function_that_has_changed_is_told():
    fn = Scaled()
    model = j2o.compile(fn, ["f32[3]"])
    assert page_of(model.report).passes.warning == ""
    fn.factor = 3.0
    assert page_of(model.report).passes.warning == OTHER_GRAPH
    assert OTHER_GRAPH in parsed(text_of(model.report)).text


def test_a_function_that_cannot_be_compiled_again_is_told():
    fn = Scaled()
    model = j2o.compile(fn, ["f32[3]"])
    del fn.factor
    passes = page_of(model.report).passes
    assert passes.texts is None
    assert "no attribute 'factor'" in passes.why_no_texts
    assert "second time: TraceError: tests/test_page.py:" not in passes.why_no_texts
    assert "second time: tests/test_page.py:" in passes.why_no_texts
    assert [row.name for row in passes.rows] == [p.name for p in model.report.passes]
    parsed(text_of(model.report))


def test_why_a_function_cannot_be_compiled_again_is_one_sentence():
    array = jnp.ones((3, 3))
    model = j2o.compile(lambda x: x @ array, ["f32[B,3]"])
    array.delete()
    why = page_of(model.report).passes.why_no_texts
    assert why.startswith("The function could not be compiled a second time: weights ")
    assert why.endswith("]."), why


def test_compiling_again_is_in_the_64_bit_mode_of_then():
    with enable_x64(True):
        model = j2o.compile(lambda x: x + 1, ["f64[3]"])
    page = page_of(model.report)
    assert page.passes.warning == ""
    assert page.interface.inputs[0].dtype == "float64"


def test_a_state_is_compiled_again():
    class Counter(nnx.Module):
        def __init__(self):
            self.cache = nnx.Cache(jnp.zeros(3))

        def __call__(self, x):
            self.cache[...] = self.cache[...] + x
            return self.cache[...]

    model = j2o.compile(Counter(), ["f32[3]"], state=nnx.Cache)
    passes = page_of(model.report).passes
    assert (passes.warning, passes.why_no_texts) == ("", "")


def test_observers_of_the_user_are_called_while_compiling_alone():
    called = []
    model = j2o.compile(
        jnp.tanh,
        ["f32[3]"],
        passes=lambda p: p.observing(lambda name, graph: called.append(name)),
    )
    count = len(called)
    assert count
    text_of(model.report)
    assert len(called) == count


def test_texts_that_are_too_long_are_left_out(models, monkeypatch):
    monkeypatch.setattr("j2o.page.steps.LONGEST", 100)
    passes = page_of(models["scan"].report).passes
    assert passes.texts is None
    assert passes.why_no_texts == TOO_LONG


def test_a_report_of_no_compile_has_a_page():
    page = parsed(text_of(Report()))
    assert NO_PROGRAM in page.text


def test_a_graph_that_is_no_onnx_has_a_page():
    model = j2o.compile(jnp.tanh, ["f32[3]"], passes=lambda p: p.without("lower"))
    page = page_of(model.report)
    assert "no ONNX" in page.runtimes.why_unknown
    parsed(text_of(model.report))


# ------------------------------------------------------------------------------------- what it costs


class Observer:
    def __call__(self, name, graph):
        pass


def compiled_at_an_example(known):
    """A model, and what was only used to make it: an example array and an observer."""
    example = np.zeros((4, 3), np.float32)
    observer = Observer()
    known += [weakref.ref(example), weakref.ref(observer)]
    return j2o.compile(jnp.tanh, [example], passes=lambda p: p.observing(observer))


def test_compiling_keeps_no_examples_and_no_observers():
    known = []
    model = compiled_at_an_example(known)
    gc.collect()
    assert [ref() for ref in known] == [None, None]
    assert page_of(model.report).passes.warning == ""


def test_compiling_does_not_load_the_page():
    code = (
        "import sys, j2o; j2o.compile(abs, ['f32[3]']);"
        "print([name for name in sys.modules if name.startswith('j2o.page')])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert told.stdout.strip() == "[]"


def test_the_page_of_a_model_of_some_size_is_small(vit):
    text = text_of(vit.report)
    assert len(text.encode()) < 300_000


# ------------------------------------------------------------------------------------- names of others


def hostile(x):
    with jax.named_scope("</script>"):
        return {HOSTILE: x[HOSTILE] * 2}


def test_names_of_the_program_are_escaped_everywhere():
    model = j2o.compile(hostile, [{HOSTILE: "f32[B]"}])
    assert model.input_names == [f"x/{HOSTILE}"]
    model.report.warnings.append(HOSTILE)
    model.report.notes.append(HOSTILE)
    for text in (
        text_of(model.report),
        model._repr_html_(),
        model.report._repr_html_(),
        model.graph._repr_html_(),
    ):
        page = parsed(text)
        assert page.links == [link for link in page.links if link.startswith("#")]
        assert "<img" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    page = parsed(text_of(model.report))
    assert HOSTILE in page.text
    data = page.scripts["graph-data"]
    assert "<" not in data
    assert HOSTILE in json.dumps(json.loads(data), ensure_ascii=False).replace("\\", "")


# ------------------------------------------------------------------------------------- how to run it


PROGRAMS = {
    "vit": lambda models: models["vit"],
    "scan": lambda models: models["scan"],
    "functions": lambda models: models["functions"],
    "ints": lambda _: j2o.compile(
        lambda ids, mask: jnp.where(mask, ids, 0), ["i32[B,T]", "bool[B,T]"]
    ),
    "expressions": lambda _: j2o.compile(
        lambda x, y: x[::2].sum() + y, [("2*B + 1",), ("B",)], constraints=["B >= 5"]
    ),
    "brain floats": lambda _: j2o.compile(lambda x: x * 2, ["bf16[3]"]),
    "4 bits": lambda _: j2o.compile(lambda x: x, ["i4[3,3]"]),
    "scalar": lambda _: j2o.compile(lambda x: x + 1, ["f16[]"]),
    "no inputs": lambda _: j2o.compile(lambda: jnp.arange(3), []),
    "complex": lambda _: j2o.compile(lambda z: z * 2, ["c64[3]"]),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_lines_that_run_a_model_run_it(models, name, tmp_path, monkeypatch, capsys):
    model = PROGRAMS[name](models)
    model.save(tmp_path / "it's.onnx")
    monkeypatch.chdir(tmp_path)
    program = page_of(model.report, model_file="it's.onnx").usage
    exec(compile(program, "usage", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == model.output_names


def test_the_lines_name_the_file(vit):
    assert "'vit.onnx'" in page_of(vit.report).usage


# ------------------------------------------------------------------------------------- saving


def test_saving_writes_the_page_and_nothing_else(models, tmp_path):
    report = models["functions"].report
    (tmp_path / "report.html").write_text("old")
    report.save(tmp_path / "report.html")
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == text_of(report)
    report.save(str(tmp_path / "again.html"))
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("nowhere/report.html", {}, "there is no folder"),
        (".", {}, "names a folder"),
        (3, {}, "path=3"),
        ("report.html", {"sources": 1}, "sources=1"),
        ("report.html", {"model_file": 3}, "model_file=3"),
    ],
)
def test_a_bad_path_or_option_is_one_line(
    models, tmp_path, monkeypatch, path, options, message
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(j2o.J2OError, match=message) as caught:
        models["functions"].report.save(path, **options)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------- notebooks


def test_notebooks_show_summaries(models):
    model = models["scan"]
    shown = parsed(model._repr_html_()).text
    assert all(name in shown for name in (*model.input_names, *model.output_names))
    assert "lower" in parsed(model.report._repr_html_()).text
    graph = parsed(model.graph._repr_html_()).text
    assert all(line.strip() in graph for line in str(model.graph).splitlines())


def test_what_notebooks_show_has_a_bound():
    def many(xs):
        for _ in range(400):
            xs = [jnp.sin(x) for x in xs]
        return xs

    model = j2o.compile(many, [["f32[3]"] * 60], opt_level=0)
    graph = model.graph._repr_html_()
    assert len(graph) < 50_000
    assert "more nodes" in graph
    shown = parsed(model._repr_html_()).text
    assert "… 20 more" in shown


# ------------------------------------------------------------------------------------- colours


def luminance(color):
    """Relative luminance (WCAG 2.2)."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = [
        p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts
    ]
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(one, other):
    light, dark = sorted([luminance(one), luminance(other)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_on_every_ground(theme):
    """A ratio of 4.5, as WCAG 2.2 wants it for text."""
    css = (FOLDER / "page.css").read_text(encoding="utf-8")
    themes = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    colors = dict(re.findall(r"--([\w-]+): (#\w{6});", themes[theme]))
    assert len(colors) == 17
    grounds = ["page", "panel", "alert"]
    texts = ["text", "muted", "link", "yes", "no"]
    pairs = [(text, ground) for text in texts for ground in grounds]
    sides = ["page", "removed", "removed-word", "added", "added-word"]
    codes = ["text", "operation", "string", "type"]
    pairs += [(text, ground) for text in codes for ground in sides]
    poor = {
        pair: contrast(colors[pair[0]], colors[pair[1]])
        for pair in pairs
        if contrast(colors[pair[0]], colors[pair[1]]) < 4.5
    }
    assert poor == {}
