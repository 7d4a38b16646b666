"""`tools.runtimes`: asking a runtime in another process, and what is made of its answers."""

import sys

import jax
import numpy as np
import pytest

import j2o
from j2o.backend.kernels import table
from tools.runtimes.__main__ import GOOD, NOTHING, Export, Table, verdict
from tools.runtimes.asking import Answer, Runtime, ask, job, kernels, runtime
from tools.runtimes.probes import KINDS, probes
from tools.runtimes.tables import newest_ir_version, newest_opset

INSTALLED = runtime("onnxruntime", sys.executable)


def gelu():
    x = np.linspace(-2, 2, 6, dtype=np.float32)
    model = j2o.compile(jax.nn.gelu, [x])
    return model.to_proto().SerializeToString(), x


@pytest.mark.parametrize("name", ["onnxruntime", "reference"])
def test_answers_of_another_process(name):
    model, x = gelu()
    jobs = [job(model, {"x": x}), job(model), job(b"nothing")]
    ran, loaded, failed = ask(runtime(name, sys.executable), jobs)
    np.testing.assert_allclose(ran.outputs[0], jax.nn.gelu(x), rtol=1e-5, atol=1e-6)
    assert (loaded.outputs, loaded.error) == ([], None)
    assert failed.error


CRASHING = """
import sys
lines = open(sys.argv[1]).read().splitlines()
out = open(sys.argv[2], "a")
for line in lines:
    if "crash" in line:
        sys.exit("stopped")
    print("{}", file=out, flush=True)
"""


def test_a_process_that_ends_costs_one_answer(tmp_path):
    script = tmp_path / "crashing.py"
    script.write_text(CRASHING)
    one = Runtime("crashing", (sys.executable, str(script)))
    jobs = [job("good"), job("crash"), job("good"), job("crash")]
    errors = [answer.error for answer in ask(one, jobs)]
    assert [bool(error) for error in errors] == [False, True, False, True]
    assert errors[1] == "crashed: the process ended with status 1 stopped"


def test_the_table_of_the_installed_one_is_what_it_tells():
    found = kernels(INSTALLED)
    assert table().runtime == f"onnxruntime {found['version']}, CPU"
    assert newest_opset(INSTALLED) == table().newest
    assert newest_ir_version(INSTALLED) == table().ir_version


def test_what_the_table_says_is_loaded():
    kinds = ["Acos", "Add", "Attention", "Gelu", "If", "LSTM", "Loop", "Scan", "Swish"]
    told = [probe for probe in probes(table().newest, kinds) if is_told(probe)]
    assert {probe.op for probe in told} == {*kinds}
    for probe, answer in zip(
        told, ask(INSTALLED, [job(p.model) for p in told]), strict=True
    ):
        assert answer.error is None, probe


def is_told(probe):
    """Whether the table has a row for a probe."""
    target = table().target(max(probe.first, 18))
    op = f"onnx.{probe.op}"
    rows = (*target.rows.get(op, ()), *target.inlined.get(op, ()))
    return any(
        all(dtype in row.get(name, [dtype]) for name, dtype in probe.dtypes.items())
        for row in rows
    )


def test_every_operator_with_a_recipe_is_probed():
    assert {"If", "Loop", "Scan", "Resize", "LSTM", "Add"} <= set(KINDS)
    assert "RandomNormal" not in KINDS


X = np.ones((2, 3), np.float32)


def exported(wanted, **keeps):
    return Export("p", None, "", {}, [wanted], 18, 0, keeps)


VERDICTS = [
    # (what JAX gives, what is told of the runtime, its answer, the verdict)
    (X, {}, Answer([X], None), GOOD),
    (X, {}, Answer([X * 1.0005], None), GOOD),
    (X, {}, Answer([X * 1.1], None), "numbers differ by 1.0e-01, the largest is 1.0e+00"),
    (X * np.nan, {}, Answer([X * np.nan], None), NOTHING),
    (X * np.nan, {}, Answer([X], None), "NaN or infinities differ"),
    (X, {}, Answer([X * np.nan], None), "numbers differ by nan, the largest is 1.0e+00"),
    (X, {}, Answer([X[:1]], None), "shapes differ: (1, 3), not (2, 3)"),
    (X.astype(int), {}, Answer([X.astype(int) + 1], None), "integers differ"),
    (X, {"rt": "no Add"}, Answer([], "a long text"), "no Add"),
    (X, {"rt": ""}, Answer([], "in /a/b.onnx: no"), "not expected: in … no"),
    (X, {}, Answer([], "in /a/b.onnx: no"), "in … no"),
    (X, {"rt": "no Add"}, Answer([X], None),
     "not expected: it runs; inspect says that it does not: no Add"),
]  # fmt: skip


@pytest.mark.parametrize(("wanted", "keeps", "answer", "told"), VERDICTS)
def test_verdicts(wanted, keeps, answer, told):
    assert verdict(exported(wanted, **keeps), "rt", answer) == told


def test_the_table_has_notes_once():
    made = Table(["a 1", "b 2"])
    made.enter("mlp", 20, "a 1", [GOOD])
    made.enter("mlp", 20, "b 2", ["no Add", GOOD])
    made.enter("cnn", 18, "b 2", ["no Add"])
    assert str(made).splitlines() == [
        "| program | opset | a 1 | b 2 |",
        "| --- | --- | --- | --- |",
        "| mlp | 20 | ✓ | [1] / ✓ |",
        "| cnn | 18 | – | [1] |",
        "",
        "- [1] no Add",
    ]
