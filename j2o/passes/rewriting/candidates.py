"""Which rules can fit at a node: what its operation and those of its operands rule out is looked up.

Nearly always no rule fits. Most rules need certain operations at the node and where its operands come
from. Which rules these leave is the same in all graphs, so each combination of operations is worked out once.
A quick test of each rule that is left looks deeper, and rules out most of the rest. Neither looks at names
of parameters and at attributes: `matching.py` does that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from j2o.ir.graph import Node, Value
from j2o.passes.rewriting.language import Apply, Either, Pattern, Wild, roots
from j2o.passes.rewriting.matching import fits_number, fits_wild

if TYPE_CHECKING:
    from j2o.passes.rewriting.rule import Rule

NodeTest: TypeAlias = "Callable[[Node], bool]"
OperandTest: TypeAlias = "Callable[[Value | None], bool]"
# the operation of a node, and those that make its operands: None for an input of a graph, or no operand
Operations: TypeAlias = "tuple[str, tuple[str | None, ...]]"
MOST_ROWS = 10_000  # of a table


class Root(NamedTuple):
    """An operation that a match can end in, with the quick test of a node of that operation."""

    pattern: Apply
    fits: NodeTest


class Candidate(NamedTuple):
    """A rule that may fit: the operations that a graph must have for it, and the test that looks deeper."""

    rule: Rule
    required: frozenset[str]
    fits: NodeTest


class RuleTable:
    """The candidates among some rules, in the order of these; `depth` is that of the deepest."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.depth = max((rule.depth for rule in rules), default=0)
        # what matches of the rules that need the same operations can end in
        self.ends_by_need: dict[frozenset[str], set[str]] = {}
        for rule in rules:
            ends = self.ends_by_need.setdefault(rule.required, set())
            ends.update(rule.root_operations)
        # the roots of the rules by their operations, each with what it is looked up for
        self.roots: dict[str, list[tuple[Apply, Candidate]]] = {}
        for rule in rules:
            for root in rule.roots:
                candidate = Candidate(rule, rule.required, root.fits)
                row = self.roots.setdefault(root.pattern.op, [])
                row.append((root.pattern, candidate))
        self.rows: dict[Operations, tuple[Candidate, ...]] = {}

    def roots_among(self, present: Set[str]) -> set[str]:
        """What matches can end in where a graph has these operations."""
        found: set[str] = set()
        for needed, ends in self.ends_by_need.items():
            if needed <= present:
                found |= ends
        return found

    def candidates(self, node: Node) -> tuple[Candidate, ...]:
        """The rules that the operations of a node and of its operands do not rule out."""
        makers = [value and value.node and value.node.op for value in node.inputs]
        key = node.op, tuple(makers)
        row = self.rows.get(key)
        if row is None:
            if len(self.rows) >= MOST_ROWS:
                self.rows.clear()
            row = self.rows[key] = self._row(node.op, makers)
        return row

    def _row(self, op: str, makers: Sequence[str | None]) -> tuple[Candidate, ...]:
        """The patterns of an operation that may fit, given what makes its operands."""
        roots = self.roots.get(op, ())
        return tuple(each for pattern, each in roots if _can_fit(pattern, makers))


@functools.lru_cache(maxsize=64)
def table_of(rules: tuple[Rule, ...], opt_level: int) -> RuleTable:
    """The table of the rules that run at an optimisation level, which is right for every graph.

    Raises PassError for a rule without a replacement.
    """
    for rule in rules:
        rule.checked_replacement()
    return RuleTable([rule for rule in rules if rule.level <= opt_level])


def _can_fit(pattern: Apply, makers: Sequence[str | None]) -> bool:
    """Return True where the quick test may pass, by what makes the operands."""
    wanted = pattern.operands
    if not any(map(_tells, wanted)):
        return True
    if not pattern.in_any_order:
        return len(makers) >= len(wanted) and all(map(_can_be, wanted, makers))
    if len(makers) != 2:
        return False
    orders = makers, makers[::-1]
    return any(all(map(_can_be, wanted, order)) for order in orders)


