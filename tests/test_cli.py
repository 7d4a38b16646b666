"""The command line: what it prints, what it refuses, and its exit status."""

import argparse
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

import j2o
from j2o.cli import COMMANDS, main

PROGRAM = """
import jax.numpy as jnp
from j2o.passes import rewrite

VALUE = 5

class Space:
    def double(x):
        return 2 * x

def halved(x):
    return x[:, ::2]

def stopped(x):
    raise SystemExit(0)

def soft(x):
    right = jnp.exp(x - x.max(1, keepdims=True))
    wrong = jnp.exp(x)
    return right / right.sum(1, keepdims=True) + wrong / wrong.sum(1, keepdims=True)

@rewrite("clipped", at="onnx", level=2)
def clipped(op, x):
    return op.Min(op.Max(x, 0.0), 6.0)

@clipped.becomes
def _(op, x):
    return op.Clip(x, 0.0, 6.0)
"""


pytestmark = pytest.mark.usefixtures("imports_as_before")


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "json.py"  # a name that Python's library has, too
    file.write_text(PROGRAM)
    return file


def refused(capsys, *argv):
    """The one line that the command prints to stderr."""
    assert main([str(arg) for arg in argv]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("j2o: ")
    assert err.count("\n") == 1
    return err


def test_python_m_j2o():
    done = subprocess.run(
        [sys.executable, "-m", "j2o", "passes", "--opt-level", "0"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert "lower " in done.stdout
    assert "level 1" not in done.stdout


def test_inspect_shows_constraints_and_sizes_as_one_writes_them(
    program, tmp_path, capsys
):
    model = tmp_path / "m.onnx"
    argv = [
        "export",
        f"{program}:halved",
        "--spec",
        "f32[B,-(T//-2)]",
        "--constraint",
        "T <= 64",
        "-o",
        str(model),
    ]
    assert main([*argv, "--constraint", "mod(T, 2) == 0"]) == 0
    capsys.readouterr()
    assert main(["inspect", str(model)]) == 0
    shown = capsys.readouterr().out
    assert "input  x: float[B,-floordiv(T, -2)]" in shown
    assert "where  T <= 64; mod(T, 2) == 0" in shown


def test_attributes_of_attributes(program, tmp_path):
    assert (
        main(
            [
                "export",
                f"{program}:Space.double",
                "--spec",
                "f32[B]",
                "-o",
                str(tmp_path / "m.onnx"),
            ]
        )
        == 0
    )


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("nothing", "has no 'nothing'"),
        ("VALUE", "a callable is needed"),
        ("Space.single", "Space has no 'single'"),
        ("halve", "has no 'halve'; did you mean 'halved'?"),
        ("stopped", "SystemExit"),
    ],
)
def test_what_is_not_there_is_named(program, tmp_path, capsys, name, words):
    model = tmp_path / "m.onnx"
    assert words in refused(
        capsys, "export", f"{program}:{name}", "--spec", "f32[2,4]", "-o", model
    )
    assert not model.exists()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        ("no_such_module:f", "no_such_module"),
        ("nocolon", "pkg.module:name, or path/to/file.py:name"),
        ("net.py", "write it as net.py:NAME"),
        ("pkg.net.apply", "write it as pkg.net:apply"),
        (":f", "pkg.module:name"),
        ("m:", "pkg.module:name"),
        (".relative:f", "cannot be imported"),
        ("/no/such/file.py:f", "no file"),
    ],
)
def test_what_cannot_be_found_is_named(tmp_path, capsys, function, words):
    assert words in refused(
        capsys, "export", function, "--spec", "f32[2]", "-o", tmp_path / "m.onnx"
    )


@pytest.mark.parametrize(
    "code", ["1 / 0", "raise SystemExit(0)", "def", "raise ValueError('two\\nlines')"]
)
def test_a_module_that_cannot_be_imported(tmp_path, capsys, code):
    file = tmp_path / "broken.py"
    file.write_text(code)
    assert "broken.py cannot be imported" in refused(
        capsys, "export", f"{file}:f", "--spec", "f32[2]", "-o", tmp_path / "m"
    )


