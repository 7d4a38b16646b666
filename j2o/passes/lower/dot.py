"""Contractions: dot_general as one MatMul between transposes and reshapes that mostly vanish."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.errors import UnsupportedError
from j2o.ir import dims, views
from j2o.ir.graph import Node, Value
from j2o.ir.types import DType, Shape
from j2o.passes.lower.casts import convert
from j2o.passes.lower.table import Lowering, lower

Axes: TypeAlias = Sequence[int]
BYTES = {DType.I8, DType.U8}
MANY = 1 << 15  # products of signed bytes that are worth a conversion of the factors
MATMUL = {DType.F32, DType.F64, DType.I32, DType.I64, DType.U32, DType.U64}


@lower("dot_general")
def dot_general(
    op: Lowering,
    x: Value,
    y: Value,
    *,
    dimension_numbers: Any,
    preferred_element_type: DType | None = None,
    **_: Any,
) -> Value:
    """`out[batch…, x free…, y free…]`, summed over the contracted axes, in the result's dtype."""
    (x_contract, y_contract), (x_batch, y_batch) = dimension_numbers
    first, second = x, y
    if not _is_of_bytes(op, x, y, x_contract):
        dtype = accumulator(op, x, y, preferred_element_type)
        first, second = op.cast(x, dtype), op.cast(y, dtype)
    if _is_matrix_of_rows(op, x, y, dimension_numbers):
        rows = contract(op, second, first, y_contract, x_contract, (), ())
        out = op.transpose(rows, [y.type.rank - 1, *range(y.type.rank - 1)])
    else:
        out = contract(op, first, second, x_contract, y_contract, x_batch, y_batch)
    return convert(op, op.reshape(out, op.out_shape), op.out_dtype)


def _is_of_bytes(op: Lowering, x: Value, y: Value, x_contract: Axes) -> bool:
    """Return True where MatMulInteger does it: its sums are exact modulo 2**32.

    Of both signs at once they are not: some processors cut off sums of two such products.
    """
    dtype = x.type.dtype
    if dtype not in BYTES or y.type.dtype != dtype:
        return False
    if not op.out_dtype.is_int or op.out_dtype.bits > 32:
        return False
    summed = dims.prod(pick(x.type.shape, x_contract))
    sums_something = bool(x_contract) and dims.known_ge(summed, 1)
    return sums_something and op.prefers("MatMulInteger", x)


def _is_matrix_of_rows(op: Lowering, x: Value, y: Value, numbers: Any) -> bool:
    """Return True where `y xᵀ` needs no transpose in front, and less behind than `x y` needs in front.

    `jax.vmap` of `w @ row` is such a product: it contracts the last of several axes of `y`, and moves the
    axis of `x` behind those of `y`.
    """
    (_, y_contract), (x_batch, _) = numbers
    last = y.type.rank - 1
    if x_batch or x.type.rank != 2 or last < 2 or tuple(y_contract) != (last,):
        return False
    behind = (*range(1, y.type.rank), 0)
    users = list(op.source.out.users())
    if users and all(_is_transpose(user, behind) for user in users):
        return True
    elements_behind, elements_in_front = op.out_type.size, y.type.size
    return dims.known_ge(elements_in_front, elements_behind)


def _is_transpose(node: Node, permutation: tuple[int, ...]) -> bool:
    """Return True for a transpose by `permutation`."""
    if node.op != "lax.transpose":
        return False
    return node.ints_attr("permutation") == permutation


def accumulator(op: Lowering, x: Value, y: Value, preferred: DType | None) -> DType:
    """The dtype to multiply and sum in: wide enough for the operands and the result."""
    result = op.out_dtype
    if result == DType.BOOL:
        return DType.I32
    if result.is_float:
        is_wide = DType.F64 in (x.type.dtype, y.type.dtype, result)
        return DType.F64 if is_wide else DType.F32
    if result in MATMUL:
        return result
    return DType.U32 if result.is_unsigned else DType.I32


def contract(
    op: Lowering,
    x: Value,
    y: Value,
    x_contract: Axes,
    y_contract: Axes,
    x_batch: Axes,
    y_batch: Axes,
) -> Value:
    """A MatMul, of bytes a MatMulInteger.

    Its result has the right elements in the right order, if not yet the right shape.
    """
    left = _factor(x, x_batch, x_contract)
    right = _factor(y, y_batch, y_contract)
    if not left.summed:
        return _outer_product(op, left, right)
    batch = left.sizes(left.batch)
    rows = left.sizes(left.free)
    inner = dims.prod(left.sizes(left.summed))
    columns = dims.prod(right.sizes(right.free))
    # a matrix on the right needs no flattening of the left: MatMul takes any number of leading axes
    if batch or not rows:
        rows = (dims.prod(rows),)
    left_order = [*left.batch, *left.free, *left.summed]
    right_order = [*right.batch, *right.summed, *right.free]
    products = dims.prod((*batch, *rows, inner, columns))
    middle: tuple[Value, ...] = ()
    if x.type.dtype is DType.I8 and not (type(products) is int and products < MANY):
        x, y = _from_0(op, x), _from_0(op, y)
        middle = (op.const(128, DType.U8),) * 2
    first = _arranged(op, x, left_order, (*batch, *rows, inner))
    second = _arranged(op, y, right_order, (*batch, inner, columns))
    if x.type.dtype in BYTES:
        return op.MatMulInteger(first, second, *middle)
    return op.MatMul(first, second)


