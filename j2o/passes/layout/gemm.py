"""`gemm`: products of matrices take in the bias that follows them.

A MatMul of two matrices with a bias becomes a Gemm.
"""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node
from j2o.passes.pipeline import graph_pass


@graph_pass("gemm", at="onnx", level=2)
def gemm(graph: Graph) -> int:
    """MatMul and Add of matrices to Gemm."""
    count = 0
    for node in graph.nodes_of("onnx.MatMul"):
        count += _to_gemm(node)
    return count


def _to_gemm(node: Node) -> int:
    """MatMul of two matrices and an Add of a constant vector or matrix → Gemm; returns how many were made."""
    a, b = node.operand(0), node.operand(1)
    if a.type.rank != 2 or b.type.rank != 2 or not node.out.type.dtype.is_float:
        return 0
    add = node.out.only_user
    if add is None or add.op != "onnx.Add" or add.out.type != node.out.type:
        return 0
    first, second = add.operand(0), add.operand(1)
    bias = second if first is node.out else first
    if bias.const is None or bias.type.rank > 2:
        return 0
    op = Builder(node.home, add, node.loc, add.out.hint)
    add.replace_by(op.Gemm(a, b, bias))
    return 1
