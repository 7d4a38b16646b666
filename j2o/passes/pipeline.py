"""Passes, pipelines of passes, and the runner.

A pass says its name, the level of the IR it works at and the optimisation level it starts at. The runner, not the pass,
walks functions and regions, verifies, times, counts and dumps.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from j2o.errors import InvalidGraphError, J2OError
from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.ir.types import Type

Level: TypeAlias = Literal["lax", "onnx", "target"]
Scope: TypeAlias = Literal["each", "root"]


class Retrace(Protocol):
    """The tracer of plain JAX code, handed in by the frontend."""

    def __call__(self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]) -> Graph:
        """`fn(*operands, **params)` at operands of these types, as a graph of `lax.*` nodes."""
        ...

    def implementation(self, primitive: str) -> Callable[..., Any] | None:
        """JAX's own plain code for a primitive, where it computes it so."""
        ...


@dataclass(frozen=True)
class Context:
    """What passes need of the rest of j2o, handed in by the caller of `run`."""

    target: Target | None = None
    retrace: Any = None
    opt_level: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # what quantising each weight cost, for the report
    fired: dict[str, int] = field(default_factory=dict)  # how often each rewrite rule of the running pass fired
    seen: dict[tuple[str, Graph], int] = field(default_factory=dict)  # how much of a graph's journal a pass knows

    def fresh(self, graph: Graph, name: str, depth: int) -> Iterable[Node]:
        """The nodes that the pass of that name, which looks `depth` operands deep, has not seen as they are now.

        All of them the first time; later those in the journal since then, and the users of these.
        """
        mark = self.seen.get((name, graph))
        self.seen[name, graph] = len(graph.journal)
        if mark is None:
            return graph
        found = dict.fromkeys(n for n in graph.journal[mark:] if n.graph is graph)
        edge = list(found)
        for _ in range(depth):
            users = {u: None for n in edge for v in n.outputs for u, _ in v.uses if u.graph is graph and u not in found}
            found.update(users)
            edge = list(users)
        return list(found)


@dataclass(eq=False)
class Pass:
    """What the runner calls; returns the number of changes, 0 where nothing changed."""

    name: str
    _: KW_ONLY
    at: Level = "onnx"
    level: int = 1
    doc: str = ""
    scope: Scope = "each"

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        raise NotImplementedError


@dataclass(eq=False)
class GraphPass(Pass):
    """A pass made of a function of a graph and the `Context`."""

    fn: Callable[[Graph, Context], int]

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return self.fn(graph, context or Context())


def graph_pass(name: str, *, at: Level, level: int, scope: Scope = "each") -> Callable[[Callable[..., int]], GraphPass]:
    """Make a pass of a function `(graph) -> changes` or `(graph, context) -> changes`.

    `scope="each"`: called for the root, every function and every region; `"root"`: once, for the root.
    """

    def make(fn: Callable[..., int]) -> GraphPass:
        takes_context = len(inspect.signature(fn).parameters) > 1
        call = fn if takes_context else lambda graph, _: fn(graph)
        return GraphPass(name, call, at=at, level=level, doc=first_line(fn), scope=scope)

    return make


