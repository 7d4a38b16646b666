"""Which runtimes take a file: the lines of `j2o inspect` and `j2o check`."""

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from jax import lax
from onnx import parser

import j2o
from j2o.backend.takers import takers, told
from j2o.cli import main

X = jax.ShapeDtypeStruct((3, 4), np.float32)
OLD, NEW, NEWEST = "onnxruntime-1.20", "onnxruntime-1.25", "onnxruntime-1.32"


def reasons(model):
    """What keeps each runtime from a model, by name."""
    return {one.name: list(one.reasons) for one in takers(model)}


def text(body, opset=18, ir=8, head="float[2] x", more=""):
    """A model of text, with one output."""
    return parser.parse_model(f"""<ir_version: {ir}, opset_import: ["": {opset}{more}]>
    g ({head}) => (float[2] y) {{ {body} }}""")


def test_what_all_of_them_take():
    found = takers(j2o.compile(jnp.tanh, [X]).to_proto())
    assert not any(one.reasons for one in found)
    every = "onnxruntime-1.20 to 1.32, onnxruntime-web, openvino"
    assert told(found) == [f"  runs on {every}"]


def test_what_is_too_new_for_some():
    model = j2o.compile(lambda x: lax.bitcast_convert_type(x, jnp.int32), [X])
    found = reasons(model.to_proto())
    assert found[OLD] == ["opset 26 is too new"]
    assert found[NEW] == found["onnxruntime-web"] == []
    assert found["openvino"] == ["no BitCast"]
    assert told(takers(model.to_proto())) == [
        "  runs on onnxruntime-1.25 to 1.32, onnxruntime-web",
        "  not on onnxruntime-1.20 to 1.24: opset 26 is too new",
        "  not on openvino: no BitCast",
    ]


MODELS = [
    # (a model, a runtime, what keeps it from it)
    (text("y = Tanh(x)", 15), NEWEST, ["opset 15 is older than 18, from which on it is known"]),
    (text("y = Tanh(x)", 18, 13), OLD, ["IR version 13 is too new"]),
    (text("y = Tanh(x)", 99, 13), NEWEST, ["opset 99 is too new"]),
    (text("y = Nonsense(x)"), NEWEST, ["no Nonsense"]),
    (text("y = HardSwish(x)"), NEWEST, []),  # a function that is written out
    (text("y = Celu(x)"), "openvino", []),
    (text("y = Det(x)", head="float[2,2] x"), "openvino", ["no Det"]),
    (text("y = a.b.Own(x)", more=', "a.b": 1'), NEWEST, ["operators of the domain a.b"]),
    (text("y = com.microsoft.QuickGelu(x)", more=', "com.microsoft": 1'), NEWEST, []),
    (text("z = Sin(x) y = Cast <to = 1> (z)", head="double[2] x"), NEWEST, []),
    (text("z = Sin(x) y = Cast <to = 1> (z)", head="double[2] x"), "openvino", ["no Sin of f64"]),
    (text("z = Tan(x) y = Cast <to = 1> (z)", head="bfloat16[2] x", opset=22, ir=10), NEWEST,
     ["no Tan of bf16"]),
    # onnxruntime casts float16 by itself
    (text("z = Tan(x) y = Cast <to = 1> (z)", head="float16[2] x"), NEWEST, []),
]  # fmt: skip


@pytest.mark.parametrize(("model", "name", "wanted"), MODELS)
def test_what_keeps_a_runtime_from_a_file(model, name, wanted):
    assert reasons(model)[name] == wanted


def test_regions_and_functions_are_looked_at():
    def fn(x):
        return lax.fori_loop(0, 3, lambda _, y: jnp.exp(y).astype(jnp.float32), x)

    model = j2o.compile(fn, [X], opset=18).to_proto()
    [loop] = [node for node in model.graph.node if node.op_type in ("Loop", "Scan")]
    body = next(a.g for a in loop.attribute if a.HasField("g"))
    [exp] = [node for node in body.node if node.op_type == "Exp"]
    exp.op_type = "Nonsense"
    assert reasons(model)[NEWEST] == ["no Nonsense"]

    @j2o.function
    def block(x):
        return jnp.exp(x) + 3

    model = j2o.compile(lambda x: block(block(x)), [X], opset=18).to_proto()
    assert reasons(model)[NEWEST] == []
    model.functions[0].node[0].op_type = "Nonsense"
    assert reasons(model)[NEWEST] == ["no Nonsense"]


def test_many_reasons_are_told_shortly():
    body = " ".join(f"v{i} = Own{i}(x)" for i in range(5)) + " y = Tanh(x)"
    lines = told(takers(text(body)))
    assert lines[0] == "  runs on none known"
    assert lines[1].endswith(": no Own0, no Own1, no Own2 and 2 more")


def test_inspect_and_check_tell_it(tmp_path, capsys):
    file = tmp_path / "model.onnx"
    onnx.save(text("y = Gelu(x)", 20, 9), file)
    told_line = "  runs on onnxruntime-1.20 to 1.32, onnxruntime-web, openvino"
    for command in ("inspect", "check"):
        assert main([command, str(file)]) == 0
        assert told_line in capsys.readouterr().out.splitlines()
