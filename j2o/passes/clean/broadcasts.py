"""`broadcasts`: elementwise operators broadcast by themselves, so Expands before them go."""

from __future__ import annotations

from j2o.ir.graph import Graph, Node
from j2o.ir.infer import broadcast_shape
from j2o.ir.types import is_one, same_shape
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

BROADCASTING = frozenset(
    f"onnx.{kind}"
    for kind in (
        "Add Sub Mul Div Pow Mod Max Min And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where "
        "BitwiseAnd BitwiseOr BitwiseXor"
    ).split()
)


@graph_pass("broadcasts", at="onnx", level=1)
def broadcasts(graph: Graph, context: Context) -> int:
    """Elementwise operators and MatMul broadcast by themselves: take Expands, and leading axes of size 1, off operands."""
    count = 0
    for node in context.fresh(graph, broadcasts, 1):
        if node.op in BROADCASTING:
            for index in range(len(node.inputs)):
                count += _unexpand(node, index)
        elif node.op == "onnx.MatMul":
            for index in range(2):
                count += _unexpand_matmul(node, index)
    return count


def _unexpand(node: Node, index: int) -> int:
    value = node.inputs[index]
    others = [
        v.type.shape for i, v in enumerate(node.inputs) if i != index and v is not None
    ]
    count = 0
    while value is not None and value.node is not None:
        source = value.node.inputs[0] if value.node.inputs else None
        if source is None or not (
            value.op == "onnx.Expand" or _adds_leading_ones(value.node)
        ):
            break
        shape = broadcast_shape([source.type.shape, *others])
        if shape is None or not same_shape(shape, node.out.type.shape):
            break
        node.set_input(index, source)
        value, count = source, count + 1
    return count


def _adds_leading_ones(node: Node) -> bool:
    if node.op not in ("onnx.Unsqueeze", "onnx.Reshape") or node.inputs[0] is None:
        return False
    before, after = node.inputs[0].type.shape, node.out.type.shape
    extra = len(after) - len(before)
    return (
        extra > 0
        and all(map(is_one, after[:extra]))
        and same_shape(after[extra:], before)
    )


def _unexpand_matmul(node: Node, index: int) -> int:
    value, other = node.inputs[index], node.inputs[1 - index]
    if (
        value is None
        or other is None
        or value.op != "onnx.Expand"
        or value.type.rank < 3
    ):
        return 0
    source = value.node.inputs[0]  # type: ignore[union-attr]
    if (
        source is None
        or source.type.rank < 2
        or source.type.shape[-2:] != value.type.shape[-2:]
    ):
        return 0
    if (
        broadcast_shape([source.type.shape[:-2], other.type.shape[:-2]])
        != node.out.type.shape[:-2]
    ):
        return 0
    node.set_input(index, source)
    return 1