def first_line(fn: Callable[..., Any]) -> str:
    """What the documentation of a function starts with."""
    return (fn.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Fixpoint:
    """Passes run in turn until none of them changes anything, at most `limit` rounds."""

    name: str
    passes: tuple[Pass, ...]
    limit: int = 8


Step: TypeAlias = "Pass | Fixpoint"
Observer: TypeAlias = Callable[[str, Graph], Any]


@dataclass(frozen=True)
class PassPipeline:
    """An immutable list of passes; the methods return changed copies."""

    steps: tuple[Step, ...]
    check: str = ""
    observers: tuple[Observer, ...] = ()

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order, those of fixpoint groups once."""
        for step in self.steps:
            yield from step.passes if isinstance(step, Fixpoint) else (step,)

    def names(self) -> list[str]:
        return [p.name for p in self]

    def after(self, name: str, *passes: Pass) -> PassPipeline:
        """With `passes` right after the first pass or group of that name."""
        return self._insert(name, passes, 1)

    def before(self, name: str, *passes: Pass) -> PassPipeline:
        """With `passes` right before the first pass or group of that name."""
        return self._insert(name, passes, 0)

    def checking(self, check: str) -> PassPipeline:
        """With `"numeric"`: `compile` runs the graph after every pass and names the first that changes what it computes."""
        if check not in ("", "numeric"):
            raise J2OError(f"check={check!r}: 'numeric', or '' for none")
        return dataclasses.replace(self, check=check)

    def observing(self, observer: Observer) -> PassPipeline:
        """With `observer(pass name, graph)` called after every pass."""
        return dataclasses.replace(self, observers=(*self.observers, observer))

    def without(self, *names: str) -> PassPipeline:
        """Without the passes, groups or single rules of those names."""
        missing = set(names)
        steps = _without(self.steps, names, missing)
        if missing:
            raise self._unknown(min(missing))
        return dataclasses.replace(self, steps=steps)

    def fixpoint(self, name: str, *names: str) -> PassPipeline:
        """With the named passes, taken from where they stand, as one group run until nothing changes."""
        chosen = [p for p in self if p.name in names]
        first = next(i for i, s in enumerate(self.steps) if s in chosen)
        steps = [s for s in self.steps if s not in chosen]
        return dataclasses.replace(self, steps=(*steps[:first], Fixpoint(name, tuple(chosen)), *steps[first:]))

    def _insert(self, name: str, passes: Sequence[Pass], offset: int) -> PassPipeline:
        steps = _inserted(self.steps, name, passes, offset)
        if steps is None:
            raise self._unknown(name)
        return dataclasses.replace(self, steps=steps)

    def _unknown(self, name: str) -> J2OError:
        return J2OError(f"passes: there is no {name!r}; there are {', '.join(dict.fromkeys(self.names()))}")

    def __repr__(self) -> str:
        return f"PassPipeline({', '.join(s.name for s in self.steps)})"


def _inserted(steps: Sequence[Any], name: str, passes: Sequence[Pass], offset: int) -> tuple[Any, ...] | None:
    """With `passes` at the first step of that name, or inside of a group; None where there is none."""
    for i, step in enumerate(steps):
        if step.name == name:
            return (*steps[: i + offset], *passes, *steps[i + offset :])
        inner = _inserted(step.passes, name, passes, offset) if isinstance(step, Fixpoint) else None
        if inner is not None:
            return (*steps[:i], dataclasses.replace(step, passes=inner), *steps[i + 1 :])
    return None


def _without(steps: Sequence[Any], names: Sequence[str], missing: set[str]) -> tuple[Any, ...]:
    """Without what is named, and groups and rule sets without what is named in them. Found names leave `missing`."""
    kept = []
    for step in steps:
        parts = next((name for name in ("passes", "rules") if hasattr(step, name)), None)
        if step.name in names:
            missing.discard(step.name)
        elif parts is None:
            kept.append(step)
        elif left := _without(getattr(step, parts), names, missing):
            kept.append(dataclasses.replace(step, **{parts: left}))
    return tuple(kept)


@dataclass
class PassRecord:
    """What one pass did: changes, seconds, and the nodes of the root graph before and after."""

    name: str
    changes: int = 0
    seconds: float = 0.0
    runs: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    rules: dict[str, int] = field(default_factory=dict)


def run(pipeline: PassPipeline, graph: Graph, context: Context, *, verify: bool = False) -> list[PassRecord]:
    """Run a pipeline over a root graph, in place.

    With `verify`, the graph is verified after every pass, and InvalidGraphError names the pass that broke it.
    """
    after = (_verify, *pipeline.observers) if verify else pipeline.observers
    records: list[PassRecord] = []
    for step in pipeline.steps:
        group = step if isinstance(step, Fixpoint) else Fixpoint(step.name, (step,), limit=1)
        records += _run_fixpoint(group, graph, context, after)
    context.seen.clear()
    for each in all_graphs(graph):
        each.journal.clear()  # it keeps what was erased alive
    return records


def _run_fixpoint(group: Fixpoint, graph: Graph, context: Context, after: Sequence[Observer]) -> list[PassRecord]:
    """Run passes in turn; one is left out while no other has changed anything since its last run."""
    passes = [_as_pass(p) for p in group.passes]
    records = [PassRecord(p.name) for p in passes]
    version, seen = 0, [-1] * len(records)
    for _ in range(group.limit):
        for i, one in enumerate(passes):
            if seen[i] != version:
                version += _run_one(one, graph, context, records[i], after)
                seen[i] = version
        if all(v == version for v in seen):
            break
    return records


def _as_pass(given: Any) -> Pass:
    """A pass, also where an object of the user's own class only is like one."""
    if isinstance(given, Pass):
        return given
    return graph_pass(given.name, at=given.at, level=given.level, scope=getattr(given, "scope", "each"))(given)


def _run_one(one: Pass, graph: Graph, context: Context, record: PassRecord, after: Sequence[Observer]) -> int:
    before = graph.length
    context.fired.clear()
    start = time.perf_counter()
    changes = sum(one(each, context) for each in ([graph] if one.scope == "root" else all_graphs(graph)))
    record.seconds += time.perf_counter() - start
    if not record.runs:
        record.nodes_before = before
    record.runs += 1
    record.changes += changes
    record.nodes_after = graph.length
    for name, count in context.fired.items():
        record.rules[name] = record.rules.get(name, 0) + count
    for observe in after:
        if changes or observe is not _verify:
            observe(one.name, graph)
    return changes


def _verify(name: str, graph: Graph) -> None:
    try:
        graph.verify()
    except InvalidGraphError as error:
        raise InvalidGraphError(f"after pass {name}: {error}") from None


def all_graphs(root: Graph) -> list[Graph]:
    """The root, its functions, and all regions in them; inner graphs first."""
    found: list[Graph] = []

    def visit(graph: Graph) -> None:
        for node in graph.holders:
            for region in node.graphs:
                visit(region)
        found.append(graph)

    for top in (*root.functions.values(), root):
        visit(top)
    return found
