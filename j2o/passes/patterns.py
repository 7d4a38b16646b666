"""The rewriting language: a pattern and its replacement, two plain functions with the same parameters.

    @rewrite("relu6", at="onnx", level=2)
    def relu6(op, x):
        return op.Min(op.Max(x, 0.0), 6.0)

    @relu6.becomes
    def _(op, x):
        return op.Clip(x, 0.0, 6.0)

The pattern is traced once. A parameter that it uses as an operand binds a value, as an attribute that attribute; one
annotated `Const` binds constants alone. The same parameter twice means the same value (constants: equal contents), a
Python scalar a constant of one element of that value (a zero: of that sign). Commutative operations match in both orders;
`op.either(a, b)` matches either, `op.maybe("Cast", x)` the operation on `x` or `x` itself. Attributes that a pattern
does not mention must have their default, where they have one; `name=...` accepts any value, and `...` as the last
operand any further operands.

A match is refused where a value inside it is used outside (but with `shared=True`), and declined where the replacement
is None or of another type; the report counts both with the reason, `op.decline("why")` gives one, and `why` in `explain.py`
tells why a rule does not fit at a node. The replacement is built with the ordinary builder; `op.root` is the root of the
match. What can never work raises PassError: in a pattern and in a replacement's parameters where the rule is made, in what
a replacement gives where it runs.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import J2OError, NotConvergingError, PassError, raised, shown
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import schema
from j2o.ir.ops import spec
from j2o.passes.language import (
    Apply,
    Const,
    Either,
    Wild,
    depth_of,
    parameters_of,
    required,
    roots,
    trace_pattern,
)
from j2o.passes.pipeline import Context, Level, Pass, check_name, first_line

__all__ = ["Const", "Rule", "RuleBuilder", "RuleSet", "identities", "rewrite"]


# --------------------------------------------------------------------------------------------- matching


@dataclass
class Match:
    """Bindings of a pattern's parameters, and the nodes that it covers, the root first."""

    values: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def bind(self, name: str, value: Any) -> Match | None:
        if name in self.values:
            return self if _same(self.values[name], value) else None
        return Match({**self.values, name: value}, self.nodes)


def _same(a: Any, b: Any) -> bool:
    if a is b or not isinstance(a, Value) or not isinstance(b, Value):
        return a is b or (not isinstance(a, Value) and not isinstance(b, Value) and a == b)
    if a.known is not None and a.known == b.known:
        return a.type == b.type
    x, y = a.const, b.const
    if x is None or y is None or x.type != y.type or not x.is_small or not y.is_small:
        return False
    return x.load().tobytes() == y.load().tobytes()  # bytes tell 0.0 from -0.0


def matches(pattern: Any, value: Value | None, match: Match, home: Graph) -> Iterator[Match]:
    """Every way in which `pattern` matches `value`; operations inside must lie in `home`."""
    if isinstance(pattern, Apply):
        node = value.node if value is not None else None
        if node is not None and node.op == pattern.op and node.graph is home and len(node.outputs) == 1:
            yield from _match_node(pattern, node, match, home)
    elif isinstance(pattern, Wild):
        bound = match.bind(pattern.name, value) if _fits_wild(pattern, value) else None
        if bound is not None:
            yield bound
    elif isinstance(pattern, Either):
        for option in pattern.options:
            yield from matches(option, value, match, home)
    elif pattern is None:
        if value is None:
            yield match
    elif value is not None and _is_scalar(value, pattern):
        yield match


def _is_scalar(value: Value, number: float) -> bool:
    tensor = value.const
    if tensor is None or tensor.size != 1:
        return False
    element = tensor.scalar
    if number == 0 == element:  # of the same sign
        return math.copysign(1, number) == math.copysign(1, element)
    if number != number:  # NaN
        return bool(element != element)
    if element == number or not tensor.dtype.is_float or abs(element - number) > 0.1 * abs(number):
        return bool(element == number)
    return bool(element == np.asarray(number).astype(tensor.dtype.numpy).item())


def _match_node(pattern: Apply, node: Node, match: Match, home: Graph) -> Iterator[Match]:
    wanted, inputs = aligned(pattern, node)
    if len(inputs) != len(wanted):
        return
    attrs = _match_attrs(pattern, node, match)
    if attrs is None:
        return
    start = Match(attrs.values, (*match.nodes, node))
    yield from _match_all(wanted, inputs, start, home)
    if len(inputs) == 2 and node.spec.commutative and inputs[0] is not inputs[1]:
        yield from _match_all(wanted, inputs[::-1], start, home)


