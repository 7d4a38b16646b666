"""Runs jobs in the OpenVINO of the environment that this script is started in, on its CPU (see `asking`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import openvino
from serving import serve

CORE = openvino.Core()
# numbers as they are given: the plugin rounds to bfloat16 where the processor has it
EXACT = {"INFERENCE_PRECISION_HINT": "f32"}


def run(
    model: str | bytes, feeds: Mapping[str, np.ndarray] | None
) -> Sequence[np.ndarray]:
    compiled = CORE.compile_model(CORE.read_model(model), "CPU", EXACT)
    if feeds is None:
        return []
    # an input that nothing uses may be gone
    known = {name for port in compiled.inputs for name in port.names}
    found = compiled({name: feeds[name] for name in feeds if name in known})
    return [found[port] for port in compiled.outputs]


if __name__ == "__main__":
    serve(run)
