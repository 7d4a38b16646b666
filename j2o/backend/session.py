"""Running models in onnxruntime, on the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from j2o.errors import LoadError

if TYPE_CHECKING:
    import onnx

# dtypes that numpy has from ml_dtypes, with ONNX's number of the element type
_EXTRA = {"bfloat16": 16, "float8_e4m3fn": 17, "float8_e4m3fnuz": 18, "float8_e5m2": 19, "float8_e5m2fnuz": 20}
_FROM_NAME = {f"tensor({name.replace('_', '')})": getattr(ml_dtypes, name) for name in _EXTRA}


class Session:
    """An onnxruntime session of a model in memory or in a file; LoadError where onnxruntime refuses it."""

    def __init__(
        self, model: onnx.ModelProto | str | os.PathLike[str], *, optimise: bool = True, threads: int = 0
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if not optimise:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.add_session_config_entry("session.disable_prepacking", "1")  # which reads weights
        source: Any = os.fspath(model) if isinstance(model, str | os.PathLike) else model.SerializeToString()
        try:
            self.raw = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise LoadError(f"onnxruntime refuses the model: {' '.join(str(error).split())}") from error
        self.input_names = [i.name for i in self.raw.get_inputs()]
        self.outputs = [(o.name, o.type) for o in self.raw.get_outputs()]

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in order, bfloat16 and float8 included."""
        import onnxruntime as ort

        values = {k: _to_ort(np.asarray(v)) for k, v in feeds.items()}
        extra = [v for v in values.values() if isinstance(v, ort.OrtValue)]
        if not extra and all(t not in _FROM_NAME for _, t in self.outputs):
            return self.raw.run(None, values)  # type: ignore[return-value]
        wrap = ort.OrtValue.ortvalue_from_numpy
        wrapped = {k: v if isinstance(v, ort.OrtValue) else wrap(v) for k, v in values.items()}
        results = self.raw.run_with_ort_values([n for n, _ in self.outputs], wrapped)
        return [_from_ort(r, t) for r, (_, t) in zip(results, self.outputs, strict=True)]


def _to_ort(array: np.ndarray) -> Any:
    import onnxruntime as ort

    if array.dtype.name in _EXTRA:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _EXTRA[array.dtype.name])
    return np.ascontiguousarray(array).reshape(array.shape)


def _from_ort(value: Any, type: str) -> np.ndarray:
    dtype = _FROM_NAME.get(type)
    if dtype is None:
        return value.numpy()
    import ctypes

    shape, itemsize = value.shape(), np.dtype(dtype).itemsize
    size = int(np.prod(shape, dtype=np.int64)) * itemsize
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(raw, dtype).reshape(shape).copy()
