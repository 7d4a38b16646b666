"""What passes are handed: the target, the tracer, the options, and what has changed since they last looked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.ir.types import Type

Level: TypeAlias = Literal["lax", "onnx", "target"]
Scope: TypeAlias = Literal["each", "root"]


class Retrace(Protocol):
    """The tracer of plain JAX code, handed in by the frontend."""

    def __call__(
        self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]
    ) -> Graph:
        """`fn(*operands, **params)` at operands of these types, as a graph of `lax.*` nodes."""
        ...


@dataclass(frozen=True)
class Context:
    """What passes need of the rest of j2o, handed in by the caller of `run`."""

    target: Target | None = None
    retrace: Any = None
    opt_level: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(
        default_factory=dict
    )  # what quantising each weight cost, for the report
    notes: list[str] = field(
        default_factory=list
    )  # what is left out of the model, for the report
    fired: dict[str, int] = field(
        default_factory=dict
    )  # how often each rewrite rule of the running pass fired
    declined: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # how often a rule matched and was declined, and why
    seen: dict[tuple[Hashable, Graph], int] = field(
        default_factory=dict
    )  # how much of a graph's journal a pass knows

    def decline(self, rule: str, reason: str) -> None:
        """Count a match of a rule that did not become a rewrite, for the report."""
        self.declined[rule, reason] = self.declined.get((rule, reason), 0) + 1

    def fresh(self, graph: Graph, one: Hashable, depth: int) -> Iterable[Node]:
        """The nodes that the pass `one`, which looks `depth` operands deep, has not seen as they are now.

        All of them the first time; later those in the journal since then, and the users of these. `one` is the pass itself,
        not its name, which another may have too.
        """
        mark = self.seen.get((one, graph))
        self.seen[one, graph] = len(graph.journal)
        if mark is None:
            return graph
        found = dict.fromkeys(n for n in graph.journal[mark:] if n.graph is graph)
        edge = list(found)
        for _ in range(depth):
            users = {
                u: None
                for n in edge
                for v in n.outputs
                for u, _ in v.uses
                if u.graph is graph and u not in found
            }
            found.update(users)
            edge = list(users)
        return list(found)
