"""What loading would make of a model: functions are written out, sparse tensors become dense.

A file of a few kilobytes may stand for billions of nodes, where functions call functions that call functions.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import onnx

from j2o.backend.asked import in_a_line
from j2o.backend.tensors import RANK, messages_of
from j2o.backend.wire import DEPTH, GRAPHS
from j2o.errors import LoadError

CALLED = 150_000  # nodes that the calls of functions stand for; onnxruntime writes them out, up to 70 µs each
CALLS = 30_000  # calls written out, for which it takes more with each
DENSE = 2**26  # elements of the sparse tensors of a model; onnxruntime makes them dense


def check_cost(path: Path, model: onnx.ModelProto) -> None:
    """LoadError where loading would make far more of the model than stands in the file."""
    name = in_a_line(path)
    sparse = messages_of(model, onnx.SparseTensorProto)
    dense = sum(math.prod(tensor.dims[:RANK]) for tensor in sparse)
    if dense > DENSE:
        raise LoadError(
            f"{name}: its sparse tensors have more than {DENSE:,} elements when they are dense"
        )
    if not model.functions:
        return
    total = _Costs(path, model.functions).of(model.graph.node, in_function=False)
    if total.called > CALLED or total.calls > CALLS or total.graphs > GRAPHS:
        raise LoadError(
            f"{name}: the calls of its functions stand for too much: "
            f"{total.calls:,} calls of {total.called:,} nodes and {total.graphs:,} graphs; "
            f"{CALLS:,}, {CALLED:,} and {GRAPHS:,} are checked"
        )


class _Cost(NamedTuple):
    """What is made of some nodes when functions are written out."""

    called: int = 0  # nodes of functions
    calls: int = 0
    graphs: int = 0  # within functions


class _Costs:
    """The cost of the functions of a model; each function is looked at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        functions: Sequence[onnx.FunctionProto],
    ) -> None:
        self.path = path
        self.functions = {(f.domain, f.name, f.overload): f for f in functions}
        self.known: dict[tuple[str, str, str], _Cost] = {}

    def of(
        self,
        nodes: Sequence[onnx.NodeProto],
        in_function: bool = True,
        depth: int = 0,
    ) -> _Cost:
        """The cost of these nodes, themselves included where they stand in a function."""
        if depth > DEPTH:
            raise LoadError(
                f"{in_a_line(self.path)}: its functions call each other in a circle, "
                f"or deeper than {DEPTH}"
            )
        found = [_Cost(called=len(nodes) if in_function else 0)]
        for node in nodes:
            for graph in _graphs_of(node):
                found.append(_Cost(graphs=int(in_function)))
                found.append(self.of(graph.node, in_function, depth + 1))
            key = (node.domain, node.op_type, node.overload)
            if key in self.functions:
                if key not in self.known:
                    body = self.functions[key].node
                    self.known[key] = self.of(body, depth=depth + 1)
                found += [_Cost(calls=1), self.known[key]]
        return _Cost(*(sum(counts) for counts in zip(*found, strict=True)))


def _graphs_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs
