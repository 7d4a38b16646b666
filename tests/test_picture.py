"""The data of the graph that one can look at: modules as a tree, nodes, functions and regions as tables."""

import hashlib
import json
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

import j2o
from j2o import page
from j2o.page.modules import MOST, Module, tree
from j2o.page.picture import ENTRIES, LONG, document

VENDOR = Path(page.__file__).parent / "vendor"


def level(paths, before=None):
    """The outermost level of nodes with these paths, in which each node uses the one in front of it."""
    numbers = range(len(paths))
    steps = {n: tuple(path.split("/")) if path else () for n, path in enumerate(paths)}
    chain = {n: {n - 1} if n else set() for n in numbers}
    return tree(numbers, steps, chain if before is None else before).members


def plain(members):
    """A level as nested lists, each behind the name of its module."""
    return [
        [member.name, *plain(member.members)] if isinstance(member, Module) else member
        for member in members
    ]


def graph_of(fn, specs, **options):
    return document(j2o.compile(fn, specs, **options).graph)


# ------------------------------------------------------------------------------------- the tree


def test_nodes_of_a_module_stand_together():
    paths = ["", "a/p", "a/p", "a/q", "a/q", "a"]
    assert plain(level(paths)) == [0, ["a", ["p", 1, 2], ["q", 3, 4], 5]]


def test_a_module_of_one_node_is_this_node():
    assert plain(level(["norm", "head/out", ""])) == [0, 1, 2]


def test_a_module_with_nothing_but_a_module_is_one_box_with_it():
    assert plain(level(["a/b/c", "a/b/c", ""])) == [["a/b/c", 0, 1], 2]


def test_a_module_around_all_of_a_graph_is_its_level():
    assert plain(level(["net/a", "net/a", "net/b", "net"])) == [["a", 0, 1], 2, 3]


def test_parts_have_the_path_of_their_module():
    (module, _) = level([*["a/b"] * (MOST + 1), ""])
    assert module.path == ("a", "b")
    assert [part.path for part in module.members] == [("a", "b")] * 2


def test_a_module_that_is_used_again_later_stands_there_again():
    paths = ["table", "table", "block", "block", "table", "table"]
    wanted = [["table", 0, 1], ["block", 2, 3], ["table (2)", 4, 5]]
    assert plain(level(paths)) == wanted


def test_a_module_is_one_box_where_no_way_leaves_it_and_comes_back():
    paths = ["a", "b", "a", "b"]  # two streams beside each other
    before = {0: set(), 1: set(), 2: {0}, 3: {1}}
    assert plain(level(paths, before)) == [["a", 0, 2], ["b", 1, 3]]


@pytest.mark.parametrize("count", [MOST, MOST + 1, MOST**2 + 1, 5000])
def test_no_level_has_more_boxes_than_one_can_look_at(count):
    found = []
    levels = [level([""] * count)]
    while levels:
        members = levels.pop()
        assert len(members) <= MOST
        modules = [member for member in members if isinstance(member, Module)]
        found += [member for member in members if not isinstance(member, Module)]
        levels += [module.members for module in modules]
    assert sorted(found) == list(range(count))


def test_parts_are_named_by_the_places_of_what_they_have():
    names = [member.name for member in level([""] * 130)]
    assert names == ["1 – 44", "45 – 88", "89 – 130"]


# ------------------------------------------------------------------------------------- the tables


def test_a_node_has_its_values_attributes_module_and_line():
    def fn(x):
        with jax.named_scope("encoder"):
            return jnp.transpose(jnp.tanh(x))

    compiled = j2o.compile(fn, ["f32[B,4]"])
    data = document(compiled.graph)
    (model,) = data["graphs"]
    tanh, transpose = data["nodes"]
    values = [[name, data["types"][type]] for name, type in data["values"]]
    assert model["inputs"] == [[tanh["in"][0], "x"]]
    assert model["outputs"] == [[transpose["out"][0], "output"]]
    assert tanh["out"] == transpose["in"]
    assert values[transpose["in"][0]] == ["tanh", "f32[B,4]"]
    assert transpose["attrs"] == {"perm": "[1, 0]"}
    assert data["modules"][transpose["module"]] == "encoder"
    file, line = transpose["at"]
    assert data["files"][file] == "tests/test_picture.py"
    source = Path(__file__).read_text().splitlines()[line - 1]
    assert "jnp.transpose(jnp.tanh(x))" in source
    shown = json.dumps(document(compiled.graph, sources=False))
    assert "test_picture" not in shown
    assert data["modules"][model["module"]] == "encoder"  # all of the model is of it
    assert model["members"] == [0, 1]


