"""`j2o export --config`: the tables of a file, what is refused of them, what becomes of several models."""

import json
import sys
from pathlib import Path

import onnx
import pytest

from j2o.cli import COMMANDS, config, main
from j2o.cli.parser import Parser
from j2o.passes.default import default_pipeline

NETS = """
import numpy
import jax.numpy as jnp

WEIGHTS = numpy.ones((512, 512), "float32")

def double(x):
    return 2 * x

def picked(x, *, scale, axis):
    return x.sum(axis) * scale

def pair(x):
    return x["a"] + x["b"]

def prefill(x):
    return x @ WEIGHTS

def decode(x):
    return (x + 1) @ WEIGHTS

def broken(x):
    return x.reshape(7)

def stopped(x):
    raise SystemExit(0)

def changing(x):
    return x * numpy.random.normal()

def build():
    return double, ["f32[B,3]"]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with `nets.py`; the working directory is another one."""
    (tmp_path / "nets.py").write_text(NETS)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.fixture(autouse=True)
def _imports_as_before(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    sys.modules.pop("nets", None)
    for name in [n for n in sys.modules if n.startswith("j2o_program_")]:
        del sys.modules[name]


def export(folder, text, *options, name="j2o.toml"):
    """The exit status of exporting by a file with that text."""
    (folder / name).write_text(text)
    return main(["export", "--config", str(folder / name), *options])


def written(folder):
    return sorted(file.name for file in folder.glob("*.onnx*"))


TWO = """
[export.one]
function = "nets.py:double"
output = "one.onnx"
spec = "f32[B,3]"

[export.two]
function = "nets:build()"
output = "two.onnx"
"""


def test_paths_and_modules_are_relative_to_the_file(folder, capsys):
    assert export(folder, TWO) == 0
    assert written(folder) == ["one.onnx", "two.onnx"]
    out = capsys.readouterr().out
    assert "one.onnx: <j2o.Model double(x: f32[B,3])" in out
    assert out.endswith("2 of 2 models written\n")


def test_pyproject_has_the_tables_of_a_tool(folder, capsys):
    text = '[project]\nname = "x"\n' + TWO.replace("[export", "[tool.j2o.export")
    assert export(folder, text, "--quiet", name="pyproject.toml") == 0
    assert written(folder) == ["one.onnx", "two.onnx"]
    assert capsys.readouterr() == ("", "")


def test_those_that_are_named(folder, capsys):
    assert export(folder, TWO, "--only", "two") == 0
    assert written(folder) == ["two.onnx"]
    assert export(folder, TWO, "--only", "twoo") == 1
    error = (
        "--only twoo: there is no such table; there are one, two; did you mean 'two'"
    )
    assert error in capsys.readouterr().err


EVERYTHING = """
[export]
opt-level = 1
name = "shared"

[export.picked]
function = "nets.py:picked"
output = "picked.onnx"
spec = ["f32[B,T]"]
kwargs = {scale = "f32[]"}
static = {axis = 1}
constraint = ["T <= 8", "B <= 8"]
input-name = ["image", "scale"]
output-name = "sum"
without = ["fold"]
verify = true
size = {B = 2, T = 5}
rtol = 1e-3
atol = 0
max-file-bytes = 2e9
external-data = true
sources = false
checks = true

[export.pair]
function = "nets.py:pair"
output = "pair.onnx"
spec = [{a = "f32[2,3]", b = [2, 3]}]
name = "own"
opset = 20
target = "portable"
"""


def passes_of(entry):
    return {one["name"] for one in entry["report"]["passes"]}


def test_keys_are_the_options(folder, capsys):
    assert export(folder, EVERYTHING, "--json") == 0
    picked, pair = json.loads(capsys.readouterr().out)["models"]
    assert [x["name"] for x in picked["inputs"]] == ["image", "scale"]
    assert picked["constraints"] == ["T <= 8", "B <= 8"]
    assert picked["comparison"]["sizes"] == {"B": 2, "T": 5}
    assert [one["graph"] for one in (picked, pair)] == ["shared", "own"]
    assert [x["name"] for x in pair["inputs"]] == ["x/a", "x/b"]
    assert pair["opset"] == 20
    assert passes_of(pair) == {*default_pipeline(1).names()}
    assert passes_of(picked) == {*default_pipeline(1).without("fold").names()}


def test_reports_are_written_beside_the_file(folder, capsys):
    text = TWO + 'report = "two.html"\n'
    assert export(folder, text) == 0
    assert (folder / "two.html").read_text().startswith("<!doctype html>")
    assert export(folder, TWO + 'report = "-"\n', "--only", "two") == 0
    assert "operations before, 1 after" in capsys.readouterr().out
    one = text.replace("[export.two]", 'report = "two.html"\n[export.two]')
    assert export(folder, one) == 1
    assert "one and two would both write" in capsys.readouterr().err


def test_each_option_has_a_key():
    parser = Parser()
    COMMANDS["export"].arguments(parser)
    keys = {action.dest for action in config.keys_of(parser).values()}
    arguments = {action.dest for action in parser._actions}
    assert arguments - keys == {"help", "config", "only"}
    assert set(config.keys_of(parser)) > {"function", "output", "spec", "opt-level"}


def test_options_of_the_command_line_come_first(folder, capsys):
    options = ["--spec", "f32[4]", "--name", "mine", "--only", "one"]
    assert export(folder, TWO + 'name = "theirs"\n', *options) == 0
    assert "mine(x: f32[4])" in capsys.readouterr().out
    text = TWO.replace("[export.two]", "checks = true\nopt-level = 3\n[export.two]")
    assert export(folder, text, "--opt-level", "2", "--only", "one", "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["models"]
    assert passes_of(entry) == {*default_pipeline(2).names()}


REFUSED = [
    ('spek = "f32[2]"', "spek: there is no such key; did you mean 'spec'?"),
    ("opt_level = 2", "opt_level: there is no such key; did you mean 'opt-level'?"),
    ("zzz = 2", "zzz: there is no such key; there are function, spec, "),
    ("opt-level = 7", "opt-level = 7: one of 0, 1, 2, 3 is needed"),
    ("opt-level = true", "opt-level = True: a text is needed, or a number"),
    ('opset = "new"', "opset = 'new': 'new': a whole number is needed"),
    ("verify = 1", "verify = 1: true or false is needed"),
    ("name = 3", "name = 3: a text is needed"),
    ("name = {a = 1}", "name = {'a': 1}: a text is needed"),
    ("rtol = []", "rtol = []: a number is needed"),
    ("constraint = [1]", "constraint = [1]: a text is needed"),
    ('target = "phone"', "target='phone': there is none of that name"),
    ('kwargs = "{"', "kwargs {: no JSON"),
    ("size = {B = 3}", "size B=3: it is for --verify"),
    ('without = "sofmax"', "did you mean 'softmax'?"),
    (
        "kwargs = {a = 1979-05-27}",
        "kwargs = {'a': datetime.date(1979, 5, 27)}: texts, ",
    ),
    ("spec = [{a = 07:30:00}]", "lists and tables are needed"),
    ('data = "-"', "data -: it cannot be printed"),
    ('data = "w.bin"\nexternal-data = true', "external-data: with --data"),
    ('weights-dtype = "f16"', "one of bfloat16, float16, int8 is needed"),
]


@pytest.mark.parametrize(("line", "said"), REFUSED)
def test_what_does_not_fit_is_told_before_a_file_is_written(folder, capsys, line, said):
    assert export(folder, f"{TWO}{line}\n") == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert f"j2o.toml: [export.two] {said}" in err or (
        "j2o.toml: [export.two] " in err and said in err
    )
    assert written(folder) == []


def test_a_shape_alone_is_told_to_be_one_of_several_specs(folder, capsys):
    alone = TWO.replace('spec = "f32[B,3]"', "spec = [2, 3]")
    assert export(folder, alone) == 1
    err = capsys.readouterr().err
    assert "spec = [2, 3]: each entry is the spec of one argument" in err
    inside = alone.replace("[2, 3]", "[[2, 3]]")
    assert export(folder, inside) == 0


FILES = [
    ("", "there is no table [export.NAME], one for each model"),
    ("[export", "it is no TOML: "),
    ("export = 3", "export = 3: tables are needed"),
    ("[export]\nspek = 3", "[export] spek: there is no such key; did you mean 'spec'?"),
    ('[export.a]\noutput = "m.onnx"', "[export.a] function is missing"),
    ('[export.a]\nfunction = "m:f"', "[export.a] output is missing"),
    (
        '[export.a]\nfunction = "m:f"\noutput = "no/m.onnx"',
        "[export.a] output ",
    ),
    (TWO.replace("two.onnx", "one.onnx"), "one and two would both write "),
    (TWO.replace("two.onnx", "one.onnx.data"), "one and two would both write "),
    (f'{TWO}report = "two.onnx"', "output and report of two would both write "),
    (f'{TWO}data = "two.onnx"', "two files would have this name"),
    (f'{TWO}report = "one.onnx"', "one and two would both write "),
    (f'{TWO}report = "two.onnx.data"', "output and report of two would both write "),
    (TWO.replace("two.onnx", "-"), "[export.two] output -: it cannot be printed"),
    ('[export.name]\nfunction = "m:f"', "; 'name' is a key, and no name of a table"),
]


@pytest.mark.parametrize(("text", "said"), FILES)
def test_files_that_do_not_fit(folder, capsys, text, said):
    assert export(folder, text) == 1
    err = capsys.readouterr().err
    assert said in err
    assert "j2o.toml" in err
    assert err.count("\n") == 1
    assert written(folder) == []


def test_each_table_that_does_not_fit_is_told(folder, capsys):
    text = TWO.replace("spec =", "spek =") + "opset = []\n"
    assert export(folder, text, "--json") == 1
    errors = json.loads(capsys.readouterr().out)["errors"]
    assert [error["of"] for error in errors] == ["one", "two"]


def test_a_file_that_is_not_there(folder, capsys):
    assert main(["export", "--config", "none.toml"]) == 1
    assert "--config none.toml: No such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["m:f", "--config", "x.toml"], "FUNCTION m:f: the tables of --config have it"),
        (["--config", "x.toml", "-o", "m.onnx"], "--output m.onnx: the tables of"),
        (["m:f", "-o", "m.onnx", "--only", "a"], "--only a: it is for --config"),
        (["m:f"], "-o/--output is missing; or --config FILE"),
        ([], "FUNCTION and -o/--output is missing"),
    ],
)
def test_one_model_or_a_file_of_them(capsys, words, said):
    assert main(["export", *words]) == 2
    assert said in capsys.readouterr().err