@pytest.mark.parametrize(
    "spec", ["", "f32", "f32[", "f32[2", "x32[2,2]", "f32[-1,2]", "f32[2,2];f32[2,2]"]
)
def test_bad_specs(program, tmp_path, capsys, spec):
    error = refused(
        capsys,
        "export",
        f"{program}:halved",
        f"--spec={spec}",
        "-o",
        tmp_path / "m.onnx",
    )
    assert "spec" in error or "json.py" in error


@pytest.mark.filterwarnings("default::j2o.J2OWarning")
def test_a_warning_is_one_line(program, tmp_path, capsys):
    assert (
        main(
            [
                "export",
                f"{program}:halved",
                "--spec",
                "f64[2,4]",
                "-o",
                str(tmp_path / "m.onnx"),
            ]
        )
        == 0
    )
    err = capsys.readouterr().err
    assert err.startswith("j2o: warning: 64-bit mode is off")
    assert err.count("\n") == 1


def test_every_command_has_help(capsys):
    for command in ("export", "inspect", "check", "passes", "dump"):
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
    assert "only those of one level" not in capsys.readouterr().out


# ------------------------------------------------------------------------------- why a rule does not fit

GRAPH = """
graph @main(%x: f32[B,4]) -> ("y") dims (B) {
  %zero = const 0.0 : f32[]
  %six = const 6.0 : f32[]
  %lower = onnx.Max(%x, %zero) : f32[B,4]
  %both = onnx.Min(%lower, %six) : f32[B,4]
  %upper = onnx.Min(%x, %six) : f32[B,4]
  %y = onnx.Add(%both, %upper) : f32[B,4]
  return %y
}
"""

FITS_AT_ONE = """\
clipped fits at 1 of 2 nodes
  %both = Min(f32[B,4], f32[]): fits
  %upper = Min(f32[B,4], f32[])
    in        Max(x, 0.0), operand 0 of Min(Max(x, 0.0), 6.0)
    expected  Max
    found     the input %x: f32[B,4]
"""


def test_a_rule_is_asked_at_each_node_of_a_text(program, tmp_path, capsys):
    file = tmp_path / "graph.txt"
    file.write_text(GRAPH)
    assert main(["passes", "--why", f"{program}:clipped", str(file)]) == 0
    assert capsys.readouterr().out == FITS_AT_ONE


def test_a_rule_is_asked_while_a_program_is_compiled(program, capsys):
    argv = ["passes", "--why", "softmax", f"{program}:soft", "--spec", "f32[B,8]"]
    assert main(argv) == 0
    head, fits, other, *rows, last = capsys.readouterr().out.splitlines()
    assert head == "softmax fits at 1 of 2 nodes"
    assert fits.endswith("json.py:20: fits")
    assert "json.py:20" in other
    assert [row.split()[0] for row in rows] == ["in", "expected", "found"]
    assert rows[1].split() == ["expected", "Sub"]
    assert rows[2].endswith("the input %x: f32[B,8]")
    assert last == "rewrites by softmax: 1"


def test_a_rule_of_ones_own_is_put_into_the_pipeline(program, capsys):
    rule = f"{program}:clipped"
    argv = ["passes", "--why", rule, f"{program}:soft", "--spec", "f32[B,8]"]
    for place in ([], ["--after", "cse"]):
        assert main([*argv, *place]) == 0
        out = capsys.readouterr().out
        assert out == "clipped: there is no onnx.Min\nrewrites by clipped: 0\n"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--why", "softmax"], "a function or a file with the text of a graph"),
        (["--why", "softmaxx", "m:f"], "did you mean 'softmax'?"),
        (["--why", "recover", "m:f"], "a set of rules; ask one of softmax, "),
        (["--why", "fold", "m:f"], "is no rule"),
        (["--why", "softmax", __file__], "line 1, column 1: expected 'graph'"),
        (["--why", "softmax", sys.executable], "it is no text"),
        (["--why", "/no/such/file.py:rule", "m:f"], "rule: there is no file"),
        (["m:f"], "--why RULE says what is asked"),
    ],
)
def test_a_rule_that_cannot_be_asked(capsys, argv, words):
    assert words in refused(capsys, "passes", *argv)


