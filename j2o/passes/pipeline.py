"""Passes, pipelines of passes, and the runner.

A pass says its name, the level of the IR it works at and the optimisation level it starts at. The runner, not the pass,
walks functions and regions, verifies, times, counts and dumps. What an author gets wrong is a PassError, as early as it
can be known: where the pass is made, where it is put into a pipeline, and only then where it runs.
"""

from __future__ import annotations

import dataclasses
import inspect
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, get_args

import numpy as np

from j2o.errors import InvalidGraphError, J2OError, PassError, meant, raised, shown
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


@dataclass(frozen=True)
class Context:
    """What passes need of the rest of j2o, handed in by the caller of `run`."""

    target: Target | None = None
    retrace: Any = None
    opt_level: int = 2
    options: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)  # what quantising each weight cost, for the report
    notes: list[str] = field(default_factory=list)  # what is left out of the model, for the report
    fired: dict[str, int] = field(default_factory=dict)  # how often each rewrite rule of the running pass fired
    declined: dict[tuple[str, str], int] = field(
        default_factory=dict
    )  # how often a rule matched and was declined, and why
    seen: dict[tuple[Hashable, Graph], int] = field(default_factory=dict)  # how much of a graph's journal a pass knows

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
            users = {u: None for n in edge for v in n.outputs for u, _ in v.uses if u.graph is graph and u not in found}
            found.update(users)
            edge = list(users)
        return list(found)


@dataclass(eq=False, repr=False)
class Pass:
    """What the runner calls; returns the number of changes, 0 where nothing changed.

    `at` is the level of the IR that it works at, `level` the optimisation level from which on it runs.
    """

    name: str
    _: KW_ONLY
    at: Level = "onnx"
    level: int = 1
    doc: str = ""
    scope: Scope = "each"

    def __post_init__(self) -> None:
        check_name(self.name, "pass")
        if self.at not in get_args(Level):
            raise PassError(f"pass {self.name}: at={shown(self.at)}; 'lax', 'onnx' or 'target' is needed")
        if not is_level(self.level):
            raise PassError(f"pass {self.name}: level={shown(self.level)}; 0, 1, 2 or 3 is needed")
        if self.scope not in get_args(Scope):
            raise PassError(f"pass {self.name}: scope={shown(self.scope)}; 'each' or 'root' is needed")

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, at {self.at}, level {self.level}>"


def check_name(name: Any, what: str) -> None:
    """Raise PassError for a name that cannot be asked for on the command line and in `without`."""
    if not isinstance(name, str) or not name.isprintable() or name.split() != [name]:
        raise PassError(f"{what}: name={shown(name)}; a string without spaces is needed")


def is_level(level: Any) -> bool:
    """Whether this is an optimisation level; numpy's integers count, bools do not."""
    return isinstance(level, int | np.integer) and not isinstance(level, bool) and bool(0 <= level <= 3)


@dataclass(eq=False, repr=False)
class GraphPass(Pass):
    """A pass made of a function of a graph and the `Context`; `gives` is the level that it brings the graph to."""

    fn: Callable[[Graph, Context], int]
    _: KW_ONLY
    gives: Level | None = None

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return self.fn(graph, context or Context())


def graph_pass(
    name: str, *, at: Level, level: int, scope: Scope = "each", gives: Level | None = None
) -> Callable[[Callable[..., int]], GraphPass]:
    """Make a pass of a function `(graph) -> changes` or `(graph, context) -> changes`.

    `scope="each"`: called for the root, every function and every region; `"root"`: once, for the root. Raises PassError for
    what is not such a function, and for a name or a level that there cannot be.
    """
    check_name(name, "graph_pass")

    def make(fn: Callable[..., int]) -> GraphPass:
        call = fn if _takes_context(name, fn) else _without_context(fn)
        return GraphPass(name, call, at=at, level=level, doc=first_line(fn), scope=scope, gives=gives)

    return make


def _takes_context(name: str, fn: Any) -> bool:
    """Whether a pass function takes the `Context` besides the graph; PassError where it takes neither form."""
    if not callable(fn):
        raise PassError(f"pass {name}: a function (graph) or (graph, context) is needed, given {shown(fn)}")
    try:
        parameters = list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # no signature is known of some functions written in C
        raise PassError(
            f"pass {name}: {shown(fn)} does not tell its parameters; wrap it in a function (graph)"
        ) from None
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    with_context = len(positional) > 1 and (
        positional[1].default is inspect.Parameter.empty or positional[1].name == "context"
    )
    given = [p.name for p in positional[: 2 if with_context else 1]]
    if (not given and not several) or set(needed) - set(given):
        raise PassError(f"pass {name}: its function takes ({', '.join(needed)}); (graph) or (graph, context) is needed")
    return with_context