FAILING = """
[export]
spec = "f32[2,3]"

[export.broken]
function = "nets.py:broken"
output = "broken.onnx"

[export.stopped]
function = "nets.py:stopped"
output = "stopped.onnx"

[export.nowhere]
function = "nets.py:none"
output = "nowhere.onnx"

[export.changing]
function = "nets.py:changing"
output = "changing.onnx"
verify = true

[export.good]
function = "nets.py:double"
output = "good.onnx"
"""


def test_a_model_that_fails_does_not_take_the_others_with_it(folder, capsys):
    assert export(folder, FAILING) == 3
    out, err = capsys.readouterr()
    assert written(folder) == ["changing.onnx", "good.onnx"]
    told = [line.split(": ")[1] for line in err.splitlines()]
    assert told == ["broken", "stopped", "nowhere", "changing"]
    assert out.endswith("2 of 5 models written\n")
    assert export(folder, FAILING, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert [one["table"] for one in document["models"]] == ["changing", "good"]
    assert [one["of"] for one in document["errors"]] == told
    assert document["errors"][-1]["type"] == "VerificationError"


def test_a_file_is_loaded_once_however_often_it_is_named(folder, capsys):
    """What it draws at random is the same for all models."""
    drawn = 'WEIGHTS = numpy.random.normal(size=(512, 512)).astype("float32")'
    text = NETS.replace('WEIGHTS = numpy.ones((512, 512), "float32")', drawn)
    assert drawn in text
    (folder / "nets.py").write_text(text)
    named = SHARED.replace('"nets.py:decode"', '"elsewhere/../nets.py:decode"')
    assert export(folder, named) == 0
    assert (folder / "weights.data").stat().st_size < 1.5 * 512 * 512 * 4


SHARED = """
[export]
spec = "f32[B,512]"
data = "weights.data"

[export.prefill]
function = "nets.py:prefill"
output = "prefill.onnx"
verify = true

[export.decode]
function = "nets.py:decode"
output = "decode.onnx"
"""


def test_models_that_share_their_data(folder, capsys):
    assert export(folder, SHARED) == 0
    assert "as JAX at random inputs" in capsys.readouterr().out
    assert (folder / "weights.data").stat().st_size < 2 * 512 * 512 * 4
    for name in ("prefill", "decode"):
        model = onnx.load(folder / f"{name}.onnx", load_external_data=False)
        files = {
            entry.value
            for tensor in model.graph.initializer
            for entry in tensor.external_data
            if entry.key == "location"
        }
        assert files == {"weights.data"}


def test_of_models_that_share_data_those_that_compile_are_written(folder, capsys):
    text = SHARED.replace("nets.py:decode", "nets.py:broken")
    assert export(folder, text) == 1
    assert written(folder) == ["prefill.onnx"]
    assert (folder / "weights.data").exists()
    assert "j2o: decode: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("decode.onnx", "elsewhere/decode.onnx", "not in the folder of"),
        ("decode.onnx", "weights.data", "two files would have this name"),
        ("verify = true", "sources = false", "sources of decode: it must be the same"),
    ],
)
def test_models_that_cannot_share_their_data(folder, capsys, old, new, said):
    assert export(folder, SHARED.replace(old, new)) == 1
    err = capsys.readouterr().err
    assert "j2o.toml: data of prefill and decode: " in err
    assert said in err
    assert written(folder) == []


