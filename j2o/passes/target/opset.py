"""The opset of a model: the lowest at which every node means and runs as it does at the target's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import LABEL
from j2o.ir.target import OLDEST, Target
from j2o.ir.types import OPSET_OF, DType, is_in_onnx
from j2o.ir.versions import difference
from j2o.passes.target.legalize import runs


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
    uses = _Uses(list(_distinct(graph)), _dtypes(graph), target)
    for needs_kernels in (True, False):
        found = _lowest(uses, needs_kernels)
        if found is not None:
            return found
    return Opset(target.opset)


class _Uses(NamedTuple):
    """What a graph uses: its nodes, one of each kind, and the dtypes that came with some opset."""

    nodes: list[Node]
    dtypes: set[DType]
    target: Target


def _lowest(uses: _Uses, needs_kernels: bool) -> Opset | None:
    """The lowest opset that lacks nothing.

    With `needs_kernels`, what has a kernel at some opset may not be a function that is written out there.
    """
    assert uses.target.others is not None
    reasons: tuple[str, ...] = ()
    for number in range(OLDEST, uses.target.opset + 1):
        lacking = _lacking(uses, uses.target.others(number), needs_kernels)
        told = tuple(dict.fromkeys(lacking))
        if not told:
            return Opset(number, reasons)
        reasons = told
    return None


def _lacking(uses: _Uses, older: Target, needs_kernels: bool) -> Iterator[str]:
    """What an older opset lacks, in words that follow "before it"."""
    target = uses.target
    for dtype in uses.dtypes:
        if not is_in_onnx(dtype, older.opset):
            yield f"ONNX has no {dtype.value}"
    for node in uses.nodes:
        other = difference(node, older.opset, target.opset)
        had_kernel = node.op in older.rows or node.op not in target.rows
        is_alike = had_kernel or not needs_kernels
        if other is not None:
            yield other
        elif runs(node, target) and not (is_alike and runs(node, older)):
            dtype = (node.outputs or node.operands)[0].type.dtype
            yield f"{target.name} runs no {node.kind} of {dtype.value}"


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
    found = {value.type.dtype for value in _values(graph)}
    return found & OPSET_OF.keys()


def _values(graph: Graph) -> Iterator[Value]:
    """All values: of the root, of its functions, and of the regions in them."""
    for top in (graph, *graph.functions.values()):
        yield from top.inputs
        for node in top.walk():
            yield from node.outputs
            for region in node.graphs:
                yield from region.inputs
