"""Operators that onnxruntime alone has (domain com.microsoft), for level 3, where its kernels take the dtype."""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Value
from j2o.ir.target import Target
from j2o.passes.context import Context
from j2o.passes.layout.transposes import perm_of
from j2o.passes.pipeline import graph_pass
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleSet, rewrite


@graph_pass("fused_matmul", at="onnx", level=3)
def fused_matmul(graph: Graph, context: Context) -> int:
    """MatMul takes in the transposes of the last two axes of its operands."""
    count = 0
    for node in graph:
        if node.op != "onnx.MatMul" or not _has_kernel(
            context.target, "FusedMatMul", node.out
        ):
            continue
        (x, flip_x), (y, flip_y) = map(_untransposed, node.inputs)
        if flip_x or flip_y:
            op = Builder(graph, node, node.loc, node.out.hint)
            node.replace_by(
                op.ort.FusedMatMul(x, y, transA=int(flip_x), transB=int(flip_y))
            )
            count += 1
    return count


def _has_kernel(target: Target | None, kind: str, value: Value) -> bool:
    return target is not None and target.supports(f"ort.{kind}", value.type.dtype)


def _untransposed(x: Value | None) -> tuple[Value | None, bool]:
    """What `x` is the transpose of in its last two axes, where it is one."""
    if (
        x is None
        or x.node is None
        or perm_of(x.node)
        != (*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2)
    ):
        return x, False
    return x.node.inputs[0], True


@rewrite("quick_gelu", level=3)
def quick_gelu(op, x, alpha: Const):
    return op.Mul(x, op.Sigmoid(op.either(op.Mul(x, alpha), x)))


@quick_gelu.becomes
def _(op, x, alpha):
    if not _has_kernel(op.target, "QuickGelu", x) or (
        alpha is not None and alpha.type.size != 1
    ):
        return None
    return op.ort.QuickGelu(
        x, alpha=1.0 if alpha is None else float(alpha.const.scalar)
    )


@rewrite("bias_gelu", level=3)
def bias_gelu(op, x, bias, approximate):
    return op.Gelu(op.Add(x, bias), approximate=approximate)


@bias_gelu.becomes
def _(op, x, bias, approximate):
    kind = "FastGelu" if approximate == "tanh" else "BiasGelu"
    if (
        bias.type.rank != 1
        or bias.type.shape != x.type.shape[-1:]
        or not _has_kernel(op.target, kind, x)
    ):
        return None
    return getattr(op.ort, kind)(x, bias)


activations = RuleSet(
    "contrib", (quick_gelu, bias_gelu), level=3, doc="Activations of onnxruntime's own."
)
