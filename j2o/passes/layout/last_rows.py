"""`last_rows`: the last of the rows that a loop stacks is what the loop carries to its end.

A program that takes `hs[-1]` of the states of all steps needs the last one alone:

    h, hs = Scan(…);  Gather(hs, n - 1)   becomes   h
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.clean.loops import end_of_carried
from j2o.passes.clean.means import size_of
from j2o.passes.layout.perms import perm_of
from j2o.passes.layout.scans import scans_along_first
from j2o.passes.pipeline import graph_pass


@graph_pass("last_rows", at="onnx", level=2)
def last_rows(graph: Graph) -> int:
    """Give the final state of a Scan to those who take the last row of the states of all steps."""
    count = 0
    for node in scans_along_first(graph):
        for stack in _stacks(node):
            count += _give_final(stack)
    return count


class Stack(NamedTuple):
    """The states of all steps, the final one, and where that stands."""

    rows: Value
    final: Value
    last: Dim


def _stacks(node: Node) -> Iterator[Stack]:
    """What a Scan stacks of what it carries."""
    results = node.graphs[0].outputs
    states = end_of_carried(node)
    directions = node.ints_attr("scan_output_directions", [0] * len(results))
    finals = dict(zip(results[:states], node.outputs, strict=False))
    for place in range(states, len(results)):
        final = finals.get(results[place])
        if final is not None:
            rows = node.outputs[place]
            is_backwards = directions[place - states]
            last = 0 if is_backwards else dims.sub(rows.type.shape[0], 1)
            yield Stack(rows, final, last)


def _give_final(stack: Stack) -> int:
    """Let those who take the last row take the final state; returns how many did."""
    count = 0
    rank = stack.rows.type.rank
    for user in list(stack.rows.users()):
        perm = perm_of(user)
        if perm is None:
            count += _replace(stack, user, tuple(range(rank)))
        else:
            for taker in list(user.out.users()):
                count += _replace(stack, taker, perm)
    return count


def _replace(stack: Stack, user: Node, perm: tuple[int, ...]) -> int:
    """Replace a node by the final state, if it takes the last of the rows, their axes in this order."""
    axis = perm.index(0)
    if user.graph is not stack.rows.graph or not _takes_last(stack, user, axis):
        return 0
    op = Builder(user.home, user, user.loc, user.outputs[0].hint)
    order = [place - 1 for place in perm if place]
    row = op.transpose(stack.final, order)
    user.replace_by(op.reshape(row, user.out.type.shape))
    return 1


def _takes_last(stack: Stack, user: Node, axis: int) -> bool:
    """Return True for a Gather or a Slice of the last row along an axis."""
    if user.op == "onnx.Gather":
        has_axis = user.int_attr("axis", 0) % stack.rows.type.rank == axis
        return has_axis and _is_last(stack, user.operand(1))
    if user.op != "onnx.Slice" or len(user.operands) < 4:
        return False
    if user.operand(3).known_ints not in ((axis,), (axis - stack.rows.type.rank,)):
        return False
    is_one_row = same_dim(user.out.type.shape[axis], 1)
    return is_one_row and _is_last(stack, user.operand(1))


def _is_last(stack: Stack, index: Value) -> bool:
    """Return True where an index is that of the last row; -1 is, from the start on."""
    if index.type.size != 1:
        return False
    entries = index.known
    number = size_of(index) if entries is None else entries[0]
    if number is None:
        return False
    is_from_end = type(number) is int and number == -1 and stack.last != 0
    return is_from_end or same_dim(number, stack.last)
