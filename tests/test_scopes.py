"""The modules that nodes come from: found in the name stack or by the weights, kept by the passes."""

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

import j2o
from j2o.ir.node import Loc
from j2o.ir.parser import parse
from j2o.ir.scopes import common, scopes

LEVELS = pytest.mark.parametrize("level", [0, 1, 2, 3])


def told(graph):
    """The operations of a graph, its regions and functions by their scope, in the order of the graph."""
    return [
        f"{'/'.join(scope)}: {node.kind}"
        for node, scope in reversed(scopes(graph).items())
        if node.op not in ("const", "return")
    ]


def two_steps(x):
    with jax.named_scope("encoder"):
        x = jnp.tanh(x)
        with jax.named_scope("norm"):
            x = x - x.mean()
    return jnp.exp(x)


@LEVELS
def test_named_scopes(level):
    graph = j2o.compile(two_steps, [("B", 3)], opt_level=level).graph
    lines = told(graph)
    assert "encoder: Tanh" in lines
    assert "encoder/norm: Sub" in lines
    assert ": Exp" in lines


def test_derivatives_and_maps_are_no_scopes():
    def fn(x):
        return jax.vmap(jax.grad(lambda row: two_steps(row).sum()))(x)

    found = set(scopes(j2o.compile(fn, [(4, 3)]).graph).values())
    assert found == {(), ("encoder",), ("encoder", "norm")}


def test_what_is_inside_of_a_loop_or_a_call():
    @jax.jit
    def step(x):
        with jax.named_scope("inner"):
            return jnp.sin(x) + jax.nn.relu(x)

    def fn(x):
        with jax.named_scope("outer"):
            return lax.scan(lambda c, _: (step(c), c.sum()), x, None, length=3)

    lines = told(j2o.compile(fn, [(3,)], opt_level=0).graph)
    assert "outer/step/inner: Sin" in lines
    assert "outer/step/inner: Max" in lines
    assert "outer: ReduceSum" in lines


def test_names_that_name_no_part_of_a_program():
    def fn(x):
        with jax.named_scope("att"):
            y = jnp.einsum("ij,kj->ik", x, x)
            with jax.named_scope("~"), jax.named_scope("eqx.nn.Linear"):
                return y * 2

    assert set(scopes(j2o.compile(fn, [(4, 3)]).graph).values()) == {(), ("att",)}


def test_a_node_of_no_place_belongs_to_its_users():
    graph = parse("""
graph @main(%x: f32[4]) {
  %two = const 2.0 : f32[]
  %y = onnx.Mul(%x, %two) : f32[4] loc("m.py", 1, "f", "blocks/0")
  %z = onnx.Mul(%y, %two) : f32[4] loc("m.py", 1, "f", "blocks/1")
  %end = onnx.Relu(%z) : f32[4]
  return %end
}
""")
    assert told(graph) == ["blocks/0: Mul", "blocks/1: Mul", ": Relu"]
    assert scopes(graph)[graph.first] == ()
    assert graph.last.prev.loc is None
    assert graph.first.next.loc == Loc("m.py", 1, "f", "blocks/0")


def test_common():
    assert common([("a", "b", "c"), ("a", "b"), ("a", "b", "d")]) == ("a", "b")
    assert common([("a",), ("b",)]) == ()
    assert common([]) == ()
    # a list of modules is none; an element of one is
    assert common([("a", "blocks", "0", "b"), ("a", "blocks", "1")]) == ("a",)
    assert common([("tokens", "0", "0"), ("tokens", "0", "1")]) == ("tokens", "0")


# ------------------------------------------------------------------------------------ frameworks


def modules(fn, specs, level=1):
    """The modules of a compiled program, and those inside of its functions, each once, in their order."""
    graph = j2o.compile(fn, specs, opt_level=level).graph
    found = [
        "/".join(scope)
        for node, scope in reversed(scopes(graph).items())
        if node.op not in ("const", "return")
    ]
    return list(dict.fromkeys(found))


class Block(nnx.Module):
    def __init__(self, rngs):
        self.norm = nnx.LayerNorm(8, rngs=rngs)
        self.att = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        x = x + self.att(self.norm(x))
        return x + self.down(nnx.gelu(self.up(x)))


class Mlp(nnx.Module):
    def __init__(self, rngs):
        self.up = nnx.Linear(8, 16, rngs=rngs)
        self.down = nnx.Linear(16, 8, rngs=rngs)

    def __call__(self, x):
        return x + self.down(nnx.gelu(self.up(x)))