def fake_python(folder: Path, version: str) -> Path:
    """An interpreter that makes environments of nothing, and tells its version."""
    file = folder / f"python{version}"
    file.write_text(f"""#!/usr/bin/env bash
if [ "$1" = -c ]; then echo {version}; exit; fi
if [ "$2" = venv ]; then
    for last; do :; done
    mkdir -p "$last/bin"
    cp "$0" "$last/bin/python"
    echo "{version}" >> made
fi
""")
    file.chmod(0o755)
    return file


def test_setup_env_makes_an_environment_for_each_interpreter(tmp_path):
    root = Path(__file__).parents[1]
    for name in ("setup-env", "pyproject.toml"):
        (tmp_path / name).write_bytes((root / name).read_bytes())
    (tmp_path / "setup-env").chmod(0o755)
    one, two = (fake_python(tmp_path, version) for version in ("3.12", "3.13"))

    def set_up(python):
        wanted = {"PYTHON": str(python)} if python else {}
        subprocess.run(
            ["./setup-env"],
            cwd=tmp_path,
            check=True,
            env={"PATH": "/usr/bin:/bin", **wanted},
        )

    for python in (one, one, None, two, two, None):
        set_up(python)
    assert (tmp_path / "made").read_text().split() == ["3.12", "3.13"]


CALLED = """
import jax.numpy as jnp

def shown(x, *, mask, axis, train):
    assert train is False
    return jnp.where(mask, x["a"], 0).sum(axis) * x["n"]
"""
SPEC = '{"a": "f32[B,T]", "n": []}'
BAD_JSON = [
    (["--spec", '{"a": 1'], '--spec {"a": 1: no JSON, as \'{'),
    (["--spec", "[B,4]"], "--spec [B,4]: no JSON, as '{"),
    (["--spec", "(B,4)"], "--spec (B,4): a dtype and sizes are needed, as in 'f32["),
    (["--kwargs", "[1]"], "--kwargs [1]: names with values are needed"),
    (["--static", "axis=1"], "--static axis=1: no JSON"),
    (
        ["--kwargs", '{"axis": "f32[2]"}', "--static", '{"axis": 1}'],
        "--static: 'axis' stands in --kwargs too",
    ),
]


def test_keywords_and_pytrees_as_json(tmp_path, capsys):
    file = tmp_path / "called.py"
    file.write_text(CALLED)
    model = tmp_path / "m.onnx"
    kwargs = '{"mask": "bool[B,T]", "train": false}'
    options = ["--spec", SPEC, "--kwargs", kwargs, "--static", '{"axis": 1}']
    assert main(["export", f"{file}:shown", *options, "-o", str(model)]) == 0
    assert "(x/a: f32[B,T], x/n: f32[], mask: bool[B,T])" in capsys.readouterr().out


@pytest.mark.parametrize(("options", "said"), BAD_JSON)
def test_what_is_no_json_is_told(program, tmp_path, capsys, options, said):
    output = tmp_path / "m.onnx"
    assert said in refused(
        capsys, "export", f"{program}:halved", *options, "-o", output
    )


# ------------------------------------------------------------------------------- an option a parameter

# the option of each parameter of j2o.compile; a new one needs a row
OPTION_OF = {
    "fn": "fn",
    "specs": "--spec",
    "kwargs": "--kwargs",
    "state": "--state",
    "opt_level": "--opt-level",
    "opset": "--opset",
    "target": "--target",
    "passes": "--without",
    "input_names": "--input-name",
    "output_names": "--output-name",
    "constraints": "--constraint",
    "checks": "--checks",
    "inputs_as_nchw": "--input-as-nchw",
    "outputs_as_nchw": "--output-as-nchw",
    "weights_dtype": "--weights-dtype",
    "name": "--name",
}

