"""Scans as what they read, carry and stack, so that passes can add to these and take away."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr
from j2o.passes.clean.loops import end_of_carried
from j2o.passes.layout.perms import elements_to_move


@dataclass
class Carried:
    """What a Scan begins with, the body's input and result for it, and the result of the Scan."""

    first: Value
    old: Value
    new: Value
    out: Value


@dataclass
class ScannedRow:
    """A stack that a Scan reads, the body's input for one of its rows, and 1 where it reads from the end."""

    stack: Value
    row: Value
    is_backwards: int


@dataclass
class Stacked:
    """A result of the body, the stack of it that the Scan gives, and 1 where it writes from the end."""

    row: Value
    out: Value
    is_backwards: int


@dataclass
class Scan:
    """A Scan in its parts."""

    node: Node
    body: Graph
    carried: list[Carried]
    rows: list[ScannedRow]
    stacked: list[Stacked]

    @functools.cached_property
    def elements(self) -> float:
        """How many elements a round reads, rows and what is carried, at sizes that are typical."""
        return sum(elements_to_move(value) for value in self.body.inputs)

    def is_invariant(self, value: Value) -> bool:
        """Return True for what is the same in each round."""
        return is_the_same(self.body, value)

    def follow(self, old: Value, new: Value) -> None:
        """Let the results of the body that were one value be another."""
        for one in self.carried:
            if one.new is old:
                one.new = new
        for one in self.stacked:
            if one.row is old:
                one.row = new

    def drop_unused(self) -> None:
        """Let the body give the results that are listed here alone, and erase what no one of them needs."""
        body = self.body
        carried = [one.new for one in self.carried]
        body.set_outputs([*carried, *(one.row for one in self.stacked)])
        for node in reversed(body):
            if node.op != "return" and node.spec.pure and not node.used:
                node.erase()


def is_the_same(body: Graph, value: Value) -> bool:
    """Return True for what is the same in each round of a loop with this body."""
    return value.graph is not body or value.op in ("const", "dims")


def scans_along_first(graph: Graph) -> list[Node]:
    """The Scans that read and write along the first axis, as all do before `scan_axes`."""
    scans = [node for node in graph.holders if node.op == "onnx.Scan"]
    axes = ("scan_input_axes", "scan_output_axes")
    return [node for node in scans if not any(name in node.attrs for name in axes)]


def read_scan(node: Node) -> Scan:
    """The parts of a Scan."""
    body = node.graphs[0]
    inputs, results, outs = body.inputs, body.outputs, node.outputs
    carried: list[Carried] = []
    rows: list[ScannedRow] = []
    stacked: list[Stacked] = []
    first = end_of_carried(node)  # what is carried comes first, in all four
    for i in range(first):
        carried.append(Carried(node.operand(i), inputs[i], results[i], outs[i]))
    row_count = len(inputs) - first
    read = node.ints_attr("scan_input_directions", [0] * row_count)
    for i, direction in enumerate(read, first):
        rows.append(ScannedRow(node.operand(i), inputs[i], direction))
    stack_count = len(outs) - first
    written = node.ints_attr("scan_output_directions", [0] * stack_count)
    for i, direction in enumerate(written, first):
        stacked.append(Stacked(results[i], outs[i], direction))
    return Scan(node, body, carried, rows, stacked)


def write_scan(scan: Scan) -> None:
    """Put a Scan of these parts in the place of its node; what its body does not use any more goes.

    Results of the old node that are left out must have no users.
    """
    node, body = scan.node, scan.body
    scan.drop_unused()
    used = [one for one in scan.rows if one.row.uses]
    scan.rows = used or scan.rows[:1]  # a Scan reads something
    old_states = [one.old for one in scan.carried]
    rows = [one.row for one in scan.rows]
    _set_inputs(body, [*old_states, *rows])
    last_states = [one.out for one in scan.carried]
    stacks = [one.out for one in scan.stacked]
    outs = [*last_states, *stacks]
    first_states = [one.first for one in scan.carried]
    operands = [*first_states, *(one.stack for one in scan.rows)]
    if outs:
        op = Builder(node.home, node, node.loc, outs[0].hint)
        types = [out.type for out in outs]
        new = op.node("onnx.Scan", operands, _attributes(scan), types, [body])
        for old, value in zip(outs, new.outputs, strict=True):
            old.replace_by(value)
    node.erase()


def _attributes(scan: Scan) -> dict[str, Attr]:
    """The attributes of a Scan: how many rows it reads, and which it reads or writes backwards."""
    attrs: dict[str, Attr] = {"num_scan_inputs": len(scan.rows)}
    read = tuple(one.is_backwards for one in scan.rows)
    written = tuple(one.is_backwards for one in scan.stacked)
    if any(read):
        attrs["scan_input_directions"] = read
    if any(written):
        attrs["scan_output_directions"] = written
    return attrs


def _set_inputs(body: Graph, inputs: Iterable[Value]) -> None:
    """Let a body have these inputs; ValueError where one that goes is used."""
    kept = list(inputs)
    for value in body.inputs:
        if value not in kept and value.uses:
            raise ValueError(f"input %{value.hint} of a body is used")
    body.inputs[:] = kept
    for index, value in enumerate(kept):
        value.index = index
