"""Several models with one data file.

What they share, what stays while somebody needs it, and what a fault leaves.
"""

import contextlib

import numpy as np
import onnxruntime as ort
import pytest

import j2o
from j2o.backend import disk, shared
from j2o.backend.check import check
from tests import test_save
from tests.test_save import FAULTS, Disk, Interrupted, Killed, interrupted_at, names
from tools import kill_saves

KEPT = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
X = np.ones((2, 64), np.float32)


def prefill(weights):
    return j2o.compile(
        lambda w, x: x @ w["a"] @ w["b"], [j2o.weights(weights), ("B", 64)]
    )


def decode(weights):
    return j2o.compile(lambda w, x: x @ w["b"].T + 1, [j2o.weights(weights), ("B", 64)])


def run(path, x):
    check(path, deep=True)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.fixture
def weights():
    return {"a": KEPT, "b": KEPT + 1}


def test_weights_of_several_models_lie_in_the_data_once(tmp_path, weights):
    copies = {name: array.copy() for name, array in weights.items()}
    models = {
        tmp_path / "prefill.onnx": prefill(weights),
        tmp_path / "again.onnx": prefill(copies),
        tmp_path / "small.onnx": j2o.compile(lambda x: x + 1, [("B", 64)]),
    }
    j2o.save_models(models, data=tmp_path / "weights.data")
    assert names(tmp_path) == [
        "again.onnx",
        "prefill.onnx",
        "small.onnx",
        "weights.data",
    ]
    assert (tmp_path / "weights.data").stat().st_size == 2 * KEPT.nbytes
    for path, model in models.items():
        np.testing.assert_allclose(run(path, X), model(X), rtol=1e-4, atol=1e-4)


def test_progress_counts_what_is_shared(tmp_path, weights):
    told = []
    models = {str(tmp_path / name): prefill(weights) for name in ("a.onnx", "b.onnx")}
    data = str(tmp_path / "weights.bin")
    j2o.save_models(models, data, progress=lambda done, total: told.append(done))
    assert told[-1] == 4 * KEPT.nbytes
    assert told == sorted(told)
    assert names(tmp_path) == ["a.onnx", "b.onnx", "weights.bin"]


def test_data_files_of_at_most_a_size(tmp_path, weights):
    models = {
        tmp_path / "a.onnx": prefill(weights),
        tmp_path / "b.onnx": decode(weights),
    }
    data = tmp_path / "weights.data"
    j2o.save_models(models, data, max_file_bytes=KEPT.nbytes)
    expected = {"a.onnx", "b.onnx", "weights.data", "weights.1.data"}
    assert expected <= set(names(tmp_path))
    for path in models:
        run(path, X)


def test_the_same_models_give_the_same_files(tmp_path, weights):
    found = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        folder.mkdir()
        models = {
            folder / "a.onnx": prefill(weights),
            folder / "b.onnx": decode(weights),
        }
        for _ in range(2):
            j2o.save_models(models, folder / "w.data")
        found.append([(p.name, p.read_bytes()) for p in sorted(folder.iterdir())])
    assert found[0] == found[1]
    assert [name for name, _ in found[0]] == ["a.onnx", "b.onnx", "w.data"]


def test_old_data_stays_until_nobody_speaks_of_it(tmp_path, weights):
    first, second = tmp_path / "a.onnx", tmp_path / "b.onnx"
    data = tmp_path / "w.data"
    j2o.save_models({first: prefill(weights), second: prefill(weights)}, data)
    old = run(second, X)
    others = {"a": KEPT * 2, "b": KEPT + 2}
    j2o.save_models({first: prefill(others)}, data)
    np.testing.assert_array_equal(run(second, X), old)
    assert len(names(tmp_path)) == 4
    (tmp_path / "folder").mkdir()
    (tmp_path / "nowhere").symlink_to("nothing")
    j2o.save_models({first: prefill(others), second: prefill(others)}, data)
    left = set(names(tmp_path)) - {"a.onnx", "b.onnx", "folder", "nowhere"}
    assert len(left) == 1
    assert left != {"w.data"}


def test_a_model_that_was_saved_alone_leaves_no_data_behind(tmp_path, weights):
    path = tmp_path / "a.onnx"
    prefill(weights).save(path, external_data=True)
    assert names(tmp_path) == ["a.onnx", "a.onnx.data"]
    j2o.save_models({path: prefill(weights)}, tmp_path / "w.data")
    assert names(tmp_path) == ["a.onnx", "w.data"]
    run(path, X)


BAD = [
    ({}, "w.data", "models={}: a mapping"),
    ([], "w.data", "models=[]: a mapping"),
    ({"a.onnx": 5}, "w.data", "models['a.onnx']: 5; what j2o.compile gives"),
    ({"a.onnx": None}, "sub/w.data", "a.onnx: not in the folder of"),
    ({"a.onnx": None, "./a.onnx": None}, "w.data", "two files would have this name"),
    ({"w.data": None}, "w.data", "two files would have this name"),
    ({"a.onnx": None}, "a.onnx.data", "'a.onnx' saved alone would take this name"),
    ({"w.1.data": None}, "w.data", "w.1.data: such names are those of data files"),
    ({"a.onnx": None}, "", "names a folder"),
    ({"nowhere/a.onnx": None}, "w.data", "there is no folder"),
    ({"sub": None}, "w.data", "is a folder"),
]


@pytest.mark.parametrize(("models", "data", "said"), BAD)
def test_what_cannot_be_saved_is_refused_before_files_are_touched(
    tmp_path, monkeypatch, weights, models, data, said
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    given = models
    if isinstance(models, dict):
        some = prefill(weights)
        given = {path: some if m is None else m for path, m in models.items()}
    with pytest.raises((j2o.SpecError, j2o.SaveError)) as error:
        j2o.save_models(given, data)
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert names(tmp_path) == ["sub"]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [*((fault, disk.folder_kind()) for fault in FAULTS), ("killed", disk.PathFolder)],
)
def test_a_fault_at_any_call_leaves_complete_models(tmp_path, monkeypatch, fault, kind):
    path = tmp_path / "m.onnx"
    monkeypatch.setattr(disk, "folder_kind", lambda: kind)
    kill_saves.save_both(path, 1)
    for at in range(1, 1000):
        system = Disk(at, FAULTS[fault])
        with contextlib.suppress(Killed if fault == "killed" else j2o.SaveError):
            kill_saves.save_both(path, 2, system)
        kill_saves.standing(path)
        kill_saves.standing(kill_saves.neighbour(path))
        # Windows removes it by itself
        (tmp_path / "shared.data.lock").unlink(missing_ok=True)
        kill_saves.save_both(path, 1)
        assert len(names(tmp_path)) == 3
        if system.calls < at:
            break
    assert at > 12


def test_ctrl_c_at_any_point_leaves_complete_models_and_nothing_else(
    tmp_path, monkeypatch
):
    writers = (*test_save.WRITERS, shared.__file__)
    monkeypatch.setattr(test_save, "WRITERS", writers)
    path = tmp_path / "m.onnx"
    kill_saves.save_both(path, 1)
    before = test_save.handles()
    for at in range(1, 5000, 3):
        try:
            interrupted_at(at, lambda: kill_saves.save_both(path, 2))
        except Interrupted:
            both = (path, kill_saves.neighbour(path))
            data = set().union(*map(kill_saves.data_files, both))
            assert set(names(tmp_path)) == {p.name for p in both} | data
            assert len(data) == 1
            if data != {"shared.data"}:
                kill_saves.standing(path)
                kill_saves.save_both(path, 1)
            continue
        break
    assert at > 50
    assert test_save.handles() == before
