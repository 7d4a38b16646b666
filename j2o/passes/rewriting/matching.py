"""Matching: every way in which a pattern fits a value.

`candidates.py` rules out most nodes before.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import schema
from j2o.passes.rewriting.language import Apply, Either, Pattern, Wild

CONSTANTS = frozenset(["const", "dims"])  # the operations whose results are known


@dataclass(slots=True)
class Match:
    """What a pattern fits: `values` of its parameters, and the `nodes` that it covers, the root first.

    A parameter has a `Value`, or what an attribute is.
    """

    values: dict[str, Any] = field(default_factory=dict)
    nodes: tuple[Node, ...] = ()


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
    """Return True for constants with equal contents, -0 and 0 told apart."""
    if not (a.op in CONSTANTS and b.op in CONSTANTS):
        return False
    if a.known is not None and a.known == b.known:
        return a.type == b.type
    x, y = a.const, b.const
    if x is None or y is None or x.type != y.type:
        return False
    if not x.is_small or not y.is_small:
        return False
    return x.load().tobytes() == y.load().tobytes()  # bytes tell 0.0 from -0.0


# what must fit yet: a part of the pattern, its value, and the rest
Goals: TypeAlias = "tuple[Pattern, Value | None, Goals | None]"
# a way of matching so far: its goals, the bindings, and the nodes that it covers
Way: TypeAlias = "tuple[Goals | None, dict[str, Any], tuple[Node, ...]]"


def matches(
    pattern: Pattern, value: Value | None, match: Match, home: Graph
) -> Iterator[Match]:
    """Every way in which `pattern` fits `value`, given the bindings of `match`.

    Operations inside must lie in the graph `home`.
    """
    ways: list[Way] = [((pattern, value, None), match.values, match.nodes)]
    # depth first: the way that was found last is gone next, with bindings of its own
    while ways:
        goals, bound, nodes = ways.pop()
        found = bound.copy()
        while goals is not None:
            part, value, goals = goals
            so_far = goals, found, nodes
            if isinstance(part, Apply):
                onwards = _ways_into(part, value, so_far, home)
            elif isinstance(part, Either):
                onwards = _ways_into_options(part, value, so_far)
            elif _binds(part, value, found):
                continue
            else:
                break
            if len(onwards) != 1:
                ways += onwards
                break
            goals, found, nodes = onwards[0]
        else:  # no goal is left, and none was missed
            yield Match(found, nodes)


def _ways_into_options(
    pattern: Either, value: Value | None, so_far: Way
) -> Sequence[Way]:
    """A way for each alternative that the operation of the value does not rule out, the first one last."""
    goals, found, nodes = so_far
    own = value and value.node and value.node.op
    ways: list[Way] = []
    for option, maker in pattern.last_first:
        if maker is None or maker == own:
            ways.append(((option, value, goals), found, nodes))
    return ways


def _ways_into(
    pattern: Apply, value: Value | None, so_far: Way, home: Graph
) -> list[Way]:
    """An operation and its operands: none, one, or both orders of the operands, the first one last."""
    node = None if value is None else value.node
    if node is None or node.op != pattern.op or node.graph is not home:
        return []
    wanted, inputs = pattern.operands, node.inputs
    if len(inputs) != len(wanted):
        wanted, inputs = aligned(pattern, node)
    count = len(inputs)
    if count != len(wanted) or len(node.outputs) != 1:
        return []
    goals, found, nodes = so_far
    if unlike_attribute(pattern, node, found) is not None:
        return []
    nodes = (*nodes, node)
    orders = [inputs]
    if pattern.in_any_order and inputs[0] is not inputs[1]:
        orders = [inputs[::-1], inputs]
    ways: list[Way] = []
    for order in orders:
        inner = goals
        for (part, maker), value in zip(pattern.last_first, order[::-1], strict=True):
            if maker is not None and not _is_made_by(maker, value):
                break
            inner = (part, value, inner)
        else:  # nothing rules this order out
            ways.append((inner, found, nodes))
    return ways


def _is_made_by(op: str, value: Value | None) -> bool:
    """Return True for the result of such an operation."""
    return value is not None and value.node is not None and value.node.op == op


def aligned(
    pattern: Apply, node: Node
) -> tuple[Sequence[Pattern], Sequence[Value | None]]:
    """The operands of a pattern, and those of a node that they are compared with.

    Operands that are left out at the end, and those that `...` stands for, are not among them.
    """
    wanted, inputs = pattern.operands, node.inputs
    if len(inputs) > len(wanted):
        most = len(pattern.inputs)
        while len(inputs) > most and inputs[-1] is None:
            inputs = inputs[:-1]
        if most > len(wanted):
            inputs = inputs[: len(wanted)]
    return wanted, inputs


def _binds(part: Pattern, value: Value | None, found: dict[str, Any]) -> bool:
    """Bind an operand that is no operation; False where it does not fit."""
    if not isinstance(part, Wild):
        return fits_number(part, value)
    if not fits_wild(part, value):
        return False
    before = found.setdefault(part.name, value)
    return before is value or _same(before, value)


def unlike_attribute(pattern: Apply, node: Node, found: dict[str, Any]) -> str | None:
    """Bind the attributes of a node; the first that is not as the pattern says, or None where all are."""
    wanted, attrs = pattern.attrs, node.attrs
    if not wanted and not attrs:
        return None
    defaults = defaults_of(node.op)
    for name, want in wanted.items():
        if want is ...:
            continue
        got = attrs.get(name, defaults.get(name))
        if isinstance(want, Wild):
            if not _same(found.setdefault(want.name, got), got):
                return name
        elif got != want:
            return name
    for name, got in attrs.items():
        if name not in wanted and defaults.get(name, got) != got:
            return name
    return None


def fits_wild(pattern: Wild, value: Value | None) -> bool:
    """Return True for what a parameter may be bound to."""
    return value is not None and (not pattern.const or value.op == "const")


def fits_number(wanted: Any, value: Value | None) -> bool:
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


@functools.cache
def defaults_of(op: str) -> dict[str, Any]:
    """The attributes of an operation that have a default."""
    return schema(op.removeprefix("onnx.")).defaults if op.startswith("onnx.") else {}


def used_outside(nodes: Sequence[Node]) -> bool:
    """Return True where a value that a match covers, its root aside, has other users."""
    for node in nodes[1:]:
        for user, _ in node.out.uses:
            if user not in nodes:
                return True
    return False
