"""`--json`: one document on stdout whatever happens, with the keys that docs/command-line.md has."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from j2o.cli import COMMANDS, main
from j2o.cli.reply import STATUSES, Reply, plain

PAGE = (Path(__file__).parents[1] / "docs" / "command-line.md").read_text()

PROGRAM = """
import jax.numpy as jnp

print("imported")

def soft(x):
    print("traced")
    right = jnp.exp(x - x.max(1, keepdims=True))
    wrong = jnp.exp(x)
    return right / right.sum(1, keepdims=True) + wrong / wrong.sum(1, keepdims=True)

def changing(x):
    import numpy
    return x * numpy.random.normal()

def stopped(x):
    raise KeyboardInterrupt
"""


def documented(section):
    """The keys in the table of a section of the page, each as its parts: `a[].b` is a, [], b."""
    text = PAGE.split(f"\n### {section}\n", 1)[1].split("\n##", 1)[0]
    keys = re.findall(r"^\| `([^`]+)` \|", text, re.MULTILINE)
    return [tuple(key.replace("[]", ".[]").split(".")) for key in keys]


def leaves(value, path=()):
    """The path of each value that has no parts, and that value."""
    parts = []
    if isinstance(value, list):
        parts = [("[]", one) for one in value]
    elif isinstance(value, dict):
        parts = list(value.items())
    if not parts:
        yield path, value
    for part, one in parts:
        yield from leaves(one, (*path, part))


def is_of(path, value, key):
    """Return True where a documented key stands for a path; what is empty stands for all below it."""
    is_empty = value is None or value == [] or value == {}
    if len(path) != len(key) and not (is_empty and len(path) < len(key)):
        return False
    pairs = zip(path, key, strict=False)
    return all(part == wanted or wanted == "*" for part, wanted in pairs)


def compare_with_page(document, section):
    """Each documented key is there, and each key is documented."""
    keys = documented("Every document") + documented(section)
    found = list(leaves(document))
    for key in keys:
        assert any(is_of(path, value, key) for path, value in found), key
    for path, value in found:
        assert any(is_of(path, value, key) for key in keys), path


pytestmark = pytest.mark.usefixtures("imports_as_before")


@pytest.fixture
def program(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    return file


def called(capsys, *argv, status=0):
    """The document of a command; stdout has nothing else."""
    assert main([str(word) for word in argv] + ["--json"]) == status
    out, _ = capsys.readouterr()
    document = json.loads(out)
    assert document["status"] == status
    assert document["command"] == argv[0]
    assert (document["errors"] == []) == (status == 0)
    return document


@pytest.fixture
def model(program, capsys):
    file = program.parent / "model.onnx"
    options = ["--spec", "f32[B,8]", "--constraint", "B <= 9", "-o", file]
    called(capsys, "export", f"{program}:soft", *options)
    return file


def test_export(program, capsys):
    file = program.parent / "model.onnx"
    options = ["--spec", "f32[B,8]", "-o", file, "--verify", "--size", "B=5"]
    document = called(capsys, "export", f"{program}:soft", *options)
    compare_with_page(document, "`export`")
    (entry,) = document["models"]
    assert entry["file"] == str(file)
    assert entry["inputs"] == [
        {"name": "x", "kind": "tensor", "dtype": "float32", "shape": ["B", 8]}
    ]
    assert entry["operators"]["onnx.Softmax"] == 1
    assert entry["comparison"]["sizes"] == {"B": 5}
    softmax = [p for p in entry["report"]["passes"] if "softmax" in p["rules"]]
    assert softmax[0]["rules"]["softmax"] == 1


def test_export_of_a_model_that_differs(program, capsys):
    file = program.parent / "model.onnx"
    options = ["--spec", "f32[5,3]", "-o", file, "--verify"]
    document = called(capsys, "export", f"{program}:changing", *options, status=3)
    assert document["errors"][0]["type"] == "VerificationError"
    assert document["models"][0]["comparison"] is None
    assert file.exists()


def test_inspect_and_check(model, capsys):
    document = called(capsys, "inspect", model)
    compare_with_page(document, "`inspect`")
    (entry,) = document["models"]
    (x,) = entry["inputs"]
    assert x == {"name": "x", "kind": "tensor", "dtype": "float32", "shape": ["B", 8]}
    assert entry["constraints"] == ["B <= 9"]
    assert entry["opset"] == entry["opsets"][""] == 18
    assert entry["operators"]["Softmax"] == 1
    document = called(capsys, "check", model, "--deep")
    compare_with_page(document, "`check`")
    taking = {one["name"]: one["takes"] for one in document["models"][0]["runtimes"]}
    assert taking["onnxruntime-1.24"] is True


def test_export_and_inspect_agree_on_inputs_and_outputs(program, capsys):
    file = program.parent / "key.onnx"
    (program.parent / "two.py").write_text("def two(x, k):\n    return x, k\n")
    options = ["--spec", "c64[B]", "--spec", "key<fry>[2]", "-o", file]
    one = called(capsys, "export", f"{program.parent / 'two.py'}:two", *options)
    other = called(capsys, "inspect", file)
    for part in ("inputs", "outputs"):
        assert one["models"][0][part] == other["models"][0][part]
    assert [x["dtype"] for x in one["models"][0]["inputs"]] == ["float32", "uint32"]


@pytest.mark.parametrize("command", ["inspect", "check"])
def test_of_several_files_the_good_ones_are_told_and_the_others_are_errors(
    model, capsys, command
):
    document = called(capsys, command, model, "none.onnx", status=1)
    assert [one["file"] for one in document["models"]] == [str(model)]
    (error,) = document["errors"]
    assert error == {
        "type": "LoadError",
        "message": "none.onnx: there is no such file",
        "of": "none.onnx",
    }


def test_passes_and_targets(capsys):
    document = called(capsys, "passes")
    compare_with_page(document, "`passes`")
    rules = [rule for one in document["passes"] for rule in one["rules"]]
    assert "softmax" in rules
    document = called(capsys, "targets")
    compare_with_page(document, "`targets`")
    assert "portable" in [one["name"] for one in document["targets"]]


def test_a_rule_is_asked(program, capsys):
    argv = ["passes", "--why", "softmax", f"{program}:soft", "--spec", "f32[B,8]"]
    document = called(capsys, *argv)
    compare_with_page(document, "`passes --why`")
    assert document["rewrites"] == 1
    assert [one["fits"] for one in document["nodes"]] == [True, False]
    assert document["nodes"][1]["expected"] == "Sub"


def test_dump(program, capsys):
    argv = ["dump", f"{program}:soft", "--spec", "f32[B,8]", "--after", "lower"]
    document = called(capsys, *argv)
    compare_with_page(document, "`dump`")
    assert document["after"] == "lower"
    assert document["graph"].startswith("graph @soft(%x: f32[B,8]")


def test_bisect(program, capsys):
    document = called(capsys, "bisect", f"{program}:soft", "--spec", "f32[B,8]")
    compare_with_page(document, "`bisect`")
    assert document["outputs"][0]["close"] is True
    assert document["fault"] is None


def test_bisect_of_a_model_that_differs(program, capsys):
    options = ["--spec", "f32[5,3]"]
    document = called(capsys, "bisect", f"{program}:changing", *options, status=3)
    compare_with_page(document, "`bisect`")
    assert document["fault"]["stage"] == "tracing"


# ------------------------------------------------------------------------------- exit statuses


def test_the_page_has_each_exit_status():
    text = PAGE.split("## Exit status\n")[1].split("\n##")[0]
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE))
    assert rows == {str(status): told for status, told in STATUSES.items()}


WITH_STATUS = [
    (0, ["targets"], None),
    (1, ["inspect", "none.onnx"], "LoadError"),
    (1, ["export", "PROGRAM:none", "--spec", "f32[2]", "-o", "m.onnx"], "SpecError"),
    (2, ["export", "PROGRAM:soft", "--opset", "x"], "UsageError"),
    (2, ["export", "--no-such-option"], "UsageError"),
    (2, ["no-such-command"], "UsageError"),
    (3, ["bisect", "PROGRAM:changing", "--spec", "f32[5,3]"], "VerificationError"),
    (
        3,
        [
            "export",
            "PROGRAM:changing",
            "--spec",
            "f32[5,3]",
            "-o",
            "m.onnx",
            "--verify",
        ],
        "VerificationError",
    ),
    (
        130,
        ["export", "PROGRAM:stopped", "--spec", "f32[2]", "-o", "m.onnx"],
        "KeyboardInterrupt",
    ),
]


@pytest.mark.parametrize(("status", "words", "error"), WITH_STATUS)
def test_the_status_is_the_same_with_and_without_json(
    program, capsys, monkeypatch, status, words, error
):
    monkeypatch.chdir(program.parent)
    words = [word.replace("PROGRAM", str(program)) for word in words]
    assert main(words) == status
    capsys.readouterr()
    assert main([*words, "--json"]) == status
    out, err = capsys.readouterr()
    document = json.loads(out)
    assert document["status"] == status
    assert {key[0] for key in documented("Every document")} <= set(document)
    assert [one["type"] for one in document["errors"]] == ([error] if error else [])
    for one in document["errors"]:
        assert one["message"] == err.splitlines()[-1].removeprefix("j2o: ")


def test_each_status_is_tested():
    assert {status for status, _, _ in WITH_STATUS} == set(STATUSES)


def test_a_command_line_without_a_command(capsys):
    assert main(["--json"]) == 2
    document = json.loads(capsys.readouterr().out)
    assert document["command"] is None
    assert "a command comes first" in document["errors"][0]["message"]


@pytest.mark.filterwarnings("default::j2o.J2OWarning")
@pytest.mark.parametrize("quiet", [[], ["--quiet"]])
def test_warnings_stand_in_the_document(program, capsys, quiet):
    options = ["--spec", "f64[2,4]", "-o", program.parent / "m.onnx", *quiet]
    (warning,) = called(capsys, "export", f"{program}:soft", *options)["warnings"]
    assert warning.startswith("64-bit mode is off")


def test_every_command_takes_it(capsys):
    for name in COMMANDS:
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert "--json" in capsys.readouterr().out


LOUD = """
import atexit, os, subprocess, sys

