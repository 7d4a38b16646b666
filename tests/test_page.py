"""The report as one HTML file: what it tells, that it is sound HTML, and that it is right about the model."""

import html.parser
import re

import flax.linen as linen
import jax
import jax.numpy as jnp
import pytest

import j2o
from j2o.api import compile_again
from j2o.page import text_of
from j2o.page.steps import Recorder

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
