"""Scans as Loops, for a target whose Scan is not right: OpenVINO's writes `row + state` over the next row.

Scan (states…, stacks…)         body(states…, rows…) -> (states…, rows…)
Loop (length, none, states…)    body(step, go_on, states…) -> (go_on, states…, rows…), with row = stack[step]
"""

from __future__ import annotations

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.target import Target
from j2o.passes.layout.scans import Scan, read_scan
from j2o.passes.lower.control import add_loop_inputs, capture
from j2o.passes.lower.shape import TO_THE_FRONT


def scan_as_loop(node: Node, target: Target) -> bool:
    """A Loop whose body looks its rows up by the number of the round, where the target has no Scan."""
    if target.has("onnx.Scan"):
        return False
    scan = read_scan(node)
    op = Builder(node.home, node, node.loc, node.outputs[0].hint)
    length = _look_rows_up(op, scan)
    states = [one.first for one in scan.carried]
    types = [one.out.type for one in scan.carried]
    axes = node.ints_attr("scan_output_axes", [0] * len(scan.stacked))
    for one, axis in zip(scan.stacked, axes, strict=True):
        sizes = list(one.out.type.shape)
        sizes.insert(0, sizes.pop(axis))
        types.append(one.out.type.with_shape(tuple(sizes)))
    loop = op.node("onnx.Loop", [length, None, *states], {}, types, [scan.body])
    results = list(loop.outputs)
    for place, (one, axis) in enumerate(zip(scan.stacked, axes, strict=True)):
        place += len(states)
        results[place] = _stacked(op, results[place], one.is_backwards, axis)
    node.replace_by(*results)
    return True


def _look_rows_up(op: Builder, scan: Scan) -> Value:
    """Let the body take its rows from the stacks, by the number of the round; how many there are."""
    node, body = scan.node, scan.body
    axes = node.ints_attr("scan_input_axes", [0] * len(scan.rows))
    first = scan.rows[0].stack
    length = op.squeeze(op.Shape(first, start=axes[0], end=axes[0] + 1), [0])
    last = op.Sub(length, 1) if any(one.is_backwards for one in scan.rows) else None
    step, go_on = add_loop_inputs(body)
    inner = Builder(body, body.start, node.loc)
    place = 2 + len(scan.carried)
    for one, axis in zip(scan.rows, axes, strict=True):
        index = step
        if one.is_backwards:
            assert last is not None
            index = inner.Sub(last, step)
        capture(body, place, [inner.Gather(one.stack, index, axis=axis)])
    body.set_outputs([go_on, *body.outputs])
    return length


def _stacked(op: Builder, rows: Value, is_backwards: int, axis: int) -> Value:
    """What a Loop stacks along its first axis as a Scan gives it: turned around, along another axis."""
    if is_backwards:
        bounds = [np.array([number]) for number in (-1, TO_THE_FRONT, 0, -1)]
        rows = op.Slice(rows, *bounds)
    perm = list(range(1, rows.type.rank))
    perm.insert(axis, 0)
    return op.transpose(rows, perm)