def loud(x):
    os.write(1, b"by the descriptor")
    sys.__stdout__.write("by the stream")
    subprocess.run([sys.executable, "-c", "print('by a process')"])
    atexit.register(print, "at the end")
    return x + 1
"""


@pytest.mark.parametrize("name", ["loud", "missing"])
def test_in_a_process_of_its_own_nothing_comes_beside_the_document(tmp_path, name):
    (tmp_path / "loud.py").write_text(LOUD)
    words = ["export", f"loud.py:{name}", "--spec", "f32[2]", "-o", "m.onnx", "--json"]
    command = [sys.executable, "-m", "j2o", *words]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    document = json.loads(done.stdout)
    assert document["status"] == done.returncode == (1 if name == "missing" else 0)
    told = ["by the descriptor", "by the stream", "by a process", "at the end"]
    assert all((text in done.stderr) == (name == "loud") for text in told)


def test_without_a_stderr_stdout_has_the_document_alone(tmp_path):
    words = "export jax.numpy:nothing --spec 'f32[2]' -o m.onnx --json 2>&-"
    command = f"'{sys.executable}' -m j2o {words}"
    done = subprocess.run(
        command, shell=True, cwd=tmp_path, stdout=subprocess.PIPE, check=False
    )
    document = json.loads(done.stdout)
    assert document["status"] == done.returncode == 1
    assert "nothing" in document["errors"][0]["message"]


def test_values_that_json_lacks():
    given = {"a": (np.float32("nan"), np.inf, -np.inf), 1: np.int8(3), "p": Path("x")}
    assert plain(given) == {"a": ["nan", "inf", "-inf"], "1": 3, "p": "x"}


def test_what_is_said_is_not_printed_with_json(capsys):
    reply = Reply(["bisect", "--json"])
    reply.say("for people")
    reply.put(found=1)
    assert reply.finish(0) == 0
    assert json.loads(capsys.readouterr().out)["found"] == 1