MADE = """
import numpy

VALUE = 5

def double(x):
    return 2 * x

def changing(x):
    return x * numpy.random.normal()

def build():
    return double

def build_at_sizes():
    return double, ["f32[B,3]"]

def build_wide(width):
    return double

def build_badly():
    return [][0]

def build_three():
    return 1, 2, 3
"""


@pytest.fixture
def made(tmp_path):
    file = tmp_path / "made.py"
    file.write_text(MADE)
    return file


def export(file, name, *options):
    """The exit status; the model is model.onnx beside the file."""
    output = file.parent / "model.onnx"
    return main(["export", f"{file}:{name}", *options, "-o", str(output)])


def test_each_parameter_of_compile_has_an_option():
    parser = argparse.ArgumentParser()
    COMMANDS["export"].arguments(parser)
    there = {name for a in parser._actions for name in (*a.option_strings, a.dest)}
    assert set(OPTION_OF) == set(inspect.signature(j2o.compile).parameters)
    assert set(OPTION_OF.values()) <= there


def test_options_reach_the_model(made, capsys):
    names = ["--input-name", "image", "--output-name", "twice", "--name", "net"]
    layouts = ["--input-as-nchw", "image", "--output-as-nchw", "0"]
    assert export(made, "double", "--spec", "f32[1,4,5,3]", *names, *layouts) == 0
    assert "net(image: f32" in capsys.readouterr().out
    model = onnx.load(made.parent / "model.onnx")
    (image,) = model.graph.input
    sizes = [d.dim_value for d in image.type.tensor_type.shape.dim]
    assert (image.name, sizes) == ("image", [1, 3, 4, 5])
    assert model.graph.output[0].name == "twice"


def test_a_pass_is_left_out(program, capsys):
    argv = ["export", f"{program}:soft", "--spec", "f32[B,8]"]
    argv += ["-o", str(program.parent / "m.onnx")]
    found = []
    for options in ([], ["--without", "softmax"]):
        assert main([*argv, *options]) == 0
        model = onnx.load(program.parent / "m.onnx")
        found.append("Softmax" in [node.op_type for node in model.graph.node])
    assert found == [True, False]


@pytest.mark.parametrize(
    ("name", "options"),
    [("build()", ["--spec", "f32[B,3]"]), ("build_at_sizes()", [])],
)
def test_a_factory_gives_the_function(made, capsys, name, options):
    assert export(made, name, *options) == 0
    assert "double(x: f32[B,3])" in capsys.readouterr().out


REFUSED = [
    ("build_at_sizes()", ["--spec", "f32[2]"], "--spec f32[2]: "),
    ("build_three()", [], "a pair: function, specs"),
    ("VALUE()", [], "no function"),
    ("build_wide()", [], "it is called without arguments: missing a required argu"),
    ("build_badly()", [], "raised IndexError: list index out of range at "),
    ("double", ["--size", "B=3"], "--size B=3: it is for --verify"),
    ("double", ["--verify", "--size", "B"], "--size B: a name and a number"),
    ("double", ["--verify", "--size", "T=3"], "--size T=3: there is no such"),
    ("double", ["--verify", "--rtol", "-1"], "--rtol=-1.0: a finite number"),
    ("double", ["--without", "sofmax"], "did you mean 'softmax'?"),
    ("double", ["--input-as-nchw", "z"], "inputs_as_nchw"),
    ("double", ["--state", "nowhere:Cache"], "--state 'nowhere:Cache'"),
]


@pytest.mark.parametrize(("name", "options", "said"), REFUSED)
def test_bad_options_are_refused_before_a_file_is_touched(
    made, capsys, name, options, said
):
    output = made.parent / "model.onnx"
    spec = ["--spec", "f32[B,3]"] if name == "double" else []
    argv = ["export", f"{made}:{name}", *spec, *options, "-o", output]
    assert said in refused(capsys, *argv)
    assert not output.exists()