def _from_0(op: Lowering, signed: Value) -> Value:
    """Signed bytes, each 128 larger, as unsigned ones.

    onnxruntime multiplies these 17 times as fast on x86-64 processors: [64,256] by [256,512] in 24 µs, and
    in 419 µs where they are signed.
    """
    if signed.const is not None:
        type = signed.type.with_dtype(DType.U8)
        return op.const(views.mapped(_each_128_larger, "from 0", type, signed.const))
    moved = op.Add(op.cast(signed, DType.I32), op.const(128, DType.I32))
    return op.cast(moved, DType.U8)


def _each_128_larger(signed: np.ndarray) -> np.ndarray:
    return (signed.astype(np.int16) + 128).astype(np.uint8)


class Factor(NamedTuple):
    """An operand of a product: the axes of the batch, those that are summed over, and those of its own."""

    value: Value
    batch: Axes
    summed: Axes
    free: Axes

    def sizes(self, axes: Axes) -> Shape:
        return pick(self.value.type.shape, axes)


def _factor(value: Value, batch: Axes, summed: Axes) -> Factor:
    """An operand whose axes are of the batch, summed over, or its own."""
    free = [a for a in range(value.type.rank) if a not in summed and a not in batch]
    return Factor(value, batch, summed, free)


def _outer_product(op: Lowering, left: Factor, right: Factor) -> Value:
    """Each element of the left operand times each of the right one, where no axis is summed over."""
    left_ones = (1,) * len(left.free)
    right_ones = (1,) * len(right.free)
    left_shape = (*left.sizes(left.batch), *left.sizes(left.free), *right_ones)
    right_shape = (*right.sizes(right.batch), *left_ones, *right.sizes(right.free))
    first = _arranged(op, left.value, [*left.batch, *left.free], left_shape)
    second = _arranged(op, right.value, [*right.batch, *right.free], right_shape)
    return op.Mul(first, second)


def pick(values: Sequence[Any], axes: Axes) -> tuple[Any, ...]:
    """The values at these axes."""
    return tuple([values[a] for a in axes])


def _arranged(op: Lowering, x: Value, order: Sequence[int], shape: Shape) -> Value:
    """A tensor with its axes in an order, in a shape."""
    return op.reshape(op.transpose(x, order), shape)


@lower("ragged_dot_general")
def ragged_dot_general(
    op: Lowering, x: Value, y: Value, sizes: Value, **params: Any
) -> Value:
    """Consecutive groups along one dimension of `x`, contracted each by itself: other elements are masked."""
    if sizes.type.rank != 1:
        raise UnsupportedError(["groups that differ from row to row"])
    return op.jax(
        _ragged,
        x,
        y,
        sizes,
        numbers=params["ragged_dot_dimension_numbers"],
        dtype=op.out_dtype,
    )


def _ragged(x: Any, y: Any, sizes: Any, *, numbers: Any, dtype: DType) -> Any:
    """One dot_general for all groups: operands with an axis of groups in front have zeros outside of each.

    Groups lie along an axis of the batch, one that is summed over, or one of `x` alone.
    """
    (x_contract, y_contract), (x_batch, y_batch) = numbers.dot_dimension_numbers
    (along,) = numbers.lhs_ragged_dimensions
    if along in x_batch:
        # a row of the batch is of one group: there is nothing to mask
        contracted = (x_contract, y_contract)
        batch = (x_batch, y_batch)
    elif along in x_contract:
        # each group gives a product of its own
        x = _by_group(x, along, sizes)
        y = _by_group(y, y_contract[x_contract.index(along)], sizes)
        contracted = (_behind(x_contract), _behind(y_contract))
        batch = ([0, *_behind(x_batch)], [0, *_behind(y_batch)])
    else:
        # the sum over all groups has one term that is not 0: `y` has another matrix for each group
        x = _by_group(x, along, sizes)
        contracted = (
            [*_behind(x_contract), 0],
            [*y_contract, *numbers.rhs_group_dimensions],
        )
        batch = (_behind(x_batch), y_batch)
    form = (contracted, batch)
    return lax.dot_general(x, y, form, preferred_element_type=dtype.numpy)


def _by_group(a: Any, axis: int, sizes: Any) -> Any:
    """`a` once for each group, zero outside of it: `[group, …]`. Groups of these sizes lie along an axis."""
    ends = jnp.cumsum(sizes)
    starts = ends - sizes
    axes_behind = a.ndim - axis - 1
    at = jnp.arange(a.shape[axis]).reshape(-1, *(1,) * axes_behind)
    is_before_end = at < ends.reshape(-1, *(1,) * a.ndim)
    is_before_start = at < starts.reshape(-1, *(1,) * a.ndim)
    is_inside = is_before_end & ~is_before_start
    return jnp.where(is_inside, a, jnp.zeros((), a.dtype))


def _behind(axes: Axes) -> list[int]:
    """Axes behind a new first one."""
    return [axis + 1 for axis in axes]
