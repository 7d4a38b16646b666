"""Gather, scatter and dynamic slices in JAX's general form.

`lax.gather` takes windows of `slice_sizes` at start indices; here every form becomes one GatherND over all indexed axes, with
the windows' offsets added to the starts, and the common forms one Gather. Scatters are the same turned around.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, same_dim
from j2o.passes.components.split import computes
from j2o.passes.lower.elementwise import never_nan, where
from j2o.passes.lower.reduce import apply_elementwise, limits, loop
from j2o.passes.lower.shape import arange, pad_with, slice_axes
from j2o.passes.lower.table import Lowering, lower


@dataclass(frozen=True)
class Windows:
    """Which windows of an operand an index names: what the dimension numbers of gather and scatter share.

    Column k of the index holds starts along the axis `axes[k]` of the operand. An axis in `batching` runs along with an axis
    of the index, which it is mapped to. Results and updates do not have the `dropped` axes, nor those in `batching`.
    """

    axes: Sequence[int]
    dropped: Sequence[int]
    batching: dict[int, int]
    sizes: Shape

    @property
    def kept(self) -> list[int]:
        return [
            a
            for a in range(len(self.sizes))
            if a not in self.dropped and a not in self.batching
        ]

    def indexed(self, shape: Shape) -> list[int]:
        """The axes that need an index, at least one; the windows take the others whole."""
        named = {*self.axes, *self.dropped, *self.batching}
        return [
            a
            for a, d in enumerate(shape)
            if a in named or not same_dim(self.sizes[a], d)
        ] or [0]

    def clamped(self, op: Lowering, index: Value, shape: Shape) -> Value:
        """The starts, moved so that the windows lie inside."""
        limits = [dims.sub(shape[a], self.sizes[a]) for a in self.axes]
        return op.Max(op.Min(index, op.dims(limits)), 0) if limits else index

    def places(self, op: Lowering, index: Value, shape: Shape) -> Value:
        """`i64[batch…, inner…, n]`: where each element of the windows lies along the `n` indexed axes."""
        batch, indexed = index.type.shape[:-1], self.indexed(shape)
        inner = [a for a in self.kept if a in indexed]  # windows that are spelled out
        if list(self.axes) == indexed and not inner:
            return index
        grid = (*batch, *(self.sizes[a] for a in inner))

        def line(size: Dim, axis: int) -> Value:
            """0, 1, … along one axis of the grid."""
            return op.reshape(
                arange(op, size, DType.I64),
                tuple(size if i == axis else 1 for i in range(len(grid) + 1)),
            )

        columns = []
        for a in indexed:
            parts = []
            if a in self.axes:
                k = self.axes.index(a)
                starts = (
                    op.Gather(index, np.array([k]), axis=len(batch))
                    if len(self.axes) > 1
                    else index
                )
                parts.append(
                    op.reshape(starts, (*batch, *(1,) * len(inner), 1))
                    if batch
                    else starts
                )
            if a in self.batching:
                parts.append(line(shape[a], self.batching[a]))
            if a in inner and not same_dim(self.sizes[a], 1):
                parts.append(line(self.sizes[a], len(batch) + inner.index(a)))
            column = functools.reduce(op.Add, parts or [op.const([0])])
            columns.append(op.expand(column, (*grid, 1)))
        return op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]


# ------------------------------------------------------------------------------------------------ slices


@lower("dynamic_slice")
def dynamic_slice(op: Lowering, x: Value, *starts: Value, slice_sizes: Shape) -> Value:
    axes = _cut_axes(x.type.shape, slice_sizes)
    if not axes:
        return x
    w = Windows(axes, (), {}, slice_sizes)
    return _window(
        op,
        x,
        w.clamped(op, _stacked(op, starts, axes), x.type.shape),
        slice_sizes,
        axes,
    )


@lower("dynamic_update_slice")
def dynamic_update_slice(
    op: Lowering, x: Value, update: Value, *starts: Value
) -> Value:
    """A scatter of one window."""
    axes = _cut_axes(x.type.shape, update.type.shape)
    if not axes:
        return update
    numbers = lax.ScatterDimensionNumbers(tuple(range(x.type.rank)), (), tuple(axes))
    return _scatter(op, x, _stacked(op, starts, axes), update, numbers, "clip", None)


def _cut_axes(shape: Shape, sizes: Shape) -> list[int]:
    """On which axes a window of these sizes is less than the whole."""
    return [i for i, d in enumerate(shape) if not same_dim(d, sizes[i])]


def _stacked(op: Lowering, starts: Sequence[Value], axes: Sequence[int]) -> Value:
    """`i64[len(axes)]`: the starts on these axes."""
    parts = [op.reshape(_to_i64(op, starts[i]), (1,)) for i in axes]
    return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def _to_i64(op: Lowering, i: Value) -> Value:
    if i.type.dtype == DType.U64:  # beyond the signed range is past the end in any case
        i = op.Where(op.Less(i, 2**63), i, op.const(2**63 - 1, DType.U64))
    return op.cast(i, DType.I64)


def _window(
    op: Lowering, x: Value, begin: Value, sizes: Shape, axes: Sequence[int]
) -> Value:
    """The window of these sizes that starts at `begin`, `i64[len(axes)]`, on some axes and is whole on the others."""
    end = op.Add(begin, op.dims([sizes[i] for i in axes]))
    shape = tuple(sizes[i] if i in axes else d for i, d in enumerate(x.type.shape))
    return op.apply(
        "onnx.Slice",
        x,
        begin,
        end,
        np.asarray(axes, np.int64),
        types=[x.type.with_shape(shape)],
    )


# ------------------------------------------------------------------------------------------------ gather


@lower("gather")
def gather(
    op: Lowering, x: Value, indices: Value, *, dimension_numbers: Any, slice_sizes: Shape, mode: str = "fill_or_drop",
    fill_value: Any = None, **_: Any,
) -> Value:  # fmt: skip
    d = dimension_numbers
    batching = dict(
        zip(d.operand_batching_dims, d.start_indices_batching_dims, strict=True)
    )
    w = Windows(d.start_index_map, d.collapsed_slice_dims, batching, slice_sizes)
    index = _to_i64(op, indices)
    clipped = w.clamped(op, index, x.type.shape)  # XLA clamps what was promised, too
    out = _gathered(op, x, clipped, w, d.offset_dims)
    if mode in ("fill_or_drop", "fill"):
        out = _filled(op, out, op.Equal(index, clipped), d.offset_dims, fill_value)
    return op.reshape(out, op.out_shape)


def _gathered(
    op: Lowering, x: Value, index: Value, w: Windows, offset_dims: Sequence[int]
) -> Value:
    """One Gather of rows along a single axis, one Slice for a single index, else GatherND."""
    shape, axes = x.type.shape, list(w.axes)
    indexed = w.indexed(shape)
    batch = [~k for k in range(index.type.rank - 1)]
    if len(axes) == 1 and indexed == axes == list(w.dropped):
        out = op.Gather(x, op.reshape(index, index.type.shape[:-1]), axis=axes[0])
        have = [*range(axes[0]), *batch, *range(axes[0] + 1, len(shape))]
    elif axes and not batch and set(indexed) <= set(axes):
        return op.squeeze(_window(op, x, index, w.sizes, axes), w.dropped)
    else:
        whole = [a for a in range(len(shape)) if a not in indexed]
        out = op.GatherND(
            op.transpose(x, [*indexed, *whole]), w.places(op, index, shape)
        )
        have = [*batch, *(a for a in w.kept if a in indexed), *whole]
    # the axes of windows go where `offset_dims` say, those of the index, ~0, ~1, …, between them
    windows, batches = iter(w.kept), iter(batch)
    want = [
        next(windows) if i in offset_dims else next(batches) for i in range(len(have))
    ]
    return op.transpose(out, [have.index(a) for a in want])


def _filled(
    op: Lowering, out: Value, good: Value, offset_dims: Sequence[int], fill_value: Any
) -> Value:
    """The fill value wherever a window did not fit."""
    inside = op.Equal(
        op.ReduceMin(op.cast(good, DType.I32), np.array([-1]), keepdims=0), 1
    )
    dtype, sizes = out.type.dtype, iter(inside.type.shape)
    shape = tuple(1 if i in offset_dims else next(sizes) for i in range(out.type.rank))
    if fill_value is None:
        fill_value = math.nan if dtype.is_float else limits(dtype)[not dtype.is_signed]
    return where(op, op.reshape(inside, shape), out, op.const(fill_value, dtype))


# ----------------------------------------------------------------------------------------------- scatter

ONE_THREAD = (
    1 << 16
)  # elements that onnxruntime's ScatterND does not divide among threads
_REDUCTIONS = {"scatter": None, "scatter-add": "add", "scatter-mul": "mul", "scatter-min": "min", "scatter-max": "max",
               "scatter_add": "add", "scatter_mul": "mul", "scatter_min": "min", "scatter_max": "max", "scatter-sub": "sub", "scatter_sub": "sub"}  # fmt: skip


@lower(*_REDUCTIONS)
def scatter(
    op: Lowering, x: Value, *operands: Value, dimension_numbers: Any, mode: str = "fill_or_drop",
    unique_indices: bool = False, **_: Any,
) -> Value | Sequence[Value]:  # fmt: skip
    reduction = _REDUCTIONS[op.source.kind]
    if computes(op.source):
        return _applied(op, [x, *operands], dimension_numbers, mode, unique_indices)
    indices, updates = operands
    if reduction == "sub":
        reduction, updates = "add", op.Neg(updates)
    dtype, d = x.type.dtype, dimension_numbers
    if dtype == DType.BOOL and reduction:
        reduction = {"add": "max", "max": "max", "mul": "min", "min": "min"}[reduction]
    wide = (
        DType.I32
        if dtype == DType.BOOL
        else DType.F32
        if dtype.is_float and dtype.bits <= 16
        else dtype
    )
    if wide == dtype or not reduction:
        return _scatter(op, x, indices, updates, d, mode, reduction)
    return op.cast(
        _scatter(
            op, op.cast(x, wide), indices, op.cast(updates, wide), d, mode, reduction
        ),
        dtype,
    )


def _applied(
    op: Lowering, operands: Sequence[Value], d: Any, mode: str, unique: bool
) -> Sequence[Value]:
    """`lax.scatter_apply`: the user's function of elements and updates, one index after the other where they may meet."""
    n, region = len(operands) // 2, op.source.graphs[0]
    shape, spread = operands[0].type.shape, operands[-1].type.shape
    windows = list(d.update_window_dims)
    batch = [i for i in range(len(spread)) if i not in windows]
    count = 1 if unique else dims.prod(spread[i] for i in batch)
    width = dims.prod(spread if unique else [spread[i] for i in windows])
    size = dims.prod(shape)

    def rows(v: Value) -> Value:
        return op.reshape(op.transpose(v, [*batch, *windows]), (count, width))

    places = rows(
        op.jax(_places, operands[n], shape=shape, updates=spread, d=d, mode=mode)
    )
    updates = [rows(v) for v in operands[n + 1 :]]
    # an element more, which takes what is dropped
    tables = [
        op.Concat(op.reshape(v, (size,)), op.full((1,), 0, v.type.dtype), axis=0)
        for v in operands[:n]
    ]

    def body(inner: Lowering, i: Value, *lines: Value) -> list[Value]:
        at = inner.Gather(places, i, axis=0)
        old, new = (
            [inner.Gather(v, at, axis=0) for v in lines],
            [inner.Gather(v, i, axis=0) for v in updates],
        )
        made = apply_elementwise(inner, region, [*old, *new])
        return [
            inner.ScatterElements(v, at, m, axis=0)
            for v, m in zip(lines, made, strict=True)
        ]

    return [
        op.reshape(op.slice(v, 0, 0, size), shape)
        for v in loop(op, count, tables, body)
    ]


