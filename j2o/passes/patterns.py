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
is None or of another type. The replacement is built with the ordinary builder; `op.node` is the root of the match.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import NotConvergingError
from j2o.ir.build import Builder, Dialect
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import schema
from j2o.ir.ops import spec
from j2o.passes.pipeline import Context, Level, Pass, first_line


class Const:
    """Annotation of a pattern's parameter that binds only constants."""


# ---------------------------------------------------------------------------------------------- patterns


@dataclass(frozen=True, eq=False)
class Wild:
    """A parameter of the pattern."""

    name: str
    const: bool


@dataclass(frozen=True, eq=False)
class Apply:
    """An operation in a pattern."""

    op: str
    inputs: tuple[Any, ...]
    attrs: Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Either:
    options: tuple[Any, ...]


def _apply(op: str, *inputs: Any, **attrs: Any) -> Apply:
    return Apply(op, inputs, attrs)


class PatternBuilder(Dialect):
    """What a pattern function is handed for `op`."""

    def __init__(self) -> None:
        super().__init__(_apply, "onnx")
        self.lax, self.ort = Dialect(_apply, "lax"), Dialect(_apply, "ort")

    def either(self, *options: Any) -> Either:
        return Either(options)

    def maybe(self, kind: str, x: Any, **attrs: Any) -> Either:
        return Either((Apply(f"onnx.{kind}", (x,), attrs), x))


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
    if element == number or not tensor.dtype.is_float or abs(element - number) > 0.1 * abs(number):
        return bool(element == number)
    return bool(element == np.asarray(number).astype(tensor.dtype.numpy).item())


def _match_node(pattern: Apply, node: Node, match: Match, home: Graph) -> Iterator[Match]:
    inputs = list(node.inputs)
    while len(inputs) > len(pattern.inputs) and inputs[-1] is None:
        inputs.pop()
    wanted = pattern.inputs
    if wanted and wanted[-1] is ...:
        wanted = wanted[:-1]
        inputs = inputs[: len(wanted)]
    if len(inputs) != len(wanted):
        return
    attrs = _match_attrs(pattern, node, match)
    if attrs is None:
        return
    start = Match(attrs.values, (*match.nodes, node))
    yield from _match_all(wanted, inputs, start, home)
    if len(inputs) == 2 and node.spec.commutative and inputs[0] is not inputs[1]:
        yield from _match_all(wanted, inputs[::-1], start, home)


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
    defaults = _defaults(node.op)
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
def _defaults(op: str) -> dict[str, Any]:
    return schema(op.removeprefix("onnx.")).defaults if op.startswith("onnx.") else {}


# ------------------------------------------------------------------------------------------------- rules

Replacement: TypeAlias = "Callable[..., Value | Sequence[Value] | None]"


@dataclass(eq=False)
class Rule(Pass):
    """A pattern with its replacement; a pass by itself."""

    pattern: Any
    parameters: tuple[str, ...]
    shared: bool = False
    replacement: Replacement | None = None

    def becomes(self, replacement: Replacement) -> Replacement:
        """Decorator that gives the rule its replacement."""
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
        return rewrite_graph(graph, [self], context or Context(), self)

    def apply(self, node: Node, target: Any) -> tuple[Node, ...] | None:
        """Rewrite at `node`: the nodes made, or None where the rule does not fit."""
        assert node.graph is not None
        for match in matches(self.pattern, node.out, Match(), node.graph):
            if not self.shared and _used_outside(match.nodes):
                continue
            made = self._replace(node, match, target)
            if made is not None:
                return made
        return None

    def _replace(self, node: Node, match: Match, target: Any) -> tuple[Node, ...] | None:
        assert self.replacement is not None, (
            f"rule {self.name} has no replacement: give it one with @{self.name}.becomes"
        )
        op = RuleBuilder(node, target)
        result = self.replacement(op, *(match.values.get(p) for p in self.parameters))
        if not isinstance(result, Value) or result.type != node.out.type or result is node.out:
            for made in reversed(op.made):
                made.erase()
            return None
        node.out.replace_by(result)
        for old in match.nodes:
            erase_dead(old)
        return tuple(n for n in op.made if n.graph is not None)


class RuleBuilder(Builder):
    """The builder of replacements: inserts before the root of the match, with its location and name."""

    def __init__(self, node: Node, target: Any) -> None:
        assert node.graph is not None
        super().__init__(node.graph, node, node.loc, node.out.hint)
        self.root, self.target = node, target

    @property
    def out_type(self) -> Any:
        """The type of what is replaced."""
        return self.root.out.type

    @property
    def opset(self) -> int:
        return 18 if self.target is None else self.target.opset


def roots(pattern: Any) -> list[Apply]:
    """The operations that a match can end in."""
    return [r for option in pattern.options for r in roots(option)] if isinstance(pattern, Either) else [pattern]


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


def required(pattern: Any) -> frozenset[str]:
    """The operations without which nothing matches."""
    if isinstance(pattern, Apply):
        return frozenset([pattern.op]).union(*map(required, pattern.inputs))
    if isinstance(pattern, Either):
        first, *rest = map(required, pattern.options)
        return first.intersection(*rest)
    return frozenset()


def depth_of(pattern: Any) -> int:
    """How many operations a pattern has above one another."""
    if isinstance(pattern, Apply):
        return 1 + max(map(depth_of, pattern.inputs), default=0)
    return max(map(depth_of, pattern.options)) if isinstance(pattern, Either) else 0


def _used_outside(nodes: tuple[Node, ...]) -> bool:
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
    """Decorator that makes a `Rule` of a pattern function `(op, *parameters)`."""

    def make(pattern: Callable[..., Any]) -> Rule:
        parameters = list(inspect.signature(pattern).parameters.values())[1:]
        wilds = [Wild(p.name, p.annotation in (Const, "Const")) for p in parameters]
        traced = pattern(PatternBuilder(), *wilds)
        if wrong := [r for r in roots(traced) if not isinstance(r, Apply)]:
            raise TypeError(f"rule {name}: the pattern must be an operation, not {wrong[0]!r}")
        names = tuple(w.name for w in wilds)
        return Rule(name, traced, names, shared, at=at, level=level, doc=first_line(pattern))

    return make


def identities(table: Mapping[str, tuple[Callable[..., Any], Replacement]], **options: Any) -> list[Rule]:
    """Short rules as rows: `{"sub_zero": (lambda op, x: op.Sub(x, 0), lambda op, x: x)}`."""
    rules = []
    for name, (pattern, replacement) in table.items():
        rule = rewrite(name, **options)(pattern)
        rule.becomes(replacement)
        rules.append(rule)
    return rules


# ------------------------------------------------------------------------------------------------ driver


@dataclass(eq=False)
class RuleSet(Pass):
    """Rules that run together as one pass, until none fits."""

    rules: tuple[Rule, ...]

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, self.rules, context or Context(), self)


def rewrite_graph(graph: Graph, rules: Sequence[Rule], context: Context, one: Pass) -> int:
    """Apply rules to the nodes of one graph until none fits; NotConvergingError names rules that go round in circles.

    `one` is the pass that they are of: nodes that it knows already and that have not changed are left out.
    """
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
            made = rule.apply(node, context.target)
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