def aligned(pattern: Apply, node: Node) -> tuple[tuple[Any, ...], list[Value | None]]:
    """The operands of a pattern and those of a node that they are compared with: without what is left out, or stands for `...`."""
    inputs = list(node.inputs)
    while len(inputs) > len(pattern.inputs) and inputs[-1] is None:
        inputs.pop()
    wanted = pattern.inputs
    if wanted and wanted[-1] is ...:
        wanted = wanted[:-1]
        inputs = inputs[: len(wanted)]
    return wanted, inputs


def _match_all(patterns: Sequence[Any], values: Sequence[Value | None], match: Match, home: Graph) -> Iterator[Match]:
    for i, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
        if isinstance(pattern, Wild):  # the one way there is, without a generator
            bound = match.bind(pattern.name, value) if _fits_wild(pattern, value) else None
            if bound is None:
                return
            match = bound
            continue
        for first in matches(pattern, value, match, home):
            yield from _match_all(patterns[i + 1 :], values[i + 1 :], first, home)
        return
    yield match


def _fits_wild(pattern: Wild, value: Value | None) -> bool:
    return value is not None and (not pattern.const or value.op == "const")


def _match_attrs(pattern: Apply, node: Node, match: Match) -> Match | None:
    defaults = defaults_of(node.op)
    for name, want in pattern.attrs.items():
        got = node.attrs.get(name, defaults.get(name))
        if isinstance(want, Wild):
            bound = match.bind(want.name, got)
            if bound is None:
                return None
            match = bound
        elif want is not ... and got != want:
            return None
    unusual = any(name not in pattern.attrs and defaults.get(name, got) != got for name, got in node.attrs.items())
    return None if unusual else match


@functools.cache
def defaults_of(op: str) -> dict[str, Any]:
    """The attributes of an operation that have a default."""
    return schema(op.removeprefix("onnx.")).defaults if op.startswith("onnx.") else {}


# ------------------------------------------------------------------------------------------------- rules

Replacement: TypeAlias = "Callable[..., Value | None]"
USED_OUTSIDE = "a value inside the match is used outside of it"


@dataclass(eq=False, repr=False)
class Rule(Pass):
    """A pattern with its replacement; a pass by itself."""

    pattern: Any
    parameters: tuple[str, ...]
    shared: bool = False
    replacement: Replacement | None = None

    def becomes(self, replacement: Replacement) -> Replacement:
        """Decorator that gives the rule its replacement; PassError where that takes other parameters than the pattern."""
        given = parameters_of(f"rule {self.name}: the replacement", replacement)
        taken = [p.name for p in given if p.default is p.empty]
        if len(taken) != len(self.parameters) or not all(map(_same_parameter, taken, self.parameters)):
            raise PassError(
                f"rule {self.name}: the replacement takes (op, {', '.join(taken)}), "
                f"the pattern (op, {', '.join(self.parameters)}); both take the same parameters in the same order"
            )
        self.replacement = replacement
        return replacement

    @functools.cached_property
    def roots(self) -> list[tuple[str, Callable[[Node], bool]]]:
        """The operations that a match can end in, with a quick test of their operands."""
        return [(root.op, check_inputs(root)) for root in roots(self.pattern)]

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """The operations that a graph must have for the rule to fit anywhere."""
        return required(self.pattern)

    @functools.cached_property
    def depth(self) -> int:
        """How many operands deep a match, and what the replacement asks of its values, can reach."""
        return depth_of(self.pattern) + 1

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, [self], context or Context(opt_level=3), self)

    def apply(self, node: Node, context: Context) -> tuple[Node, ...] | None:
        """Rewrite at `node`: the nodes made, or None where the rule does not fit. A match that is declined is counted."""
        reason = ""
        for match in matches(self.pattern, node.out, Match(), node.home):
            if not self.shared and used_outside(match.nodes):
                reason = reason or USED_OUTSIDE
                continue
            op, result, objection = self.build(node, match, context.target)
            if result is None:
                op.undo()
                reason = objection
                continue
            node.out.replace_by(result)
            for old in match.nodes:
                erase_dead(old)
            return tuple(n for n in op.made if n.graph is not None)
        if reason:
            context.decline(self.name, reason)
        return None

    def build(self, node: Node, match: Match, target: Any) -> tuple[RuleBuilder, Value | None, str]:
        """The replacement of a match, built in front of `node`: a value, or None and the reason why it is declined.

        Raises PassError where the replacement raises, or gives what can replace nothing.
        """
        op = RuleBuilder(node, target)
        try:
            result = self.checked_replacement()(op, *[match.values.get(p) for p in self.parameters])
        except J2OError:
            raise
        except Exception as error:
            raise PassError(f"rule {self.name} at {node.described}: {raised(error)}") from error
        if result is None:
            return op, None, op.reason or "the replacement is None"
        if not isinstance(result, Value):
            raise PassError(
                f"rule {self.name} at {node.described}: the replacement is {shown(result)}; a value is needed, or None to decline"
            )
        if not _is_visible(result, op.graph):
            raise PassError(
                f"rule {self.name} at {node.described}: the replacement %{result.hint} is a value of another graph, or of none"
            )
        if result.type != node.out.type:
            return op, None, f"the replacement is {result.type}, not {node.out.type}"
        if result is node.out:
            return op, None, "the replacement is what it replaces"
        made = set(map(id, op.made))
        if made and any(id(user) in made for user, _ in node.out.uses):
            raise PassError(
                f"rule {self.name} at {node.described}: the replacement is made of the value that it replaces"
            )
        return op, result, ""

    def checked_replacement(self) -> Replacement:
        """The replacement; PassError where the rule has none."""
        if self.replacement is None:
            raise PassError(f"rule {self.name} has no replacement: give it one with @{self.name}.becomes")
        return self.replacement