def test_constants_are_values_with_a_text_and_no_nodes():
    weight = jnp.ones((4, 40))
    data = graph_of(
        lambda x, w: jnp.tanh(x @ w) * 1.5, ["f32[B,4]", j2o.weights(weight)]
    )
    constants = [value[2:] for value in data["values"] if len(value) > 2]
    shown = {text: is_weight for text, is_weight in constants}
    assert shown == {"w": 1, "1.5": 0}
    assert [node["op"] for node in data["nodes"]] == ["MatMul", "Tanh", "Mul"]


def test_regions_are_graphs_of_their_node():
    def fn(x):
        def step(carry, row):
            carry = lax.cond(row.sum() > 0, jnp.sin, jnp.cos, carry + row)
            return carry, carry

        return lax.scan(step, x[0], x)

    data = graph_of(fn, ["f32[T,4]"])
    (scan,) = [node for node in data["nodes"] if node["op"] == "Scan"]
    (body,) = [data["graphs"][number] for number in scan["graphs"]]
    assert body["name"] == "body"
    assert len(body["inputs"]) == 2
    inner = [data["nodes"][number]["op"] for number in body["members"]]
    (branch,) = [node for node in data["nodes"] if node["op"] == "If"]
    assert "If" in inner
    names = [data["graphs"][number]["name"] for number in branch["graphs"]]
    assert names == ["then branch", "else branch"]


def test_calls_name_the_body_of_their_function():
    @j2o.function
    def scaled(x):
        return jnp.tanh(x) * 2

    data = graph_of(lambda x: scaled(scaled(x)), ["f32[B,4]"])
    calls = [node for node in data["nodes"] if node["op"] == "call"]
    assert [data["graphs"][call["call"]]["name"] for call in calls] == ["scaled"] * 2
    assert len(data["graphs"]) == 2


def test_attributes_and_constants_are_never_long():
    long = ENTRIES * 10
    index = jnp.arange(long)[::-1]
    data = graph_of(lambda x: jnp.take(x, index) + jnp.ones(long), [(long,)])
    texts = [text for value in data["values"] for text in value[2:3]]
    texts += [text for node in data["nodes"] for text in node.get("attrs", {}).values()]
    assert max(map(len, texts)) <= LONG + len(" and 100 more")
    assert len(json.dumps(data)) < 3000


def test_a_graph_in_the_middle_of_compiling_can_be_looked_at():
    seen = {}
    pipeline = j2o.default_pipeline(opt_level=2).observing(
        lambda name, graph: seen.setdefault(name, document(graph))
    )
    j2o.compile(lambda x: jnp.reshape(x * 2, (-1,)), ["f32[B,4]"], passes=pipeline)
    first = seen[next(iter(seen))]
    assert {node["op"] for node in first["nodes"]} == {"lax.mul", "lax.reshape"}


# ------------------------------------------------------------------------------------- what others wrote


def test_the_code_of_others_is_what_they_published():
    rows = re.findall(r"^\| `(\S+\.js)` .*`([0-9a-f]{64})` \|$", readme(), re.MULTILINE)
    assert [name for name, _ in rows] == [file.name for file in VENDOR.glob("*.js")]
    for name, checksum in rows:
        data = (VENDOR / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == checksum


def readme():
    return (VENDOR / "README.md").read_text()


def test_the_page_has_the_licence_of_the_code_in_it(tmp_path):
    j2o.compile(jnp.tanh, ["f32[B]"]).report.save(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert (VENDOR / "dagre.LICENSE").read_text() in text
