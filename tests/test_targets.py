"""Targets by name and from files: their tables, and what a model for one may have."""

import gzip
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import j2o
from j2o.backend import kernels
from j2o.backend.takers import takers
from j2o.cli import main
from j2o.frontend.versions import enable_x64
from j2o.ir.target import OLDEST, read_table
from j2o.ir.types import DType
from j2o.passes.target.legalize import runs
from tools.runtimes.tables import merged

X = jax.ShapeDtypeStruct((3, 4), np.float32)
EVERY = [name for name in kernels.names() if name != kernels.INSTALLED]
F64, I64 = DType.F64, DType.I64


def nodes(model):
    """The ONNX nodes of a model, those of regions included."""
    return [node for node in model.graph.walk() if node.dialect == "onnx"]


# -------------------------------------------------------------------------------- tables


def test_there_is_a_table_for_every_runtime():
    minors = [f"onnxruntime-1.{minor}" for minor in range(20, 33)]
    assert [*minors, "onnxruntime-web", "openvino", "portable"] == EVERY


@pytest.mark.parametrize("name", EVERY)
def test_a_table_is_sound_and_small(name):
    found = kernels.table(name)
    assert (found.name, found.newest > OLDEST) == (name, True)
    assert (kernels.FOLDER / f"{name}.json.gz").stat().st_size < 5000
    for kernel in found.kernels:
        assert OLDEST <= kernel.first <= kernel.last <= max(28, found.newest)
    assert found.target().supports("onnx.Add", DType.F32)


def test_bits_of_large_numbers_are_not_shifted_as_floats():
    """OpenVINO divides by powers of two in f32: random bits would be others."""

    def bits(key):
        return jax.random.bits(key, (3,))

    key = jax.random.key(0)
    j2o.compile(bits, [key], target="onnxruntime-1.20").verify(key)
    with pytest.raises(j2o.UnsupportedError, match=r"BitShift\(u32.*openvino has no"):
        j2o.compile(bits, [key], target="openvino")


def test_kernels_come_and_go_with_opsets_and_versions():
    old, new = kernels.table("onnxruntime-1.20"), kernels.table("onnxruntime-1.32")
    assert (old.newest, "onnx.BitCast" in old.rows(21)) == (21, False)
    assert ["onnx.BitCast" in new.rows(opset) for opset in (25, 26)] == [False, True]
    assert ["onnx.Gelu" in new.rows(opset) for opset in (19, 20)] == [False, True]
    # a function that is written out is no kernel
    assert "onnx.HardSwish" not in new.rows(18)
    assert new.target(18).prefers("onnx.HardSwish", DType.F32)
    assert not new.target(18).supports("onnx.HardSwish", DType.F32)