def _places(
    indices: jax.Array, *, shape: Shape, updates: Shape, d: Any, mode: str
) -> jax.Array:
    """Where in the flattened operand each element of the updates goes; past its end where it is dropped."""
    windows = iter(d.update_window_dims)
    fixed = (*d.inserted_window_dims, *d.operand_batching_dims)
    sizes = tuple(
        1 if i in fixed else updates[next(windows)] for i in range(len(shape))
    )
    names = lax.GatherDimensionNumbers(
        tuple(d.update_window_dims), tuple(d.inserted_window_dims), tuple(d.scatter_dims_to_operand_dims),
        tuple(d.operand_batching_dims), tuple(d.scatter_indices_batching_dims),
    )  # fmt: skip
    table = lax.iota(jnp.int64, dims.prod(shape)).reshape(shape)
    at = lax.gather(
        table,
        indices,
        names,
        sizes,
        mode="clip" if mode == "clip" else "fill",
        fill_value=-1,
    )
    return jnp.where(at < 0, dims.prod(shape), at)


def _scatter(
    op: Lowering,
    x: Value,
    indices: Value,
    updates: Value,
    d: Any,
    mode: str,
    reduction: str | None,
) -> Value:
    if not x.type.shape:  # a scalar is the one row of an operand
        one = _scatter(
            op,
            op.reshape(x, (1,)),
            indices,
            updates,
            lax.ScatterDimensionNumbers((), (0,), ()),
            mode,
            reduction,
        )
        return op.reshape(one, ())
    rank, index = x.type.rank, _to_i64(op, indices)
    batching = dict(
        zip(d.operand_batching_dims, d.scatter_indices_batching_dims, strict=True)
    )
    rest = [
        a for a in range(rank) if a not in d.inserted_window_dims and a not in batching
    ]
    at = dict(
        zip(rest, d.update_window_dims, strict=True)
    )  # the axes of the updates that windows lie along
    sizes = tuple(updates.type.shape[at[a]] if a in at else 1 for a in range(rank))
    w = Windows(d.scatter_dims_to_operand_dims, d.inserted_window_dims, batching, sizes)
    kept = w.clamped(op, index, x.type.shape)
    nd = w.places(op, kept, x.type.shape)
    indexed = w.indexed(x.type.shape)
    order = [*indexed, *(a for a in range(rank) if a not in indexed)]
    batch = [i for i in range(updates.type.rank) if i not in d.update_window_dims]
    flat = op.transpose(updates, [*batch, *(at[a] for a in order if a in at)])
    base = op.transpose(x, order)
    shape = base.type.shape
    # an element more where an axis may have none: the runtime takes no index into nothing
    more = [
        (0, int(i < len(indexed) and not dims.known_ge(n, 1)), 0)
        for i, n in enumerate(shape)
    ]
    base = pad_with(op, base, op.const(0, base.type.dtype), more)
    if mode == "clip" or not w.axes:
        out = _reduced(op, base, nd, flat, reduction)
    else:
        good = op.ReduceMin(
            op.cast(op.Equal(index, kept), DType.I32), np.array([-1]), keepdims=0
        )
        out = _dropping(op, base, nd, flat, op.Less(good, 1), reduction)
    return op.transpose(
        slice_axes(op, out, (0,) * rank, shape, (1,) * rank), np.argsort(order).tolist()
    )


