"""Operators of onnxruntime alone (domain com.microsoft), at level 3, where its kernels take the dtype."""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Value
from j2o.ir.target import Target
from j2o.passes.context import Context
from j2o.passes.layout.perms import perm_of
from j2o.passes.pipeline import graph_pass
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleSet, rewrite


@graph_pass("fused_matmul", at="onnx", level=3)
def fused_matmul(graph: Graph, context: Context) -> int:
    """MatMul takes in the transposes of the last two axes of its operands."""
    count = 0
    for node in graph:
        if node.op != "onnx.MatMul":
            continue
        if not _has_kernel(context.target, "FusedMatMul", node.out):
            continue
        a, b = node.operand(0), node.operand(1)
        x, y = _untransposed(a), _untransposed(b)
        if x is not a or y is not b:
            op = Builder(graph, node, node.loc, node.out.hint)
            flips = {"transA": int(x is not a), "transB": int(y is not b)}
            node.replace_by(op.ort.FusedMatMul(x, y, **flips))
            count += 1
    return count


def _has_kernel(target: Target | None, kind: str, value: Value) -> bool:
    """Return True where the target has an operator of onnxruntime's own for a value."""
    return target is not None and target.supports(f"ort.{kind}", value.type.dtype)


def _untransposed(x: Value) -> Value:
    """The value that `x` is the transpose of in its last two axes; `x` itself where it is none."""
    rank = x.type.rank
    if perm_of(x.node) != (*range(rank - 2), rank - 1, rank - 2):
        return x
    return x.producer.operand(0)


@rewrite("quick_gelu", level=3)
def quick_gelu(op, x, alpha: Const):
    """x σ(α x), with α = 1 the Silu."""
    inner = op.either(op.Mul(x, alpha), x)
    return op.Mul(x, op.Sigmoid(inner))


@quick_gelu.becomes
def _(op, x, alpha):
    if not _has_kernel(op.target, "QuickGelu", x):
        return None
    if alpha is None:
        return op.ort.QuickGelu(x, alpha=1.0)
    if alpha.type.size != 1:
        return None
    return op.ort.QuickGelu(x, alpha=float(alpha.const.scalar))


@rewrite("bias_gelu", level=3)
def bias_gelu(op, x, bias, approximate):
    """Gelu(x + bias), with one bias for each place of the last axis."""
    return op.Gelu(op.Add(x, bias), approximate=approximate)


@bias_gelu.becomes
def _(op, x, bias, approximate):
    kind = "FastGelu" if approximate == "tanh" else "BiasGelu"
    if bias.type.rank != 1 or bias.type.shape != x.type.shape[-1:]:
        return None
    if not _has_kernel(op.target, kind, x):
        return None
    return getattr(op.ort, kind)(x, bias)


contrib_activations = RuleSet(
    "contrib", (quick_gelu, bias_gelu), level=3, doc="Activations of onnxruntime's own."
)
