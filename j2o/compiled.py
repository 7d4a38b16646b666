"""What a report is of: the graph that a compile made, and what it takes to compile it again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from j2o.ir.graph import Graph
from j2o.request import Request

if TYPE_CHECKING:
    from j2o.model import Boundary
    from j2o.specs import Specs


@dataclass(frozen=True, eq=False)
class Compiled:
    """The optimised graph, how it belongs to the caller's pytrees, its opset, and its `recipe`."""

    graph: Graph
    boundary: Boundary
    opset: int
    recipe: Recipe


@dataclass(frozen=True, eq=False)
class Recipe:
    """What it takes to compile again.

    `fn` takes and gives its state where that was asked for. `request` is without specs and keyword
    arguments, as there may be large example arrays in them (`specs` has what was found in them), and
    without observers, which may hold anything. `x64` is JAX's 64-bit mode of then. The model's own
    function keeps all arrays in here alive too.
    """

    request: Request
    fn: Callable[..., Any]
    specs: Specs
    x64: bool

    def __deepcopy__(self, memo: Any) -> Recipe:
        """A copy of a model compiles the same function."""
        return self