def test_a_folder_that_is_not_there(made, capsys):
    output = made.parent / "none" / "m.onnx"
    argv = ["export", f"{made}:double", "--spec", "f32[2]", "-o", output]
    assert "there is no folder" in refused(capsys, *argv)


@pytest.mark.parametrize("option", ["--opset=x", "--opt-level=7", "--max-file-bytes=x"])
def test_a_wrong_command_line_is_told_in_one_line(capsys, option):
    assert main(["export", "m:f", "-o", "m.onnx", option]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert option.partition("=")[0] in err


UNREADABLE = [
    ("", "j2o: a command is missing; there are export, inspect, "),
    ("exprot m:f", "j2o: exprot: there is no such command; did you mean 'export'?"),
    ("m:f", "j2o: m:f: there is no such command; there are export, inspect, "),
    ("--verson", "--verson: there is no such option here; did you mean '--version'?"),
    ("--config x", "--config: there is no such option here; a command comes first"),
    ("export m:f --specs x", "j2o export: --specs: there is no such option; did you"),
    ("export m:f --opt 3", "--opt: there is no such option; did you mean '--opt-level"),
    ("export m:f -O3", "-O3: there is no such option ('j2o export --help'"),
    ("export m:f f32[B]", "nothing takes 'f32[B]'; --spec 'f32[B]' would be a spec"),
    ("export m:f --spec f32[B 4]", "nothing takes '4]'; a text with spaces"),
    ("completion", "j2o completion: the following arguments are required: SHELL"),
]


@pytest.mark.parametrize(("line", "said"), UNREADABLE)
def test_what_was_meant_is_told(capsys, line, said):
    assert main(line.split()) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_model_is_compared_with_jax(made, capsys):
    options = ["--spec", "f32[B,3]", "--verify", "--size", "B=5"]
    assert export(made, "double", *options) == 0
    assert "as JAX at random inputs, B = 5\n" in capsys.readouterr().out
    assert export(made, "changing", *options) == 3
    assert "15 of 15 values differ" in capsys.readouterr().err


@pytest.mark.parametrize("spec", ["c64[B]", "bool[B]", "key<fry>[B]", "bf16[]"])
def test_any_dtype_can_be_compared(tmp_path, spec):
    file = tmp_path / "same.py"
    file.write_text("def same(x):\n    return x\n")
    assert export(file, "same", "--spec", spec, "--verify") == 0


@pytest.mark.filterwarnings("default::j2o.J2OWarning")
def test_quiet_says_nothing_where_all_is_well(made, capsys):
    assert export(made, "double", "--spec", "f64[2]", "--verify", "--quiet") == 0
    assert main(["check", "--quiet", str(made.parent / "model.onnx")]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_of_several_files_the_worst_counts(made, capsys, command):
    assert export(made, "double", "--spec", "f32[2]", "--quiet") == 0
    model = str(made.parent / "model.onnx")
    assert main([command, model, "none.onnx", model]) == 1
    out, err = capsys.readouterr()
    assert out.count(f"{model}: ") == 2
    assert err == "j2o: none.onnx: there is no such file\n"
    assert main([command, model, model]) == 0


def test_version_and_exit_statuses_are_told(capsys):
    for option, said in (("--version", j2o.__version__), ("--help", "exit status:")):
        with pytest.raises(SystemExit) as stop:
            main([option])
        assert stop.value.code == 0
        assert said in capsys.readouterr().out


# ------------------------------------------------------------------------------------ bisect

WITH_FAULT = """
import jax.numpy as jnp
from j2o.passes.lower.table import lower

def wave(x):
    y = x * 2.0
    return jnp.sin(y) + 1.0

def wave_lowered_wrongly():
    lower("sin")(lambda op, x, **_: op.Cos(x))
    return wave
"""


@pytest.fixture
def wave(tmp_path):
    from j2o.passes.lower.table import temporary_rules

    file = tmp_path / "wave.py"
    file.write_text(WITH_FAULT)
    with temporary_rules():
        yield file


def test_bisect_without_a_difference(wave, capsys, tmp_path):
    inputs = tmp_path / "data.npz"
    np.savez(inputs, x=np.ones((2, 4), np.float32))
    call = ["bisect", f"{wave}:wave", "--spec", "f32[B,4]"]
    assert main([*call, "--inputs", str(inputs)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("no difference")
    assert "the inputs given, B = 2" in out
    assert main([*call, "--size", "B=7", "--seed", "2"]) == 0
    assert "random inputs, seed 2, B = 7" in capsys.readouterr().out
    assert main([*call, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_bisect_with_a_difference(wave, capsys):
    call = ["bisect", f"{wave}:wave_lowered_wrongly()", "--spec", "f32[B,4]"]
    assert main(call) == 3
    out, err = capsys.readouterr()
    assert "comes from   the pass lower" in out
    assert "%sin = lax.sin : f32[B,4]" in out
    assert err == ("j2o: the model differs from JAX: by the pass lower, at wave.py:7\n")


@pytest.mark.parametrize(
    ("name", "contents", "why"),
    [
        ("none.npz", None, "there is no such file"),
        ("data.npz", b"no archive", "an .npz file with an array for each input"),
        ("data.npz", b"PK\3\4 cut short", "data.npz: File is not a zip file; an .npz"),
        ("data.npz", {"y": np.ones((2, 4), np.float32)}, "there is no such input"),
    ],
)
def test_inputs_that_bisect_cannot_take(wave, capsys, tmp_path, name, contents, why):
    file = tmp_path / name
    if isinstance(contents, bytes):
        file.write_bytes(contents)
    elif contents is not None:
        np.savez(file, **contents)
    call = ["bisect", f"{wave}:wave", "--spec", "f32[B,4]", "--inputs", file]
    assert why in refused(capsys, *call)


def test_the_commands_are_known_without_importing_what_compiles():
    code = "import sys, j2o.cli; j2o.cli.make_parser(); print(*sys.modules)"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    heavy = {"jax", "onnx", "onnx_ir", "onnxruntime", "rich", "shtab"}
    assert heavy & set(done.stdout.split()) == set()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-o", "m.onnx", "--report", "m.onnx"], "--output and --report would both "),
        (["-o", "m.onnx", "--report", "./m.onnx"], "--output and --report would both "),
        (["-o", "m.onnx", "--data", "m.onnx"], "--output and --data would both write"),
        (["-o", "m.onnx", "--data", "w", "--report", "w"], "--report and --data would"),
        (["-o", "-"], "--output -: it cannot be printed; name a file"),
    ],
)
def test_no_file_is_written_over_another(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    assert main(["export", "jax.numpy:tanh", "--spec", "f32[2]", *options]) == 1
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


COUNTING = """
import jax.numpy as jnp
from flax import nnx

class Count(nnx.Variable):
    pass

class Counter(nnx.Module):
    def __init__(self):
        self.count = Count(jnp.zeros(()))

    def __call__(self, x):
        self.count[...] += 1
        return x + self.count[...]

def build():
    return Counter(), ["f32[3]"]
"""


@pytest.mark.parametrize("factory", ["counting.py:build()", "importing.py:build()"])
def test_a_filter_is_the_class_that_the_function_has(
    tmp_path, monkeypatch, capsys, factory
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("counting.py").write_text(COUNTING)
    Path("importing.py").write_text("from counting import build")
    words = [factory, "--state", "counting.py:Count", "-o", "m.onnx"]
    try:
        assert main(["export", *words]) == 0
    finally:
        for name in ("counting", "importing"):
            sys.modules.pop(name, None)
    assert "count_out: f32[]" in capsys.readouterr().out


def test_a_file_that_fails_is_read_anew(tmp_path, capsys):
    file = tmp_path / "half_made.py"
    file.write_text("raise ImportError('not yet')")
    words = [f"{file}:fn", "--spec", "f32[2]", "-o", str(tmp_path / "m.onnx")]
    assert main(["export", *words]) == 1
    file.write_text("from jax.numpy import tanh as fn")
    assert main(["export", *words]) == 0
