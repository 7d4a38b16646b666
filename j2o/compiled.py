"""What a report is of: the graph that a compile made, and what it takes to compile it again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from j2o.ir.graph import Graph

if TYPE_CHECKING:
    from j2o.model import Boundary


@dataclass(frozen=True, eq=False)
class Compiled:
    """The optimised graph, how it belongs to the caller's pytrees, and its opset."""

    graph: Graph
    boundary: Boundary
    opset: int
