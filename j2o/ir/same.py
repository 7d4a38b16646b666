"""Structural equality and hashing of graphs: names and source lines do not count, order and operands do."""

from __future__ import annotations

from collections.abc import Sequence

from j2o.ir.graph import Graph, Node, Value


def structural_hash(graph: Graph) -> int:
    """Equal for graphs that are the same by `same`; values from outside count by identity."""
    return hash(_fingerprint(graph, {}))


def _fingerprint(graph: Graph, numbers: dict[Value, int]) -> tuple[object, ...]:
    for value in graph.inputs:
        numbers[value] = len(numbers)
    rows: list[object] = [tuple(v.type for v in graph.inputs)]
    for node in graph:
        operands = tuple(None if v is None else numbers.get(v, id(v)) for v in node.inputs)
        attrs = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
        regions = tuple(_fingerprint(g, numbers) for g in node.graphs)
        rows.append((node.op, operands, attrs, tuple(v.type for v in node.outputs), regions))
        for value in node.outputs:
            numbers[value] = len(numbers)
    return tuple(rows)


def same(a: Graph, b: Graph) -> str | None:
    """The first difference in words, or None where the graphs are the same but for names and source lines."""
    return _same(a, b, {})


def _same(a: Graph, b: Graph, twins: dict[Value, Value]) -> str | None:
    if _types(a.inputs) != _types(b.inputs):
        return f"inputs {_types(a.inputs)} and {_types(b.inputs)}"
    twins.update(zip(a.inputs, b.inputs, strict=True))
    for x, y in zip(a, b, strict=False):
        difference = _same_node(x, y, twins)
        if difference is not None:
            return difference
        twins.update(zip(x.outputs, y.outputs, strict=True))
    return None if len(a) == len(b) else f"{len(a)} nodes and {len(b)}"


def _same_node(x: Node, y: Node, twins: dict[Value, Value]) -> str | None:
    if x.op != y.op or len(x.inputs) != len(y.inputs) or len(x.graphs) != len(y.graphs):
        return f"{x!r} and {y!r}"
    if _types(x.outputs) != _types(y.outputs):
        return f"the types of {x!r} and {y!r}"
    if {k: repr(v) for k, v in x.attrs.items()} != {k: repr(v) for k, v in y.attrs.items()}:
        return f"the attributes of {x!r}: {x.attrs} and {y.attrs}"
    for p, q in zip(x.inputs, y.inputs, strict=True):
        if (None if p is None else twins.get(p, p)) is not q:
            return f"the operands of {x!r} and {y!r}"
    return next(filter(None, (_same(g, h, twins) for g, h in zip(x.graphs, y.graphs, strict=True))), None)


def _types(values: Sequence[Value]) -> list[str]:
    """As text: the graphs may have scopes of dimensions of their own."""
    return [str(v.type) for v in values]
