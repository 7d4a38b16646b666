"""Reductions, positions of extremes, and cumulative operations."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from j2o.ir import dims
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Dim, DType, Type, dtype_of
from j2o.passes.lower.sort import greatest_by_order
from j2o.passes.lower.table import Lowering, lower, lower_with

Axes: TypeAlias = Sequence[int]
Combine: TypeAlias = Callable[[Any, Any], Any]
Body: TypeAlias = Callable[..., list[Value]]


class Limits(NamedTuple):
    """The least value of a dtype, the unit of max, and the greatest, the unit of min."""

    least: Any
    greatest: Any


def limits(dtype: DType) -> Limits:
    """The least and the greatest of what a dtype holds, infinities included."""
    if dtype == DType.BOOL:
        return Limits(False, True)
    if dtype.is_float:
        return Limits(-np.inf, np.inf)
    return Limits(*dtype.integers)


def unit_of_add(dtype: DType) -> int:
    """What a sum begins with."""
    return 0


def unit_of_mul(dtype: DType) -> int:
    """What a product begins with."""
    return 1


def unit_of_max(dtype: DType) -> Any:
    """What a maximum begins with."""
    return limits(dtype).least


def unit_of_min(dtype: DType) -> Any:
    """What a minimum begins with."""
    return limits(dtype).greatest


def _reduce(op: Lowering, operator: str, x: Value, axes: Axes) -> Value:
    """One of ONNX's reductions; `x` itself over no axes, which for ONNX would be all."""
    if not axes:
        return x
    over = np.asarray(axes, np.int64)
    return op.apply(f"onnx.{operator}", x, over, keepdims=0)


# ----------------------------------------------------------------------------------- sums and products


