"""Rules of `shapes` for sums that are divided by how many there are: ReduceMean, AveragePool, and counts."""

from __future__ import annotations

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, DType, from_zero
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.matching import fits_number
from j2o.passes.rewriting.rule import rewrite

# a chain of these hands the number in a scalar on
HANDING_ON = RESHAPES | {"onnx.Cast"}
WINDOWS = (
    "auto_pad",
    "ceil_mode",
    "count_include_pad",
    "dilations",
    "kernel_shape",
    "pads",
    "strides",
)


@rewrite("mean", level=2)
def mean(op, x, axes, keep, n):
    """A sum divided by how many there are."""
    total = op.ReduceSum(x, axes, keepdims=keep)
    return op.either(op.Div(total, n), op.Mul(total, n))


@mean.becomes
def _(op, x, axes, keep, n):
    # a float16 sum overflows where ReduceMean, which adds in float32, does not; no axes mean all of them
    if not axes.known or x.type.dtype not in (DType.F32, DType.F64):
        return None
    count = dims.prod(x.type.shape[a] for a in from_zero(axes.known, x.type.rank))
    if not dims.known_ge(count, 1):  # the mean of nothing is NaN, ReduceMean's is 0
        return None
    multiplies = op.root.op == "onnx.Mul"
    if not (_is_inverse_of(n, count) if multiplies else _is_count(n, count)):
        return None
    return op.ReduceMean(x, axes, keepdims=keep)


@rewrite("average", level=2)
def average(op, x, number: Const, again: Const, perm):
    """An average times how many there are, divided by how many: as `flax.linen.avg_pool` divides a sum."""
    pooled = op.AveragePool(x, **dict.fromkeys(WINDOWS, ...))
    moved = op.either(op.Transpose(pooled, perm=perm), pooled)
    own = op.either(op.Slice(moved, ...), moved)  # of open sizes
    return op.Div(op.Mul(own, number), again)


@average.becomes
def _(op, x, number, again, perm):
    """It is rounded once, not three times; a sum may overflow where the average does not."""
    n = number.number
    if n is None or n != again.number or not np.isfinite(n) or n < 1:
        return None
    left, right = op.root.operand(0).producer.operands
    return right if left.const is not None else left


@rewrite("count_is_positive", level=1, shared=True)
def count_is_positive(op, n, x, y):
    """What is taken where there are elements, as `jnp.var` asks before it divides by their number."""
    return op.Where(op.Greater(n, 0.0), x, y)


@count_is_positive.becomes
def _(op, n, x, _y):
    # JAX counts in int32, and so takes a tensor to have fewer than 2³¹ elements
    count = size_of(n)
    if count is None or not dims.known_ge(count, 1):
        return None
    return op.expand(x, op.out_type.shape)


def _is_inverse_of(factor: Value, count: Dim) -> bool:
    """Return True where a constant is 1 / `count`, rounded to its dtype."""
    return type(count) is int and fits_number(1 / count, factor)


def _is_count(divisor: Value, count: Dim) -> bool:
    """Return True where a value is `count`, rounded to its dtype where that is a number."""
    if type(count) is int:
        return fits_number(count, divisor)
    return size_of(divisor) == count


def size_of(value: Value) -> Dim | None:
    """The size that a scalar holds: `Cast(Reshape(dims [n]))`.

    None where it holds something else, or a narrow dtype on the way may not hold it.
    """
    node = value.node
    while node is not None and node.op in HANDING_ON:
        if node.out.type.dtype.bits < 32:
            return None
        source = node.operand(0)
        if source.known is not None:
            return source.known[0] if len(source.known) == 1 else None
        node = source.node
    return None


MEANS = (mean, average, count_is_positive)