def test_the_data_file_of_one_model(folder, capsys):
    model = folder / "one.onnx"
    words = [f"{folder / 'nets.py'}:prefill", "--spec", "f32[B,512]", "-o", str(model)]
    assert main(["export", *words, "--data", str(folder / "w.bin")]) == 0
    assert (folder / "w.bin").stat().st_size >= 512 * 512 * 4


class Terminal:
    """A stream that is a terminal."""

    encoding = "utf-8"

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)

    def flush(self):
        pass

    def isatty(self):
        return True


def test_a_terminal_shows_which_of_the_models_it_is(folder, monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert export(folder, TWO) == 0
    assert "1 of 2, one: " in terminal.text
    assert "2 of 2, two: " in terminal.text
    assert "2 of 2 models written" in capsys.readouterr().out


def test_elsewhere_nothing_is_shown(folder, capsys):
    assert export(folder, TWO) == 0
    assert capsys.readouterr().err == ""


def test_the_example_on_the_page_fits(folder, capsys):
    page = Path(__file__).parents[1] / "docs" / "command-line.md"
    text = page.read_text().split("```toml\n")[1].split("```")[0]
    (folder / "robot").mkdir()
    (folder / "dist").mkdir()
    (folder / "robot" / "policy.py").write_text(NETS)
    assert export(folder, text, "--quiet", name="pyproject.toml") == 0
    assert sorted(file.name for file in (folder / "dist").iterdir()) == [
        "decode.onnx",
        "policy.onnx",
        "prefill.onnx",
        "shared.data",
    ]
