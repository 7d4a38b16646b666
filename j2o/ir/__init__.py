"""The graph IR: usable with neither a JAX function nor an ONNX file at hand.

graph = j2o.ir.parse(text)
str(graph); graph.verify()
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

_NAMES = {
    "build": "Builder",
    "types": "DType Type",
    "dims": "DimScope",
    "graph": "Graph Loc Node Value",
    "parser": "parse",
}
_WHERE = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = list(_WHERE)  # pyright: ignore[reportUnsupportedDunderAll]

if TYPE_CHECKING:
    from j2o.ir.build import Builder
    from j2o.ir.dims import DimScope
    from j2o.ir.graph import Graph, Loc, Node, Value
    from j2o.ir.parser import parse
    from j2o.ir.types import DType, Type


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'j2o.ir' has no attribute {name!r}")
    found = globals()[name] = getattr(
        importlib.import_module(f"j2o.ir.{_WHERE[name]}"), name
    )
    return found