def _reduced(
    op: Lowering, base: Value, nd: Value, updates: Value, reduction: str | None
) -> Value:
    """`updates` put or accumulated at `nd`. onnxruntime's max and min overlook NaN, which is put in afterwards."""
    dtype = base.type.dtype
    out = _accumulated(op, base, nd, updates, reduction)
    if reduction not in ("max", "min") or not dtype.is_float:
        return out
    if not never_nan(
        updates
    ):  # NaN is added, and to all other elements -0, which changes none
        nans = op.Where(
            op.IsNaN(updates), op.const(math.nan, dtype), op.const(-0.0, dtype)
        )
        out = _accumulated(op, out, nd, nans, "add")
    if not never_nan(base):
        out = op.Where(op.IsNaN(base), base, out)
    return out


def _accumulated(
    op: Lowering, base: Value, nd: Value, updates: Value, reduction: str | None
) -> Value:
    """ScatterND; for what onnxruntime would divide among threads that get in each other's way, ScatterElements."""
    sizes, depth = updates.type.shape, nd.type.shape[-1]
    small = all(type(n) is int for n in sizes) and dims.prod(sizes) <= ONE_THREAD
    if small or not reduction or op.source.attrs.get("unique_indices"):
        return op.ScatterND(base, nd, updates, reduction=reduction)
    lead, width = base.type.shape[:depth], dims.prod(base.type.shape[depth:])
    strides = op.dims(tuple(dims.prod(lead[i + 1 :]) for i in range(depth)))
    rows = op.reshape(
        op.ReduceSum(op.Mul(nd, strides), np.array([-1]), keepdims=0),
        (dims.prod(nd.type.shape[:-1]), 1),
    )
    grid = (rows.type.shape[0], width)
    table = op.reshape(base, (dims.prod(lead), width))
    places, added = op.expand(rows, grid), op.reshape(updates, grid)
    out = op.apply(
        "onnx.ScatterElements",
        table,
        places,
        added,
        axis=0,
        reduction=reduction,
        types=[table.type],
    )
    return op.reshape(out, base.type.shape)


def _dropping(
    op: Lowering,
    base: Value,
    nd: Value,
    flat: Value,
    misfits: Value,
    reduction: str | None,
) -> Value:
    """Windows that do not fit are dropped: their updates change nothing, or go to an extra row that is cut off again."""
    dtype, shape, rank = base.type.dtype, base.type.shape, base.type.rank

    def spread(like: Value) -> Value:
        return op.reshape(
            misfits, (*misfits.type.shape, *(1,) * (like.type.rank - misfits.type.rank))
        )

    if reduction:
        least, greatest = limits(dtype)
        unit = {"add": -0.0, "mul": 1, "min": greatest, "max": least}[reduction]
        return _reduced(
            op, base, nd, op.Where(spread(flat), op.const(unit, dtype), flat), reduction
        )
    away = op.dims([shape[0], *(0,) * (nd.type.shape[-1] - 1)])
    padded = pad_with(
        op, base, op.const(0, dtype), [(0, int(i == 0), 0) for i in range(rank)]
    )
    out = op.ScatterND(padded, op.Where(spread(nd), away, nd), flat)
    return slice_axes(op, out, (0,) * rank, shape, (1,) * rank)
