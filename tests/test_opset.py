"""The opset of a model by default: the lowest that leaves its graph as it is."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax

import j2o
from examples import zoo
from j2o.backend.kernels import table, target
from j2o.backend.proto import to_proto
from j2o.backend.session import Session
from j2o.ir import parse, versions
from j2o.ir.target import Target
from j2o.ir.types import DType
from j2o.passes.target.opset import OLDEST, lowest_opset

from .harness import assert_same

F8 = "float8_e4m3fn"
X = jax.ShapeDtypeStruct((3, 4), np.float32)


def bits(x):
    return lax.bitcast_convert_type(x, jnp.int32)


def loop(x):
    return lax.fori_loop(0, 3, lambda _, y: jax.nn.gelu(y), x)


# what is compiled, its lowest opset, and a word of the reason
LOWEST = {
    "tanh": (jnp.tanh, [X], 18, ""),
    "acos": (jnp.arccos, [X], 18, ""),
    "gelu": (jax.nn.gelu, [X], 20, "no Gelu"),
    "in a loop": (loop, [X], 20, "no Gelu"),
    "bits": (bits, [X], 26, "no BitCast"),
    "a float of 8 bits": (lambda x: x.astype(F8), [X], 19, "no f8"),
    "an int of 4 bits": (lambda x: x.astype(jnp.int4), [X], 21, "no i4"),
}


@pytest.mark.parametrize("name", LOWEST)
def test_lowest(name):
    fn, specs, opset, reason = LOWEST[name]
    model = j2o.compile(fn, specs)
    assert model.opset == opset
    assert reason in " ".join(model.report.opset_reasons)
    assert bool(model.report.opset_reasons) == (opset > OLDEST)
    assert (f"opset {opset}: before it" in str(model.report)) == (opset > OLDEST)
    proto = model.to_proto()
    assert proto.opset_import[0].version == opset
    onnx.checker.check_model(proto, full_check=True)
    x = np.linspace(-0.9, 0.9, 12, dtype=np.float32).reshape(3, 4)
    assert_same(
        model(x), Session(to_proto(model.graph, table().newest)).run({"x": x})[0]
    )


def newest():
    """The target at its newest opset, as where a user asks for that."""
    return dataclasses.replace(target(), others=None)


# vit_b16 takes long to build; gpt2's causal mask is an attribute of the newest opset (the test below)
ELSEWHERE = {"vit_b16", "gpt2"}


@pytest.mark.parametrize("name", [n for n in zoo.EXAMPLES if n not in ELSEWHERE])
def test_the_graph_is_that_of_the_newest_opset(name):
    example = zoo.EXAMPLES[name]
    fn = example.build()
    model = j2o.compile(fn, example.specs)
    other = j2o.compile(fn, example.specs, target=newest())
    assert (other.opset, other.report.opset_reasons) == (table().newest, [])
    assert str(model.graph) == str(other.graph)
    assert list(model.to_proto().graph.node) == list(other.to_proto().graph.node)


def causal(x):
    """Causal attention of x to itself, x: f32[B, T, N, H]."""
    return jax.nn.dot_product_attention(x, x, x, is_causal=True)


def test_only_where_it_is_asked_for_a_newer_opset_changes_a_mask():
    specs = ["f32[B,T,2,4]"]
    model = j2o.compile(causal, specs)
    other = j2o.compile(causal, specs, target=newest())
    assert "is_causal = 1" not in str(model.graph)
    assert "is_causal = 1" in str(other.graph)
    assert model.opset == 23
    x = np.random.default_rng(0).normal(size=(2, 5, 2, 4)).astype(np.float32)
    np.testing.assert_allclose(model(x), other(x), rtol=1e-5, atol=1e-6)


def test_an_opset_that_was_asked_for_stays():
    model = j2o.compile(jnp.tanh, [X], opset=23)
    assert (model.opset, model.report.opset_reasons) == (23, [])


def test_int8_needs_blocks_only_for_stacks():
    weights = np.random.default_rng(0).normal(size=(2, 256, 256)).astype(np.float32)
    one = j2o.compile(lambda x: x @ weights[0], ["f32[3,256]"], weights_dtype="int8")
    many = j2o.compile(lambda x: x @ weights, ["f32[2,3,256]"], weights_dtype="int8")
    assert (one.opset, many.opset) == (18, 21)
    assert many.report.opset_reasons == ["DequantizeLinear has no attribute block_size"]


# ------------------------------------------------------------------------------ versions


def one_node(text, dtype="f32"):
    graph = parse(f"graph @main(%x: {dtype}[1,1,5]) {{\n  %y = {text}\n  return %y\n}}")
    return graph.outputs[0].node


NODES = [
    # (a node, its dtype, an older opset, what that lacks)
    ("onnx.Tanh(%x) : f32[1,1,5]", "f32", 18, None),
    ("onnx.Acos(%x) : f32[1,1,5]", "f32", 18, None),
    ("onnx.Acos(%x) : bf16[1,1,5]", "bf16", 21, "Acos takes no bf16"),
    ("onnx.Gelu(%x) : f32[1,1,5]", "f32", 19, "there is no Gelu"),
    ("onnx.ReduceMax(%x) : bool[1,1,1]", "bool", 18, "ReduceMax takes no bool"),
    ("onnx.Cast(%x) {to = f16} : f16[1,1,5]", "f32", 18, None),
    (
        "onnx.Cast(%x) {to = f16, saturate = 1} : f16[1,1,5]",
        "f32",
        18,
        "Cast has no attribute saturate",
    ),
]


@pytest.mark.parametrize(("text", "dtype", "opset", "lacks"), NODES)
def test_what_an_older_opset_lacks(text, dtype, opset, lacks):
    assert versions.difference(one_node(text, dtype), opset, 28) == lacks
    assert versions.difference(one_node(text, dtype), 28, 28) is None


def pool(more, size):
    """MaxPool of 5 elements."""
    attrs = f"kernel_shape = [2], strides = [2]{more}"
    return f"onnx.MaxPool(%x) {{{attrs}}} : f32[1,1,{size}]"


CHANGED = [
    # (a node, an older opset, a newer one, whether its meaning changed in between)
    (pool("", 2), 18, 22, False),
    (pool(", ceil_mode = 1", 3), 18, 22, True),
    (pool(", ceil_mode = 1", 3), 18, 21, False),
    ("onnx.Mod(%x, %x) {fmod = 1} : f32[1,1,5]", 18, 28, False),
    ("onnx.Mod(%x, %x) : f32[1,1,5]", 27, 28, True),
]


@pytest.mark.parametrize(("text", "older", "newer", "is_changed"), CHANGED)
def test_changes_that_no_schema_shows(text, older, newer, is_changed):
    found = versions.difference(one_node(text), older, newer)
    assert (found is not None) == is_changed
    assert found is None or found.endswith("means something else")


def test_versions_that_nobody_has_read_count_as_changed(monkeypatch):
    monkeypatch.setattr(versions, "REVIEWED", 21)
    node = one_node("onnx.Acos(%x) : f32[1,1,5]")  # of opset 22
    assert versions.difference(node, 18, 28) == "Acos means something else"
    assert table().newest <= 28


def test_a_function_that_is_written_out_stands_in_for_a_kernel_at_last():
    row = [{"T": frozenset([DType.F32])}]
    # Acos has a kernel at 18 alone and is written out elsewhere, Tan has one from 20 on
    at = {}
    for opset in range(18, 22):
        kernels = {"onnx.Acos": row} if opset == 18 else {"onnx.Tan": row}
        inlined = {} if opset == 18 else {"onnx.Acos": row}
        at[opset] = Target(opset, kernels, inlined=inlined, inlines=False)
    newest = {"onnx.Acos": row, "onnx.Tan": row}
    fake = Target(21, newest, others=at.__getitem__)
    assert lowest_opset(one_node("onnx.Acos(%x) : f32[1,1,5]").home, fake).number == 18
    graph = parse("""graph @main(%x: f32[2]) {
      %a = onnx.Acos(%x) : f32[2]
      %b = onnx.Tan(%a) : f32[2]
      return %b
    }""")
    assert lowest_opset(graph, fake).number == 19


def test_kernels_raise_the_opset():
    rows = {"onnx.Acos": [{"T": frozenset([DType.F64])}]}
    older = {"onnx.Acos": [{"T": frozenset([DType.F32])}]}
    at = {18: older, 19: older, 20: older, 21: older, 22: rows}
    fake = Target(23, rows, "a runtime", others=lambda o: Target(o, at[o]))
    graph = one_node("onnx.Acos(%x) : f64[1,1,5]", "f64").home
    assert lowest_opset(graph, fake) == (22, ("a runtime runs no Acos of f64",))


@pytest.mark.parametrize(
    "draw",
    [
        lambda key, x: jax.random.uniform(key, x.shape),
        lambda key, x: jax.random.categorical(key, x),
        lambda key, x: x + jax.random.normal(key, x.shape) * 0.1,
        lambda key, x: jax.lax.top_k(x, 2),
    ],
    ids=["uniform", "categorical", "normal", "top_k"],
)
def test_samples_and_the_greatest_run_everywhere(draw):
    model = j2o.compile(draw, [jax.random.key(0), "f32[4,8]"])
    assert model.opset == 18
