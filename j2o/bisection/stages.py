"""The pass that brings a difference in: graphs after each pass, and a search among them by halves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from j2o.bisection.case import Case
from j2o.errors import J2OError
from j2o.ir.graph import Graph, Node, Value
from j2o.passes.runner import all_graphs


@dataclass(frozen=True)
class Snapshot:
    """A copy of the graph after a pass; `event` counts the runs of passes, 0 is before the first.

    `equations` has those of JAX for the nodes of the copy that stand for one still.
    """

    event: int
    pass_name: str
    graph: Graph
    equations: Mapping[Node, Any]


class Camera:
    """An observer of passes that keeps a snapshot after each that changes the graph."""

    def __init__(self, graph: Graph, equations: Mapping[Node, Any]) -> None:
        self.equations = equations
        self.event = 0
        self.changes = changes_of(graph)
        self.snapshots: list[Snapshot] = []
        self.keep("", graph)

    def __call__(self, name: str, graph: Graph) -> None:
        self.event += 1
        changes = changes_of(graph)
        if changes != self.changes:
            self.changes = changes
            self.keep(name, graph)

    def keep(self, name: str, graph: Graph) -> None:
        """Keep a copy of the graph as it is."""
        copy, equations = copied(graph, self.equations)
        self.snapshots.append(Snapshot(self.event, name, copy, equations))


def changes_of(graph: Graph) -> int:
    """How often anything was changed in a graph, its functions and regions."""
    return sum(len(each.journal) for each in all_graphs(graph))


def copied(
    graph: Graph, equations: Mapping[Node, Any]
) -> tuple[Graph, dict[Node, Any]]:
    """A copy of a graph, and the equations of its nodes."""
    values: dict[Value, Value] = {}
    copy = graph.clone(values)
    kept: dict[Node, Any] = {}
    for node, equation in equations.items():
        first = node.outputs[0] if node.outputs else None
        if first in values:
            kept[values[first].producer] = equation
    return copy, kept


def first_wrong(case: Case) -> tuple[Snapshot, Snapshot]:
    """Two snapshots, one after the other: the outputs of the first are JAX's, those of the second not.

    The lifted graph, which JAX runs, is taken to be right, and the last graph to be wrong.
    """
    program = case.lift()
    camera = Camera(program.graph, program.equations)
    program.run(case.request.pipeline.observing(camera))
    found = camera.snapshots
    right, wrong = 0, len(found) - 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        if _is_right(case, found[middle]):
            right = middle
        else:
            wrong = middle
    return found[right], found[wrong]


def _is_right(case: Case, snapshot: Snapshot) -> bool:
    try:
        return case.agrees(case.outputs(snapshot.graph, snapshot.equations))
    except J2OError:
        return False
