"""The rewriting language: a pattern and its replacement, two plain functions with the same parameters.

    @rewrite("relu6", at="onnx", level=2)
    def relu6(op, x):
        return op.Min(op.Max(x, 0.0), 6.0)

    @relu6.becomes
    def _(op, x):
        return op.Clip(x, 0.0, 6.0)

The pattern is traced once. A parameter that it uses as an operand binds a value, as an attribute
that attribute; one annotated `Const` binds constants alone. The same parameter twice means the same
value (constants: equal contents), a Python scalar a constant of one element of that value (a zero:
of that sign). Commutative operations match in both orders; `op.either(a, b)` matches either,
`op.maybe("Cast", x)` the operation on `x` or `x` itself. Attributes that a pattern does not mention
must have their default, where they have one; `name=...` accepts any value, and `...` as the last
operand any further operands.

A node that `where` turns down does not match: it is asked first, of the node alone, and so costs little
where a pattern is frequent and what it must be like is rare.
A match is refused where a value inside it is used outside (but with `shared=True`), and declined
where the replacement is None or of another type; the report counts both with the reason,
`op.decline("why")` gives one, and `why` in `explain.py` tells why a rule does not fit at a node.
The replacement is built with the ordinary builder; `op.root` is the root of the match. What can
never work raises PassError: in a pattern and in a replacement's parameters where the rule is made,
in what a replacement gives where it runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from j2o.errors import J2OError, PassError, raised, shown
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.target import Target
from j2o.ir.types import Type
from j2o.passes.context import Context, Level
from j2o.passes.pipeline import Pass, check_name, first_line
from j2o.passes.rewriting.candidates import Root, quick_test
from j2o.passes.rewriting.driver import rewrite_graph
from j2o.passes.rewriting.language import (
    Apply,
    Const,
    Pattern,
    depth_of,
    parameters_of,
    required,
    roots,
    trace_pattern,
)
from j2o.passes.rewriting.matching import Match, matches, used_outside

__all__ = ["Const", "Rule", "RuleBuilder", "RuleSet", "identities", "rewrite"]

Replacement: TypeAlias = "Callable[..., Value | None]"
Condition: TypeAlias = "Callable[[Node], bool]"
NO_REASON = "the rule leaves this one as it is"
USED_OUTSIDE = "a value inside the match is used outside of it"


@dataclass(eq=False, repr=False)
class Rule(Pass):
    """A pattern with its replacement; a pass by itself.

    `where` is asked of the node that a match would end in, before anything else.
    """

    pattern: Pattern
    parameters: tuple[str, ...]
    shared: bool = False
    replacement: Replacement | None = None
    where: Condition | None = None

    def becomes(self, replacement: Replacement) -> Replacement:
        """Decorator that gives the rule its replacement.

        Raises PassError where that takes other parameters than the pattern.
        """
        given = parameters_of(f"rule {self.name}: the replacement", replacement)
        taken = [p.name for p in given if p.default is p.empty]
        if not _same_parameters(taken, self.parameters):
            here = f"rule {self.name}: the replacement takes (op, {', '.join(taken)})"
            there = f"the pattern (op, {', '.join(self.parameters)})"
            needed = "both take the same parameters in the same order"
            raise PassError(f"{here}, {there}; {needed}")
        self.replacement = replacement
        return replacement

    @functools.cached_property
    def roots(self) -> list[Root]:
        """What a match can end in, with quick tests."""
        operations = [one for one in roots(self.pattern) if isinstance(one, Apply)]
        return [Root(one, quick_test(one)) for one in operations]

    @functools.cached_property
    def root_operations(self) -> tuple[str, ...]:
        """The operations that a match can end in, each once."""
        return tuple(dict.fromkeys(root.pattern.op for root in self.roots))

    @functools.cached_property
    def required(self) -> frozenset[str]:
        """The operations that a graph must have for the rule to fit anywhere."""
        return required(self.pattern)

    @functools.cached_property
    def depth(self) -> int:
        """How many operands deep a match, and what the replacement asks of its values, can reach."""
        return depth_of(self.pattern) + 1

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, (self,), context or Context(opt_level=3), self)

    def apply(self, node: Node, context: Context) -> tuple[Node, ...] | None:
        """Rewrite at `node`: the nodes made and the users of the result, or None where the rule does not fit.

        Where all matches are declined, that is counted, with a reason.
        """
        if self.where is not None and not self.where(node):
            return None
        reason = ""
        out = node.out
        for match in matches(self.pattern, out, Match(), node.home):
            if not self.shared and used_outside(match.nodes):
                reason = reason or USED_OUTSIDE
                continue
            made = self.build(node, match, context.target)
            if made.value is None:
                made.op.undo()
                reason = made.objection
                continue
            users = list(out.users())
            out.replace_by(made.value)
            # with it goes what the match covers, where nothing else uses that
            erase_dead(node)
            return (*made.op.made, *users)
        if reason:
            context.decline(self.name, reason)
        return None

    def build(self, node: Node, match: Match, target: Target | None) -> Built:
        """The replacement of a match, built in front of `node`.

        Raises PassError where the replacement raises, or gives what can replace nothing.
        """
        op = RuleBuilder(node, target)
        bound = [match.values.get(name) for name in self.parameters]
        try:
            result = self.checked_replacement()(op, *bound)
        except J2OError:
            raise
        except Exception as error:
            raise PassError(f"{self.at_node(node)}: {raised(error)}") from error
        if result is None:
            return Built(op, None, op.reason or NO_REASON)
        if problem := _problem_of_result(op, result):
            raise PassError(f"{self.at_node(node)}: the replacement {problem}")
        if result.type != node.out.type:
            unlike = f"the replacement is {result.type}, not {node.out.type}"
            return Built(op, None, unlike)
        if result is node.out:
            return Built(op, None, "the replacement is what it replaces")
        if lacking := _lacking(op):
            return Built(op, None, lacking)
        made = set(op.made)
        if made and any(user in made for user in node.out.users()):
            what = "the replacement is made of the value that it replaces"
            raise PassError(f"{self.at_node(node)}: {what}")
        return Built(op, result, "")

    def at_node(self, node: Node) -> str:
        """Rule and node, as messages begin."""
        return f"rule {self.name} at {node.described}"

    def checked_replacement(self) -> Replacement:
        """The replacement; PassError where the rule has none."""
        if self.replacement is None:
            advice = f"give it one with @{self.name}.becomes"
            raise PassError(f"rule {self.name} has no replacement: {advice}")
        return self.replacement


class Built(NamedTuple):
    """What a replacement gives: a value, or None and the reason why the match is declined."""

    op: RuleBuilder
    value: Value | None
    objection: str


def _same_parameters(given: Sequence[str], wanted: Sequence[str]) -> bool:
    """Return True for the same names; one that is not used may begin with an underscore."""
    if len(given) != len(wanted):
        return False
    return all(
        one == other or one.startswith("_")
        for one, other in zip(given, wanted, strict=True)
    )


def _lacking(op: RuleBuilder) -> str | None:
    """The operator among those that were made which the target has not, in words; None for none."""
    for node in op.made:
        if (
            op.target is not None
            and node.dialect == "onnx"
            and not op.target.has(node.op)
        ):
            return f"{op.target.name} has no {node.kind}"
    return None


def _problem_of_result(op: RuleBuilder, result: object) -> str | None:
    """What is wrong with what a replacement gives, None for nothing."""
    if not isinstance(result, Value):
        return f"is {shown(result)}; a value is needed, or None to decline"
    if not _is_visible(result, op.graph):
        return f"%{result.hint} is a value of another graph, or of none"
    return None


def _is_visible(value: Value, graph: Graph) -> bool:
    """Return True for a value of this graph, or of one around it."""
    scope: Graph | None = graph
    while scope is not None and value.graph is not scope:
        scope = scope.outer
    return scope is not None


class RuleBuilder(Builder):
    """The builder of replacements: inserts before the root of the match, with its location and name."""

    def __init__(self, node: Node, target: Target | None) -> None:
        super().__init__(node.home, node, node.loc, node.outputs[0].hint)
        self.root = node
        self.target = target
        self.reason = ""

    def decline(self, reason: str) -> None:
        """Decline the match: `return op.decline("the axis is not the last")`.

        The report and `why` give the reason.
        """
        self.reason = reason

    def undo(self) -> None:
        """Take what has been made out of the graph again."""
        for made in reversed(self.made):
            made.erase()

    @property
    def out_type(self) -> Type:
        """The type of what is replaced."""
        return self.root.out.type


def rewrite(
    name: str,
    *,
    at: Level = "onnx",
    level: int = 2,
    shared: bool = False,
    where: Condition | None = None,
) -> Callable[[Callable[..., Any]], Rule]:
    """Decorator that makes a `Rule` of a pattern function `(op, *parameters)`.

    With `shared`, values inside a match may be used outside of it. A node for which `where` is False does
    not match. Raises PassError for a pattern that no graph can have: an unknown operator or attribute,
    operands that it cannot take, a parameter that does not occur.
    """
    check_name(name, "rewrite")

    def make(function: Callable[..., Any]) -> Rule:
        pattern, parameters = trace_pattern(name, at, function)
        doc = first_line(function)
        return Rule(
            name,
            pattern,
            parameters,
            shared,
            where=where,
            at=at,
            level=level,
            doc=doc,
        )

    return make


def identities(
    table: Mapping[str, tuple[Callable[..., Any], Replacement]], **options: Any
) -> list[Rule]:
    """Short rules as rows: `{"sub_zero": (lambda op, x: op.Sub(x, 0), lambda op, x: x)}`."""
    rules = []
    for name, row in table.items():
        if not isinstance(row, tuple) or len(row) != 2:
            needed = "a pair (pattern, replacement) is needed"
            raise PassError(f"identities: {name}: {needed}, given {shown(row)}")
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
        this = f"rule set {self.name}"
        if not isinstance(self.rules, list | tuple):
            needed = "a list or tuple of rules is needed"
            raise PassError(f"{this}: {needed}, given {shown(self.rules)}")
        self.rules = tuple(self.rules)
        names: set[str] = set()
        for rule in self.rules:
            if not isinstance(rule, Rule):
                advice = "@rewrite(name) makes one"
                raise PassError(f"{this}: {shown(rule)} is no rule; {advice}")
            if rule.name in names:
                what = f"two rules are named {rule.name!r}"
                raise PassError(f"{this}: {what}; neither could be left out alone")
            if (rule.at == "lax") != (self.at == "lax"):
                level = f"its rule {rule.name} at {rule.at!r}"
                raise PassError(f"{this} works at {self.at!r}, {level}")
            names.add(rule.name)

    def __call__(self, graph: Graph, context: Context | None = None) -> int:
        return rewrite_graph(graph, self.rules, context or Context(opt_level=3), self)
