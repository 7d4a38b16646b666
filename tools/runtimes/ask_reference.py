"""Runs jobs in onnx's reference evaluator (see `asking`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from serving import serve


def run(
    model: str | bytes, feeds: Mapping[str, np.ndarray] | None
) -> Sequence[np.ndarray]:
    is_path = isinstance(model, str)
    proto = onnx.load(model) if is_path else onnx.load_from_string(model)
    evaluator = ReferenceEvaluator(proto)
    return [] if feeds is None else evaluator.run(None, dict(feeds))


if __name__ == "__main__":
    serve(run)
