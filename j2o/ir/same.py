"""Structural equality of graphs: names and source lines do not count, order and operands do."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Mapping, Sequence

from j2o.ir.graph import Graph, Value
from j2o.ir.types import Attr


def fingerprint(
    graph: Graph, numbers: dict[Value, int] | None = None
) -> tuple[Hashable, ...]:
    """The types of the inputs, and a row for each node.

    It is equal for graphs that are the same but for names and source lines. Values count by their place in
    the graph, those from outside by identity. Types are text, as graphs may have scopes of dimensions of
    their own.
    """
    if numbers is None:
        numbers = {}
    for value in graph.inputs:
        numbers[value] = len(numbers)
    rows: list[Hashable] = [_types(graph.inputs)]
    for node in graph:
        row = (
            node.op,
            tuple(_number(value, numbers) for value in node.inputs),
            _texts(node.attrs),
            _types(node.outputs),
            tuple(fingerprint(region, numbers) for region in node.graphs),
        )
        rows.append(row)
        for value in node.outputs:
            numbers[value] = len(numbers)
    return tuple(rows)


def _number(value: Value | None, numbers: dict[Value, int]) -> int | None:
    """The number of an operand; None where it is left out."""
    return None if value is None else numbers.get(value, id(value))


def _texts(attrs: Mapping[str, Attr]) -> tuple[tuple[str, str], ...]:
    """Attributes as text, sorted by name."""
    return tuple((name, repr(attrs[name])) for name in sorted(attrs))


def _types(values: Sequence[Value]) -> tuple[str, ...]:
    """The types of values, as texts: sizes of two scopes are compared by these."""
    return tuple(str(value.type) for value in values)


def same(a: Graph, b: Graph) -> str | None:
    """The first difference in words, or None where the graphs are the same but for names and source lines."""
    pairs = itertools.zip_longest(fingerprint(a), fingerprint(b), fillvalue="the end")
    for x, y in pairs:
        if x != y:
            return f"{x} and {y}"
    return None