def test_a_normalisation_that_loses_its_digits_stays_in_parts():
    """Up to onnxruntime 1.26, LayerNormalization gives NaN where the mean is far from 0."""

    def norm(x):
        centred = x - jnp.mean(x, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        return centred * lax.rsqrt(variance + 1e-6)

    for name, is_one in [("onnxruntime-1.26", False), ("onnxruntime-1.27", True)]:
        model = j2o.compile(norm, [X], target=name)
        kinds = {node.kind for node in nodes(model)}
        assert ("LayerNormalization" in kinds) == is_one
    # the file may be run there all the same
    assert not takers(j2o.compile(norm, [X]).to_proto())[0].reasons


def test_functions_are_put_in_place_where_a_runtime_has_none():
    @j2o.function
    def block(x):
        return jnp.sin(x) + 1

    def fn(x):
        return block(block(x))

    for level in (2, 3):
        for name, count in [("onnxruntime-1.20", 1), ("openvino", 0), ("portable", 0)]:
            model = j2o.compile(fn, [X], target=name, opt_level=level)
            assert len(model.graph.functions) == count
    found = {one.name: one.reasons for one in takers(j2o.compile(fn, [X]).to_proto())}
    assert found["openvino"] == ("functions of the model's own",)
    assert found["onnxruntime-1.20"] == ()


def test_what_is_portable_runs_everywhere():
    for opset in range(OLDEST, kernels.table("portable").newest + 1):
        portable = kernels.table("portable").target(opset)
        for name in EVERY[:-1]:
            other = kernels.table(name).target(opset)
            for op in portable.rows:
                found = other.dtypes(op) | _inlined(other, op)
                assert portable.dtypes(op) <= found, (name, op)


def _inlined(target, op):
    rows = target.inlined.get(op, ())
    return frozenset(
        dtype for row in rows for dtypes in row.values() for dtype in dtypes
    )


def test_the_installed_one_is_the_last_before_a_newer(monkeypatch):
    assert kernels.installed() in EVERY
    for version, name in [
        ("1.23.2", "onnxruntime-1.23"),
        ("1.99.0", EVERY[-4]),
        ("1.5.0", "onnxruntime-1.20"),
    ]:
        monkeypatch.setattr(kernels.metadata, "version", lambda _, v=version: v)
        assert kernels.installed.__wrapped__() == name


def test_rows_that_differ_in_one_constraint_become_one():
    def row(first, second):
        return (("T", frozenset(first)), ("T1", frozenset(second)))

    rows = [row([F64], [I64]), row([F64], [F64]), row([I64], [I64])]
    found = merged(rows)
    pairs = {(a, b) for (_, one), (_, two) in found for a in one for b in two}
    assert pairs == {(F64, I64), (F64, F64), (I64, I64)}
    assert len(found) == 2


# ------------------------------------------------------------------------------ compiling


@pytest.mark.parametrize("name", EVERY)
def test_every_node_runs_on_the_target(name):
    def fn(x):
        y = jax.nn.gelu(jnp.sort(x)) + jax.nn.softmax(x.astype(jnp.bfloat16))
        return y, jnp.max(x, axis=0)

    model = j2o.compile(fn, [X], target=name)
    target = kernels.table(name).target(model.opset)
    assert all(runs(node, target) for node in nodes(model))
    if name == "openvino":  # it has kernels that onnxruntime lacks
        return
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    for got, want in zip(model(x), fn(x), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-2)


def test_the_numeric_check_runs_here_whatever_the_target():
    def fn(x):
        return jnp.max(x.astype(jnp.bfloat16), axis=0)

    j2o.compile(fn, [X], target="openvino", passes=lambda p: p.checking("numeric"))


def test_an_operator_that_a_target_has_not_is_its_parts(robot):
    target = j2o.Target.load(robot)
    model = j2o.compile(lambda x: jax.nn.relu(jnp.tanh(x)), [X], target=target)
    assert "onnx.Relu" not in {node.op for node in nodes(model)}
    assert "robot has no Relu" in str(model.report)


@pytest.mark.parametrize("name", ["openvino", "portable"])
def test_what_a_target_cannot_run_is_refused(name):
    """OpenVINO computes float64 as float32, and has no BitCast."""
    refused = pytest.raises(j2o.UnsupportedError, match=f"{name} has no such kernel")
    with refused, enable_x64(True):
        j2o.compile(jnp.sin, ["f64[3]"], target=name)
    with refused:
        j2o.compile(lambda x: lax.bitcast_convert_type(x, jnp.int32), [X], target=name)


def test_the_opset_of_a_target():
    assert j2o.compile(jnp.tanh, [X], target="onnxruntime-1.20", opset=21).opset == 21
    with pytest.raises(j2o.SpecError, match=r"opsets 18 to 21 for onnxruntime-1\.20"):
        j2o.compile(jnp.tanh, [X], target="onnxruntime-1.20", opset=22)
    with pytest.raises(
        j2o.SpecError, match=r"none of that name; there are onnxruntime, "
    ):
        j2o.compile(jnp.tanh, [X], target="tensorrt")
    with pytest.raises(j2o.SpecError, match="a name is needed"):
        j2o.compile(jnp.tanh, [X], target=3)


# ------------------------------------------------------------------------------- of users

TABLE = {
    "name": "robot",
    "runtime": "onnxruntime 1.19 on a robot",
    "newest": 20,
    "kernels": [
        ["onnx.Tanh", 18, 20, {"T": "f32"}],
        ["onnx.Add", 18, 19, {"T": "f32 i32"}],
        ["onnx.Add", 20, 20, {"T": "f32"}],
        ["onnx.Cast", 18, 20, {"T1": "f32 i32", "T2": "f32 i32"}],
        ["onnx.Max", 18, 20, {"T": "f32"}],
    ],
}


@pytest.fixture
def robot(tmp_path):
    file = tmp_path / "robot.json"
    file.write_text(json.dumps(TABLE))
    return file


def test_a_target_of_a_users_own(robot):
    target = j2o.Target.load(robot)
    assert (target.name, target.opset) == ("robot", 20)
    model = j2o.compile(lambda x: jnp.tanh(x) + 1, [X], target=target)
    assert model.opset == 18
    with pytest.raises(j2o.UnsupportedError, match=r"Sin.*robot has no such kernel"):
        j2o.compile(jnp.sin, [X], target=target)
    assert j2o.compile(jnp.tanh, [X], target=target, opset=19).opset == 19
    assert j2o.compile(jnp.tanh, [X], target=j2o.Target.load(robot, 19)).opset == 19
    with pytest.raises(j2o.SpecError, match="target robot is at 19"):
        j2o.compile(jnp.tanh, [X], target=j2o.Target.load(robot, 19), opset=18)
    with pytest.raises(j2o.SpecError, match="robot takes opsets 18 to 20"):
        j2o.Target.load(robot, 21)


def test_a_table_in_gzip_is_the_same(robot, tmp_path):
    packed = tmp_path / "robot.json.gz"
    packed.write_bytes(gzip.compress(robot.read_bytes()))
    assert read_table(packed).kernels == read_table(robot).kernels


WRONG = [
    ("", "cannot be read as a target"),
    ("[]", "cannot be read as a target: a table is an object"),
    ('{"name": "a"}', "is no table of a target"),
    (json.dumps({**TABLE, "kernels": [["onnx.Add", 18, 20, {"T": "f31"}]]}), "f31"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_file_that_is_no_table(tmp_path, text, told):
    file = tmp_path / "wrong.json"
    file.write_text(text)
    with pytest.raises(j2o.SpecError, match=told):
        j2o.Target.load(file)
    with pytest.raises(j2o.SpecError, match="cannot be read"):
        j2o.Target.load(tmp_path / "missing.json")


def test_they_are_listed(capsys):
    assert main(["targets"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [kernels.INSTALLED, *EVERY]
    assert re.search(r"opsets 18 to 21  onnxruntime 1\.20\.\d, CPU", lines[1])
    assert main(["targets", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["targets"]
    assert [one["name"] for one in found] == EVERY
    assert found[0]["opsets"] == [18, 21]
