"""Matching: every way in which a pattern fits a value.

A quick test rules out most nodes before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import schema
from j2o.ir.ops import spec
from j2o.passes.rewriting.language import Apply, Either, Pattern, Wild


@dataclass
class Match:
    """What a pattern fits: `values` of its parameters, and the `nodes` that it covers, the root first.

    A parameter has a `Value`, or what an attribute is.
    """

    values: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()

    def bind(self, name: str, value: Any) -> Match | None:
        """With a parameter bound; None where it is bound to something else already."""
        if name in self.values:
            return self if _same(self.values[name], value) else None
        return Match({**self.values, name: value}, self.nodes)


def _same(a: Any, b: Any) -> bool:
    """Return True for one value, constants with equal contents, and equal attributes."""
    if a is b:
        return True
    if isinstance(a, Value) and isinstance(b, Value):
        return _same_contents(a, b)
    if isinstance(a, Value) or isinstance(b, Value):
        return False
    return a == b


def _same_contents(a: Value, b: Value) -> bool:
    if a.known is not None and a.known == b.known:
        return a.type == b.type
    x, y = a.const, b.const
    if x is None or y is None or x.type != y.type:
        return False
    if not x.is_small or not y.is_small:
        return False
    return x.load().tobytes() == y.load().tobytes()  # bytes tell 0.0 from -0.0


def matches(
    pattern: Pattern, value: Value | None, match: Match, home: Graph
) -> Iterator[Match]:
    """Every way in which `pattern` fits `value`, given the bindings of `match`.

    Operations inside must lie in the graph `home`.
    """
    if isinstance(pattern, Apply):
        node = value.node if value is not None else None
        if node is None or node.op != pattern.op or node.graph is not home:
            return
        if len(node.outputs) == 1:
            yield from _match_node(pattern, node, match, home)
    elif isinstance(pattern, Wild):
        bound = _bound(pattern, value, match)
        if bound is not None:
            yield bound
    elif isinstance(pattern, Either):
        for option in pattern.options:
            yield from matches(option, value, match, home)
    elif _fits_number(pattern, value):
        yield match


def _fits_number(wanted: Any, value: Value | None) -> bool:
    """Return True for the constant that a number of a pattern stands for; None is an operand left out."""
    if wanted is None or value is None:
        return wanted is value
    return _is_scalar(value, wanted)


def _is_scalar(value: Value, number: Any) -> bool:
    """Return True for a constant of one element that is a number of a pattern, rounded to its dtype."""
    tensor = value.const
    if tensor is None or tensor.size != 1:
        return False
    element = tensor.scalar
    if number == 0 == element:  # of the same sign
        return math.copysign(1, number) == math.copysign(1, element)
    if number != number:  # NaN
        return bool(element != element)
    if element == number:
        return True
    if not tensor.dtype.is_float or abs(element - number) > 0.1 * abs(number):
        return False
    rounded = np.asarray(number).astype(tensor.dtype.numpy).item()
    return bool(element == rounded)


def _match_node(
    pattern: Apply, node: Node, match: Match, home: Graph
) -> Iterator[Match]:
    """Every way in which an operation fits a node of that operation."""
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
    """The operands of a pattern, and those of a node that they are compared with.

    Operands that are left out at the end, and those that `...` stands for, are not among them.
    """
    inputs = list(node.inputs)
    while len(inputs) > len(pattern.inputs) and inputs[-1] is None:
        inputs.pop()
    wanted = pattern.inputs
    if wanted and wanted[-1] is ...:
        wanted = wanted[:-1]
        inputs = inputs[: len(wanted)]
    return wanted, inputs


def _match_all(
    patterns: Sequence[Pattern],
    values: Sequence[Value | None],
    match: Match,
    home: Graph,
) -> Iterator[Match]:
    """Every way in which patterns fit values, one after the other."""
    for i, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
        if isinstance(pattern, Wild):  # the one way there is, without a generator
            bound = _bound(pattern, value, match)
            if bound is None:
                return
            match = bound
            continue
        for first in matches(pattern, value, match, home):
            yield from _match_all(patterns[i + 1 :], values[i + 1 :], first, home)
        return
    yield match


def _bound(pattern: Wild, value: Value | None, match: Match) -> Match | None:
    """With a parameter bound to an operand; None where it cannot be."""
    return match.bind(pattern.name, value) if _fits_wild(pattern, value) else None


def _fits_wild(pattern: Wild, value: Value | None) -> bool:
    return value is not None and (not pattern.const or value.op == "const")


def _match_attrs(pattern: Apply, node: Node, match: Match) -> Match | None:
    """With the attributes of a node bound; None where one is not as the pattern says."""
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
    for name, got in node.attrs.items():
        if name not in pattern.attrs and defaults.get(name, got) != got:
            return None
    return match


@functools.cache
def defaults_of(op: str) -> dict[str, Any]:
    """The attributes of an operation that have a default."""
    return schema(op.removeprefix("onnx.")).defaults if op.startswith("onnx.") else {}


def used_outside(nodes: tuple[Node, ...]) -> bool:
    """Return True where a value that a match covers, its root aside, has other users."""
    covered = set(nodes)
    inner = nodes[1:]
    return any(user not in covered for node in inner for user, _ in node.out.uses)


# -------------------------------------------------------------------------- quick tests

OperandTest: TypeAlias = "Callable[[Value | None], bool]"
NodeTest: TypeAlias = "Callable[[Node], bool]"


def quick_test(pattern: Apply) -> NodeTest:
    """A test of a node's operands, its operation known, that every match passes.

    It looks at operations, constants and numbers in their places, not at names and attributes.
    """
    wanted = [part for part in pattern.inputs if part is not ...]
    telling = [part for part in wanted if not _fits_anything(part)]
    if not telling:
        return _always
    if len(wanted) == 2 and spec(pattern.op).commutative:
        return _in_either_order(*map(_operand_test, wanted))
    return _in_order(wanted)


def _fits_anything(part: Pattern) -> bool:
    return isinstance(part, Wild) and not part.const


def _always(node: Node) -> bool:
    return True


def _in_order(wanted: Sequence[Pattern]) -> NodeTest:
    """The test of operands that stand in one order."""
    places = [i for i, part in enumerate(wanted) if not _fits_anything(part)]
    # what says most comes first
    places.sort(key=lambda i: isinstance(wanted[i], Either))
    tests = [(i, _operand_test(wanted[i])) for i in places]
    count = len(wanted)

    def fits(node: Node) -> bool:
        inputs = node.inputs
        return len(inputs) >= count and all(test(inputs[i]) for i, test in tests)

    return fits


def _in_either_order(first: OperandTest, second: OperandTest) -> NodeTest:
    """The test of the operands of a commutative operation."""

    def fits(node: Node) -> bool:
        if len(node.inputs) != 2:
            return False
        a, b = node.inputs
        return (first(a) and second(b)) or (first(b) and second(a))

    return fits


def _operand_test(pattern: Pattern) -> OperandTest:
    """The test of one operand."""
    if isinstance(pattern, Apply):
        return _made_by(pattern)
    if isinstance(pattern, Either):
        return _any_of(list(map(_operand_test, pattern.options)))
    if isinstance(pattern, Wild):
        return functools.partial(_fits_wild, pattern)
    return functools.partial(_fits_number, pattern)


def _made_by(pattern: Apply) -> OperandTest:
    op, operands_fit = pattern.op, quick_test(pattern)

    def fits(value: Value | None) -> bool:
        if value is None or value.node is None:
            return False
        return value.node.op == op and operands_fit(value.node)

    return fits


def _any_of(options: Sequence[OperandTest]) -> OperandTest:
    def fits(value: Value | None) -> bool:
        return any(option(value) for option in options)

    return fits
