"""Reductions, positions of extremes, and cumulative operations."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Type, dtype_of
from j2o.passes.lower.table import Lowering, lower, lower_with


def limits(dtype: DType) -> tuple[Any, Any]:
    """The least and the greatest value, the units of max and min."""
    if dtype.is_float or dtype == DType.BOOL:
        return (-np.inf, np.inf) if dtype.is_float else (False, True)
    info = jnp.iinfo(dtype.numpy)
    return int(info.min), int(info.max)


def _reduce(op: Lowering, operator: str, x: Value, axes: Sequence[int]) -> Value:
    if not axes:
        return x
    return op.apply(f"onnx.{operator}", x, np.asarray(axes, np.int64), keepdims=0)


@lower("reduce_sum")
def reduce_sum(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Integers as wide ones, modulo 2**n: onnxruntime adds these as float64 and saturates, so 64 bits go as two halves."""
    dtype = x.type.dtype
    if not dtype.is_int:
        return _reduce(op, "ReduceSum", x, axes)
    whole = op.cast(x, DType.I64)
    if dtype.bits < 64 or (
        x.op == "onnx.Cast" and x.node.inputs[0].type.dtype.bits <= 32
    ):  # type: ignore[union-attr]
        return op.cast(_reduce(op, "ReduceSum", whole, axes), dtype)
    low = op.Mod(whole, 2**32)
    high = _reduce(op, "ReduceSum", op.Div(op.Sub(whole, low), 2**32), axes)
    return op.cast(
        op.Add(op.Mul(high, 2**32), _reduce(op, "ReduceSum", low, axes)), dtype
    )


