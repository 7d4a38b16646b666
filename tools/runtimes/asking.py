"""Asking a runtime in an environment of its own: jobs go to a script there as JSON, answers come back.

A job has a `model` (base64) or its `path`, and `feeds` (name, numpy's dtype, shape, base64) where it is to
run. An answer has `outputs` (dtype, shape, base64), or an `error`. A job that ends the process has the
answer "crashed", and the next process goes on behind it.
"""

from __future__ import annotations

import base64
import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401 (numpy knows its dtypes by name then)
import numpy as np

HERE = Path(__file__).parent
LONGEST = 1200  # seconds without end after which a process is stopped


class Runtime(NamedTuple):
    """`command` runs jobs, in `folder`; the names of two files are added to it."""

    name: str
    command: tuple[str, ...]
    folder: str = "."

    def version(self) -> str:
        """The name and version of the runtime, from what was installed."""
        if self.command[0] == "node":
            package = self.command[-1]
            told = Path(
                self.folder, "node_modules", package, "package.json"
            ).read_text()
            return f"{package} {json.loads(told)['version']}"
        kind = self.name.partition("-")[0]
        package = "onnx" if kind == "reference" else kind
        code = f"import importlib.metadata as m; print(m.version({package!r}))"
        done = subprocess.run(
            [self.command[0], "-c", code], capture_output=True, text=True, check=True
        )
        return f"{kind} {done.stdout.strip()}"


def runtime(name: str, place: str) -> Runtime:
    """The runtime of a name in an environment: a Python, or a folder of npm's."""
    if name.startswith("onnxruntime-node") or name.startswith("onnxruntime-web"):
        package = "-".join(name.split("-")[:2])
        return Runtime(name, ("node", str(HERE / "ask_node.mjs"), package), place)
    kind = name.split("-")[0]
    return Runtime(name, (place, str(HERE / f"ask_{kind}.py")))


class Answer(NamedTuple):
    """The outputs, or the error that stopped a job; neither where it was only loaded."""

    outputs: list[np.ndarray]
    error: str | None


def job(
    model: bytes | str, feeds: Mapping[str, np.ndarray] | None = None
) -> dict[str, Any]:
    """A job of a model, or of the file that has it; without feeds it is only loaded."""
    if isinstance(model, str):
        made: dict[str, Any] = {"path": model}
    else:
        made = {"model": base64.b64encode(model).decode()}
    if feeds is not None:
        made["feeds"] = [_packed(name, array) for name, array in feeds.items()]
    return made


def _packed(name: str, array: np.ndarray) -> list[Any]:
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return [name, str(array.dtype), list(array.shape), data]


def ask(one: Runtime, jobs: Sequence[dict[str, Any]]) -> list[Answer]:
    """The answers of a runtime, in the order of the jobs."""
    answers: list[Answer] = []
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder) / "jobs", Path(folder) / "answers"
        while len(answers) < len(jobs):
            rest = jobs[len(answers) :]
            asked.write_text("".join(json.dumps(each) + "\n" for each in rest))
            answered.write_text("")
            status = _run(one, asked, answered)
            lines = answered.read_text().splitlines()
            answers += [_read(line) for line in lines]
            if len(lines) < len(rest):
                answers.append(Answer([], f"crashed: the process ended with {status}"))
    return answers


def kernels(one: Runtime) -> Any:
    """The registry of an onnxruntime: its version, and its kernels."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder) / "kernels"
        subprocess.run([*one.command, "--kernels", str(told)], check=True)
        return json.loads(told.read_text())


def _run(one: Runtime, asked: Path, answered: Path) -> str:
    """How the process ended."""
    command = [*one.command, str(asked), str(answered)]
    try:
        ended = subprocess.run(
            command,
            cwd=one.folder,
            timeout=LONGEST,
            check=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {LONGEST} s"
    last = ended.stderr.decode(errors="replace").strip().splitlines()[-1:]
    return f"status {ended.returncode} {''.join(last)[:200]}"


def _read(line: str) -> Answer:
    found = json.loads(line)
    outputs = [
        np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
        for dtype, shape, data in found.get("outputs", ())
    ]
    return Answer(outputs, found.get("error"))