def _same_parameter(given: str, wanted: str) -> bool:
    """Whether a parameter has the same name, or is marked as not used by an underscore."""
    return given == wanted or given.startswith("_")


def _is_visible(value: Value, graph: Graph) -> bool:
    """Whether a value is one of this graph or of those around it."""
    scope: Graph | None = graph
    while scope is not None and value.graph is not scope:
        scope = scope.outer
    return scope is not None


class RuleBuilder(Builder):
    """The builder of replacements: inserts before the root of the match, with its location and name."""

    def __init__(self, node: Node, target: Any) -> None:
        assert node.graph is not None
        super().__init__(node.graph, node, node.loc, node.out.hint)
        self.root, self.target = node, target
        self.reason = ""

    def decline(self, reason: str) -> None:
        """Decline the match, `return op.decline("the axis is not the last")`: the report and `why` give the reason."""
        self.reason = reason

    def undo(self) -> None:
        """Take what has been made out of the graph again."""
        for made in reversed(self.made):
            made.erase()

    @property
    def out_type(self) -> Any:
        """The type of what is replaced."""
        return self.root.out.type

    @property
    def opset(self) -> int:
        return 18 if self.target is None else self.target.opset


def check(pattern: Any) -> Callable[[Value | None], bool]:
    """A quick test that every match passes: operations, constants and numbers are in their places, names and attributes aside."""
    if isinstance(pattern, Apply):
        name, fits = pattern.op, check_inputs(pattern)
        return lambda v: v is not None and v.node is not None and v.node.op == name and fits(v.node)
    if isinstance(pattern, Wild):
        return lambda v: _fits_wild(pattern, v)
    if isinstance(pattern, Either):
        options = tuple(map(check, pattern.options))
        return lambda v: any(option(v) for option in options)
    return (lambda v: v is None) if pattern is None else (lambda v: v is not None and _is_scalar(v, pattern))


def check_inputs(pattern: Apply) -> Callable[[Node], bool]:
    """The quick test of a node's operands, its operation known."""
    # operands that say nothing are left out; what says most comes first
    wanted = [p for p in pattern.inputs if p is not ...]
    tests = sorted(
        ((i, check(p)) for i, p in enumerate(wanted) if not (isinstance(p, Wild) and not p.const)),
        key=lambda pair: isinstance(wanted[pair[0]], Either),
    )
    count = len(wanted)
    if not tests:
        return lambda node: True
    if count != 2 or not spec(pattern.op).commutative:
        return lambda node: len(node.inputs) >= count and all(test(node.inputs[i]) for i, test in tests)
    first, second = map(check, wanted)

    def either_order(node: Node) -> bool:
        if len(node.inputs) != 2:
            return False
        a, b = node.inputs
        return (first(a) and second(b)) or (first(b) and second(a))

    return either_order


def used_outside(nodes: tuple[Node, ...]) -> bool:
    """Whether a value that a match covers, its root aside, has other users."""
    covered = set(map(id, nodes))
    return any(id(user) not in covered for node in nodes[1:] for user, _ in node.out.uses)