class Net(nnx.Module):
    def __init__(self, depth=2):
        rngs = nnx.Rngs(0)
        self.embed = nnx.Embed(10, 8, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(depth)])
        self.head = nnx.Sequential(
            nnx.Linear(8, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 8, rngs=rngs)
        )

    def __call__(self, ids):
        x = self.embed(ids) + 1
        for block in self.blocks:
            x = block(x)
        return self.embed.attend(self.head(x))


IDS = ["i32[b,4]"]


@LEVELS
def test_nnx_by_its_weights(level):
    graph = j2o.compile(Net(), IDS, opt_level=level).graph
    lines = set(told(graph))
    for i in range(2):
        assert f"blocks/{i}/att/out: MatMul" in lines
        assert f"blocks/{i}/up: MatMul" in lines
        # two that use no weight: what the residuals add
        assert f"blocks/{i}: Add" in lines
    assert ": Add" in lines
    assert {"head/layers/0: MatMul", "head/layers/2: MatMul"} <= lines
    assert "embed: MatMul" in lines
    if level >= 2:  # what passes have made of several
        assert {
            "blocks/0/norm: LayerNormalization",
            "blocks/0/att: MatMul",
            "blocks/0/att: Attention",
            "blocks/0: Gelu",
            "head: Relu",
        } <= lines
    else:
        assert {
            "blocks/0/norm: Sqrt",
            "blocks/0/att/query: MatMul",
            "blocks/0/att: Exp",
            "blocks/0: Tanh",
            "head: Max",
        } <= lines


def test_a_block_more_changes_nothing_before_it():
    two = told(j2o.compile(Net(2), IDS).graph)
    three = told(j2o.compile(Net(3), IDS).graph)
    added = [line for line in three if line.startswith("blocks/2")]
    assert added
    assert [line for line in three if not line.startswith("blocks/2")] == two


def test_equal_runs_give_equal_modules():
    first, second = (told(j2o.compile(Net(), IDS).graph) for _ in range(2))
    assert first == second


