"""Saving: one file or two, overwriting, and what stays behind."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import j2o

W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)


def run(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


@pytest.mark.parametrize("external", [False, True])
def test_round_trip(tmp_path, external):
    model = j2o.compile(lambda x: x @ W, [("B", 64)])
    path = tmp_path / "m.onnx"
    for _ in range(3):
        model.save(path, external_data=external)
        onnx.checker.check_model(str(path))
        x = np.ones((2, 64), np.float32)
        assert np.allclose(run(path, x), x @ W, atol=1e-4)
        assert len(list(tmp_path.iterdir())) == 1 + external


def test_frozen_weights_are_named_by_path(tmp_path):
    params = {"dense": {"kernel": W}}
    model = j2o.compile(lambda p, x: x @ p["dense"]["kernel"], [j2o.weights(params), ("B", 64)])
    assert model.input_names == ["x"]
    assert [i.name for i in model.to_proto().graph.initializer] == ["dense/kernel"]


def test_same_program_gives_same_bytes(tmp_path):
    for name in ("a.onnx", "b.onnx"):
        j2o.compile(lambda x: x @ W, [("B", 64)]).save(tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_equal_paths_are_told_apart():
    """Two modules of a closure that are called show their weights under the same path."""
    rng = np.random.default_rng(0)
    first, second = ({"w": rng.normal(size=(3, 3)).astype(np.float32)} for _ in range(2))
    model = j2o.compile(lambda p, q, x: x @ p["w"] @ q["w"], [j2o.weights(first), j2o.weights(second), ("B", 3)])
    model.verify(rng.normal(size=(2, 3)).astype(np.float32))
    assert [i.name for i in model.to_proto().graph.initializer] == ["w", "w_1"]
