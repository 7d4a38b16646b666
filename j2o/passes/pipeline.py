"""Passes and pipelines of passes.

A pass says its name, the level of the IR it works at and the optimisation level it starts at. The
runner (`runner.py`), not the pass, walks functions and regions, verifies, times, counts and dumps.
What an author gets wrong is a PassError, as early as it can be known: where the pass is made, where
it is put into a pipeline, and only then where it runs.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, TypeAlias, get_args

import numpy as np

from j2o.errors import PassError, meant, shown
from j2o.ir.graph import Graph
from j2o.passes.context import Context, Level, Scope


@dataclass(eq=False, repr=False)
class Pass:
    """What the runner calls; returns the number of changes, 0 where nothing changed.

    `at` is the level of the IR that it works at, `level` the optimisation level from which on it runs,
    `doc` a sentence for `j2o passes`. With scope "each" it is called for the root, every function and
    every region, with "root" once.
    """

    name: str
    _: KW_ONLY
    at: Level = "onnx"
    level: int = 1
    doc: str = ""
    scope: Scope = "each"

    def __post_init__(self) -> None:
        check_name(self.name, "pass")
        this = f"pass {self.name}"
        if self.at not in get_args(Level):
            needed = "'lax', 'onnx' or 'target' is needed"
            raise PassError(f"{this}: at={shown(self.at)}; {needed}")
        if not is_level(self.level):
            needed = "0, 1, 2 or 3 is needed"
            raise PassError(f"{this}: level={shown(self.level)}; {needed}")
        if self.scope not in get_args(Scope):
            needed = "'each' or 'root' is needed"
            raise PassError(f"{this}: scope={shown(self.scope)}; {needed}")

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, at {self.at}, level {self.level}>"


def check_name(name: Any, what: str) -> None:
    """Raise PassError for a name that cannot be asked for on the command line and in `without`."""
    if not isinstance(name, str) or not name.isprintable() or name.split() != [name]:
        needed = "a string without spaces is needed"
        raise PassError(f"{what}: name={shown(name)}; {needed}")


def is_level(level: Any) -> bool:
    """Return True for an optimisation level; numpy's integers count, bools do not."""
    if isinstance(level, bool) or not isinstance(level, int | np.integer):
        return False
    return bool(0 <= level <= 3)


@dataclass(eq=False, repr=False)
class GraphPass(Pass):
    """A pass made of a function of a graph and the `Context`.

    `gives` is the level of the IR that it brings the graph to, None where it leaves it.
    """

    fn: Callable[[Graph, Context], int]
    _: KW_ONLY
    gives: Level | None = None

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return self.fn(graph, context or Context())


def graph_pass(
    name: str,
    *,
    at: Level,
    level: int,
    scope: Scope = "each",
    gives: Level | None = None,
) -> Callable[[Callable[..., int]], GraphPass]:
    """Make a pass of a function `(graph) -> changes` or `(graph, context) -> changes`.

    `scope="each"`: called for the root, every function and every region; `"root"`: once, for the root.
    Raises PassError for what is not such a function, and for a name or a level that there cannot be.
    """
    check_name(name, "graph_pass")

    def make(fn: Callable[..., int]) -> GraphPass:
        call = fn if _takes_context(name, fn) else _without_context(fn)
        return GraphPass(
            name, call, at=at, level=level, doc=first_line(fn), scope=scope, gives=gives
        )

    return make


def _takes_context(name: str, fn: Any) -> bool:
    """Return True where a pass function takes the `Context` besides the graph.

    Raises PassError where it takes neither `(graph)` nor `(graph, context)`.
    """
    parameters = _parameters(name, fn)
    kinds = inspect.Parameter
    by_position = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    for_more = (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)
    positional = [p for p in parameters if p.kind in by_position]
    single = [p for p in parameters if p.kind not in for_more]
    needed = [p.name for p in single if p.default is p.empty]
    second = positional[1] if len(positional) > 1 else None
    with_context = second is not None and (
        second.default is second.empty or second.name == "context"
    )
    given = [p.name for p in positional[: 2 if with_context else 1]]
    takes_graph = bool(given) or any(p.kind is p.VAR_POSITIONAL for p in parameters)
    if not takes_graph or set(needed) - set(given):
        takes = f"its function takes ({', '.join(needed)})"
        wanted = "(graph) or (graph, context) is needed"
        raise PassError(f"pass {name}: {takes}; {wanted}")
    return with_context