def erase_dead(node: Node) -> None:
    """Erase a node without users, and what only it used."""
    stack = [node]
    while stack:
        one = stack.pop()
        if one.graph is None or one.op == "return" or one.used or not one.spec.pure:
            continue
        before = [v.node for v in one.inputs if v is not None and v.node is not None]
        one.erase()
        stack += before


def rewrite(
    name: str, *, at: Level = "onnx", level: int = 2, shared: bool = False
) -> Callable[[Callable[..., Any]], Rule]:
    """Decorator that makes a `Rule` of a pattern function `(op, *parameters)`.

    Raises PassError for a pattern that no graph can have: an unknown operator or attribute, operands that it cannot take, a
    parameter that does not occur.
    """
    check_name(name, "rewrite")

    def make(pattern: Callable[..., Any]) -> Rule:
        traced, parameters = trace_pattern(name, at, pattern)
        return Rule(name, traced, parameters, shared, at=at, level=level, doc=first_line(pattern))

    return make


def identities(table: Mapping[str, tuple[Callable[..., Any], Replacement]], **options: Any) -> list[Rule]:
    """Short rules as rows: `{"sub_zero": (lambda op, x: op.Sub(x, 0), lambda op, x: x)}`."""
    rules = []
    for name, row in table.items():
        if not isinstance(row, tuple) or len(row) != 2:
            raise PassError(f"identities: {name}: a pair (pattern, replacement) is needed, given {shown(row)}")
        pattern, replacement = row
        rule = rewrite(name, **options)(pattern)
        rule.becomes(replacement)
        rules.append(rule)
    return rules


# ------------------------------------------------------------------------------------------------ driver


@dataclass(eq=False, repr=False)
class RuleSet(Pass):
    """Rules that run together as one pass, until none fits."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rules, list | tuple):
            raise PassError(f"rule set {self.name}: a list or tuple of rules is needed, given {shown(self.rules)}")
        self.rules = tuple(self.rules)
        names: set[str] = set()
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise PassError(f"rule set {self.name}: {shown(rule)} is no rule; @rewrite(name) makes one")
            if rule.name in names:
                raise PassError(
                    f"rule set {self.name}: two rules are named {rule.name!r}; neither could be left out alone"
                )
            if (rule.at == "lax") != (self.at == "lax"):
                raise PassError(f"rule set {self.name} works at {self.at!r}, its rule {rule.name} at {rule.at!r}")
            names.add(rule.name)

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, self.rules, context or Context(opt_level=3), self)


def rewrite_graph(graph: Graph, rules: Sequence[Rule], context: Context, one: Pass) -> int:
    """Apply rules to the nodes of one graph until none fits; NotConvergingError names rules that go round in circles.

    `one` is the pass that they are of: nodes that it knows already and that have not changed are left out.
    """
    for rule in rules:
        rule.checked_replacement()
    present = {op for op, count in graph.ops.items() if count}
    table = _table(rules, context.opt_level, present)
    queue = deque(n for n in context.fresh(graph, one, max(rule.depth for rule in rules)) if n.op in table)
    waiting = set(map(id, queue))
    limit, count = 10 * graph.length + 1000, 0

    def requeue(node: Node) -> None:
        if node.graph is graph and node.op in table and id(node) not in waiting:
            waiting.add(id(node))
            queue.append(node)

    while queue:
        node = queue.popleft()
        waiting.discard(id(node))
        if node.graph is not graph or len(node.outputs) != 1 or not node.out.uses:
            continue
        for rule, fits in table.get(node.op, []):
            if not fits(node):
                continue
            users = list(node.out.users())
            made = rule.apply(node, context)
            if made is None:
                continue
            count += 1
            context.fired[rule.name] = context.fired.get(rule.name, 0) + 1
            if count > limit:
                often = sorted(context.fired, key=lambda n: -context.fired[n])[:3]
                raise NotConvergingError(f"rules {', '.join(often)} do not come to an end in @{graph.name}")
            new = {n.op for n in made} - present
            if new:
                present |= new
                table = _table(rules, context.opt_level, present)
            for each in (*made, *users):
                requeue(each)
            break
    return count


def _table(
    rules: Sequence[Rule], level: int, present: set[str]
) -> dict[str, list[tuple[Rule, Callable[[Node], bool]]]]:
    """The rules that can fit in a graph with these operations, by the operation that a match ends in."""
    table: dict[str, list[tuple[Rule, Callable[[Node], bool]]]] = {}
    for rule in rules:
        if rule.level <= level and rule.required <= present:
            for root, fits in rule.roots:
                table.setdefault(root, []).append((rule, fits))
    return table