@lower("reduce_sum")
def reduce_sum(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    """Integers as wide ones, modulo 2**n.

    onnxruntime adds 64 bits as float64 and saturates, so these go as two halves.
    """
    dtype = x.type.dtype
    if not dtype.is_int:
        return _reduce(op, "ReduceSum", x, axes)
    whole = op.cast(x, DType.I64)
    if dtype.bits < 64 or _was_narrow(x):
        return op.cast(_reduce(op, "ReduceSum", whole, axes), dtype)
    low = op.Mod(whole, 2**32)
    high = op.Div(op.Sub(whole, low), 2**32)
    high_sum = _reduce(op, "ReduceSum", high, axes)
    low_sum = _reduce(op, "ReduceSum", low, axes)
    total = op.Add(op.Mul(high_sum, 2**32), low_sum)
    return op.cast(total, dtype)


def _was_narrow(x: Value) -> bool:
    """Return True where `x` was cast from 32 bits or fewer."""
    if x.op != "onnx.Cast":
        return False
    source = x.producer.operand(0).type.dtype
    return source.bits <= 32


@lower("reduce_prod")
def reduce_prod(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    """Integers by halving: onnxruntime multiplies them as float64, which keeps 53 bits of a product."""
    if x.type.dtype.is_int:
        return op.jax(_of_integers, x, axes=tuple(axes), kind="mul")
    return _reduce(op, "ReduceProd", x, axes)


@lower_with("reduce_logsumexp")
def reduce_logsumexp(x: Array, *, axes: Axes) -> Array:
    return jax.nn.logsumexp(x, axis=tuple(axes))


# --------------------------------------------------------------------------------------- logic and bits


@lower("reduce_and")
def reduce_and(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    """Of booleans: how many are False? That is right for no elements too."""
    if x.type.dtype != DType.BOOL:
        return op.jax(_of_integers, x, axes=tuple(axes), kind="and")
    if not axes:
        return x
    return op.Equal(_count(op, op.Not(x), axes), 0)


@lower("reduce_or")
def reduce_or(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    """Of booleans: how many are True?"""
    if x.type.dtype != DType.BOOL:
        return op.jax(_of_integers, x, axes=tuple(axes), kind="or")
    if not axes:
        return x
    return op.Greater(_count(op, x, axes), 0)


@lower("reduce_xor")
def reduce_xor(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    """Of booleans: is the number of those that are True odd?"""
    if x.type.dtype != DType.BOOL:
        return op.jax(_of_integers, x, axes=tuple(axes), kind="xor")
    if not axes:
        return x
    last_bit = op.BitwiseAnd(_count(op, x, axes), 1)
    return op.cast(last_bit, DType.BOOL)


def _count(op: Lowering, x: Value, axes: Axes) -> Value:
    """How many are True."""
    return _reduce(op, "ReduceSum", op.cast(x, DType.I32), axes)


class IntegerMonoid(NamedTuple):
    """A combination of integers that ONNX cannot reduce by, and the value that changes nothing in it."""

    combine: Combine
    unit: int


INTEGER_MONOIDS = {
    "mul": IntegerMonoid(lax.mul, 1),
    "and": IntegerMonoid(lax.bitwise_and, -1),
    "or": IntegerMonoid(lax.bitwise_or, 0),
    "xor": IntegerMonoid(lax.bitwise_xor, 0),
}


def _of_integers(x: Array, *, axes: Axes, kind: str) -> Array:
    """Reduce one axis after the other, the last one first."""
    monoid = INTEGER_MONOIDS[kind]
    for axis in sorted(axes, reverse=True):
        is_known = type(x.shape[axis]) is int
        combine_all = _by_halves if is_known else _one_by_one
        x = combine_all(x, axis, monoid)
    return x


def _by_halves(x: Array, axis: int, monoid: IntegerMonoid) -> Array:
    """Combine the two halves until one element is left; those that were over come last."""

    def part(start: int, end: int) -> Array:
        return lax.slice_in_dim(x, start, end, axis=axis)

    n = x.shape[axis]
    if n == 0:
        return _units(x, axis, monoid)
    over = []
    while n > 1:
        half = n // 2
        if n % 2:
            over.append(part(n - 1, n))
        first = part(0, half)
        second = part(half, 2 * half)
        x = monoid.combine(first, second)
        n = half
    for last in over:
        x = monoid.combine(x, last)
    return x.squeeze(axis)


def _one_by_one(x: Array, axis: int, monoid: IntegerMonoid) -> Array:
    """A loop, for an axis of symbolic size."""

    def step(so_far: Array, row: Array) -> tuple[Array, None]:
        return monoid.combine(so_far, row), None

    rows = jnp.moveaxis(x, axis, 0)
    result, _ = lax.scan(step, _units(x, axis, monoid), rows)
    return result


def _units(x: Array, axis: int, monoid: IntegerMonoid) -> Array:
    """What a reduction of no elements gives."""
    others = x.shape[:axis] + x.shape[axis + 1 :]
    return jnp.full(others, monoid.unit, x.dtype)


# -------------------------------------------------------------------------------------------- extremes


@lower("reduce_max")
def reduce_max(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    return _extreme(op, "ReduceMax", x, axes)


@lower("reduce_min")
def reduce_min(op: Lowering, x: Value, *, axes: Axes, **_: Any) -> Value:
    return _extreme(op, "ReduceMin", x, axes)


def _extreme(op: Lowering, operator: str, x: Value, axes: Axes) -> Value:
    """A maximum or minimum, of unsigned integers by signed ones in the same order."""
    if x.type.dtype == DType.U32:
        wide = op.cast(x, DType.I64)
        return op.cast(_reduce(op, operator, wide, axes), DType.U32)
    signed, flip = _as_signed(op, x)
    out = _reduce(op, operator, signed, axes)
    if flip is None:
        return out
    return op.cast(op.BitwiseXor(out, flip), x.type.dtype)


def _as_signed(op: Lowering, x: Value) -> tuple[Value, int | None]:
    """Unsigned integers that have no kernel as signed ones of the same order: with the highest bit flipped.

    The second result is that bit; None where `x` is left as it is.
    """
    dtype = x.type.dtype
    if dtype not in (DType.U32, DType.U64):
        return x, None
    signed = DType(f"i{dtype.bits}")
    flip, _ = signed.integers
    return op.BitwiseXor(op.cast(x, signed), flip), flip


@lower("argmax")
def argmax(op: Lowering, x: Value, *, axes: Axes, index_dtype: DType) -> Value:
    return op.cast(_position(op, "ArgMax", x, axes), index_dtype)


@lower("argmin")
def argmin(op: Lowering, x: Value, *, axes: Axes, index_dtype: DType) -> Value:
    return op.cast(_position(op, "ArgMin", x, axes), index_dtype)


def _position(op: Lowering, operator: str, x: Value, axes: Axes) -> Value:
    """The first extreme; a NaN counts as one, and the first of them wins."""
    (axis,) = axes
    is_float = x.type.dtype.is_float
    if is_float and op.orders_nan:
        # one pass, and faster than ArgMax
        is_least = operator == "ArgMin"
        _, places = greatest_by_order(op, x, axis, is_least=is_least)
        return op.squeeze(places, [axis])
    numbers = _with_kernel(op, x)
    index = op.apply(f"onnx.{operator}", numbers, axis=axis, keepdims=0)
    return _or_first_nan(op, index, numbers, axis) if is_float else index


def _with_kernel(op: Lowering, x: Value) -> Value:
    """Numbers of the same order, of a dtype for which there is ArgMax."""
    dtype = x.type.dtype
    if dtype == DType.BOOL:
        return op.cast(x, DType.I32)
    if dtype.is_float and dtype not in (DType.F32, DType.F64):
        return op.cast(x, DType.F32)
    signed, _ = _as_signed(op, x)
    return signed


def _or_first_nan(op: Lowering, index: Value, x: Value, axis: int) -> Value:
    """An index along an axis, but that of the first NaN where there is one."""
    # how many there are is also what `legalize` asks for the extreme itself
    is_nan = op.cast(op.IsNaN(x), DType.F32)
    has_nan = op.cast(_reduce(op, "ReduceSum", is_nan, [axis]), DType.BOOL)
    first_nan = op.ArgMax(is_nan, axis=axis, keepdims=0)
    return op.Where(has_nan, first_nan, index)


# ----------------------------------------------------------------------- any computation, in a loop


@lower("reduce")
def reduce(
    op: Lowering, *operands: Value, dimensions: Axes, **_: Any
) -> Sequence[Value]:
    """`lax.reduce` with a computation of the user's: a loop over the reduced elements, flattened.

    The operands are arrays, then as many initial values. The region takes that many results so far, and
    elements.
    """
    count = len(operands) // 2
    arrays = operands[:count]
    inits = operands[count:]
    shape = arrays[0].type.shape
    kept = [i for i in range(len(shape)) if i not in dimensions]
    kept_shape = tuple(shape[i] for i in kept)
    size = dims.prod(shape[d] for d in dimensions)
    rows = []
    for array in arrays:
        reduced_first = op.transpose(array, [*dimensions, *kept])
        rows.append(op.reshape(reduced_first, (size, *kept_shape)))
    region = op.source.graphs[0]

    def body(inner: Lowering, i: Value, *so_far: Value) -> list[Value]:
        elements = [inner.Gather(row, i, axis=0) for row in rows]
        return apply_elementwise(inner, region, [*so_far, *elements])

    start = [op.expand(v, kept_shape) for v in inits]
    return loop(op, size, start, body)


def loop(
    op: Lowering, count: Dim, start: Sequence[Value], body: Body
) -> Sequence[Value]:
    """The state after `count` rounds of `body(op, round, *state) -> state`."""
    types = [v.type for v in start]
    inputs = [Type(DType.I64, ()), Type(DType.BOOL, ()), *types]

    def one_round(
        inner: Lowering, i: Value, go_on: Value, *state: Value
    ) -> list[Value]:
        return [go_on, *body(inner, i, *state)]

    region = op.region("body", inputs, one_round)
    operands = [op.dim(count), op.const(True, DType.BOOL), *start]
    return op.node("onnx.Loop", operands, {}, types, [region]).outputs


def apply_elementwise(
    op: Lowering, region: Graph, args: Sequence[Value]
) -> list[Value]:
    """The nodes of a region over scalars, made again over arrays; its shapes are those of `args`."""
    values: dict[Value | None, Value] = {}
    values.update(zip(region.inputs, args, strict=True))
    for node in region:
        if node.op == "return":
            break
        inputs = [values.get(v, v) for v in node.inputs]
        types = [v.type for v in node.outputs] if _keeps_type(node) else None
        made = op.node(node.op, inputs, node.attrs, types)
        values.update(zip(node.outputs, made.outputs, strict=True))
    shape = args[0].type.shape
    results = [values.get(v, v) for v in region.outputs]
    return [op.expand(v, shape) for v in results]


def _keeps_type(node: Node) -> bool:
    """Return True where a node gives the same types over arrays as over scalars."""
    if node.op in ("const", "dims") or node.graphs:
        return True
    return not node.spec.elementwise


# ------------------------------------------------------------------------------------------ cumulative


@lower("cumsum")
def cumsum(op: Lowering, x: Value, *, axis: int, reverse: bool) -> Value:
    """CumSum has kernels for i32, i64 and floats."""
    dtype = x.type.dtype
    if dtype.is_unsigned or (dtype.is_int and dtype.bits < 32):
        wide = DType.I64 if dtype.bits >= 32 else DType.I32
        x = op.cast(x, wide)
    sums = op.CumSum(x, np.array(axis), reverse=int(reverse))
    return op.cast(sums, dtype)


@lower_with("cumprod")
def cumprod(x: Array, *, axis: int, reverse: bool) -> Array:
    return _cumulative(x, axis, reverse, lax.mul, unit_of_mul, _in_blocks)


@lower_with("cummax")
def cummax(x: Array, *, axis: int, reverse: bool) -> Array:
    return _cumulative(x, axis, reverse, lax.max, unit_of_max, _in_blocks)


@lower_with("cummin")
def cummin(x: Array, *, axis: int, reverse: bool) -> Array:
    return _cumulative(x, axis, reverse, lax.min, unit_of_min, _in_blocks)


@lower_with("cumlogsumexp")
def cumlogsumexp(x: Array, *, axis: int, reverse: bool) -> Array:
    """One combination is twenty nodes: as few of them as can be."""
    return _cumulative(x, axis, reverse, jnp.logaddexp, unit_of_max, _by_doubling)


def _cumulative(
    x: Array,
    axis: int,
    reverse: bool,
    combine: Combine,
    unit: Callable[[DType], Any],
    of_known_size: Callable[[Array, Combine, Array], Array],
) -> Array:
    """`of_known_size(rows, combine, unit)` for a number of rows that is known, else a loop.

    What is narrower than 32 bits is combined in 32 bits and rounded once.
    """
    dtype = x.dtype
    if dtype.itemsize < 4:
        is_float = jnp.issubdtype(dtype, jnp.floating)
        x = x.astype(jnp.float32 if is_float else jnp.int32)
    number = unit(dtype_of(x.dtype))
    start = jnp.asarray(number, x.dtype)
    rows = jnp.moveaxis(x, axis, 0)
    if type(rows.shape[0]) is not int:
        out = _in_a_loop(rows, combine, start, reverse)
    elif reverse:
        from_last = of_known_size(rows[::-1], combine, start)
        out = from_last[::-1]
    else:
        out = of_known_size(rows, combine, start)
    return jnp.moveaxis(out, 0, axis).astype(dtype)


BLOCK = 16  # rows; as many as XLA's ReduceWindowRewriter has


def _in_blocks(rows: Array, combine: Combine, unit: Array) -> Array:
    """Row by row in blocks of 16, all blocks at once; then each block with all that is before it.

    XLA's order, as far as it goes forward: in another one products overflow elsewhere.
    """
    n, *rest = rows.shape
    if n <= BLOCK:
        return _row_by_row(rows, combine, 0)
    count = -(-n // BLOCK)
    padded = _pad_rows(rows, unit, 0, count * BLOCK - n)
    blocks = padded.reshape(count, BLOCK, *rest)
    inside = _row_by_row(blocks, combine, 1)
    wholes = _in_blocks(inside[:, -1], combine, unit)
    nothing = jnp.full((1, *rest), unit)
    before = jnp.concatenate([nothing, wholes[:-1]])
    joined = combine(before[:, None], inside)
    return joined.reshape(-1, *rest)[:n]


def _row_by_row(x: Array, combine: Combine, axis: int) -> Array:
    """Each row with all that are before it."""
    n = x.shape[axis]
    if n < 2:
        return x
    rows = lax.split(x, (1,) * n, axis)
    combined = list(itertools.accumulate(rows, combine))
    return jnp.concatenate(combined, axis)


def _by_doubling(rows: Array, combine: Combine, unit: Array) -> Array:
    """Each row with the one before it, then with what is 2 before, 4 before, …: log₂ n combinations."""
    reach = 1
    while reach < rows.shape[0]:
        before = _pad_rows(rows, unit, reach, -reach)
        rows = combine(before, rows)
        reach *= 2
    return rows


def _pad_rows(rows: Array, unit: Array, before: int, after: int) -> Array:
    """Rows of units before and after; a negative number cuts."""
    untouched = [(0, 0, 0)] * (rows.ndim - 1)
    config = [(before, after, 0), *untouched]
    return lax.pad(rows, unit, config)


def _in_a_loop(rows: Array, combine: Combine, unit: Array, reverse: bool) -> Array:
    """Each row combined with what came before it, row by row."""

    def step(before: Array, row: Array) -> tuple[Array, Array]:
        out = combine(before, row)
        return out, out

    start = jnp.full(rows.shape[1:], unit)
    _, out = lax.scan(step, start, rows, reverse=reverse)
    return out