def _without_context(fn: Callable[[Graph], int]) -> Callable[[Graph, Context], int]:
    def call(graph: Graph, context: Context) -> int:
        return fn(graph)

    return call


def first_line(fn: Callable[..., Any]) -> str:
    """What the documentation of a function starts with."""
    return (fn.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Fixpoint:
    """Passes run in turn until none of them changes anything, at most `limit` rounds."""

    name: str
    passes: tuple[Pass, ...]
    limit: int = 8

    def __post_init__(self) -> None:
        check_name(self.name, "group")
        passes = _sequence(self.passes, f"group {self.name}")
        for one in passes:
            if isinstance(one, Fixpoint):
                raise PassError(
                    f"group {self.name}: it cannot hold the group {one.name!r}; put that before or after it"
                )
        if not isinstance(self.limit, int) or self.limit < 1:
            raise PassError(f"group {self.name}: limit={shown(self.limit)}; a number of rounds from 1 up is needed")
        object.__setattr__(self, "passes", tuple(map(as_pass, passes)))


Step: TypeAlias = "Pass | Fixpoint"
Observer: TypeAlias = Callable[[str, Graph], Any]


def as_pass(given: Any) -> Pass:
    """A pass, also where an object of the user's own class only is like one: a name, at, level, and a call."""
    if isinstance(given, PassPipeline):
        raise PassError(f"passes: given a whole {given!r} as one pass; give the passes in it, *pipeline")
    missing = [name for name in ("name", "at", "level") if not hasattr(given, name)]
    if missing or not callable(given):
        raise PassError(
            f"passes: {shown(given)} is no pass: it has no {missing[0] if missing else 'call'}; "
            "@graph_pass(name, at=..., level=...) makes a pass of a function, @rewrite(name) one of a pattern"
        )
    if isinstance(given, Pass):
        Pass.__post_init__(given)  # a subclass with an `__init__` of its own may not have asked
        return given
    own: Any = given
    return graph_pass(own.name, at=own.at, level=own.level, scope=getattr(own, "scope", "each"))(own)


def _sequence(given: Any, what: str) -> tuple[Any, ...]:
    """A list or tuple as a tuple; PassError for anything else."""
    if isinstance(given, list | tuple):
        return tuple(given)
    raise PassError(f"{what}: a list or tuple is needed, given {shown(given)}")


@dataclass(frozen=True)
class PassPipeline:
    """An immutable list of passes; the methods return changed copies.

    `level` is the optimisation level that it runs at: passes and rules that start at a higher one are left out, and the report
    says so. None takes that of `compile`. Raises PassError for what is no pass, and for one that works on `lax` operations
    where there are none any more.
    """

    steps: tuple[Step, ...]
    check: str = ""
    observers: tuple[Observer, ...] = ()
    level: int | None = None

    def __post_init__(self) -> None:
        steps = _sequence(self.steps, "PassPipeline")
        object.__setattr__(self, "steps", tuple(s if isinstance(s, Fixpoint) else as_pass(s) for s in steps))
        if self.level is not None and not is_level(self.level):
            raise PassError(f"PassPipeline: level={shown(self.level)}; 0, 1, 2, 3 or None is needed")
        if self.check not in ("", "numeric"):
            raise PassError(f"check={shown(self.check)}: 'numeric', or '' for none")
        for observer in _sequence(self.observers, "observers"):
            if not callable(observer):
                raise PassError(f"observing: a function (pass name, graph) is needed, given {shown(observer)}")
        _check_order(self)

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order, those of fixpoint groups once."""
        for step in self.steps:
            yield from _passes_of(step)

    def names(self) -> list[str]:
        return [p.name for p in self]

    def find(self, name: str) -> Any:
        """The first pass, group or rule of that name; PassError where there is none."""
        for one in (*self.steps, *self, *self._rules()):
            if one.name == name:
                return one
        raise self._unknown(name)

    def after(self, name: str, *passes: Pass) -> PassPipeline:
        """With `passes` right after the first pass or group of that name."""
        return self._insert(name, passes, 1)

    def before(self, name: str, *passes: Pass) -> PassPipeline:
        """With `passes` right before the first pass or group of that name."""
        return self._insert(name, passes, 0)

    def checking(self, check: str) -> PassPipeline:
        """With `"numeric"`: `compile` runs the graph after every pass and names the first that changes what it computes."""
        return dataclasses.replace(self, check=check)

    def observing(self, observer: Observer) -> PassPipeline:
        """With `observer(pass name, graph)` called after every pass."""
        return dataclasses.replace(self, observers=(*self.observers, observer))

    def without(self, *names: str) -> PassPipeline:
        """Without the passes, groups or single rules of those names."""
        missing = list(names)
        steps = _without(self.steps, names, missing)
        if missing:
            raise self._unknown(missing[0])
        return dataclasses.replace(self, steps=steps)

    def fixpoint(self, name: str, *names: str) -> PassPipeline:
        """With the named passes as one group that runs until nothing changes.

        Each is taken from the first place where it stands, out of another group if need be (a group's name stands for all
        its passes); the new group stands where the first of them stood, or before the group that held it.
        """
        if not names:
            raise PassError(f"fixpoint {name}: name the passes that run in turn")
        waiting = [one for i, one in enumerate(names) if one not in names[:i]]
        taken: list[Pass] = []
        steps: list[Step] = []
        place = 0
        for step in self.steps:
            first = not taken
            left = _taken(step, waiting, taken)
            if first and taken:
                place = len(steps)
            if left is not None:
                steps.append(left)
        if waiting:
            raise self._unknown(waiting[0])
        return dataclasses.replace(self, steps=(*steps[:place], Fixpoint(name, tuple(taken)), *steps[place:]))

    def _insert(self, name: str, passes: Sequence[Pass], offset: int) -> PassPipeline:
        steps = _inserted(self.steps, name, passes, offset)
        if steps is None:
            raise self._unknown(name)
        return dataclasses.replace(self, steps=steps)

    def _unknown(self, name: Any) -> PassError:
        groups = [step.name for step in self.steps if isinstance(step, Fixpoint)]
        names = list(dict.fromkeys(self.names() + groups))
        similar = meant(name, names + [rule.name for rule in self._rules()])
        return PassError(f"passes: there is no {shown(name)}; there are {', '.join(names)}{similar}")

    def _rules(self) -> Iterator[Any]:
        return (rule for one in self for rule in getattr(one, "rules", ()))

    def __repr__(self) -> str:
        return f"PassPipeline({', '.join(s.name for s in self.steps)})"


def _passes_of(step: Step) -> tuple[Pass, ...]:
    return step.passes if isinstance(step, Fixpoint) else (step,)


def _check_order(passes: Iterable[Pass]) -> None:
    """Raise PassError where a pass on `lax` operations stands after one on what they are lowered to."""
    lowered: Pass | None = None
    for one in passes:
        if one.at == "lax" and lowered is not None:
            raise PassError(
                f"passes: {one.name!r} (at='lax') stands after {lowered.name!r} (at={lowered.at!r}); "
                "what works at 'lax' comes before 'lower', what works at 'onnx' or 'target' after it"
            )
        if one.at != "lax" or getattr(one, "gives", None) not in (None, "lax"):
            lowered = one


def _inserted(steps: Sequence[Any], name: str, passes: Sequence[Pass], offset: int) -> tuple[Any, ...] | None:
    """With `passes` at the first step of that name, or inside of a group; None where there is none."""
    for i, step in enumerate(steps):
        if step.name == name:
            return (*steps[: i + offset], *passes, *steps[i + offset :])
        inner = _inserted(step.passes, name, passes, offset) if isinstance(step, Fixpoint) else None
        if inner is not None:
            return (*steps[:i], dataclasses.replace(step, passes=inner), *steps[i + 1 :])
    return None


def _without(steps: Sequence[Any], names: Sequence[str], missing: list[str]) -> tuple[Any, ...]:
    """Without what is named, and groups and rule sets without what is named in them. Found names leave `missing`."""
    kept = []
    for step in steps:
        parts = next((name for name in ("passes", "rules") if hasattr(step, name)), None)
        if step.name in names:
            if step.name in missing:
                missing.remove(step.name)
            continue
        left = _without(getattr(step, parts), names, missing) if parts else ()
        if not parts or left == getattr(step, parts):
            kept.append(step)
        elif left:
            kept.append(dataclasses.replace(step, **{parts: left}))
    return tuple(kept)


def _taken(step: Step, waiting: list[str], taken: list[Pass]) -> Step | None:
    """What is left of a step once the passes of these names have moved from it to `taken`; their names leave `waiting`."""
    if step.name in waiting:
        waiting.remove(step.name)
        taken += _passes_of(step)
        return None
    if not isinstance(step, Fixpoint):
        return step
    left = tuple(one for one in step.passes if _taken(one, waiting, taken) is not None)
    if left == step.passes:
        return step
    return dataclasses.replace(step, passes=left) if left else None


@dataclass
class PassRecord:
    """What one pass did: changes, seconds, and the nodes of the root graph before and after.

    `rules` has how often each rewrite rule fired, `declined` for each rule how often it matched and was not used, by reason.
    `left_out` says why a pass did not run, "" where it did.
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


def run(pipeline: PassPipeline, graph: Graph, context: Context, *, verify: bool = False) -> list[PassRecord]:
    """Run a pipeline over a root graph, in place, at the optimisation level of the pipeline, or else of the context.

    With `verify`, the graph is verified after every pass that changed it, and InvalidGraphError names the pass that broke it.
    Raises PassError where a pass or an observer raises, or does not tell the number of its changes.
    """
    if pipeline.level is not None:
        context = dataclasses.replace(context, opt_level=pipeline.level)
    records: list[PassRecord] = []
    for step in pipeline.steps:
        group = step if isinstance(step, Fixpoint) else Fixpoint(step.name, (step,), limit=1)
        records += _run_fixpoint(group, graph, context, pipeline.observers, verify)
    context.seen.clear()
    for each in all_graphs(graph):
        each.journal.clear()  # it keeps what was erased alive
    return records


def _run_fixpoint(
    group: Fixpoint, graph: Graph, context: Context, observers: Sequence[Observer], verify: bool
) -> list[PassRecord]:
    """Run passes in turn; one is left out while no other has changed anything since its last run."""
    records = [PassRecord(p.name) for p in group.passes]
    version, seen = 0, [-1] * len(records)
    for _ in range(group.limit):
        for i, one in enumerate(group.passes):
            if seen[i] != version:
                version += _run_one(one, graph, context, records[i], observers, verify)
                seen[i] = version
        if all(v == version for v in seen):
            break
    return records


def _run_one(
    one: Pass, graph: Graph, context: Context, record: PassRecord, observers: Sequence[Observer], verify: bool
) -> int:
    if one.level > context.opt_level:
        record.left_out = f"it starts at level {one.level}, the pipeline is of level {context.opt_level}"
        return 0
    before = graph.length
    known = _journalled(graph) if verify else 0
    interface = _interface(graph) if verify and one.at != "lax" else None
    start = time.perf_counter()
    changes = sum(_called(one, each, context) for each in ([graph] if one.scope == "root" else all_graphs(graph)))
    record.seconds += time.perf_counter() - start
    if not record.runs:
        record.nodes_before = before
    record.runs += 1
    record.changes += changes
    record.nodes_after = graph.length
    record.take_rules(context)
    if verify and (changes or _journalled(graph) != known):
        _verify(one.name, graph)
        if interface is not None and interface != _interface(graph):
            raise InvalidGraphError(
                f"after pass {one.name}: inputs and outputs are {_interface(graph)}, not {interface}"
            )
    for observer in observers:
        _observed(observer, one.name, graph)
    return changes


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
        raise PassError(
            f"pass {one.name}: it returned {shown(changes)}; the number of its changes is needed, 0 for none"
        )
    return int(changes)


def _observed(observer: Observer, name: str, graph: Graph) -> None:
    try:
        observer(name, graph)
    except J2OError:
        raise
    except Exception as error:
        raise PassError(f"the observer after pass {name}: {raised(error)}") from error


def _interface(graph: Graph) -> str:
    """Dtypes and ranks of a model's inputs and outputs: only the passes on `lax`, which split complex numbers, change them."""
    sides = (graph.inputs, graph.outputs)
    return " -> ".join(", ".join(f"{v.type.dtype.value} of rank {v.type.rank}" for v in values) for values in sides)


def _journalled(graph: Graph) -> int:
    """How many entries all journals have: a pass that changes a graph makes new ones, whatever it tells."""
    return sum(len(each.journal) for each in all_graphs(graph))


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
