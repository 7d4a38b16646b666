"""Reductions, positions of extremes, and cumulative operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType, Type
from j2o.passes.lower.table import Lowering, lower, lower_with


def _reduce(op: Lowering, operator: str, x: Value, axes: Sequence[int], keepdims: int = 0) -> Value:
    if not axes:
        return x
    return op.apply(f"onnx.{operator}", x, np.asarray(axes, np.int64), keepdims=keepdims)


@lower("reduce_sum")
def reduce_sum(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Integers modulo 2**n: onnxruntime adds them as float64 and saturates, so that 64 bits are added as two halves."""
    dtype = x.type.dtype
    if dtype not in (DType.I64, DType.U64) or (x.op == "onnx.Cast" and x.node.inputs[0].type.dtype.bits <= 32):  # type: ignore[union-attr]
        return _in_wide(op, "ReduceSum", x, axes)
    whole = op.cast(x, DType.I64)
    low = op.Mod(whole, 2**32)
    high = _reduce(op, "ReduceSum", op.Div(op.Sub(whole, low), 2**32), axes)
    return op.cast(op.Add(op.Mul(high, 2**32), _reduce(op, "ReduceSum", low, axes)), dtype)


@lower("reduce_prod")
def reduce_prod(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    return _in_wide(op, "ReduceProd", x, axes)


def _in_wide(op: Lowering, operator: str, x: Value, axes: Sequence[int]) -> Value:
    """Sums and products of integers are those of wide signed ones, modulo 2**n."""
    dtype = x.type.dtype
    wide = op.cast(x, DType.I64) if dtype.is_int else x
    return op.cast(_reduce(op, operator, wide, axes), dtype)


@lower("reduce_max")
def reduce_max(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    return _extreme(op, "ReduceMax", x, axes)


@lower("reduce_min")
def reduce_min(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    return _extreme(op, "ReduceMin", x, axes)


def _extreme(op: Lowering, operator: str, x: Value, axes: Sequence[int]) -> Value:
    dtype = x.type.dtype
    if dtype in (DType.U32, DType.U64):  # in the order of signed integers, by the highest bit
        signed = DType(f"i{dtype.bits}")
        flip = int(np.iinfo(signed.numpy).min)
        turned = op.BitwiseXor(op.cast(x, signed), flip)
        return op.cast(op.BitwiseXor(_reduce(op, operator, turned, axes), flip), dtype)
    return _reduce(op, operator, x, axes)


@lower("reduce_and")
def reduce_and(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    return _bool_or_bits(op, x, axes, "ReduceMin", lax.bitwise_and, -1)


@lower("reduce_or")
def reduce_or(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    return _bool_or_bits(op, x, axes, "ReduceMax", lax.bitwise_or, 0)


@lower("reduce_xor")
def reduce_xor(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    if x.type.dtype == DType.BOOL:
        odd = op.BitwiseAnd(_reduce(op, "ReduceSum", op.cast(x, DType.I32), axes), 1)
        return op.cast(odd, DType.BOOL)
    return _bool_or_bits(op, x, axes, "", lax.bitwise_xor, 0)


def _bool_or_bits(
    op: Lowering, x: Value, axes: Sequence[int], operator: str, monoid: Callable[..., Any], unit: int
) -> Value:
    if x.type.dtype == DType.BOOL:
        return _counted(op, x, axes, operator) if axes else x
    return op.jax(_tree_reduce, x, axes=tuple(axes), monoid=monoid, unit=unit)


def _counted(op: Lowering, x: Value, axes: Sequence[int], operator: str) -> Value:
    """By counting, which is right for no elements too."""
    wanted = op.Not(x) if operator == "ReduceMin" else x
    count = _reduce(op, "ReduceSum", op.cast(wanted, DType.I32), axes)
    return op.Equal(count, 0) if operator == "ReduceMin" else op.Greater(count, 0)


def _tree_reduce(x: jax.Array, *, axes: Sequence[int], monoid: Callable[..., Any], unit: int) -> jax.Array:
    """Halve the axis until one is left; with a loop where its size is symbolic."""
    for axis in sorted(axes, reverse=True):
        n = x.shape[axis]
        start = jnp.full(x.shape[:axis] + x.shape[axis + 1 :], unit, x.dtype)
        if type(n) is not int:
            rows = jnp.moveaxis(x, axis, 0)
            x = lax.fori_loop(
                0, n, lambda i, acc, rows=rows: monoid(acc, lax.dynamic_index_in_dim(rows, i, 0, keepdims=False)), start
            )
            continue
        if n == 0:
            x = start
            continue
        while n > 1:
            half = n // 2
            merged = monoid(lax.slice_in_dim(x, 0, half, axis=axis), lax.slice_in_dim(x, half, 2 * half, axis=axis))
            x = merged if n % 2 == 0 else jnp.concatenate([merged, lax.slice_in_dim(x, n - 1, n, axis=axis)], axis)
            n = n - half
        x = jnp.squeeze(x, axis)
    return x


@lower("argmax")
def argmax(op: Lowering, x: Value, *, axes: Sequence[int], index_dtype: DType) -> Value:
    return _arg(op, "ArgMax", x, axes, index_dtype)


@lower("argmin")
def argmin(op: Lowering, x: Value, *, axes: Sequence[int], index_dtype: DType) -> Value:
    return _arg(op, "ArgMin", x, axes, index_dtype)


def _arg(op: Lowering, operator: str, x: Value, axes: Sequence[int], index_dtype: DType) -> Value:
    """The first extreme; a NaN counts as one, and the first of them wins."""
    (axis,) = axes
    dtype = x.type.dtype
    if dtype == DType.BOOL:
        x = op.cast(x, DType.I32)
    elif dtype in (DType.U32, DType.U64):
        signed = DType(f"i{dtype.bits}")
        x = op.BitwiseXor(op.cast(x, signed), int(np.iinfo(signed.numpy).min))
    elif dtype.is_float and dtype not in (DType.F32, DType.F64):
        x = op.cast(x, DType.F32)
    index = op.apply(f"onnx.{operator}", x, axis=axis, keepdims=0)
    if dtype.is_float:
        nan = op.cast(op.IsNaN(x), DType.I32)
        has_nan = op.Greater(_reduce(op, "ReduceMax", nan, [axis]), 0)
        index = op.Where(has_nan, op.ArgMax(nan, axis=axis, keepdims=0), index)
    return op.cast(index, index_dtype)


# ------------------------------------------------------------------------------------ any monoid, loops


@lower("reduce")
def reduce(op: Lowering, *operands: Value, dimensions: Sequence[int], **_: Any) -> Sequence[Value]:
    """`lax.reduce` with a computation of the user's: a loop over the reduced elements, flattened."""
    n = len(operands) // 2
    arrays, inits = operands[:n], operands[n:]
    shape = arrays[0].type.shape
    keep = [i for i in range(len(shape)) if i not in dimensions]
    size = dims.prod(shape[d] for d in dimensions)
    rest = tuple(shape[i] for i in keep)
    rows = [op.reshape(op.transpose(a, [*dimensions, *keep]), (size, *rest)) for a in arrays]
    region = op.source.graphs[0]

    def body(inner: Lowering, i: Value, c: Value, *acc: Value) -> list[Value]:
        items = [inner.Gather(r, i, axis=0) for r in rows]
        return [c, *apply_elementwise(inner, region, [*acc, *items])]

    start = [op.expand(v, rest) for v in inits]
    graph = op.region("reduce", [Type(DType.I64, ()), Type(DType.BOOL, ()), *(v.type for v in start)], body)
    out = op.apply(
        "onnx.Loop", op.dim(size), op.const(True, DType.BOOL), *start, graphs=[graph], types=[v.type for v in start]
    )
    return [out] if isinstance(out, Value) else list(out)


def apply_elementwise(op: Lowering, region: Any, args: Sequence[Value]) -> list[Value]:
    """The nodes of a region over scalars, made again over arrays; its shapes are those of `args`."""
    values: dict[Any, Any] = dict(zip(region.inputs, args, strict=True))
    for node in region:
        if node.op == "return":
            break
        inputs = [values.get(v, v) if v is not None else None for v in node.inputs]
        if node.op in ("const", "dims") or node.graphs or not node.spec.elementwise:
            made = op.node(node.op, inputs, node.attrs, [v.type for v in node.outputs])
        else:
            made = op.node(node.op, inputs, node.attrs)
        values.update(zip(node.outputs, made.outputs, strict=True))
    shape = args[0].type.shape
    return [op.expand(values.get(v, v), shape) for v in region.outputs]


@lower("cumsum")
def cumsum(op: Lowering, x: Value, *, axis: int, reverse: bool) -> Value:
    dtype = x.type.dtype
    if dtype.is_unsigned or (dtype.bits < 32 and dtype.is_int):
        wide = DType.I64 if dtype.bits >= 32 else DType.I32
        return op.cast(op.CumSum(op.cast(x, wide), np.array(axis), reverse=int(reverse)), dtype)
    return op.CumSum(x, np.array(axis), reverse=int(reverse))


def _cumulative(monoid: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def fn(x: jax.Array, *, axis: int, reverse: bool) -> jax.Array:
        n = x.shape[axis]
        if type(n) is int:
            return lax.associative_scan(monoid, x, reverse=reverse, axis=axis)
        rows = jnp.moveaxis(x, axis, 0)

        def step(carry: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            out = monoid(carry, row)
            return out, out

        return jnp.moveaxis(lax.scan(step, _unit(monoid, rows), rows, reverse=reverse)[1], 0, axis)

    return fn


def _unit(monoid: Callable[[Any, Any], Any], rows: jax.Array) -> jax.Array:
    """What changes nothing, in the shape of one row."""
    dtype = rows.dtype
    if jnp.issubdtype(dtype, jnp.floating):
        low, high = -np.inf, np.inf
    else:
        low, high = (False, True) if jnp.issubdtype(dtype, jnp.bool_) else (jnp.iinfo(dtype).min, jnp.iinfo(dtype).max)
    return jnp.full(rows.shape[1:], {lax.mul: 1, lax.max: low, lax.min: high, jnp.logaddexp: low}[monoid], dtype)


lower_with("cumprod")(_cumulative(lax.mul))
lower_with("cummax")(_cumulative(lax.max))
lower_with("cummin")(_cumulative(lax.min))
lower_with("cumlogsumexp")(_cumulative(jnp.logaddexp))


@lower_with("reduce_logsumexp")
def reduce_logsumexp(x: jax.Array, *, axes: Sequence[int]) -> jax.Array:
    return jax.nn.logsumexp(x, axis=tuple(axes))
