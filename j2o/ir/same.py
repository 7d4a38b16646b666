"""Structural equality of graphs: names and source lines do not count, order and operands do."""

from __future__ import annotations

import itertools
from collections.abc import Hashable

from j2o.ir.graph import Graph, Value


def fingerprint(
    graph: Graph, numbers: dict[Value, int] | None = None
) -> tuple[Hashable, ...]:
    """The types of the inputs, and a row for each node; equal for graphs that are the same but for names and source lines.

    Values count by their place in the graph, those from outside by identity. Types are text: graphs may have scopes of
    dimensions of their own.
    """
    numbers = {} if numbers is None else numbers
    for value in graph.inputs:
        numbers[value] = len(numbers)
    rows: list[Hashable] = [tuple(str(v.type) for v in graph.inputs)]
    for node in graph:
        operands = tuple(
            None if v is None else numbers.get(v, id(v)) for v in node.inputs
        )
        attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
        regions = tuple(fingerprint(g, numbers) for g in node.graphs)
        rows.append(
            (
                node.op,
                operands,
                attrs,
                tuple(str(v.type) for v in node.outputs),
                regions,
            )
        )
        for value in node.outputs:
            numbers[value] = len(numbers)
    return tuple(rows)


def same(a: Graph, b: Graph) -> str | None:
    """The first difference in words, or None where the graphs are the same but for names and source lines."""
    pairs = itertools.zip_longest(fingerprint(a), fingerprint(b), fillvalue="the end")
    return next((f"{x} and {y}" for x, y in pairs if x != y), None)