def _parameters(name: str, fn: Any) -> list[inspect.Parameter]:
    """The parameters of a pass function; PassError where it is none, or does not tell."""
    if not callable(fn):
        needed = "a function (graph) or (graph, context) is needed"
        raise PassError(f"pass {name}: {needed}, given {shown(fn)}")
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):  # some functions written in C have no signature
        what = f"{shown(fn)} does not tell its parameters"
        advice = "wrap it in a function (graph)"
        raise PassError(f"pass {name}: {what}; {advice}") from None


def _without_context(fn: Callable[[Graph], int]) -> Callable[[Graph, Context], int]:
    """A pass that takes the graph alone, as one that takes a context too."""

    def call(graph: Graph, context: Context) -> int:
        return fn(graph)

    return call


def first_line(fn: Callable[..., Any]) -> str:
    """The first line of a function's docstring, "" where it has none."""
    return (fn.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Fixpoint:
    """Passes run in turn until none of them changes anything, at most `limit` rounds."""

    name: str
    passes: tuple[Pass, ...]
    limit: int = 8

    def __post_init__(self) -> None:
        check_name(self.name, "group")
        this = f"group {self.name}"
        passes = _sequence(self.passes, this)
        for one in passes:
            if isinstance(one, Fixpoint):
                what = f"it cannot hold the group {one.name!r}"
                raise PassError(f"{this}: {what}; put that before or after it")
        if not isinstance(self.limit, int) or self.limit < 1:
            needed = "a number of rounds from 1 up is needed"
            raise PassError(f"{this}: limit={shown(self.limit)}; {needed}")
        object.__setattr__(self, "passes", tuple(map(as_pass, passes)))


Step: TypeAlias = "Pass | Fixpoint"
Observer: TypeAlias = Callable[[str, Graph], Any]


def as_pass(given: Any) -> Pass:
    """A pass, made where an object of the user's own class is only like one.

    It is like one if it has `name`, `at`, `level` and can be called. Raises PassError for what is none.
    """
    if isinstance(given, PassPipeline):
        advice = "give the passes in it, *pipeline"
        raise PassError(f"passes: given a whole {given!r} as one pass; {advice}")
    missing = [name for name in ("name", "at", "level") if not hasattr(given, name)]
    if missing or not callable(given):
        lacks = f"it has no {missing[0] if missing else 'call'}"
        of_function = "@graph_pass(name, at=..., level=...) makes a pass of a function"
        advice = f"{of_function}, @rewrite(name) one of a pattern"
        raise PassError(f"passes: {shown(given)} is no pass: {lacks}; {advice}")
    if isinstance(given, Pass):
        # a subclass with an `__init__` of its own may not have asked
        Pass.__post_init__(given)
        return given
    own: Any = given
    scope: Scope = getattr(own, "scope", "each")
    return graph_pass(own.name, at=own.at, level=own.level, scope=scope)(own)


def _sequence(given: Any, what: str) -> tuple[Any, ...]:
    """A list or tuple as a tuple; PassError for anything else."""
    if isinstance(given, list | tuple):
        return tuple(given)
    raise PassError(f"{what}: a list or tuple is needed, given {shown(given)}")


@dataclass(frozen=True)
class PassPipeline:
    """An immutable list of passes; the methods return changed copies.

    `level` is the optimisation level that it runs at: passes and rules that start at a higher one are
    left out, and the report says so. None takes that of `compile`. Raises PassError for what is no
    pass, and for one that works on `lax` operations where there are none any more.
    """

    steps: tuple[Step, ...]
    check: str = ""
    observers: tuple[Observer, ...] = ()
    level: int | None = None

    def __post_init__(self) -> None:
        steps = _sequence(self.steps, "PassPipeline")
        checked = [one if isinstance(one, Fixpoint) else as_pass(one) for one in steps]
        object.__setattr__(self, "steps", tuple(checked))
        if self.level is not None and not is_level(self.level):
            needed = "0, 1, 2, 3 or None is needed"
            raise PassError(f"PassPipeline: level={shown(self.level)}; {needed}")
        if self.check not in ("", "numeric"):
            raise PassError(f"check={shown(self.check)}: 'numeric', or '' for none")
        for observer in _sequence(self.observers, "observers"):
            if not callable(observer):
                needed = "a function (pass name, graph) is needed"
                raise PassError(f"observing: {needed}, given {shown(observer)}")
        _check_order(self)

    def __iter__(self) -> Iterator[Pass]:
        """The passes in order, those of fixpoint groups once."""
        for step in self.steps:
            yield from _passes_of(step)

    def names(self) -> list[str]:
        """The names of the passes in order."""
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
        """With `"numeric"`: `compile` runs the graph after every pass, and compares.

        It names the first pass that changes what the graph computes.
        """
        return dataclasses.replace(self, check=check)

    def observing(self, observer: Observer) -> PassPipeline:
        """With `observer(pass name, graph)` called after every pass."""
        return dataclasses.replace(self, observers=(*self.observers, observer))

    def unobserved(self) -> PassPipeline:
        """Without observers and checks: the passes alone."""
        if not self.check and not self.observers:
            return self  # a copy would be looked at again, which takes longer than some passes
        return dataclasses.replace(self, check="", observers=())

    def without(self, *names: str) -> PassPipeline:
        """Without the passes, groups or single rules of those names."""
        missing = list(names)
        steps = _without(self.steps, names, missing)
        if missing:
            raise self._unknown(missing[0])
        return dataclasses.replace(self, steps=steps)

    def fixpoint(self, name: str, *names: str) -> PassPipeline:
        """With the named passes as one group that runs until nothing changes.

        Each is taken from the first place where it stands, out of another group if need be. A group's
        name stands for all its passes. The new group stands where the first of them stood, or before the
        group that held it.
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
        steps.insert(place, Fixpoint(name, tuple(taken)))
        return dataclasses.replace(self, steps=tuple(steps))

    def _insert(self, name: str, passes: Sequence[Pass], offset: int) -> PassPipeline:
        """The pipeline with passes next to the one of this name; PassError where there is none."""
        steps = _inserted(self.steps, name, passes, offset)
        if steps is None:
            raise self._unknown(name)
        return dataclasses.replace(self, steps=steps)

    def _unknown(self, name: Any) -> PassError:
        """The error for a name that no pass, group or rule has."""
        groups = [step.name for step in self.steps if isinstance(step, Fixpoint)]
        names = list(dict.fromkeys(self.names() + groups))
        similar = meant(name, names + [rule.name for rule in self._rules()])
        there = ", ".join(names)
        return PassError(
            f"passes: there is no {shown(name)}; there are {there}{similar}"
        )

    def _rules(self) -> Iterator[Any]:
        """The rules of all sets."""
        return (rule for one in self for rule in getattr(one, "rules", ()))

    def __repr__(self) -> str:
        return f"PassPipeline({', '.join(s.name for s in self.steps)})"


def _passes_of(step: Step) -> tuple[Pass, ...]:
    """The passes of a group, or the one pass."""
    return step.passes if isinstance(step, Fixpoint) else (step,)


def _check_order(passes: Iterable[Pass]) -> None:
    """Raise PassError where a pass on `lax` operations stands after one on what they are lowered to."""
    lowered: Pass | None = None
    for one in passes:
        if one.at == "lax" and lowered is not None:
            behind = f"{one.name!r} (at='lax') stands after {lowered.name!r}"
            advice = "what works at 'lax' comes before 'lower'"
            other = "what works at 'onnx' or 'target' after it"
            raise PassError(f"passes: {behind} (at={lowered.at!r}); {advice}, {other}")
        if one.at != "lax" or getattr(one, "gives", None) not in (None, "lax"):
            lowered = one


def _inserted(
    steps: Sequence[Any], name: str, passes: Sequence[Pass], offset: int
) -> tuple[Any, ...] | None:
    """With `passes` at the first step of that name, or inside of a group; None where there is none."""
    for i, step in enumerate(steps):
        if step.name == name:
            return (*steps[: i + offset], *passes, *steps[i + offset :])
        if not isinstance(step, Fixpoint):
            continue
        inner = _inserted(step.passes, name, passes, offset)
        if inner is not None:
            group = dataclasses.replace(step, passes=inner)
            return (*steps[:i], group, *steps[i + 1 :])
    return None


def _without(
    steps: Sequence[Any], names: Sequence[str], missing: list[str]
) -> tuple[Any, ...]:
    """Without what is named, and groups and rule sets without what is named in them.

    Names that are found leave `missing`. A group of which nothing is left goes too.
    """
    kept = []
    for step in steps:
        if step.name in names:
            if step.name in missing:
                missing.remove(step.name)
            continue
        field = _field_of_parts(step)
        if field is None:
            kept.append(step)
            continue
        parts = getattr(step, field)
        left = _without(parts, names, missing)
        if left == parts:
            kept.append(step)
        elif left:
            kept.append(dataclasses.replace(step, **{field: left}))
    return tuple(kept)


def _field_of_parts(step: Any) -> str | None:
    """The field in which a group has its passes, or a set of rules its rules."""
    for field in ("passes", "rules"):
        if hasattr(step, field):
            return field
    return None


def _taken(step: Step, waiting: list[str], taken: list[Pass]) -> Step | None:
    """What is left of a step once the passes of these names have moved from it to `taken`.

    Their names leave `waiting`. None where nothing is left.
    """
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
