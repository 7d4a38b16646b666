"""The runner: walks functions and regions, times, counts, verifies and shows what each pass has done."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from j2o.errors import InvalidGraphError, J2OError, PassError, raised, shown
from j2o.ir.graph import Graph, Value
from j2o.passes.context import Context
from j2o.passes.pipeline import Fixpoint, Observer, Pass, PassPipeline


@dataclass
class PassRecord:
    """What one pass did: changes, seconds, and the nodes of the root graph before and after.

    `rules` has how often each rewrite rule fired, `declined` for each rule how often it matched and was
    not used, by reason. `left_out` says why a pass did not run, "" where it did.
    """

    name: str
    changes: int = 0
    seconds: float = 0.0
    runs: int = 0
    nodes_before: int = 0
    nodes_after: int = 0
    rules: dict[str, int] = field(default_factory=dict)
    declined: dict[str, dict[str, int]] = field(default_factory=dict)
    left_out: str = ""

    def take_rules(self, context: Context) -> None:
        """Add what the rules of the pass did in one run, and empty the context's account of it."""
        for name, count in context.fired.items():
            self.rules[name] = self.rules.get(name, 0) + count
        for (name, reason), count in context.declined.items():
            reasons = self.declined.setdefault(name, {})
            reasons[reason] = reasons.get(reason, 0) + count
        context.fired.clear()
        context.declined.clear()


def run(
    pipeline: PassPipeline, graph: Graph, context: Context, *, verify: bool = False
) -> list[PassRecord]:
    """Run a pipeline over a root graph, in place.

    It runs at the optimisation level of the pipeline, or else of the context. With `verify`, the graph
    is verified after every pass that changed it, and InvalidGraphError names the pass that broke it.
    Raises PassError where a pass or an observer raises, or does not tell the number of its changes.
    """
    if pipeline.level is not None:
        context = dataclasses.replace(context, opt_level=pipeline.level)
    runner = _Runner(graph, context, pipeline.observers, verify)
    records: list[PassRecord] = []
    for step in pipeline.steps:
        if isinstance(step, Fixpoint):
            records += runner.run_group(step.passes, step.limit)
        else:
            record = PassRecord(step.name)
            runner.run_one(step, record)
            records.append(record)
    context.seen.clear()
    for each in all_graphs(graph):
        each.journal.clear()  # it keeps what was erased alive
    return records


@dataclass
class _Runner:
    """Runs passes over one root graph."""

    graph: Graph
    context: Context
    observers: Sequence[Observer]
    verify: bool

    def run_group(self, passes: Sequence[Pass], limit: int) -> list[PassRecord]:
        """Run passes in turn, at most so often.

        One is left out while no other has changed anything since its last run.
        """
        records = [PassRecord(one.name) for one in passes]
        version = 0
        seen = [-1] * len(records)
        for _ in range(limit):
            for i, one in enumerate(passes):
                if seen[i] != version:
                    version += self.run_one(one, records[i])
                    seen[i] = version
            if all(each == version for each in seen):
                break
        return records

    def run_one(self, one: Pass, record: PassRecord) -> int:
        """Run a pass on all the graphs that it is for; returns the number of its changes."""
        level = self.context.opt_level
        if one.level > level:
            record.left_out = (
                f"it starts at level {one.level}, the pipeline is of level {level}"
            )
            return 0
        if not record.runs:
            record.nodes_before = self.graph.length
        before = _StateBefore(self.graph, one) if self.verify else None
        changes = self.call(one, record)
        record.runs += 1
        record.changes += changes
        record.nodes_after = self.graph.length
        if self.context.fired or self.context.declined:
            record.take_rules(self.context)
        if before is not None:
            before.verify_after(changes)
        for observer in self.observers:
            _observed(observer, one.name, self.graph)
        return changes

    def call(self, one: Pass, record: PassRecord) -> int:
        """Call a pass for each graph that it is for, and take the time."""
        start = time.perf_counter()
        graphs = [self.graph] if one.scope == "root" else all_graphs(self.graph)
        changes = 0
        for each in graphs:
            changes += _called(one, each, self.context)
        record.seconds += time.perf_counter() - start
        return changes


class _StateBefore:
    """What is known of a graph before a pass runs, to verify what the pass leaves."""

    def __init__(self, graph: Graph, one: Pass) -> None:
        self.graph = graph
        self.name = one.name
        self.known = _journalled(graph)
        self.interface = _interface(graph) if one.at != "lax" else None

    def verify_after(self, changes: int) -> None:
        """InvalidGraphError where the graph is not valid, or has other inputs or outputs."""
        if not changes and _journalled(self.graph) == self.known:
            return
        _verify(self.name, self.graph)
        interface = _interface(self.graph)
        if self.interface is not None and interface != self.interface:
            what = f"inputs and outputs are {interface}, not {self.interface}"
            raise InvalidGraphError(f"after pass {self.name}: {what}")


def _called(one: Pass, graph: Graph, context: Context) -> int:
    """The number of changes that a pass tells; PassError where it raises, or tells something else."""
    try:
        changes = one(graph, context)
    except J2OError:
        raise
    except Exception as error:
        raise PassError(f"pass {one.name}: {raised(error)}") from error
    if type(changes) is int and changes >= 0:
        return changes
    if not isinstance(changes, int | np.integer | np.bool_) or changes < 0:
        needed = "the number of its changes is needed, 0 for none"
        raise PassError(f"pass {one.name}: it returned {shown(changes)}; {needed}")
    return int(changes)


def _observed(observer: Observer, name: str, graph: Graph) -> None:
    """Call an observer; PassError where it raises."""
    try:
        observer(name, graph)
    except J2OError:
        raise
    except Exception as error:
        raise PassError(f"the observer after pass {name}: {raised(error)}") from error


def _interface(graph: Graph) -> str:
    """Dtypes and ranks of a model's inputs and outputs.

    Only the passes on `lax`, which split complex numbers, change them.
    """
    return f"{_kinds(graph.inputs)} -> {_kinds(graph.outputs)}"


def _kinds(values: Sequence[Value]) -> str:
    """Dtypes and ranks of values, as messages have them."""
    kinds = [f"{v.type.dtype.value} of rank {v.type.rank}" for v in values]
    return ", ".join(kinds)


def _journalled(graph: Graph) -> int:
    """How many entries all journals have: a pass that changes a graph makes new ones, whatever it tells."""
    return sum(len(each.journal) for each in all_graphs(graph))


def _verify(name: str, graph: Graph) -> None:
    """Verify a graph; the error names the pass."""
    try:
        graph.verify()
    except InvalidGraphError as error:
        raise InvalidGraphError(f"after pass {name}: {error}") from None


def all_graphs(root: Graph) -> list[Graph]:
    """The root, its functions, and all regions in them; inner graphs first."""
    found: list[Graph] = []
    for top in (*root.functions.values(), root):
        _add_with_regions(top, found)
    return found


def _add_with_regions(graph: Graph, found: list[Graph]) -> None:
    """Add the regions in a graph to those found, and then the graph."""
    for node in graph.holders:
        for region in node.graphs:
            _add_with_regions(region, found)
    found.append(graph)
