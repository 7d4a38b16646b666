"""Matching: every way in which a pattern fits a value, and a quick test that rules out most nodes before."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.onnx_ops import schema
from j2o.ir.ops import spec
from j2o.passes.rewriting.language import Apply, Either, Wild


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
        return a is b or (
            not isinstance(a, Value) and not isinstance(b, Value) and a == b
        )
    if a.known is not None and a.known == b.known:
        return a.type == b.type
    x, y = a.const, b.const
    if x is None or y is None or x.type != y.type or not x.is_small or not y.is_small:
        return False
    return x.load().tobytes() == y.load().tobytes()  # bytes tell 0.0 from -0.0


def matches(
    pattern: Any, value: Value | None, match: Match, home: Graph
) -> Iterator[Match]:
    """Every way in which `pattern` matches `value`; operations inside must lie in `home`."""
    if isinstance(pattern, Apply):
        node = value.node if value is not None else None
        if (
            node is not None
            and node.op == pattern.op
            and node.graph is home
            and len(node.outputs) == 1
        ):
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
    if (
        element == number
        or not tensor.dtype.is_float
        or abs(element - number) > 0.1 * abs(number)
    ):
        return bool(element == number)
    return bool(element == np.asarray(number).astype(tensor.dtype.numpy).item())


def _match_node(
    pattern: Apply, node: Node, match: Match, home: Graph
) -> Iterator[Match]:
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


def _match_all(
    patterns: Sequence[Any], values: Sequence[Value | None], match: Match, home: Graph
) -> Iterator[Match]:
    for i, (pattern, value) in enumerate(zip(patterns, values, strict=True)):
        if isinstance(pattern, Wild):  # the one way there is, without a generator
            bound = (
                match.bind(pattern.name, value) if _fits_wild(pattern, value) else None
            )
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
    unusual = any(
        name not in pattern.attrs and defaults.get(name, got) != got
        for name, got in node.attrs.items()
    )
    return None if unusual else match


@functools.cache
def defaults_of(op: str) -> dict[str, Any]:
    """The attributes of an operation that have a default."""
    return schema(op.removeprefix("onnx.")).defaults if op.startswith("onnx.") else {}


# ------------------------------------------------------------------------------------------ quick tests


def check(pattern: Any) -> Callable[[Value | None], bool]:
    """A quick test that every match passes: operations, constants and numbers are in their places, names and attributes aside."""
    if isinstance(pattern, Apply):
        name, fits = pattern.op, check_inputs(pattern)
        return lambda v: (
            v is not None and v.node is not None and v.node.op == name and fits(v.node)
        )
    if isinstance(pattern, Wild):
        return lambda v: _fits_wild(pattern, v)
    if isinstance(pattern, Either):
        options = tuple(map(check, pattern.options))
        return lambda v: any(option(v) for option in options)
    return (
        (lambda v: v is None)
        if pattern is None
        else (lambda v: v is not None and _is_scalar(v, pattern))
    )


def check_inputs(pattern: Apply) -> Callable[[Node], bool]:
    """The quick test of a node's operands, its operation known."""
    # operands that say nothing are left out; what says most comes first
    wanted = [p for p in pattern.inputs if p is not ...]
    tests = sorted(
        (
            (i, check(p))
            for i, p in enumerate(wanted)
            if not (isinstance(p, Wild) and not p.const)
        ),
        key=lambda pair: isinstance(wanted[pair[0]], Either),
    )
    count = len(wanted)
    if not tests:
        return lambda node: True
    if count != 2 or not spec(pattern.op).commutative:
        return lambda node: (
            len(node.inputs) >= count and all(test(node.inputs[i]) for i, test in tests)
        )
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
    return any(
        id(user) not in covered for node in nodes[1:] for user, _ in node.out.uses
    )
