"""Saving.

One file or several, overwriting, what a fault or a kill at any instant leaves, and what stays
behind.
"""

import contextlib
import errno
import os
import shutil
import socket
import stat
import subprocess
import sys
import threading

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import j2o
from j2o.backend import asked, disk, external, files
from j2o.backend.check import check
from tests.harness import stable_id
from tools import kill_saves

W = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
KINDS = kill_saves.KINDS
WRITERS = tuple(module.__file__ for module in (asked, disk, external, files))


def run(path, x):
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def names(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.fixture(params=[disk.folder_kind(), disk.PathFolder], ids=["handles", "paths"])
def system(request, monkeypatch):
    """The two ways to write: the second is that of Windows."""
    monkeypatch.setattr(disk, "folder_kind", lambda: request.param)


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
    model = j2o.compile(
        lambda p, x: x @ p["dense"]["kernel"], [j2o.weights(params), ("B", 64)]
    )
    assert model.input_names == ["x"]
    assert [i.name for i in model.to_proto().graph.initializer] == ["dense/kernel"]


def test_equal_paths_are_told_apart():
    """Two modules of a closure that are called show their weights under the same path."""
    rng = np.random.default_rng(0)
    first, second = (
        {"w": rng.normal(size=(3, 3)).astype(np.float32)} for _ in range(2)
    )
    model = j2o.compile(
        lambda p, q, x: x @ p["w"] @ q["w"],
        [j2o.weights(first), j2o.weights(second), ("B", 3)],
    )
    model.verify(rng.normal(size=(2, 3)).astype(np.float32))
    assert [i.name for i in model.to_proto().graph.initializer] == ["w", "w_1"]


PROGRAM = """
import sys, numpy as np, j2o
from pathlib import Path
rng = np.random.default_rng(0)
params = {name: rng.standard_normal((64, 64)).astype("float32") for name in ("b", "a", "c")}
model = j2o.compile(lambda p, x: x @ p["a"] + x @ p["b"] * p["c"][0], [j2o.weights(params), ("B", 64)])
one_file = {"external_data": False}
two_files = {"external_data": True}
several_files = {"external_data": True, "max_file_bytes": 20_000}
for kind in (one_file, two_files, several_files):
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
        subprocess.run(
            [sys.executable, "-c", PROGRAM, folder],
            check=True,
            env=os.environ | {"PYTHONHASHSEED": seed},
        )
        found.append(
            {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")}
        )
    assert found[0] == found[1]
    assert len(found[0]) == 1 + 2 + 3


def test_equal_contents_are_written_once(tmp_path):
    """The last weights are equal, one is a copy and one comes from elsewhere; where they lie is aligned."""
    copies = {
        "a": W,
        "b": W + 1,
        "c": W.copy(),
        "d": j2o.lazy((64, 64), np.float32, lambda: W + 1),
    }
    fn = lambda p, x: x @ p["a"] @ p["b"] @ p["c"] @ p["d"]  # noqa: E731
    model = j2o.compile(fn, [j2o.weights(copies), ("B", 64)])
    model.save(tmp_path / "m.onnx", external_data=True)
    assert (tmp_path / "m.onnx.data").stat().st_size == 2 * W.nbytes
    saved = onnx.load(str(tmp_path / "m.onnx"), load_external_data=False)
    where = {
        t.name: {e.key: e.value for e in t.external_data}["offset"]
        for t in saved.graph.initializer
    }
    assert where == {"a": "0", "b": "16384", "c": "0", "d": "16384"}
    x = np.ones((2, 64), np.float32)
    assert np.allclose(
        run(tmp_path / "m.onnx", x), x @ W @ (W + 1) @ W @ (W + 1), rtol=1e-3
    )
    assert check(tmp_path / "m.onnx", deep=True) == 4


def test_data_files_of_at_most_a_size(tmp_path):
    model, path = kill_saves.graph(1), tmp_path / "m.onnx"
    seen = []
    external.save(
        model, 18, path, max_file_bytes=600_000, progress=lambda *n: seen.append(n)
    )
    assert names(tmp_path) == [
        "m.onnx",
        "m.onnx.1.data",
        "m.onnx.2.data",
        "m.onnx.data",
    ]
    assert all(p.stat().st_size <= 600_000 for p in tmp_path.iterdir())
    assert seen[-1] == (6 * 2**18, 6 * 2**18)
    kill_saves.standing(path)
    with pytest.raises(
        j2o.SaveError, match=r"max_file_bytes=1000: 'w0' alone has 262144 bytes"
    ):
        external.save(model, 18, path, max_file_bytes=1000)
    external.save(model, 18, path, external_data=False)
    assert names(tmp_path) == ["m.onnx"]


def test_what_cannot_be_saved_is_said_before_files_are_touched(tmp_path):
    huge = j2o.lazy((2**15, 2**14), np.float32, lambda: pytest.fail("read"))
    model = j2o.compile(lambda p, x: x @ p, [j2o.weights(huge), ("B", 2**15)])
    with pytest.raises(
        j2o.SaveError, match=r"2.0 GiB do not fit a single file .* external_data=True"
    ):
        model.save(tmp_path / "m.onnx", external_data=False)
    with pytest.raises(j2o.SaveError, match="no data files to split"):
        model.save(tmp_path / "m.onnx", external_data=False, max_file_bytes=10)
    assert names(tmp_path) == []


OPTIONS = [
    *(
        {"external_data": v}
        for v in ("m.data", 1, 0, np.array([1, 2]), np.array(True), [])
    ),
    *(
        {"max_file_bytes": v}
        for v in (0, -1, "5", 1e9, 1.5, True, np.array([1, 2]), [], "\n" * 10**6)
    ),
    *({"progress": v} for v in (5, "x", [])),
]


@pytest.mark.parametrize("options", OPTIONS, ids=stable_id)
def test_options_that_are_none_are_refused_before_files_are_touched(tmp_path, options):
    with pytest.raises(
        j2o.SaveError, match=rf"^{next(iter(options))}=.*: give "
    ) as error:
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **options)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
    assert names(tmp_path) == []


def test_numbers_of_numpy_are_options(tmp_path):
    external.save(
        kill_saves.graph(1),
        18,
        tmp_path / "m.onnx",
        external_data=np.True_,
        max_file_bytes=np.int64(600_000),
    )
    assert len(names(tmp_path)) == 4


class Odd:
    """A path that is none."""

    def __init__(self, path):
        self.path = path

    def __fspath__(self):
        return self.path


PATHS = {
    "none": (None, "give the name of a file"),
    "number": (5, "give the name of a file"),
    "bytes": (b"m.onnx", "give the name of a file"),
    "object": (object(), "give the name of a file"),
    "list": (["m.onnx"], "give the name of a file"),
    "path of bytes": (Odd(b"m.onnx"), "give the name of a file"),
    "path of none": (Odd(None), "give the name of a file"),
    "empty": ("", "names a folder"),
    "here": (".", "names a folder"),
    "above": ("..", "names a folder"),
    "root": ("/", "names a folder"),
    "slash": ("m.onnx/", "names a folder"),
    "slash and dot": ("m.onnx/.", "names a folder"),
    "nul": ("a\0b.onnx", "could not open a file of that name"),
    "nul in folder": ("d\0/m.onnx", "could not open a file of that name"),
    "surrogate": ("\udcff.onnx", "could not open a file of that name"),
    "lines": ("a\nb.onnx", "could not open a file of that name"),
    "escape": ("\x1b[31m.onnx", "could not open a file of that name"),
    "backslash": ("a\\b.onnx", "could not open a file of that name"),
    "long": ("x" * 251 + ".onnx", "the name of the file has 256 bytes; at most 225"),
    "long in bytes": ("é" * 120 + ".onnx", "the name of the file has 245 bytes"),
    "endless": ("x" * 10**6, "the name of the file has 1000000 bytes"),
    "long folder": ("x" * 256 + "/m.onnx", "cannot be written: File name too long"),
    "no folder": ("no\n/m.onnx", r"there is no folder 'no\?'; make it first"),
    "file for a folder": ("file/m.onnx", "there is no folder 'file'"),
}


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("apart", [False, True])
def test_paths_that_are_none_are_refused_before_files_are_touched(
    tmp_path, monkeypatch, name, apart
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    path, words = PATHS[name]
    with pytest.raises(j2o.SaveError, match=words) as error:
        external.save(kill_saves.graph(1), 18, path, external_data=apart)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    assert names(tmp_path) == ["file"]


@pytest.mark.parametrize(
    "path",
    ["日本\u3000語 – é.onnx", "-rf", "x" * 225, Odd("m.onnx"), np.str_("m.onnx")],
)
def test_paths_that_are_fine(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    for kind in (KINDS[0], KINDS[2], KINDS[0]):
        external.save(kill_saves.graph(1), 18, path, **kind)
        kill_saves.standing(tmp_path / os.fspath(path))


def test_the_process_may_change_its_folder_meanwhile(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    external.save(
        kill_saves.graph(1),
        18,
        "m.onnx",
        external_data=True,
        progress=lambda *_: os.chdir(other),
    )
    assert names(other) == []
    kill_saves.standing(tmp_path / "m.onnx")


def plant(kind, path):
    """Something at a path that is no file."""
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:  # like /dev/null, under another name
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("this user cannot make devices")


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize("kind", ["folder", "pipe", "socket", "device"])
def test_what_is_no_file_is_not_replaced(tmp_path, kind, linked):
    target = tmp_path / "m.onnx"
    plant(kind, tmp_path / "real" if linked else target)
    if linked:
        target.symlink_to("real")
    before = names(tmp_path), os.lstat(target).st_ino
    with pytest.raises(
        j2o.SaveError, match=f"m.onnx: is a {kind}; give the name of a file$"
    ):
        external.save(kill_saves.graph(1), 18, target, external_data=True)
    assert (names(tmp_path), os.lstat(target).st_ino) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
@pytest.mark.parametrize("where", ["weights", "progress"])
def test_what_is_no_exception_comes_out_untouched(tmp_path, error, where):
    path = tmp_path / "m.onnx"
    external.save(kill_saves.graph(1), 18, path, external_data=True)

    def stop(*_):
        raise error

    weight = j2o.lazy((64, 64), np.float32, stop if where == "weights" else lambda: W)
    model = j2o.compile(lambda p, x: x @ p, [j2o.weights(weight), ("B", 64)])
    for apart in (False, True):
        with pytest.raises(type(error)) as found:
            model.save(path, external_data=apart, progress=stop)
        assert found.value is error
        kill_saves.standing(path)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


@pytest.mark.parametrize(
    "error",
    [ZeroDivisionError("a\nb"), OSError(5, "no pipe"), TypeError("two arguments")],
)
def test_progress_that_raises_is_told_with_its_cause(tmp_path, error):
    path = tmp_path / "m.onnx"
    external.save(kill_saves.graph(1), 18, path, external_data=True)

    def broken(done, total):
        raise error

    for kind in KINDS:
        with pytest.raises(
            j2o.SaveError,
            match=rf"^progress: the function raised {type(error).__name__}: ",
        ) as found:
            external.save(kill_saves.graph(2), 18, path, **kind, progress=broken)
        assert found.value.__cause__ is error
        assert "\n" not in str(found.value)
        kill_saves.standing(path)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


class Interrupted(BaseException):
    """Ctrl-C came."""


def handles():
    """The files that this process has open."""
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    return {h for h in os.listdir(folder) if os.path.exists(f"{folder}/{h}")}


def interrupted_at(count, fn):
    """Run `fn`, with an exception at the count-th point in the code of saving.

    Points are those where Python may raise the exception of a signal: where a function begins and where
    one that was called has ended. Gives how many there were.
    """
    seen = 0

    def event(frame, kind, _):
        nonlocal seen
        own = frame.f_code.co_filename in WRITERS
        seen += own and kind in ("call", "c_return")
        if own and kind in ("call", "c_return") and seen == count:
            raise Interrupted

    sys.setprofile(event)  # of this thread alone
    try:
        fn()
    finally:
        sys.setprofile(None)
    return seen


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(("old", "new"), [(0, 1), (1, 2), (2, 0)])
def test_ctrl_c_at_any_point_leaves_a_complete_model_and_nothing_else(
    tmp_path, old, new
):
    path = tmp_path / "m.onnx"
    graphs = [kill_saves.graph(version) for version in (1, 2)]
    count = (0, 1, 3)  # data files of a kind
    external.save(graphs[0], 18, path, **KINDS[old])
    before = handles()
    for at in range(1, 5000):
        try:
            interrupted_at(at, lambda: external.save(graphs[1], 18, path, **KINDS[new]))
        except Interrupted:
            proto = onnx.load(str(path), load_external_data=False)
            data = {
                e.value
                for t in proto.graph.initializer
                for e in t.external_data
                if e.key == "location"
            }
            assert len(data) in (count[old], count[new])
            assert set(names(tmp_path)) == {"m.onnx", *data}
            if at % 10 == 0:
                kill_saves.standing(path)
            if len(data) != count[old]:
                external.save(graphs[0], 18, path, **KINDS[old])
            continue
        break
    assert at > 50
    assert handles() == before


class Killed(BaseException):
    """The process is no more."""


class Disk:
    """`os`, but from one call on, of those that change the disk, things go wrong."""

    CALLS = (
        "open",
        "pwrite",
        "write",
        "ftruncate",
        "fsync",
        "rename",
        "replace",
        "unlink",
    )

    def __init__(self, at=0, fault=None):
        self.at, self.fault, self.calls, self.handles, self.dead = (
            at,
            fault,
            0,
            set(),
            False,
        )

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


def half(name, real, args):
    """Half of a write."""
    if name in ("pwrite", "write"):
        real(args[0], args[1][: len(args[1]) // 2], *args[2:])


def kill(disk, name, real, args, kwargs):
    half(name, real, args)
    disk.dead = True
    for handle in disk.handles:
        os.close(handle)
    raise Killed


def fail(code, first=False):
    """An error of the system; `first`: although the call is done, or half of it for a write."""

    def fault(disk, name, real, args, kwargs):
        if name in ("pwrite", "write"):
            half(name, real, args)
        elif first and name != "open":
            real(*args, **kwargs)
        raise OSError(code, os.strerror(code))

    return fault


FAULTS = {
    "full": fail(errno.ENOSPC),
    "denied": fail(errno.EACCES),
    "late": fail(errno.EIO, first=True),
    "killed": kill,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [
        (0, 1, disk.Folder),
        (1, 1, disk.Folder),
        (1, 2, disk.Folder),
        (2, 0, disk.Folder),
        (1, 2, disk.PathFolder),
    ],
)
def test_a_fault_at_any_call_leaves_a_complete_model(
    tmp_path, monkeypatch, old, new, fault, kind
):
    path = tmp_path / "m.onnx"
    monkeypatch.setattr(disk, "folder_kind", lambda: kind)
    graphs = [kill_saves.graph(version) for version in (1, 2)]
    external.save(graphs[0], 18, path, **KINDS[old])
    for at in range(1, 1000):
        system = Disk(at, FAULTS[fault])
        with contextlib.suppress(Killed if fault == "killed" else j2o.SaveError):
            external.save(graphs[1], 18, path, **KINDS[new], system=system)
        kill_saves.standing(path)
        # Windows removes it by itself
        (tmp_path / "m.onnx.lock").unlink(missing_ok=True)
        external.save(graphs[0], 18, path, **KINDS[old])
        assert not [n for n in names(tmp_path) if n.endswith((".partial", ".lock"))]
        if system.calls < at:
            break
    assert at > 8
    assert len(names(tmp_path)) == (1, 2, 4)[old]


def test_an_error_of_the_disk_while_more_is_written(tmp_path, monkeypatch):
    """The system tells such an error once, to whoever flushes first."""

    class Failing(Disk):
        def fdatasync(self, file):
            raise OSError(errno.EIO, "no medium")

    monkeypatch.setattr(files, "EARLY", 1)
    for kind in KINDS:
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind)
        with pytest.raises(j2o.SaveError, match="cannot be written: no medium"):
            external.save(
                kill_saves.graph(2), 18, tmp_path / "m.onnx", **kind, system=Failing()
            )
        kill_saves.standing(tmp_path / "m.onnx")


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="not on this system")
@pytest.mark.parametrize("kind", KINDS)
def test_a_large_model_does_not_stay_in_the_systems_cache(tmp_path, monkeypatch, kind):
    given_back = []

    def advised(file, offset, length, advice):
        given_back.append((os.fstat(file).st_size, offset, length, advice))

    monkeypatch.setattr(files, "EARLY", 1)
    monkeypatch.setattr(files, "CACHED", 1)
    monkeypatch.setattr(os, "posix_fadvise", advised)
    external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind)
    kill_saves.standing(tmp_path / "m.onnx")
    assert given_back
    for size, *whole_file in given_back:
        assert size > 0
        assert whole_file == [0, 0, os.POSIX_FADV_DONTNEED]


@pytest.mark.usefixtures("system")
def test_short_writes_go_on(tmp_path):
    class Short:
        def __getattr__(self, name):
            return getattr(os, name)

        def pwrite(self, file, data, offset):
            return os.pwrite(file, data[:100_000], offset)

        def write(self, file, data):
            return os.write(file, data[:100_000])

    for kind in KINDS:
        external.save(
            kill_saves.graph(1), 18, tmp_path / "m.onnx", **kind, system=Short()
        )
        kill_saves.standing(tmp_path / "m.onnx")


def test_a_source_that_fails_leaves_the_old_model(tmp_path):
    path = tmp_path / "m.onnx"
    external.save(kill_saves.graph(1), 18, path, external_data=True)

    def broken():
        raise OSError("gone")

    for load_it in (broken, lambda: W[:3]):
        model = j2o.compile(
            lambda p, x: x @ p,
            [j2o.weights(j2o.lazy((64, 64), np.float32, load_it)), ("B", 64)],
        )
        with pytest.raises((j2o.J2OError, ValueError)):
            model.save(path, external_data=True)
        kill_saves.standing(path)
        assert names(tmp_path) == ["m.onnx", "m.onnx.data"]


def test_processes_killed_while_they_save(tmp_path):
    assert (
        sum(n for what, n in kill_saves.kill(tmp_path, 8).items() if "files" in what)
        == 8
    )


@pytest.mark.usefixtures("system")
def test_two_exporters_on_one_path(tmp_path):
    path, errors = tmp_path / "m.onnx", []

    def saver(version):
        try:
            for turn in range(12):
                external.save(
                    kill_saves.graph(version), 18, path, **KINDS[(turn + version) % 3]
                )
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


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    "planted", ["link", "hard link", "folder", "dangling link", "pipe"]
)
def test_what_is_planted_at_the_data_path_is_neither_followed_nor_lost(
    tmp_path, planted
):
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
        external.save(
            kill_saves.graph(version), 18, folder / "m.onnx", external_data=True
        )
        kill_saves.standing(folder / "m.onnx")
    assert outside.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert len(names(folder)) == 3
    assert os.path.lexists(folder / "m.onnx.data")


@pytest.mark.usefixtures("system")
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
        external.save(
            kill_saves.graph(1),
            18,
            tmp_path / "models" / "m.onnx",
            external_data=True,
            system=Planter(),
        )
    assert outside.read_text() == "precious"


def test_a_save_waits_for_its_turn_and_not_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "folder_kind", lambda: disk.PathFolder)
    monkeypatch.setattr(disk, "PATIENCE", 0.1)
    (tmp_path / "m.onnx.lock").touch()
    with pytest.raises(
        j2o.SaveError,
        match=r"another save holds 'm\.onnx\.lock'; if there is none, remove it",
    ):
        external.save(kill_saves.graph(1), 18, tmp_path / "m.onnx")
    assert names(tmp_path) == ["m.onnx.lock"]


WITHOUT_POSIX = """
import os, sys
sys.modules["fcntl"] = None
for name in dir(os):
    if name in sys.argv[2:]:
        delattr(os, name)
from pathlib import Path
from j2o.backend import disk
from tools import kill_saves
assert disk.folder_kind() is disk.PathFolder
for kind in kill_saves.KINDS:
    kill_saves.save(kill_saves.graph(1), 18, Path(sys.argv[1]) / "m.onnx", **kind)
    kill_saves.standing(Path(sys.argv[1]) / "m.onnx")
"""
POSIX = [
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK"),
    *(
        "fchmod",
        "fdatasync",
        "mkfifo",
        "posix_fadvise",
        "posix_fallocate",
        "pread",
        "pwrite",
    ),
    *("geteuid", "getuid", "sched_getaffinity"),
]


def test_what_only_posix_has_is_not_needed(tmp_path):
    """Windows has none of these."""
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX, tmp_path, *POSIX], check=True)
    assert len(names(tmp_path)) == 4


@pytest.mark.usefixtures("system")
def test_a_folder_that_vanishes(tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in KINDS:
        with pytest.raises(j2o.SaveError, match="cannot be written: No such file"):
            external.save(
                kill_saves.graph(1),
                18,
                folder / "m.onnx",
                **kind,
                progress=lambda *_: shutil.rmtree(folder, ignore_errors=True),
            )
        assert names(tmp_path) == []
        folder.mkdir()