class Linen(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            x = x + nn.MultiHeadDotProductAttention(2)(nn.LayerNorm()(x))
        x = nn.RNN(nn.LSTMCell(8))(x)
        return nn.Dense(3)(jnp.tanh(x)), jnp.einsum("abc,abd->acd", x, x)


def test_linen_by_its_names():
    net = Linen()
    weights = j2o.weights(net.init(jax.random.key(0), np.zeros((1, 4, 8))))
    found = modules(net.apply, [weights, "f32[b,4,8]"])
    assert {one for one in found if "LSTM" not in one} == {
        "Linen/LayerNorm_0",
        "Linen/MultiHeadDotProductAttention_0/query",
        "Linen/MultiHeadDotProductAttention_0/key",
        "Linen/MultiHeadDotProductAttention_0/value",
        "Linen/MultiHeadDotProductAttention_0",
        "Linen/MultiHeadDotProductAttention_0/out",
        "Linen",
        "Linen/LayerNorm_1",
        "Linen/MultiHeadDotProductAttention_1/query",
        "Linen/MultiHeadDotProductAttention_1/key",
        "Linen/MultiHeadDotProductAttention_1/value",
        "Linen/MultiHeadDotProductAttention_1",
        "Linen/MultiHeadDotProductAttention_1/out",
        "Linen/RNN_0",
        "Linen/Dense_0",
    }
    assert "Linen/RNN_0/LSTMCell_0/hf" in found


class Equinox(eqx.Module):
    att: eqx.nn.MultiheadAttention
    mlp: eqx.nn.MLP

    def __call__(self, x):
        x = x + self.att(x, x, x)
        return x + jax.vmap(self.mlp)(x)


def test_equinox_by_its_weights():
    one, two = jax.random.split(jax.random.key(0))
    net = Equinox(
        eqx.nn.MultiheadAttention(2, 8, key=one), eqx.nn.MLP(8, 8, 16, 1, key=two)
    )
    assert modules(net, ["f32[4,8]"]) == [
        "att",
        "att/query_proj",
        "att/key_proj",
        "att/value_proj",
        "att/output_proj",
        "",
        "mlp/layers/0",
        "mlp",
        "mlp/layers/1",
    ]


# ------------------------------------------------------------------------------------ plain pytrees


def matrix(n=8):
    return np.ones((n, n), np.float32)


def attention(weights, x):
    q = x @ weights["q"]["w"]
    k = x @ weights["k"]["w"]
    return jax.nn.softmax(q @ k.T) @ x


def block(weights, x):
    x = x + attention(weights["att"], x * weights["scale"])
    with jax.named_scope("ff"):
        return x + jnp.tanh(x @ weights["w"])


def plain(weights, x):
    for layer in weights["layers"]:
        x = block(layer, x)
    return jnp.exp(x @ weights["head"]["w"])


def layer():
    att = {"q": {"w": matrix()}, "k": {"w": matrix()}}
    return {"att": att, "w": matrix(), "scale": matrix()[0]}


WEIGHTS = {"layers": [layer(), layer()], "head": {"w": matrix()}}
OF_PLAIN = [
    "layers/0",
    "layers/0/att/q",
    "layers/0/att/k",
    "layers/0/att",
    "layers/0/ff",
    "layers/1",
    "layers/1/att/q",
    "layers/1/att/k",
    "layers/1/att",
    "layers/1/ff",
    "head",
    "",
]


def test_a_dictionary_of_weights():
    assert modules(plain, [j2o.weights(WEIGHTS), "f32[4,8]"]) == OF_PLAIN
    held = jax.tree.map(jnp.asarray, WEIGHTS)
    found = modules(lambda x: plain(held, x), ["f32[4,8]"])
    assert found == [f"held/{one}".rstrip("/") for one in OF_PLAIN]


def test_weights_that_are_inputs_of_a_gradient():
    specs = jax.tree.map(lambda w: jax.ShapeDtypeStruct(w.shape, w.dtype), WEIGHTS)

    def gradient(weights, x):
        return jax.grad(lambda weights: plain(weights, x).sum())(weights)

    found = modules(gradient, [specs, "f32[4,8]"])
    assert sorted(found) == sorted(set(OF_PLAIN) - {""})
    lines = told(j2o.compile(gradient, [specs, "f32[4,8]"], opt_level=1).graph)
    # tanh and its derivative, 1 - tanh²
    for i in range(2):
        assert lines.count(f"layers/{i}/ff: Tanh") == 1
        assert f"layers/{i}/ff: Sub" in lines


def test_stacked_weights_in_a_scan():
    stacked = jax.tree.map(lambda *w: np.stack(w), *WEIGHTS["layers"])

    def scanned(weights, x):
        return lax.scan(lambda x, one: (block(one, x), None), x, weights["layers"])[0]

    weights = j2o.weights({"layers": stacked})
    graph = j2o.compile(scanned, [weights, "f32[4,8]"], opt_level=1).graph
    (scan,) = graph.holders
    found = scopes(graph)
    inside = {"/".join(found[node]) for node in scan.graphs[0] if node.op != "return"}
    assert inside == {
        "layers",
        "layers/att",
        "layers/att/q",
        "layers/att/k",
        "layers/ff",
    }


def test_a_table_that_all_blocks_read_names_none_of_them():
    table = np.arange(8, dtype=np.float32)

    def one(weights, table, x):
        return jnp.sin(table) * jnp.tanh(x @ weights["up"]["w"]) @ weights["down"]["w"]

    def fn(weights, x):
        for layer in weights["layers"]:
            x = one(layer, weights["table"], x)
        return x

    layers = [{"up": {"w": matrix()}, "down": {"w": matrix()}} for _ in range(2)]
    weights = j2o.weights({"layers": layers, "table": table})
    lines = told(j2o.compile(fn, [weights, "f32[4,8]"], opt_level=0).graph)
    assert "layers/0: Tanh" in lines
    assert "layers/1: Tanh" in lines


def test_one_function_that_calls_the_parts_of_all_blocks():
    def fn(weights, x):
        for layer in weights["layers"]:
            y = jnp.tanh(x @ layer["up"]["w"])
            x = x + y @ layer["down"]["w"]
        return x

    layers = [{"up": {"w": matrix()}, "down": {"w": matrix()}} for _ in range(2)]
    weights = j2o.weights({"layers": layers})
    assert told(j2o.compile(fn, [weights, "f32[4,8]"], opt_level=0).graph) == [
        "layers/0/up: MatMul",
        "layers/0: Tanh",
        "layers/0/down: MatMul",
        ": Add",
        "layers/1/up: MatMul",
        "layers/1: Tanh",
        "layers/1/down: MatMul",
        ": Add",
    ]


# ------------------------------------------------------------------------------------ functions


def test_one_function_for_all_blocks():
    class Marked(nnx.Module):
        def __init__(self):
            self.blocks = nnx.List([Mlp(nnx.Rngs(0)) for _ in range(2)])

        def __call__(self, x):
            for one in self.blocks:
                x = j2o.function(one)(x)
            return x

    graph = j2o.compile(Marked(), ["f32[b,4,8]"], opt_level=2).graph
    found = scopes(graph)
    calls = [node for node in graph if node.op == "call"]
    assert [found[call] for call in calls] == [("blocks", "0"), ("blocks", "1")]
    (function,) = graph.functions.values()
    inside = {"/".join(found[node]) for node in function if node.op != "return"}
    assert inside == {"", "up", "down"}


def test_repeated_blocks_are_called_where_they_stood():
    graph = j2o.compile(Net(6), IDS, opt_level=3).graph
    found = scopes(graph)
    calls = ["/".join(found[node]) for node in graph if node.op == "call"]
    assert len(calls) >= 4
    assert all(call.startswith("blocks/") for call in calls)
    (function,) = graph.functions.values()
    inside = {"/".join(found[node]) for node in function if node.op != "return"}
    assert inside == {"", "norm", "att", "att/out", "up", "down"}


# ------------------------------------------------------------------------------------ written models


def namespaces(nodes):
    return {
        node.name: entry.value
        for node in nodes
        for entry in node.metadata_props
        if entry.key == "namespace"
    }


@LEVELS
def test_nodes_are_named_by_their_modules(level):
    model = j2o.compile(Net(6), IDS, opt_level=level)
    proto = model.to_proto()
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        names = [node.name for node in nodes]
        assert len(set(names)) == len(names)
        # viewers group by this, or by the name in front of the last step
        for name, namespace in namespaces(nodes).items():
            assert name.rpartition("/")[0] == namespace
    names = [node.name for node in proto.graph.node]
    # at level 3 the blocks between the first and the last are calls
    assert any(name.startswith("blocks/3/") for name in names)
    assert level == 3 or "blocks/3/att/out/dot_general" in names
    assert level != 2 or "blocks/3/norm/LayerNormalization" in names
    assert [value.name for value in proto.graph.input] == ["ids"]
    assert [value.name for value in proto.graph.output] == ["output"]
    ids = np.ones((1, 4), np.int32)
    assert model.verify(ids)


def test_names_of_a_function_and_of_a_call():
    class Marked(nnx.Module):
        def __init__(self):
            self.blocks = nnx.List([Mlp(nnx.Rngs(0)) for _ in range(2)])

        def __call__(self, x):
            for one in self.blocks:
                x = j2o.function(one, name="block")(x)
            return x

    proto = j2o.compile(Marked(), ["f32[b,8]"], opt_level=1).to_proto()
    assert [node.name for node in proto.graph.node] == [
        "blocks/0/block",
        "blocks/1/block",
    ]
    (function,) = proto.functions
    assert {"up/dot_general", "down/dot_general", "Tanh", "Add"} <= {
        node.name for node in function.node
    }
    assert namespaces(function.node)["up/dot_general"] == "up"


def test_names_of_a_region():
    def fn(x):
        with jax.named_scope("outer"):
            return lax.scan(lambda c, row: (jnp.sin(c) + row, c), np.ones(4), x)

    (scan,) = j2o.compile(fn, ["f32[3,4]"]).to_proto().graph.node
    assert scan.name == "outer/scan"
    (body,) = [entry.g for entry in scan.attribute if entry.name == "body"]
    assert body.name == "outer/scan_body"
    assert {"outer/sin", "outer/add"} <= {node.name for node in body.node}


def test_without_sources_the_metadata_is_left_out():
    proto = j2o.compile(Net(1), IDS).to_proto(sources=False)
    assert not any(node.metadata_props for node in proto.graph.node)
    assert any(node.name.startswith("blocks/0/att/") for node in proto.graph.node)


def test_names_have_no_spaces_and_no_signs_of_control():
    def fn(x):
        with jax.named_scope("a b\n/c"):
            return jnp.tanh(x)

    (node,) = j2o.compile(fn, ["f32[3]"]).to_proto().graph.node
    assert node.name == "a_b_/c/tanh"


def test_equal_programs_give_equal_bytes():
    one, other = (j2o.compile(Net(), IDS).to_proto() for _ in range(2))
    assert one.SerializeToString(deterministic=True) == other.SerializeToString(
        deterministic=True
    )


def test_no_node_has_the_name_of_a_value():
    """onnxruntime takes a value that it names after a node for one of that name in a region."""

    def fn(x, rows):
        def step(carry, row):
            return jnp.sin(carry) + row, jnp.sum(carry)

        with jax.named_scope("x"):
            carry, sums = jax.lax.scan(step, x, rows)
        return jnp.sin(carry), sums

    specs = ["f32[4]", "f32[T,4]"]
    model = j2o.compile(fn, specs, input_names=["x/sin", "rows"])
    nodes, values = set(), set()

    def visit(graph):
        values.update(value.name for value in (*graph.input, *graph.initializer))
        for node in graph.node:
            nodes.add(node.name)
            values.update(node.output)
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    visit(attribute.g)

    visit(model.to_proto().graph)
    assert not nodes & values
