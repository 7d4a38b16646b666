"""`j2o completion`: what it prints, and what shells make of it, those that are installed."""

import json
import os
import pty
import select
import shutil
import subprocess
import time

import pytest

from j2o.cli import COMMANDS, main
from j2o.cli.completion import SHELLS


@pytest.fixture
def script(request, tmp_path, capsys):
    """The file with what is printed for the shell of the test."""
    shell = request.node.callspec.params.get("shell", "bash")
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert main(["completion", shell]) == 0
    file = tmp_path / f"completion.{shell}"
    file.write_text(capsys.readouterr().out)
    (tmp_path / "model.onnx").touch()
    return file


BASH = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_j2o
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(script, words):
    """What bash completes the last of the words to."""
    done = subprocess.run(
        ["bash", "-c", BASH, "bash", str(script), *words],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


def in_fish(script, words):
    """The same in fish, which says what each means too."""
    done = subprocess.run(
        ["fish", "-c", f"source {script}; complete -C '{' '.join(words)}'"],
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split("\t")[0] for line in done.stdout.splitlines()]


class Zsh:
    """A zsh at a terminal, as it completes nowhere else."""

    def __init__(self, folder):
        self.shown = ""
        self.terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            ["zsh", "-f", "-i"],
            cwd=folder,
            env={**os.environ, "TERM": "dumb"},
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
        )
        os.close(inner)

    def shows(self, keys, wanted):
        """Return True where the terminal shows a text once these keys are typed."""
        self.shown = ""
        os.write(self.terminal, keys.encode())
        until = time.monotonic() + 20
        while wanted not in self.shown and time.monotonic() < until:
            ready, _, _ = select.select([self.terminal], [], [], 0.1)
            if ready:
                self.shown += os.read(self.terminal, 4096).decode(errors="replace")
        return wanted in self.shown

    def close(self):
        os.close(self.terminal)
        self.process.kill()
        self.process.wait()


WORDS = [
    ("j2o exp", "export"),
    ("j2o export --opt-l", "--opt-level"),
    ("j2o export --weights-dtype bf", "bfloat16"),
    ("j2o export --target openv", "openvino"),
    ("j2o dump --without softm", "softmax"),
    ("j2o check mod", "model.onnx"),
    ("j2o passes --why softm", "softmax"),
]


@pytest.mark.parametrize("shell", ["bash", "fish"])
def test_words_are_completed(script, shell):
    complete = {"bash": in_bash, "fish": in_fish}[shell]
    for line, wanted in WORDS:
        assert wanted in complete(script, line.split()), line


@pytest.mark.parametrize("shell", ["zsh"])
def test_words_are_completed_at_a_terminal(script, shell):
    zsh = Zsh(script.parent)
    try:
        load = f'autoload -Uz compinit; compinit -u -D; eval "$(cat {script})"'
        ready = f"{load}; echo rea''dy\n"
        assert zsh.shows(ready, "ready"), zsh.shown
        for line, wanted in WORDS:
            assert zsh.shows(f"{line}\t", wanted), zsh.shown
            assert zsh.shows("\x15echo do''ne\n", "done"), zsh.shown
    finally:
        zsh.close()


def test_each_shell_is_tested():
    assert {"bash", "fish", "zsh"} == set(SHELLS)


@pytest.mark.parametrize("shell", ["bash"])
def test_every_command_and_option_is_offered(script, shell):
    assert set(in_bash(script, ["j2o", ""])) == set(COMMANDS)
    offered = in_bash(script, ["j2o", "export", "--"])
    for option in ("--spec", "--config", "--verify", "--report", "--json"):
        assert option in offered


def test_as_data(capsys):
    assert main(["completion", "fish", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    keys = {"version", "command", "status", "errors", "warnings", "shell", "script"}
    assert set(document) == keys
    assert document["shell"] == "fish"
    assert "complete -c j2o" in document["script"]


def test_another_shell(capsys):
    assert main(["completion", "sh"]) == 2
    assert "choose from" in capsys.readouterr().err
