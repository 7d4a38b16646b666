"""What passes are handed: target, tracer, options, and what has changed since they last looked."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from j2o.errors import PassError
from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.ir.types import DType, Type

Level: TypeAlias = Literal["lax", "onnx", "target"]
Scope: TypeAlias = Literal["each", "root"]


@dataclass(frozen=True)
class Options:
    """What `compile` was asked for, where a pass has to know it.

    `checks`: the model itself refuses sizes and values for which the program raises.
    `weights_dtype`: what large float weights are stored in; None keeps their own dtype.
    """

    checks: bool = False
    weights_dtype: DType | None = None


class Retrace(Protocol):
    """The tracer of plain JAX code, handed in by the frontend."""

    def __call__(
        self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]
    ) -> Graph:
        """`fn(*operands, **params)` at operands of these types, as a graph of `lax.*` nodes."""
        ...


def no_retrace(
    fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]
) -> Graph:
    """The tracer of a context that was given none: PassError."""
    name = getattr(fn, "__name__", "JAX code")
    raise PassError(
        f"tracing {name}: this context has no tracer; "
        "Context(retrace=Retracer()), of j2o.frontend.retrace, has one"
    )


@dataclass(frozen=True)
class Context:
    """What passes need of the rest of j2o, handed in by the caller of `run`.

    Passes write to the fields after `options`. For the report: `errors` has what storing each weight
    in another dtype cost, `notes` what is left out of the model, `widened` how often an operator runs in
    another dtype than the program has. Of the running pass: `fired` has how
    often each rewrite rule fired, `declined` how often a rule matched and was not used, and why.
    `seen` has how much of a graph's journal a pass knows.
    """

    target: Target | None = None
    retrace: Retrace = no_retrace
    opt_level: int = 2
    options: Options = Options()
    errors: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    widened: dict[str, int] = field(default_factory=dict)
    fired: dict[str, int] = field(default_factory=dict)
    declined: dict[tuple[str, str], int] = field(default_factory=dict)
    seen: dict[tuple[Hashable, Graph], int] = field(default_factory=dict)

    def prefers(self, op: str, dtype: DType) -> bool:
        """Return True where the target runs an operator with a dtype, no slower than its parts."""
        return self.target is not None and self.target.prefers(op, dtype)

    def fire(self, rule: str) -> None:
        """Count a rewrite, for the report."""
        self.fired[rule] = self.fired.get(rule, 0) + 1

    def decline(self, rule: str, reason: str) -> None:
        """Count a match of a rule that did not become a rewrite, for the report."""
        self.declined[rule, reason] = self.declined.get((rule, reason), 0) + 1

    def fresh(self, graph: Graph, one: Hashable, depth: int) -> Iterable[Node]:
        """The nodes that the pass `one`, which looks `depth` operands deep, has not seen as they are now.

        All of them the first time; later those in the journal since then, and the users of these. `one`
        is the pass itself, not its name, which another may have too.
        """
        known = self.seen.get((one, graph))
        self.seen[one, graph] = len(graph.journal)
        if known is None:
            return graph
        entered = dict.fromkeys(graph.journal[known:])  # most stand there several times
        found = {node: None for node in entered if node.graph is graph}
        edge = list(found)
        for _ in range(depth):
            edge = _users(edge, graph, found)
        return list(found)


def _users(nodes: list[Node], graph: Graph, found: dict[Node, None]) -> list[Node]:
    """The users of nodes in a graph that are not among those found, and are from here on."""
    users: list[Node] = []
    for node in nodes:
        for value in node.outputs:
            for user, _ in value.uses:
                if user not in found and user.graph is graph:
                    found[user] = None
                    users.append(user)
    return users
