"""`affine`: scales and shifts of channels go into the weights and the bias of a linear operator beside them.

    Conv(x, w, b) · scale + shift   becomes   Conv(x, w · scale, b · scale + shift)
    Conv(x · scale, w)              becomes   Conv(x, w · scale)

So a batch norm in evaluation disappears, the scale of attention becomes part of a projection's weights, and a
bias that is added behind a change of shape is added in front of it. `linear.py` tells what a linear operator
is, `scaled_results.py` what becomes of what stands behind it, `scaled_inputs.py` of what stands in front.
"""

from __future__ import annotations

from j2o.ir.graph import Graph
from j2o.passes.layout.linear import linear_of
from j2o.passes.layout.scaled_inputs import fold_input
from j2o.passes.layout.scaled_results import fold_output
from j2o.passes.pipeline import graph_pass


@graph_pass("affine", at="onnx", level=2)
def affine(graph: Graph) -> int:
    """Fold scales and shifts into the weights and biases of operators with a number for each channel."""
    count = 0
    for node in graph:
        linear = linear_of(node)
        if linear is not None:
            count += fold_input(linear)
            count += fold_output(linear)
    return count
