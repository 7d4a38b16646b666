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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from j2o.errors import J2OError, PassError, raised, shown
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value, erase_dead
from j2o.passes.context import Context, Level
from j2o.passes.pipeline import Pass, check_name, first_line
from j2o.passes.rewriting.driver import rewrite_graph
from j2o.passes.rewriting.language import (
    Const,
    depth_of,
    parameters_of,
    required,
    roots,
    trace_pattern,
)
from j2o.passes.rewriting.matching import Match, check_inputs, matches, used_outside

__all__ = ["Const", "Rule", "RuleBuilder", "RuleSet", "identities", "rewrite"]

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
        if len(taken) != len(self.parameters) or not all(
            map(_same_parameter, taken, self.parameters)
        ):
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

    def build(
        self, node: Node, match: Match, target: Any
    ) -> tuple[RuleBuilder, Value | None, str]:
        """The replacement of a match, built in front of `node`: a value, or None and the reason why it is declined.

        Raises PassError where the replacement raises, or gives what can replace nothing.
        """
        op = RuleBuilder(node, target)
        try:
            result = self.checked_replacement()(
                op, *[match.values.get(p) for p in self.parameters]
            )
        except J2OError:
            raise
        except Exception as error:
            raise PassError(
                f"rule {self.name} at {node.described}: {raised(error)}"
            ) from error
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
            raise PassError(
                f"rule {self.name} has no replacement: give it one with @{self.name}.becomes"
            )
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
        return Rule(
            name,
            traced,
            parameters,
            shared,
            at=at,
            level=level,
            doc=first_line(pattern),
        )

    return make


def identities(
    table: Mapping[str, tuple[Callable[..., Any], Replacement]], **options: Any
) -> list[Rule]:
    """Short rules as rows: `{"sub_zero": (lambda op, x: op.Sub(x, 0), lambda op, x: x)}`."""
    rules = []
    for name, row in table.items():
        if not isinstance(row, tuple) or len(row) != 2:
            raise PassError(
                f"identities: {name}: a pair (pattern, replacement) is needed, given {shown(row)}"
            )
        pattern, replacement = row
        rule = rewrite(name, **options)(pattern)
        rule.becomes(replacement)
        rules.append(rule)
    return rules


@dataclass(eq=False, repr=False)
class RuleSet(Pass):
    """Rules that run together as one pass, until none fits."""

    rules: tuple[Rule, ...]

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.rules, list | tuple):
            raise PassError(
                f"rule set {self.name}: a list or tuple of rules is needed, given {shown(self.rules)}"
            )
        self.rules = tuple(self.rules)
        names: set[str] = set()
        for rule in self.rules:
            if not isinstance(rule, Rule):
                raise PassError(
                    f"rule set {self.name}: {shown(rule)} is no rule; @rewrite(name) makes one"
                )
            if rule.name in names:
                raise PassError(
                    f"rule set {self.name}: two rules are named {rule.name!r}; neither could be left out alone"
                )
            if (rule.at == "lax") != (self.at == "lax"):
                raise PassError(
                    f"rule set {self.name} works at {self.at!r}, its rule {rule.name} at {rule.at!r}"
                )
            names.add(rule.name)

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, self.rules, context or Context(opt_level=3), self)