@lower("reduce_prod")
def reduce_prod(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Integers by halving: onnxruntime multiplies them as float64, which keeps 53 bits of a product that wraps."""
    if x.type.dtype.is_int:
        return op.jax(_tree_reduce, x, axes=tuple(axes), kind="mul")
    return _reduce(op, "ReduceProd", x, axes)


def _extreme(operator: str) -> Callable[..., Value]:
    def rule(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
        signed, flip = _as_signed(op, x)
        if flip is None:
            return _reduce(op, operator, x, axes)
        return op.cast(
            op.BitwiseXor(_reduce(op, operator, signed, axes), flip), x.type.dtype
        )

    return rule


def _as_signed(op: Lowering, x: Value) -> tuple[Value, int | None]:
    """Integers that have no kernel as signed ones of the same order, by the highest bit, which is returned as well."""
    dtype = x.type.dtype
    if dtype not in (DType.U32, DType.U64):
        return x, None
    signed = DType(f"i{dtype.bits}")
    flip = int(np.iinfo(signed.numpy).min)
    return op.BitwiseXor(op.cast(x, signed), flip), flip


reduce_max = lower("reduce_max")(_extreme("ReduceMax"))
reduce_min = lower("reduce_min")(_extreme("ReduceMin"))


MONOIDS = {
    "mul": (lax.mul, 1),
    "and": (lax.bitwise_and, -1),
    "or": (lax.bitwise_or, 0),
    "xor": (lax.bitwise_xor, 0),
}


@lower("reduce_and", "reduce_or", "reduce_xor")
def logical(op: Lowering, x: Value, *, axes: Sequence[int], **_: Any) -> Value:
    """Of booleans by counting, which is right for no elements too; of bits by halving."""
    kind = op.source.kind.removeprefix("reduce_")
    if x.type.dtype != DType.BOOL:
        return op.jax(_tree_reduce, x, axes=tuple(axes), kind=kind)
    if not axes:
        return x
    count = _reduce(
        op, "ReduceSum", op.cast(op.Not(x) if kind == "and" else x, DType.I32), axes
    )
    if kind == "xor":
        return op.cast(op.BitwiseAnd(count, 1), DType.BOOL)
    return op.Equal(count, 0) if kind == "and" else op.Greater(count, 0)


def _tree_reduce(x: jax.Array, *, axes: Sequence[int], kind: str) -> jax.Array:
    """Halve each axis until one is left; with a loop where its size is symbolic."""
    monoid, unit = MONOIDS[kind]
    for axis in sorted(axes, reverse=True):
        n, part, odd = x.shape[axis], functools.partial(lax.slice_in_dim, axis=axis), []
        start = jnp.full(x.shape[:axis] + x.shape[axis + 1 :], unit, x.dtype)
        if type(n) is not int:
            x = lax.scan(
                lambda acc, row: (monoid(acc, row), None),
                start,
                jnp.moveaxis(x, axis, 0),
            )[0]
            continue
        while n > 1:
            odd += [part(x, n - 1, n)] if n % 2 else []
            n //= 2
            x = monoid(part(x, 0, n), part(x, n, 2 * n))
        x = functools.reduce(monoid, odd, x).squeeze(axis) if n else start
    return x


@lower("argmax", "argmin")
def arg_extreme(
    op: Lowering, x: Value, *, axes: Sequence[int], index_dtype: DType
) -> Value:
    """The first extreme; a NaN counts as one, and the first of them wins."""
    (axis,) = axes
    dtype = x.type.dtype
    if dtype == DType.BOOL:
        x = op.cast(x, DType.I32)
    elif dtype.is_float and dtype not in (DType.F32, DType.F64):
        x = op.cast(x, DType.F32)
    x, _ = _as_signed(op, x)
    index = op.apply(
        f"onnx.Arg{op.source.kind[3:].capitalize()}", x, axis=axis, keepdims=0
    )
    if dtype.is_float:
        nan = op.cast(op.IsNaN(x), DType.I32)
        has_nan = op.Greater(_reduce(op, "ReduceMax", nan, [axis]), 0)
        index = op.Where(has_nan, op.ArgMax(nan, axis=axis, keepdims=0), index)
    return op.cast(index, index_dtype)


# ------------------------------------------------------------------------------------ any monoid, loops


@lower("reduce")
def reduce(
    op: Lowering, *operands: Value, dimensions: Sequence[int], **_: Any
) -> Sequence[Value]:
    """`lax.reduce` with a computation of the user's: a loop over the reduced elements, flattened."""
    n = len(operands) // 2
    arrays, inits = operands[:n], operands[n:]
    shape = arrays[0].type.shape
    keep = [i for i in range(len(shape)) if i not in dimensions]
    size = dims.prod(shape[d] for d in dimensions)
    rest = tuple(shape[i] for i in keep)
    rows = [
        op.reshape(op.transpose(a, [*dimensions, *keep]), (size, *rest)) for a in arrays
    ]
    region = op.source.graphs[0]

    def body(inner: Lowering, i: Value, *acc: Value) -> list[Value]:
        return apply_elementwise(
            inner, region, [*acc, *(inner.Gather(r, i, axis=0) for r in rows)]
        )

    return loop(op, size, [op.expand(v, rest) for v in inits], body)


def loop(
    op: Lowering, count: Dim, start: Sequence[Value], body: Callable[..., list[Value]]
) -> Sequence[Value]:
    """The state after `count` rounds of `body(op, round, *state) -> state`."""
    types = [v.type for v in start]
    inputs = [Type(DType.I64, ()), Type(DType.BOOL, ()), *types]
    graph = op.region(
        "body", inputs, lambda op, i, go_on, *state: [go_on, *body(op, i, *state)]
    )
    return op.node(
        "onnx.Loop",
        [op.dim(count), op.const(True, DType.BOOL), *start],
        {},
        types,
        [graph],
    ).outputs


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
        return op.cast(
            op.CumSum(op.cast(x, wide), np.array(axis), reverse=int(reverse)), dtype
        )
    return op.CumSum(x, np.array(axis), reverse=int(reverse))


Combine: TypeAlias = Callable[[Any, Any], Any]


def _cumulative(
    monoid: Combine,
    unit: Callable[[DType], Any],
    static: Callable[[jax.Array, Combine, jax.Array], jax.Array],
) -> Callable[..., jax.Array]:
    """A decomposition: `static` for a number of rows that is known, else a loop.

    What is narrower than 32 bits is combined in 32 bits and rounded once.
    """

    def fn(x: jax.Array, *, axis: int, reverse: bool) -> jax.Array:
        dtype = x.dtype
        if dtype.itemsize < 4:
            x = x.astype(
                jnp.float32 if jnp.issubdtype(dtype, jnp.floating) else jnp.int32
            )
        start = jnp.asarray(unit(dtype_of(x.dtype)), x.dtype)
        rows = jnp.moveaxis(x, axis, 0)
        if type(rows.shape[0]) is not int:
            out = _in_a_loop(rows, monoid, start, reverse)
        elif reverse:
            out = static(rows[::-1], monoid, start)[::-1]
        else:
            out = static(rows, monoid, start)
        return jnp.moveaxis(out, 0, axis).astype(dtype)

    return fn


BLOCK = 16  # rows; as many as XLA's ReduceWindowRewriter has


def _in_blocks(rows: jax.Array, monoid: Combine, unit: jax.Array) -> jax.Array:
    """Row by row in blocks of 16, all blocks at once; then each block with all that is before it.

    XLA's order, as far as it goes forward: in another one products overflow elsewhere.
    """
    n, rest = rows.shape[0], rows.shape[1:]
    if n <= BLOCK:
        return _row_by_row(rows, monoid, 0)
    count = -(-n // BLOCK)
    padded = lax.pad(rows, unit, [(0, count * BLOCK - n, 0), *[(0, 0, 0)] * len(rest)])
    blocks = _row_by_row(padded.reshape(count, BLOCK, *rest), monoid, 1)
    wholes = _in_blocks(blocks[:, -1], monoid, unit)
    before = jnp.concatenate([jnp.full((1, *rest), unit), wholes[:-1]])
    return monoid(before[:, None], blocks).reshape(-1, *rest)[:n]


def _row_by_row(x: jax.Array, monoid: Combine, axis: int) -> jax.Array:
    n = x.shape[axis]
    if n < 2:
        return x
    rows = lax.split(x, (1,) * n, axis)
    return jnp.concatenate(list(itertools.accumulate(rows, monoid)), axis)


def _by_doubling(rows: jax.Array, monoid: Combine, unit: jax.Array) -> jax.Array:
    """Each row with the one before it, then with what is 2 before, 4 before, …: log₂ n combinations."""
    n, reach = rows.shape[0], 1
    while reach < n:
        before = lax.pad(
            rows, unit, [(reach, -reach, 0), *[(0, 0, 0)] * (rows.ndim - 1)]
        )
        rows = monoid(before, rows)
        reach *= 2
    return rows


def _in_a_loop(
    rows: jax.Array, monoid: Combine, unit: jax.Array, reverse: bool
) -> jax.Array:
    def step(before: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
        out = monoid(before, row)
        return out, out

    return lax.scan(step, jnp.full(rows.shape[1:], unit), rows, reverse=reverse)[1]


def _least(dtype: DType) -> Any:
    return limits(dtype)[0]


def _greatest(dtype: DType) -> Any:
    return limits(dtype)[1]


def _one(dtype: DType) -> int:
    return 1


lower_with("cumprod")(_cumulative(lax.mul, _one, _in_blocks))
lower_with("cummax")(_cumulative(lax.max, _least, _in_blocks))
lower_with("cummin")(_cumulative(lax.min, _greatest, _in_blocks))
# one combination is twenty nodes
lower_with("cumlogsumexp")(_cumulative(jnp.logaddexp, _least, _by_doubling))


lower_with("reduce_logsumexp")(lambda x, *, axes: jax.nn.logsumexp(x, axis=tuple(axes)))
