"""Running models in onnxruntime, on the CPU.

onnxruntime's binding knows the dtypes of numpy alone. Arrays of ml_dtypes' go in and out by their memory:
those of whole bytes as they lie, those of 2 and 4 bits packed from the low bits on, as ONNX has them.
"""

from __future__ import annotations

import ctypes
import math
import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from j2o.backend.kernels import ONNX_NAMES
from j2o.backend.proto import ONNX_DTYPES, packed, unpacked
from j2o.errors import CheckError, J2OError, LoadError
from j2o.ir.types import DType

if TYPE_CHECKING:
    import onnx

_NUMPYS_OWN = frozenset(
    map(DType, "bool i8 i16 i32 i64 u8 u16 u32 u64 f16 f32 f64 string".split())
)


class Session:
    """An onnxruntime session of a model in memory or in a file; LoadError where onnxruntime refuses it."""

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        *,
        optimise: bool = True,
        threads: int = 0,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        if not optimise:
            options.graph_optimization_level = (
                ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            )
            options.add_session_config_entry(
                "session.disable_prepacking", "1"
            )  # which reads weights
        source: Any = (
            os.fspath(model)
            if isinstance(model, str | os.PathLike)
            else model.SerializeToString()
        )
        try:
            self.raw = ort.InferenceSession(
                source, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise LoadError(
                f"onnxruntime refuses the model: {' '.join(str(error).split())[:1000]}"
            ) from error
        self.inputs = {i.name: _dtype(i.type) for i in self.raw.get_inputs()}
        self.outputs = {o.name: _dtype(o.type) for o in self.raw.get_outputs()}
        self.is_plain = all(
            d in _NUMPYS_OWN for d in (*self.inputs.values(), *self.outputs.values())
        )

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """The outputs in order, those of ml_dtypes' dtypes included. Several threads may run at once.

        Raises CheckError where a check in the model does not hold, J2OError where onnxruntime stops for
        another reason: arrays that do not fit, or no memory left.
        """
        try:
            return self._run(feeds)
        except Exception as error:
            if failed := re.search(
                r"Name:'[^']*?check: (.*?)' Status Message", str(error), re.DOTALL
            ):
                raise CheckError(
                    f"a check of the model does not hold: {failed.group(1)}"
                ) from error
            raise J2OError(
                f"onnxruntime cannot run the model: {' '.join(str(error).split())[:500]}"
            ) from error

    def _run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        if self.is_plain:
            arrays = {
                name: np.asarray(array, order="C") for name, array in feeds.items()
            }
            return self.raw.run(None, arrays)  # type: ignore[return-value]
        values = {
            name: _to_ort(np.asarray(array, order="C"), self.inputs[name])
            for name, array in feeds.items()
        }
        results = self.raw.run_with_ort_values(list(self.outputs), values)
        return [
            _from_ort(value, dtype)
            for value, dtype in zip(results, self.outputs.values(), strict=True)
        ]


def _dtype(type: str) -> DType | None:
    """The dtype of `tensor(float)`; None for what is no tensor."""
    return ONNX_NAMES.get(type.removeprefix("tensor(").removesuffix(")"))


def _to_ort(array: np.ndarray, dtype: DType | None) -> Any:
    from onnxruntime import OrtValue

    if dtype is None or dtype in _NUMPYS_OWN:
        return OrtValue.ortvalue_from_numpy(array)
    number = int(ONNX_DTYPES[dtype])
    if dtype.bits >= 8:
        plain = array.view(np.uint8 if dtype.bits == 8 else np.uint16)
        return OrtValue.ortvalue_from_numpy_with_onnx_type(plain, number)
    value = OrtValue.ortvalue_from_shape_and_type(list(array.shape), number)
    data = packed(array, dtype.bits)
    ctypes.memmove(value.data_ptr(), data, len(data))
    return value


def _from_ort(value: Any, dtype: DType | None) -> np.ndarray:
    if dtype is None or dtype in _NUMPYS_OWN:
        return value.numpy()
    shape = tuple(value.shape())
    size = math.ceil(math.prod(shape) * dtype.bits / 8)
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    if dtype.bits >= 8:
        return np.frombuffer(raw, dtype.numpy).reshape(shape).copy()
    return unpacked(raw, dtype, shape)
