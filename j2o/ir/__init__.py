"""The graph IR: usable with neither a JAX function nor an ONNX file at hand.

graph = j2o.ir.parse(text)
str(graph); graph.verify()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from j2o.ir.build import Builder
    from j2o.ir.dims import DimScope
    from j2o.ir.graph import Graph
    from j2o.ir.node import Loc, Node
    from j2o.ir.parser import parse
    from j2o.ir.types import DType, Type
    from j2o.ir.value import Value

__all__ = [
    "Builder",
    "DType",
    "DimScope",
    "Graph",
    "Loc",
    "Node",
    "Type",
    "Value",
    "parse",
]
_MODULES = {  # which define these names, and are imported at their first use
    "Builder": "build",
    "DType": "types",
    "DimScope": "dims",
    "Graph": "graph",
    "Loc": "node",
    "Node": "node",
    "Type": "types",
    "Value": "value",
    "parse": "parser",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'j2o.ir' has no attribute {name!r}")
    module = importlib.import_module(f"j2o.ir.{_MODULES[name]}")
    found = getattr(module, name)
    globals()[name] = found
    return found
