"""The opset of a model: the lowest at which every node means and runs as it does at the target's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from j2o.ir.graph import Graph, Node
from j2o.ir.ops import LABEL
from j2o.ir.target import Target
from j2o.ir.types import OPSET_OF, DType, is_in_onnx
from j2o.ir.versions import difference
from j2o.passes.target.legalize import runs

OLDEST = 18


class Opset(NamedTuple):
    """An opset, and what the one before it lacks for the graph; no reasons where it was not chosen."""

    number: int
    reasons: tuple[str, ...] = ()


def lowest_opset(graph: Graph, target: Target) -> Opset:
    """Return the lowest opset from 18 on that leaves a graph as it is.

    The graph is right at the opset of the target. Where that was asked for, it stays.
    """
    if target.others is None:
        return Opset(target.opset)
    nodes = list(_distinct(graph))
    dtypes = _dtypes(graph)
    reasons: tuple[str, ...] = ()
    for number in range(OLDEST, target.opset):
        older = target.others(number)
        lacking = dict.fromkeys(_lacking(nodes, dtypes, target, older))
        if not lacking:
            return Opset(number, reasons)
        reasons = tuple(lacking)
    return Opset(target.opset, reasons)


def _lacking(
    nodes: Iterable[Node], dtypes: Iterable[DType], target: Target, older: Target
) -> Iterator[str]:
    """What an older opset lacks, in words that follow "before it"."""
    for dtype in dtypes:
        if not is_in_onnx(dtype, older.opset):
            yield f"ONNX has no {dtype.value}"
    for node in nodes:
        other = difference(node, older.opset, target.opset)
        if other is not None:
            yield other
        elif runs(node, target) and not _runs_alike(node, target, older):
            dtype = (node.outputs or node.operands)[0].type.dtype
            yield f"{target.name} runs no {node.kind} of {dtype.value}"


def _runs_alike(node: Node, target: Target, older: Target) -> bool:
    """Return True where an older opset has a kernel, or needs none, as the newer one does."""
    had_kernel = node.op in older.rows or node.op not in target.rows
    return had_kernel and runs(node, older)


def _distinct(graph: Graph) -> Iterator[Node]:
    """The nodes of ONNX's operators, one of those that differ neither in attributes nor in dtypes."""
    seen: set[object] = set()
    for top in (graph, *graph.functions.values()):
        for node in top.walk():
            if node.dialect != "onnx":
                continue
            key = _key(node)
            if key not in seen:
                seen.add(key)
                yield node


def _key(node: Node) -> object:
    """What versions and kernels may depend on."""
    if node.graphs:
        return node
    attrs = []
    for name, value in node.attrs.items():
        if name != LABEL:
            attrs.append((name, value if isinstance(value, int | str) else None))
    inputs = tuple([value and value.type.dtype for value in node.inputs])
    outputs = tuple([value.type.dtype for value in node.outputs])
    return node.op, tuple(attrs), inputs, outputs


def _dtypes(graph: Graph) -> set[DType]:
    """The dtypes of all values that came to ONNX with some opset."""
    found: set[DType] = set()
    for top in (graph, *graph.functions.values()):
        found.update(value.type.dtype for value in top.inputs)
        for node in top.walk():
            found.update(value.type.dtype for value in node.outputs)
            for region in node.graphs:
                found.update(value.type.dtype for value in region.inputs)
    return found & OPSET_OF.keys()
