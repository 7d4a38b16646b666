"""j2o compiles JAX functions to ONNX.

    model = j2o.compile(fn, [("B", 784)])
    model.save("model.onnx")

Importing j2o is cheap: JAX, onnxruntime and the rest are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "api": "compile",
    "functions": "function",
    "model": "Model",
    "frozen": "weights lazy open_safetensors open_orbax",
    "passes.default": "default_pipeline",
    "passes.pipeline": "PassPipeline",
    "passes.lower.table": "lower lower_with",
    "errors": "J2OError CheckError SpecError TraceError UnsupportedError DimensionError InvalidGraphError VerificationError "
              "NotConvergingError PassError ParseError SaveError LoadError J2OWarning",
}  # fmt: skip
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}
_MODULES = ("ir", "passes", "backend", "frontend", "errors", "api", "model")
__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from j2o.api import compile
    from j2o.errors import (
        CheckError,
        DimensionError,
        InvalidGraphError,
        J2OError,
        J2OWarning,
        LoadError,
        NotConvergingError,
        ParseError,
        PassError,
        SaveError,
        SpecError,
        TraceError,
        UnsupportedError,
        VerificationError,
    )
    from j2o.frozen import lazy, open_orbax, open_safetensors, weights
    from j2o.functions import function
    from j2o.model import Model
    from j2o.passes.default import default_pipeline
    from j2o.passes.lower.table import lower, lower_with
    from j2o.passes.pipeline import PassPipeline


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        found = globals()[name] = getattr(
            importlib.import_module(f"j2o.{_WHERE[name]}"), name
        )
        return found
    if name in _MODULES:
        return importlib.import_module(f"j2o.{name}")
    raise AttributeError(f"module 'j2o' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODULES})