def _can_be(part: Pattern, maker: str | None) -> bool:
    """Return True where the result of an operation may fit an operand of a pattern."""
    if isinstance(part, Apply):
        return maker == part.op
    if isinstance(part, Either):
        return any(_can_be(option, maker) for option in part.options)
    if part is None:
        return maker is None
    return not _tells(part) or maker == "const"


def _tells(part: Pattern) -> bool:
    """Return False for a parameter that any operand fits."""
    return not isinstance(part, Wild) or part.const


# -------------------------------------------------------------------------- quick tests
#
# They run more often than anything else here, so they are loops: these are faster than `any` and `all`.


def quick_test(pattern: Apply) -> NodeTest:
    """A test of a node's operands, its operation known, that every match passes.

    It looks at operations, constants and numbers in their places, not at names and attributes.
    """
    wanted = pattern.operands
    if not any(map(_tells, wanted)):
        return _always
    if pattern.in_any_order:
        return _in_either_order(*wanted)
    return _in_order(wanted)


def _always(node: Node) -> bool:
    """Return True for any node."""
    return True


def _in_order(wanted: Sequence[Pattern]) -> NodeTest:
    """The test of operands that stand in one order."""
    places = [i for i, part in enumerate(wanted) if _tells(part)]
    # what says most comes first
    places.sort(key=lambda i: isinstance(wanted[i], Either))
    tests = [(i, _operand_test(wanted[i])) for i in places]
    count = len(wanted)

    def fits(node: Node) -> bool:
        inputs = node.inputs
        if len(inputs) < count:
            return False
        for i, test in tests:
            if not test(inputs[i]):
                return False
        return True

    return fits


def _in_either_order(first: Pattern, second: Pattern) -> NodeTest:
    """The test of the operands of a commutative operation."""
    if not _tells(first):
        return _beside_any(_operand_test(second))
    if not _tells(second):
        return _beside_any(_operand_test(first))
    test, other = _operand_test(first), _operand_test(second)

    def fits(node: Node) -> bool:
        if len(node.inputs) != 2:
            return False
        a, b = node.inputs
        return (test(a) and other(b)) or (test(b) and other(a))

    return fits


def _beside_any(test: OperandTest) -> NodeTest:
    """The test of one of two operands, the other one being any that there is."""

    def fits(node: Node) -> bool:
        if len(node.inputs) != 2:
            return False
        a, b = node.inputs
        return (b is not None and test(a)) or (a is not None and test(b))

    return fits


def _operand_test(pattern: Pattern) -> OperandTest:
    """The test of one operand."""
    if isinstance(pattern, Apply | Either):
        return _one_of(roots(pattern))
    if isinstance(pattern, Wild):
        return functools.partial(fits_wild, pattern)
    if pattern is None:
        return functools.partial(fits_number, None)
    return functools.partial(_fits_constant, pattern)


def _fits_constant(number: Pattern, value: Value | None) -> bool:
    """Return True for the constant that a number of a pattern stands for."""
    if value is None or value.node is None or value.node.op != "const":
        return False
    return fits_number(number, value)


def _one_of(options: Sequence[Pattern]) -> OperandTest:
    """The test of alternatives; operations among them are looked up by their names."""
    others: list[OperandTest] = []
    tests_of: dict[str, list[NodeTest]] = {}
    for option in options:
        if isinstance(option, Apply):
            tests_of.setdefault(option.op, []).append(quick_test(option))
        else:
            others.append(_operand_test(option))

    def fits(value: Value | None) -> bool:
        for test in others:
            if test(value):
                return True
        node = None if value is None else value.node
        if node is None:
            return False
        for operands_fit in tests_of.get(node.op, ()):
            if operands_fit(node):
                return True
        return False

    return fits
