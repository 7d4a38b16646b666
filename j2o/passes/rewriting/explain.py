"""`why`: the part of a rule that does not fit at a node.

It is for people and tests; the driver of rules does without it.

It walks pattern and graph as `matches` does, and keeps where each way of matching ended. (`matches` keeps
nothing of a way that fails, to be quick.) The way that got farthest is the one that the author meant: a gelu
with a wrong constant fails at the constant, not at the first operand of the other order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from j2o.errors import PassError, shown
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.target import Target
from j2o.passes.rewriting.language import Apply, Either, Pattern, Wild, text
from j2o.passes.rewriting.matching import (
    Match,
    aligned,
    defaults_of,
    matches,
    unlike_attribute,
    used_outside,
)
from j2o.passes.rewriting.rule import USED_OUTSIDE, Rule

LONGEST = 120  # characters of a part of a pattern


@dataclass(frozen=True)
class Mismatch:
    """Why a rule does not rewrite at a node.

    `part` is the part of the pattern that does not fit, `expected` what was to be there, `found` what is.
    """

    rule: str
    node: str
    part: str
    expected: str
    found: str

    def __str__(self) -> str:
        where = f"{self.rule} does not fit at {self.node}: in {self.part}"
        return f"{where}, expected {self.expected}, found {self.found}"


@dataclass(frozen=True)
class End:
    """Where one way of matching ended; `progress` counts what fitted before."""

    part: str
    expected: str
    found: str
    progress: int


def why(rule: Rule, node: Node, target: Target | None = None) -> Mismatch | None:
    """Why `rule` does not rewrite at `node`; None where it does. The graph stays as it is.

    `target` is what the replacement may ask about, as `Context.target`. Raises PassError for what is
    no rule, and where the replacement raises.
    """
    if not isinstance(rule, Rule):
        advice = "default_pipeline(3).find(name) finds one by its name"
        raise PassError(f"why: a rule is needed, given {shown(rule)}; {advice}")
    end = _end(rule, node, target)
    if end is None:
        return None
    return Mismatch(rule.name, _node(node), end.part, end.expected, end.found)


def _end(rule: Rule, node: Node, target: Target | None) -> End | None:
    """Where the way of matching ends that gets farthest; None where one leads to a rewrite."""
    pattern = rule.pattern
    if len(node.outputs) != 1:
        found = f"{len(node.outputs)} results"
        return End(_short(pattern), "an operation of one result", found, 0)
    if not node.out.uses:
        return End(_short(pattern), "a result that is used", "no use of it", 0)
    farthest = End("", "", "", -1)
    for attempt in _attempts(pattern, node.out, Match(), node.home, "the pattern"):
        end: End | None
        if isinstance(attempt, Match):
            end = _refused(rule, node, attempt, target)
        else:
            end = attempt
        if end is None:
            return None
        if end.progress > farthest.progress:
            farthest = end
    return farthest


def _refused(rule: Rule, node: Node, match: Match, target: Target | None) -> End | None:
    """Why a match of the whole pattern leads to nothing; None where it leads to a rewrite."""
    progress = _progress(match) + 1
    if rule.where is not None and not rule.where(node):
        expected = f"a node where {rule.where.__name__.strip('_')}"
        return End("the condition", expected, _node(node), progress)
    if not rule.shared and used_outside(match.nodes):
        found = f"{USED_OUTSIDE}: {_outside_use(match.nodes)}"
        return End("the match", "no use of the values inside it", found, progress)
    made = rule.build(node, match, target)
    made.op.undo()
    if made.value is not None:
        return None
    expected = f"a value of type {node.out.type}"
    return End("the replacement", expected, made.objection, progress + 1)


def _outside_use(nodes: Sequence[Node]) -> str:
    """The first use, outside of a match, of a value inside it."""
    for inner in nodes[1:]:
        for user in inner.out.users():
            if user not in nodes:
                return f"%{inner.out.hint} of {inner.op} by {_node(user)}"
    raise ValueError("no value is used outside of the match")


# ----------------------------------------------------------------------------- matching


def _attempts(
    pattern: Pattern, value: Value | None, match: Match, home: Graph, place: str
) -> Iterator[Match | End]:
    """Every way of matching: the bindings where it succeeds, and where it ends if not."""
    if isinstance(pattern, Either):
        for option in pattern.options:
            yield from _attempts(option, value, match, home, place)
    elif isinstance(pattern, Apply):
        yield from _operation_attempts(pattern, value, match, home, place)
    else:
        found = next(matches(pattern, value, match, home), None)
        if found is not None:
            yield found
        else:
            wanted = _wanted(pattern, match)
            yield End(place, wanted, _value(value), _progress(match))


def _operation_attempts(
    pattern: Apply, value: Value | None, match: Match, home: Graph, place: str
) -> Iterator[Match | End]:
    """Every way of matching an operation."""
    other = _other_node(pattern, value, home)
    if value is None or other is not None:
        part = f"{_short(pattern)}, {place}"
        yield End(part, _name(pattern.op), str(other), _progress(match))
    else:
        yield from _node_attempts(pattern, value.producer, match, home)


def _other_node(pattern: Apply, value: Value | None, home: Graph) -> str | None:
    """What stands in the place of an operation, None where it is that one and may belong to a match."""
    if value is None:
        return "nothing"
    node = value.node
    if node is None or node.op != pattern.op:
        return _value(value)
    if node.graph is not home:
        return f"{_node(node)} outside of the region @{home.name}"
    if len(node.outputs) != 1:
        return f"{_node(node)} with {len(node.outputs)} results"
    return None


def _node_attempts(
    pattern: Apply, node: Node, match: Match, home: Graph
) -> Iterator[Match | End]:
    """Every way of matching an operation with a node of that operation."""
    wanted, inputs = aligned(pattern, node)
    if len(inputs) != len(wanted):
        found = f"{len(inputs)} in {_node(node)}"
        expected = f"{len(wanted)} operands"
        yield End(_short(pattern), expected, found, _progress(match) + 1)
        return
    start = Match(match.values, (*match.nodes, node))
    bound = _attrs(pattern, node, start)
    if isinstance(bound, End):
        yield bound
        return
    orders = [inputs]
    if pattern.in_any_order and inputs[0] is not inputs[1]:
        orders.append(inputs[::-1])
    for order in orders:
        yield from _all_attempts(pattern, wanted, order, bound, home, 0)


def _attrs(pattern: Apply, node: Node, match: Match) -> Match | End:
    """The bindings of attributes, or the first that differs."""
    bound = dict(match.values)
    name = unlike_attribute(pattern, node, bound)
    if name is None:
        return Match(bound, match.nodes)
    default = defaults_of(node.op).get(name)
    found = f"{node.attrs.get(name, default)!r} in {_node(node)}"
    expected = f"{name} = {default!r}, the default (the pattern does not mention it)"
    if name in pattern.attrs:
        want = pattern.attrs[name]
        expected = f"{name} = {want!r}"
        if isinstance(want, Wild):
            expected = f"{name} = {want.name} = {bound[want.name]!r}"
    return End(_short(pattern), expected, found, _progress(match))


def _all_attempts(
    pattern: Apply,
    wanted: Sequence[Pattern],
    values: Sequence[Value | None],
    match: Match,
    home: Graph,
    start: int,
) -> Iterator[Match | End]:
    """All ways of matching the operands from `start` on."""
    if start == len(wanted):
        yield match
        return
    place = f"operand {start} of {_short(pattern)}"
    for first in _attempts(wanted[start], values[start], match, home, place):
        if isinstance(first, End):
            yield End(first.part, first.expected, first.found, first.progress + start)
        else:
            yield from _all_attempts(pattern, wanted, values, first, home, start + 1)


def _progress(match: Match) -> int:
    """Operations count more than parameters: these fit anything."""
    return 4 * len(match.nodes) + len(match.values)


# -------------------------------------------------------------------------------- words


def _wanted(pattern: Pattern, match: Match) -> str:
    """What a parameter or a number of a pattern stands for."""
    if pattern is None:
        return "no operand"
    if not isinstance(pattern, Wild):
        return f"a constant {pattern!r}"
    if pattern.name in match.values:
        before = _value(match.values[pattern.name])
        return f"the {pattern.name} from before, {before}"
    kind = "constant" if pattern.const else "value"
    return f"a {kind} for {pattern.name}"


def _value(value: object) -> str:
    """A value, or what an attribute is, in words."""
    if value is None:
        return "nothing"
    if not isinstance(value, Value):
        return repr(value)
    tensor = value.const
    if tensor is not None and tensor.size == 1:
        return f"a constant {tensor.scalar!r}"
    if tensor is not None:
        return f"a constant {value.type}"
    if value.node is None:
        return f"the input %{value.hint}: {value.type}"
    return _node(value.node)


def _node(node: Node) -> str:
    """A node as messages have it."""
    dialect = f"{node.dialect}." if node.dialect not in ("", "onnx") else ""
    return dialect + node.described


def _name(op: str) -> str:
    """An operation without the dialect that is usual."""
    return op.removeprefix("onnx.")


def _short(pattern: Pattern) -> str:
    """A pattern as text, its beginning where that is long."""
    line = text(pattern)
    return line if len(line) <= LONGEST else line[: LONGEST - 2] + " …"
