"""j2o compiles JAX functions to ONNX.

    model = j2o.compile(fn, [("B", 784)])
    model.save("model.onnx")

Importing j2o is cheap: JAX, onnxruntime and the rest are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# the module that each name is taken from when it is first used
_WHERE = {
    "bisect": "bisection.search",
    "compile": "api",
    "function": "functions",
    "Model": "model",
    "save_models": "model",
    "static": "calls",
    # weights
    "lazy": "frozen",
    "open_orbax": "checkpoints.orbax",
    "open_safetensors": "checkpoints.safetensors",
    "weights": "frozen",
    # targets
    "Target": "ir.target",
    # passes and rules
    "PassPipeline": "passes.pipeline",
    "default_pipeline": "passes.default",
    "lower": "passes.lower.table",
    "lower_with": "passes.lower.table",
    # errors
    "CheckError": "errors",
    "DimensionError": "errors",
    "InvalidGraphError": "errors",
    "J2OError": "errors",
    "J2OWarning": "errors",
    "LoadError": "errors",
    "NotConvergingError": "errors",
    "ParseError": "errors",
    "PassError": "errors",
    "SaveError": "errors",
    "SpecError": "errors",
    "TraceError": "errors",
    "UnsupportedError": "errors",
    "VerificationError": "errors",
}
_MODULES = ("ir", "passes", "backend", "frontend", "errors", "api", "model")
__all__ = ["__version__", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:  # "as" says that a name is for users
    from j2o import api as api
    from j2o import backend as backend
    from j2o import errors as errors
    from j2o import frontend as frontend
    from j2o import ir as ir
    from j2o import model as model
    from j2o import passes as passes
    from j2o.api import compile as compile
    from j2o.bisection.search import bisect as bisect
    from j2o.calls import static as static
    from j2o.checkpoints.orbax import open_orbax as open_orbax
    from j2o.checkpoints.safetensors import open_safetensors as open_safetensors
    from j2o.errors import CheckError as CheckError
    from j2o.errors import DimensionError as DimensionError
    from j2o.errors import InvalidGraphError as InvalidGraphError
    from j2o.errors import J2OError as J2OError
    from j2o.errors import J2OWarning as J2OWarning
    from j2o.errors import LoadError as LoadError
    from j2o.errors import NotConvergingError as NotConvergingError
    from j2o.errors import ParseError as ParseError
    from j2o.errors import PassError as PassError
    from j2o.errors import SaveError as SaveError
    from j2o.errors import SpecError as SpecError
    from j2o.errors import TraceError as TraceError
    from j2o.errors import UnsupportedError as UnsupportedError
    from j2o.errors import VerificationError as VerificationError
    from j2o.frozen import lazy as lazy
    from j2o.frozen import weights as weights
    from j2o.functions import function as function
    from j2o.ir.target import Target as Target
    from j2o.model import Model as Model
    from j2o.model import save_models as save_models
    from j2o.passes.default import default_pipeline as default_pipeline
    from j2o.passes.lower.table import lower as lower
    from j2o.passes.lower.table import lower_with as lower_with
    from j2o.passes.pipeline import PassPipeline as PassPipeline


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        module = importlib.import_module(f"j2o.{_WHERE[name]}")
        found = globals()[name] = getattr(module, name)
        return found
    if name in _MODULES:
        return importlib.import_module(f"j2o.{name}")
    raise AttributeError(f"module 'j2o' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_WHERE, *_MODULES})
