"""What the scripts share that run in other environments: they read jobs, and write an answer a line.

It stands beside them and imports nothing of the project, as those environments have it not.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

Run: TypeAlias = (
    "Callable[[str | bytes, Mapping[str, np.ndarray] | None], Sequence[Any]]"
)


def serve(run: Run) -> None:
    """Answer the jobs in the file that the first argument names, in the one that the second names.

    `run` takes a model, as bytes or a path, and what it is fed with, or None where it is only to be loaded.
    It gives the outputs.
    """
    jobs, answers = sys.argv[1:3]
    with open(jobs, encoding="utf-8") as lines, open(answers, "a") as out:
        for line in lines:
            out.write(json.dumps(_answer(run, json.loads(line))) + "\n")
            out.flush()


def _answer(run: Run, job: dict[str, Any]) -> dict[str, Any]:
    model = job.get("path") or base64.b64decode(job["model"])
    feeds = None
    if "feeds" in job:
        feeds = {name: _array(*packed) for name, *packed in job["feeds"]}
    try:
        return {"outputs": [_packed(array) for array in run(model, feeds)]}
    except Exception as error:  # of any kind: it is the answer
        text = " ".join(str(error).split())
        return {"error": f"{type(error).__name__}: {text}"[:600]}


def _array(dtype: str, shape: Sequence[int], data: str) -> np.ndarray:
    # a copy, as OpenVINO takes only what can be written to
    return np.frombuffer(base64.b64decode(data), dtype).reshape(shape).copy()


def _packed(found: Any) -> list[Any]:
    array = np.asarray(found)
    data = base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()
    return [str(array.dtype), list(array.shape), data]
