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

from j2o.backend.kernels import PROVIDER, dtype_named
from j2o.backend.proto import ONNX_DTYPES, packed, unpacked
from j2o.errors import CheckError, J2OError, LoadError
from j2o.ir.types import DType

if TYPE_CHECKING:
    import onnx

_NUMPYS_OWN = frozenset(
    [
        DType.BOOL,
        DType.STRING,
        *(DType(f"i{bits}") for bits in (8, 16, 32, 64)),
        *(DType(f"u{bits}") for bits in (8, 16, 32, 64)),
        *(DType(f"f{bits}") for bits in (16, 32, 64)),
    ]
)
LEVELS = {
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
# how onnxruntime tells the name of a node that failed; `checks` names its nodes like that
_FAILED_CHECK = re.compile(r"Name:'[^']*?check: (.*?)' Status Message", re.DOTALL)


def is_numpys_own(dtype: DType | None) -> bool:
    """Return True for a dtype whose arrays go into onnxruntime as they are."""
    return dtype in _NUMPYS_OWN


class Session:
    """An onnxruntime session of a model in memory or in a file; LoadError where onnxruntime refuses it.

    `inputs` and `outputs` have the dtypes by name, None for what is no tensor. Without `optimise`, the graph
    runs as it is, and weights are not read before they are needed; `level` is how far it is optimised else,
    "basic", "extended" or "all". `threads` is 0 for as many as there are
    cores.
    """

    def __init__(
        self,
        model: onnx.ModelProto | str | os.PathLike[str],
        *,
        optimise: bool = True,
        level: str = "all",
        threads: int = 0,
    ) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = threads
        levels = ort.GraphOptimizationLevel.__members__
        name = LEVELS[level] if optimise else "ORT_DISABLE_ALL"
        options.graph_optimization_level = levels[name]
        if not optimise:
            # prepacking reads weights
            options.add_session_config_entry("session.disable_prepacking", "1")
        if isinstance(model, str | os.PathLike):
            source: str | bytes = os.fspath(model)
        else:
            source = model.SerializeToString()
        try:
            self.raw = ort.InferenceSession(source, options, providers=[PROVIDER])
        except Exception as error:
            text = _one_line(error, 1000)
            raise LoadError(f"onnxruntime refuses the model: {text}") from error
        self.inputs = {i.name: dtype_named(i.type) for i in self.raw.get_inputs()}
        self.outputs = {o.name: dtype_named(o.type) for o in self.raw.get_outputs()}
        dtypes = (*self.inputs.values(), *self.outputs.values())
        self.is_plain = all(is_numpys_own(dtype) for dtype in dtypes)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs in order, those of ml_dtypes' dtypes included. Several threads may run at once.

        Raises CheckError where a check in the model does not hold, J2OError where onnxruntime stops for
        another reason: arrays that do not fit, or no memory left.
        """
        try:
            return self._run(feeds)
        except Exception as error:
            if failed := _FAILED_CHECK.search(str(error)):
                raise CheckError(
                    f"a check of the model does not hold: {failed.group(1)}"
                ) from error
            text = _one_line(error, 500)
            raise J2OError(f"onnxruntime cannot run the model: {text}") from error

    def _run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        arrays = {name: np.asarray(array, order="C") for name, array in feeds.items()}
        if self.is_plain:
            results: Any = self.raw.run(None, arrays)
            return results
        values = {
            name: _to_ort(array, self.inputs[name]) for name, array in arrays.items()
        }
        found = self.raw.run_with_ort_values(list(self.outputs), values)
        return [
            _from_ort(value, dtype)
            for value, dtype in zip(found, self.outputs.values(), strict=True)
        ]


def _one_line(error: Exception, longest: int) -> str:
    """The beginning of a message, on one line."""
    return " ".join(str(error).split())[:longest]


def _to_ort(array: np.ndarray, dtype: DType | None) -> Any:
    """An array as an OrtValue of this element type."""
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
    """The array in an OrtValue of this element type."""
    if dtype is None or dtype in _NUMPYS_OWN:
        return value.numpy()
    shape = tuple(value.shape())
    size = math.ceil(math.prod(shape) * dtype.bits / 8)
    raw = ctypes.string_at(value.data_ptr(), size) if size else b""
    if dtype.bits >= 8:
        return np.frombuffer(raw, dtype.numpy).reshape(shape).copy()
    return unpacked(raw, dtype, shape)
