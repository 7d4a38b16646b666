"""Saving: one file or several, overwriting, what a fault or a kill at any instant leaves, and what stays behind."""

import contextlib
import errno
import os
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import j2o
from j2o.backend import external, load
from tools import kill_saves

W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
KINDS = kill_saves.KINDS


def run(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("external", [False, True])
def test_round_trip(tmp_path, external):
    model = j2o.compile(lambda x: x @ W, [("B", 64)])
    path = tmp_path / "m.onnx"
    for _ in range(3):
        model.save(path, external_data=external)
        onnx.checker.check_model(str(path))
        x = np.ones((2, 64), np.float32)
        assert np.allclose(run(path, x), x @ W, atol=1e-4)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"][: 1 + external]


def test_a_single_file_holds_what_the_message_holds(tmp_path):
    model = j2o.compile(lambda x: (x @ W) * np.float32(3) + W[0], [("B", 64)])
    model.save(tmp_path / "m.onnx")
    saved, built = onnx.load(str(tmp_path / "m.onnx")), model.to_proto()
    for tensor in saved.graph.initializer:
        tensor.ClearField("metadata_props")
    for proto in (saved, built):
        proto.graph.initializer.sort(key=lambda t: t.name)
    assert saved == built


def test_frozen_weights_are_named_by_path(tmp_path):
    params = {"dense": {"kernel": W}}
    model = j2o.compile(lambda p, x: x @ p["dense"]["kernel"], [j2o.weights(params), ("B", 64)])
    assert model.input_names == ["x"]
    assert [i.name for i in model.to_proto().graph.initializer] == ["dense/kernel"]


def test_equal_paths_are_told_apart():
    """Two modules of a closure that are called show their weights under the same path."""
    rng = np.random.default_rng(0)
    first, second = ({"w": rng.normal(size=(3, 3)).astype(np.float32)} for _ in range(2))
    model = j2o.compile(lambda p, q, x: x @ p["w"] @ q["w"], [j2o.weights(first), j2o.weights(second), ("B", 3)])
    model.verify(rng.normal(size=(2, 3)).astype(np.float32))
    assert [i.name for i in model.to_proto().graph.initializer] == ["w", "w_1"]


PROGRAM = """
import sys, numpy as np, j2o
from pathlib import Path
rng = np.random.default_rng(0)
params = {name: rng.standard_normal((64, 64)).astype("float32") for name in ("b", "a", "c")}
model = j2o.compile(lambda p, x: x @ p["a"] + x @ p["b"] * p["c"][0], [j2o.weights(params), ("B", 64)])
for kind in ({"external_data": False}, {"external_data": True}, {"external_data": True, "max_file_bytes": 20_000}):
    folder = Path(sys.argv[1]) / str(len(kind) + kind["external_data"])
    folder.mkdir()
    model.save(folder / "m.onnx", **kind)
"""


def test_same_program_gives_same_files(tmp_path):
    """In another process with another order of hashing too."""
    found = []
    for seed in ("1", "2"):
        folder = tmp_path / seed
        folder.mkdir()
        subprocess.run([sys.executable, "-c", PROGRAM, folder], check=True, env=os.environ | {"PYTHONHASHSEED": seed})
        found.append({p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")})
    assert found[0] == found[1]
    assert len(found[0]) == 1 + 2 + 3


def test_equal_contents_are_written_once(tmp_path):
    """The last weights are equal, one is a copy and one comes from elsewhere; where they lie is aligned."""
    copies = {"a": W, "b": W + 1, "c": W.copy(), "d": j2o.lazy((64, 64), np.float32, lambda: W + 1)}
    fn = lambda p, x: x @ p["a"] @ p["b"] @ p["c"] @ p["d"]  # noqa: E731
    model = j2o.compile(fn, [j2o.weights(copies), ("B", 64)])
    model.save(tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 2 * W.nbytes
    saved = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    where = {t.name: {e.key: e.value for e in t.external_data}["offset"] for t in saved.graph.initializer}
    assert where == {"a": "0", "b": "16384", "c": "0", "d": "16384"}
    x = np.ones((2, 64), np.float32)
    assert np.allclose(run(tmp_path / "m.onnx", x), x @ W @ (W + 1) @ W @ (W + 1), rtol=1e-3)
    assert load.check(tmp_path / "m.onnx", deep=True) == 4


def test_data_files_of_at_most_a_size(tmp_path):
    model, path = kill_saves.graph(1), tmp_path / "m.onnx"
    seen = []
    external.save(model, 18, path, max_file_bytes=600_000, progress=lambda *n: seen.append(n))
    assert names(tmp_path) == ["m.onnx", "m.onnx.1.data", "m.onnx.2.data", "m.onnx.data"]
    assert all(p.stat().st_size <= 600_000 for p in tmp_path.iterdir())
    assert seen[-1] == (6 * 2**18, 6 * 2**18)
    kill_saves.standing(path)
    for limit in (1000, 0):
        with pytest.raises(j2o.SaveError, match=rf"max_file_bytes={limit}: 'w0' alone has 262144 bytes"):
            external.save(model, 18, path, max_file_bytes=limit)
    external.save(model, 18, path, external_data=False)
    assert names(tmp_path) == ["m.onnx"]


def test_what_cannot_be_saved_is_said_before_files_are_touched(tmp_path):
    huge = j2o.lazy((2**15, 2**14), np.float32, lambda: pytest.fail("read"))
    model = j2o.compile(lambda p, x: x @ p, [j2o.weights(huge), ("B", 2**15)])
    with pytest.raises(j2o.SaveError, match=r"2.0 GiB do not fit a single file .* external_data=True"):
        model.save(tmp_path / "m.onnx", external_data=False)
    with pytest.raises(j2o.SaveError, match=r"external_data='m\.data': give True, False or None"):
        model.save(tmp_path / "m.onnx", external_data="m.data")
    with pytest.raises(j2o.SaveError, match="no data files to split"):
        model.save(tmp_path / "m.onnx", external_data=False, max_file_bytes=10)
    assert names(tmp_path) == []


class Killed(BaseException):
    """The process is no more."""


class Disk:
    """`os`, but from one call on, of those that change the disk, things go wrong."""

    CALLS = ("open", "pwrite", "ftruncate", "fsync", "rename", "unlink")

    def __init__(self, at=0, fault=None):
        self.at, self.fault, self.calls, self.handles, self.dead = at, fault, 0, set(), False

    def __getattr__(self, name):
        real = getattr(os, name)

        def call(*args, **kwargs):
            if self.dead:
                raise Killed
            self.calls += name in self.CALLS
            if name in self.CALLS and self.calls == self.at:
                self.fault(self, name, real, args, kwargs)
            result = real(*args, **kwargs)
            if name == "open":
                self.handles.add(result)
            elif name == "close":
                self.handles.discard(args[0])
            return result

        return call


def kill(disk, name, real, args, kwargs):
    if name == "pwrite":
        os.pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
    disk.dead = True
    for handle in disk.handles:
        os.close(handle)
    raise Killed


def fail(code, first=False):
    """An error of the system; `first`: although the call is done, or half of it for a write."""

    def fault(disk, name, real, args, kwargs):
        if name == "pwrite":
            os.pwrite(args[0], args[1][: len(args[1]) // 2], args[2])
        elif first and name != "open":
            real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    return fault


FAULTS = {"full": fail(errno.ENOSPC), "denied": fail(errno.EACCES), "late": fail(errno.EIO, first=True), "killed": kill}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("old", "new"), [(0, 1), (1, 1), (1, 2), (2, 0)])
def test_a_fault_at_any_call_leaves_a_complete_model(tmp_path, old, new, fault):
    path = tmp_path / "m.onnx"
    graphs = [kill_saves.graph(version) for version in (1, 2)]
    external.save(graphs[0], 18, path, **KINDS[old])
    for at in range(1, 1000):
        disk = Disk(at, FAULTS[fault])
        with contextlib.suppress(Killed if fault == "killed" else j2o.SaveError):
            external.save(graphs[1], 18, path, **KINDS[new], system=disk)
        kill_saves.standing(path)
        external.save(graphs[0], 18, path, **KINDS[old])
        assert not [n for n in names(tmp_path) if n.endswith(".partial")]
        if disk.calls < at:
            break
    assert at > 8
    assert len(names(tmp_path)) == (1, 2, 4)[old]


def test_an_error_of_the_disk_while_more_is_written(tmp_path, monkeypatch):
    """The system tells such an error once, to whoever flushes first."""

    class Failing(Disk):
        def fdatasync(self, file):
            raise OSError(errno.EIO, "no medium")

    monkeypatch.setattr(external, "EARLY", 1)
    for kind in KINDS:
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind)
        with pytest.raises(j2o.SaveError, match="cannot be written: no medium"):
            external.save(kill_saves.graph(2), 18, tmp_path / "m.onnx", **kind, system=Failing())
        kill_saves.standing(tmp_path / "m.onnx")


def test_a_large_model_does_not_stay_in_the_systems_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(external, "EARLY", 1)
    monkeypatch.setattr(external, "CACHED", 1)
    for kind in KINDS:
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind)
        kill_saves.standing(tmp_path / "m.onnx")


def test_short_writes_go_on(tmp_path):
    class Short:
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, file, data, offset):
            return os.pwrite(file, data[:100_000], offset)

    for kind in KINDS:
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind, system=Short())
        kill_saves.standing(tmp_path / "m.onnx")


def test_a_source_that_fails_leaves_the_old_model(tmp_path):
    path = tmp_path / "m.onnx"
    external.save(kill_saves.graph(1), 18, path, external_data=True)

    def broken():
        raise OSError("gone")

    for load_it in (broken, lambda: W[:3]):
        model = j2o.compile(lambda p, x: x @ p, [j2o.weights(j2o.lazy((64, 64), np.float32, load_it)), ("B", 64)])
        with pytest.raises((j2o.J2OError, ValueError)):
            model.save(path, external_data=True)
        kill_saves.standing(path)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_processes_killed_while_they_save(tmp_path):
    assert sum(n for what, n in kill_saves.kill(tmp_path, 8).items() if "files" in what) == 8


def test_two_exporters_on_one_path(tmp_path):
    path, errors = tmp_path / "m.onnx", []

    def saver(version):
        try:
            for turn in range(12):
                external.save(kill_saves.graph(version), 18, path, **KINDS[(turn + version) % 3])
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=saver, args=(version,)) for version in (1, 2, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    kill_saves.standing(path)
    external.save(kill_saves.graph(1), 18, path, external_data=True)
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("planted", ["link", "hard link", "folder", "dangling link", "pipe"])
def test_what_is_planted_at_the_data_path_is_neither_followed_nor_lost(tmp_path, planted):
    outside, folder = tmp_path / "outside", tmp_path / "models"
    outside.write_text("precious")
    folder.mkdir()
    plant = {
        "link": lambda p: p.symlink_to(outside),
        "dangling link": lambda p: p.symlink_to(tmp_path / "nowhere"),
        "hard link": lambda p: p.hardlink_to(outside),
        "folder": lambda p: p.mkdir(),
        "pipe": os.mkfifo,
    }[planted]
    plant(folder / "m.onnx.data")
    for version in (1, 2):
        external.save(kill_saves.graph(version), 18, folder / "m.onnx", external_data=True)
        kill_saves.standing(folder / "m.onnx")
    assert outside.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert len(names(folder)) == 3
    assert os.path.lexists(folder / "m.onnx.data")


def test_a_link_at_the_model_is_replaced_and_not_followed(tmp_path):
    outside, folder = tmp_path / "outside", tmp_path / "models"
    outside.write_text("precious")
    folder.mkdir()
    (folder / "m.onnx").symlink_to(outside)
    external.save(kill_saves.graph(1), 18, folder / "m.onnx", external_data=True)
    kill_saves.standing(folder / "m.onnx")
    assert outside.read_text() == "precious"


def test_a_link_planted_at_the_name_of_a_partial_file_is_refused(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("precious")

    class Planter(Disk):
        """Knows the name that is about to be made."""

        def open(self, name, flags, *args, **kwargs):
            if flags & os.O_CREAT:
                os.symlink(outside, name, dir_fd=kwargs["dir_fd"])
            return os.open(name, flags, *args, **kwargs)

    (tmp_path / "models").mkdir()
    with pytest.raises(j2o.SaveError, match="cannot be written: File exists"):
        external.save(kill_saves.graph(1), 18, tmp_path / "models" / "m.onnx", external_data=True, system=Planter())
    assert outside.read_text() == "precious"
