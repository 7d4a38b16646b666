"""`scan_axes`: a Scan reads and writes along the axis of time, wherever a program has it.

`jax.lax.scan` runs along the first axis, so that programs move that of time there and back. A Scan has
attributes that say which axis its rows lie along. The passes that read Scans take the first one for it,
so that this one runs behind them. onnxruntime transposes in the Scan then: that takes as long.
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr
from j2o.passes.clean.loops import end_of_carried
from j2o.passes.layout.perms import perm_of
from j2o.passes.layout.scans import scans_along_first
from j2o.passes.pipeline import graph_pass


class Axes(NamedTuple):
    """The axis along which each row is read, and along which each is written."""

    read: list[int]
    written: list[int]


@graph_pass("scan_axes", at="onnx", level=2)
def scan_axes(graph: Graph) -> int:
    """Let a Scan have the axes in whose place others transpose its rows alone."""
    return sum(map(_choose_axes, scans_along_first(graph)))


def _choose_axes(scan: Node) -> int:
    """Write a Scan without the transposes around it; returns how many these are."""
    first = end_of_carried(scan)  # what is carried has no axis of time
    operands = list(scan.operands)
    read: list[int] = []
    for place, rows in enumerate(operands[first:], first):
        axis = _axis_in_front(scan, rows)
        read.append(axis or 0)
        if axis is not None:
            operands[place] = rows.producer.operand(0)
    results = list(scan.outputs)
    written: list[int] = []
    for place, stack in enumerate(results[first:], first):
        transpose = stack.only_user
        axis = _axis_behind(transpose)
        written.append(axis or 0)
        if transpose is not None and axis is not None:
            results[place] = transpose.out
    if any((*read, *written)):
        _write(scan, operands, results, Axes(read, written))
    return sum(axis > 0 for axis in (*read, *written))


def _axis_in_front(scan: Node, rows: Value) -> int | None:
    """The axis that a Transpose for this Scan alone moves to the front; None where there is no such one.

    What something else uses too would be transposed once more.
    """
    perm = perm_of(rows.node)
    if perm is None or rows.only_user is not scan:
        return None
    return perm[0] if _keeps_order(perm[1:]) else None


def _axis_behind(transpose: Node | None) -> int | None:
    """The axis to which a Transpose moves the first one; None where it does something else."""
    perm = perm_of(transpose)
    if perm is None:
        return None
    others = tuple(axis for axis in perm if axis != 0)
    return perm.index(0) if _keeps_order(others) else None


def _keeps_order(axes: tuple[int, ...]) -> bool:
    """Return True where axes ascend."""
    return list(axes) == sorted(axes)


def _write(scan: Node, operands: list[Value], results: list[Value], axes: Axes) -> None:
    """Put a Scan along these axes in the place of one, and of what transposes its results."""
    attrs: dict[str, Attr] = dict(scan.attrs)
    if any(axes.read):
        attrs["scan_input_axes"] = tuple(axes.read)
    if any(axes.written):
        attrs["scan_output_axes"] = tuple(axes.written)
    op = Builder(scan.home, scan, scan.loc, scan.outputs[0].hint)
    types = [value.type for value in results]
    new = op.node("onnx.Scan", operands, attrs, types, list(scan.graphs))
    for old, value in zip(results, new.outputs, strict=True):
        value.hint = old.hint
        old.replace_by(value)
    transposes = [value.producer for value in results if value.node is not scan]
    for node in (*transposes, scan):
        node.erase()
