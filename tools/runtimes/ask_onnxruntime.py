"""Runs jobs in the onnxruntime of the environment that this script is started in (see `asking`).

With `--kernels FILE` it writes the registry of kernels instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from serving import serve

PROVIDER = "CPUExecutionProvider"


def run(
    model: str | bytes, feeds: Mapping[str, np.ndarray] | None
) -> Sequence[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=[PROVIDER])
    return [] if feeds is None else session.run(None, dict(feeds))


def kernels() -> dict[str, Any]:
    """The registry of the CPU provider, as onnxruntime has it."""
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_opkernel_def

    rows = []
    for one in get_all_opkernel_def():
        if one.provider == PROVIDER:
            types = dict(one.type_constraints)
            rows.append([one.domain, one.op_name, list(one.version_range), types])
    return {"version": ort.__version__, "kernels": rows}


if __name__ == "__main__":
    if sys.argv[1] == "--kernels":
        with open(sys.argv[2], "w", encoding="utf-8") as out:
            json.dump(kernels(), out)
    else:
        serve(run)
