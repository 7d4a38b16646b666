"""Contractions: dot_general as one MatMul between transposes and reshapes that mostly vanish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape
from j2o.passes.lower.casts import convert
from j2o.passes.lower.table import Lowering, lower

MATMUL = {DType.F32, DType.F64, DType.I32, DType.I64, DType.U32, DType.U64}


@lower("dot_general")
def dot_general(
    op: Lowering, x: Value, y: Value, *, dimension_numbers: Any, preferred_element_type: DType | None = None, **_: Any
) -> Value:
    """`out[batch…, x free…, y free…]`, summed over the contracted axes, in the result's dtype."""
    (x_contract, y_contract), (x_batch, y_batch) = dimension_numbers
    dtype = accumulator(op, x, y, preferred_element_type)
    x, y = (_as(op, v, dtype) for v in (x, y))
    out = contract(op, x, y, x_contract, y_contract, x_batch, y_batch)
    return convert(op, op.reshape(out, op.out_shape), op.out_dtype)


def accumulator(op: Lowering, x: Value, y: Value, preferred: DType | None) -> DType:
    """The dtype to multiply and sum in: wide enough for the operands and the result."""
    if op.out_dtype == DType.BOOL:
        return DType.I32
    if op.out_dtype.is_float:
        wide = [v.type.dtype for v in (x, y)] + [op.out_dtype]
        return DType.F64 if DType.F64 in wide else DType.F32
    if op.out_dtype in MATMUL:
        return op.out_dtype
    return DType.U32 if op.out_dtype.is_unsigned else DType.I32


def _as(op: Lowering, x: Value, dtype: DType) -> Value:
    """A conversion to a wider dtype."""
    return op.cast(x, dtype)


def contract(
    op: Lowering,
    x: Value,
    y: Value,
    x_contract: Sequence[int],
    y_contract: Sequence[int],
    x_batch: Sequence[int],
    y_batch: Sequence[int],
) -> Value:
    """A MatMul; its result has the right elements in the right order, if not yet the right shape."""
    xs, ys = x.type.shape, y.type.shape
    x_free = [i for i in range(len(xs)) if i not in x_contract and i not in x_batch]
    y_free = [i for i in range(len(ys)) if i not in y_contract and i not in y_batch]
    if not x_contract:  # an outer product
        left = _arranged(op, x, [*x_batch, *x_free], (*_sizes(xs, x_batch), *_sizes(xs, x_free), *(1,) * len(y_free)))
        right = _arranged(op, y, [*y_batch, *y_free], (*_sizes(ys, y_batch), *(1,) * len(x_free), *_sizes(ys, y_free)))
        return op.Mul(left, right)
    k = dims.prod(_sizes(xs, x_contract))
    batch = _sizes(xs, x_batch)
    n = dims.prod(_sizes(ys, y_free))
    # a matrix on the right needs no flattening of the left: MatMul takes any number of leading axes
    keep = not batch
    left_shape = (*_sizes(xs, x_free), k) if keep and x_free else (*batch, dims.prod(_sizes(xs, x_free)), k)
    left = _arranged(op, x, [*x_batch, *x_free, *x_contract], left_shape)
    right = _arranged(op, y, [*y_batch, *y_contract, *y_free], (*batch, k, n))
    return op.MatMul(left, right)


def _sizes(shape: Shape, axes: Sequence[int]) -> tuple[Dim, ...]:
    return tuple(shape[a] for a in axes)


def _arranged(op: Lowering, x: Value, order: Sequence[int], shape: Shape) -> Value:
    return op.reshape(op.transpose(x, order), shape)


@lower("ragged_dot_general", "ragged_dot")
def ragged_dot(op: Lowering, x: Value, y: Value, sizes: Value, **params: Any) -> Value:
    """Rows of `x` in consecutive groups, each times its own matrix of `y`: a masked contraction over all groups."""
    return op.jax(_ragged, x, y, sizes, dtype=op.out_dtype)


def _ragged(x: Any, y: Any, sizes: Any, *, dtype: DType) -> Any:
    import jax.numpy as jnp

    ends = jnp.cumsum(sizes)
    row = jnp.arange(x.shape[-2])[:, None]
    mine = (row < ends[None]) & (row >= (ends - sizes)[None])
    parts = jnp.einsum("mk,gkn->gmn", x, y, preferred_element_type=dtype.numpy)
    return jnp.where(mine.T[:, :, None], parts, 0).sum(0).astype(dtype.numpy)
