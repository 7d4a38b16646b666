"""Where Loop and Scan have what they carry from round to round.

Loop (rounds, go_on, carried…)   body(step, go_on, carried…) -> (go_on, carried…, stacked…)
Scan (carried…, stacks…)         body(carried…, rows…) -> (carried…, stacked…)
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir.graph import Node


class CarriedPlaces(NamedTuple):
    """Where what is carried begins: among operands as among the body's inputs, and among its results."""

    input: int
    result: int


CARRIED = {
    "onnx.Loop": CarriedPlaces(input=2, result=1),
    "onnx.Scan": CarriedPlaces(input=0, result=0),
}


def end_of_carried(loop: Node) -> int:
    """The place behind what is carried, among the operands and among the body's inputs."""
    return len(loop.inputs) - loop.int_attr("num_scan_inputs", 0)
