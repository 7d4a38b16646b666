"""What a pass has changed wrongly, found by claims.

A node that a pass leaves as it is, but for its operands, claims that each new operand has the contents
of the old one. All values of the graph before the pass and after it are known; the first value for
which a claim does not hold is the fault. Where a claim holds within the tolerance, the old contents go
on in place of the new ones, so that rounding does not grow on its way.

A claim may fail though nothing is wrong: a pass may exchange the operands of a sum. So it counts only
where what the claiming node computes is wrong too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from j2o.bisection.case import Case
from j2o.bisection.evaluate import PROBE, Array, NodeError, Path
from j2o.bisection.measure import Difference, measured
from j2o.bisection.result import Fault, Made, made, place_of
from j2o.bisection.stages import Snapshot
from j2o.errors import J2OError
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr, same_shape
from j2o.passes.lower import lower_graph
from j2o.passes.pipeline import Pass, PassPipeline
from j2o.passes.runner import all_graphs
from j2o.passes.runner import run as run_passes
from j2o.values import to_graph


class _Form(NamedTuple):
    """What a node was before the pass."""

    op: str
    attrs: dict[str, Attr]
    inputs: tuple[Value | None, ...]
    graph: Graph | None


class _Contents(NamedTuple):
    """What a value was once, and in which regions."""

    array: np.ndarray
    path: Path


@dataclass
class _Before:
    """The graph before the pass: its nodes, what is told of its values, their contents in each run."""

    forms: dict[Node, _Form]
    told: dict[Value, Made]
    contents: dict[Value, list[_Contents]] = field(default_factory=dict)

    def watch(self, value: Value, path: Path, array: Array) -> Array:
        """Keep the contents of each value, in the order in which it is computed."""
        contents = _Contents(to_graph(array), path)
        self.contents.setdefault(value, []).append(contents)
        return array


class _Failure(NamedTuple):
    """A value that is not the one that it stands for, the first time that it is computed so."""

    value: Value
    old: Value
    users: list[Node]
    path: Path
    expected: np.ndarray
    difference: Difference


@dataclass
class _After:
    """The graph after the pass, as it is walked."""

    case: Case
    before: _Before
    claims: dict[Value, dict[Value, list[Node]]]
    runs: dict[Value, int] = field(default_factory=dict)
    failures: dict[tuple[Value, Value], _Failure] = field(default_factory=dict)

    def watch(self, value: Value, path: Path, array: Array) -> Array:
        run = self.runs.get(value, 0)
        self.runs[value] = run + 1
        goes_on = array
        for old, users in self.claims.get(value, {}).items():
            contents = self.before.contents.get(old, [])
            if run >= len(contents):
                continue
            expected, old_path = contents[run]
            found = measured(
                to_graph(array), expected, self.case.tolerance, inside=True
            )
            if not found.close:
                where = path if old is value else old_path
                failure = _Failure(value, old, users, where, expected, found.difference)
                self.failures.setdefault((value, old), failure)
            elif isinstance(array, np.ndarray) and array.dtype == expected.dtype:
                goes_on = expected
        return goes_on


class _Stop(J2OError):
    """Ends a run of the passes: what was wanted of it is known."""


class _ComparingObserver:
    """An observer that evaluates the graph before and after one run of a pass."""

    def __init__(self, case: Case, right: Snapshot, wrong: Snapshot) -> None:
        self.case = case
        self.first = wrong.event - 1
        self.is_lowering = wrong.pass_name == lower_graph.name
        self.event = 0
        self.before: _Before | None = None
        self.after: _After | None = None
        self.error: NodeError | None = None
        self.equations: Mapping[Node, Any] = {}

    def __call__(self, name: str, graph: Graph) -> None:
        self.event += 1
        self.look(graph)

    def look(self, graph: Graph) -> None:
        """Evaluate the graph if it is one of the two."""
        if self.event == self.first:
            self.before = _Before({}, _told(graph))
            self.case.outputs(graph, self.equations, self.before.watch)
            if self.is_lowering:
                _insert_probes(graph)
            self.before.forms = _forms(graph)
        elif self.event == self.first + 1:
            assert self.before is not None
            self.after = _After(self.case, self.before, _claims(graph, self.before))
            try:
                self.case.outputs(graph, self.equations, self.after.watch)
            except NodeError as error:
                self.error = error
            raise _Stop("")


def wrong_change(case: Case, right: Snapshot, wrong: Snapshot) -> Fault:
    """The first value that the pass between two snapshots has made another one."""
    look = _ComparingObserver(case, right, wrong)
    program = case.lift()
    look.equations = program.equations
    look.look(program.graph)
    with contextlib.suppress(_Stop):
        program.run(case.request.pipeline.observing(look))
    assert look.after is not None
    failure = _first(look.after)
    rule = _rule(case, right, wrong.pass_name)
    if failure is not None:
        return _fault(case, look.after, failure, wrong.pass_name, rule)
    if look.error is not None:
        node = look.error.node
        told = made(node.outputs[0]) if node.outputs else None
        return Fault(
            "pass",
            told,
            pass_name=wrong.pass_name,
            rule=rule,
            inside=tuple(map(str, look.error.path)),
            error=look.error.message,
            place=place_of(told),
        )
    hint = "each value that it changes is close to what it was"
    return Fault("pass", pass_name=wrong.pass_name, rule=rule, hint=hint)


# ------------------------------------------------------------------------------------ claims


def _forms(graph: Graph) -> dict[Node, _Form]:
    """All nodes as they are."""
    found = {}
    for each in all_graphs(graph):
        for node in each:
            found[node] = _Form(node.op, dict(node.attrs), node.inputs, node.graph)
    return found


def _told(graph: Graph) -> dict[Value, Made]:
    """What is told of all values."""
    found = {}
    for each in all_graphs(graph):
        for value in each.inputs:
            found[value] = made(value, each.parent)
        for node in each:
            found.update({value: made(value) for value in node.outputs})
    return found


def _insert_probes(graph: Graph) -> None:
    """Give every value a user that the pass leaves alone, where it leaves no other one.

    What goes into loops and choices keeps its place, so a probe in a region is a user too.
    """
    for each in all_graphs(graph):
        for node in list(each):
            for value in node.outputs:
                each.insert(Node(PROBE, [value], ()), before=node.next)


def _claims(graph: Graph, before: _Before) -> dict[Value, dict[Value, list[Node]]]:
    """For each value those that it stands for, with the nodes that claim it."""
    claims: dict[Value, dict[Value, list[Node]]] = {}
    for each in all_graphs(graph):
        for node in each:
            form = before.forms.get(node)
            if form is None or not _is_as_it_was(node, form):
                continue
            for old, new in zip(form.inputs, node.inputs, strict=True):
                if old is not None and new is not None and _are_alike(old, new):
                    claims.setdefault(new, {}).setdefault(old, []).append(node)
    return claims


def _are_alike(old: Value, new: Value) -> bool:
    """Return True for values of one type: another one shows that the operand has another meaning."""
    is_same = old.type.dtype == new.type.dtype
    return is_same and same_shape(old.type.shape, new.type.shape)


def _is_as_it_was(node: Node, form: _Form) -> bool:
    """Return True for a node of which a pass has changed operands alone."""
    return (
        node.op == form.op
        and node.graph is form.graph
        and len(node.inputs) == len(form.inputs)
        and node.attrs == form.attrs
    )


def _first(after: _After) -> _Failure | None:
    """The first failure that counts; None where no claim fails."""
    failing = {value for value, _ in after.failures}
    for failure in after.failures.values():
        if any(_is_wrong(user, failing, after.claims) for user in failure.users):
            return failure
    return None


def _is_wrong(user: Node, failing: set[Value], claims: Mapping[Value, Any]) -> bool:
    """Return True where what a node computes fails too, or where nobody says what it should be."""
    results = user.outputs
    if user.op == "return":
        holder = user.home.parent
        if holder is None:
            return True
        results = holder.outputs
    claimed = [value for value in results if value in claims]
    return not claimed or any(value in failing for value in claimed)


# ------------------------------------------------------------------------------------- report


def _fault(case: Case, after: _After, failure: _Failure, name: str, rule: str) -> Fault:
    """The fault that a failure tells."""
    value = failure.value
    parent = None if value.input_of is None else value.input_of.parent
    told = made(value, parent)
    old = None if failure.old is value else after.before.told.get(failure.old)
    is_new = value.node is not None and value.node not in after.before.forms
    first = told if is_new or old is None else old
    in_jax = same_in_jax(case, failure.expected, first.place.source)
    return Fault(
        "pass",
        told,
        pass_name=name,
        rule=rule,
        instead_of=old,
        in_jax=in_jax,
        inside=tuple(map(str, failure.path)),
        difference=failure.difference,
        place=place_of(first, told, old, in_jax),
    )


class _Seeking:
    """Looks for the value of the program that has certain contents, best at a certain line."""

    def __init__(self, case: Case, wanted: np.ndarray, source: str) -> None:
        self.case = case
        self.wanted = wanted
        self.source = source
        self.found: Made | None = None

    def watch(self, value: Value, path: Path, array: Array) -> Array:
        is_at_line = self.found is not None and self.found.place.source == self.source
        if value.node is not None and value.op != "const" and not is_at_line:
            self.compare(value, to_graph(array))
        return array

    def compare(self, value: Value, array: np.ndarray) -> None:
        """Keep a value that has the contents."""
        is_like = array.shape == self.wanted.shape and array.dtype == self.wanted.dtype
        if not is_like or not measured(array, self.wanted, self.case.tolerance).close:
            return
        told = made(value)
        if self.found is None or told.place.source == self.source:
            self.found = told


def same_in_jax(case: Case, wanted: np.ndarray, source: str) -> Made | None:
    """The value of the lifted program with these contents; None where there is none, or they are few."""
    if wanted.size < 2:  # such a number may occur anywhere
        return None
    seeking = _Seeking(case, wanted, source)
    program = case.lift()
    case.outputs(program.graph, program.equations, seeking.watch)
    return seeking.found


def _rule(case: Case, right: Snapshot, name: str) -> str:
    """The one rule of a pass that, run alone, makes the outputs wrong; "" where it is no rule's work."""
    one: Any = case.request.pipeline.find(name)
    rules: tuple[Pass, ...] = getattr(one, "rules", ())
    for rule in rules:
        copy = right.graph.clone()
        level = case.request.pipeline.level
        context = case.operations.context
        records = run_passes(PassPipeline((rule,), level=level), copy, context)
        if records[0].changes and not _gives_the_same(case, copy):
            return rule.name
    return ""


def _gives_the_same(case: Case, graph: Graph) -> bool:
    """Return True where a graph gives what JAX gives."""
    try:
        return case.agrees(case.outputs(graph, {}))
    except J2OError:
        return False
