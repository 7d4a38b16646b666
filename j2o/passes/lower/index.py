"""Gather, scatter and dynamic slices in JAX's general form.

`lax.gather` takes windows of `slice_sizes` at start indices; here every form becomes one GatherND over all indexed axes, with
the windows' offsets added to the starts, and the common forms one Gather. Scatters are the same turned around.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, Type
from j2o.passes.components import computes
from j2o.passes.lower.elementwise import where
from j2o.passes.lower.reduce import apply_elementwise, loop
from j2o.passes.lower.shape import arange, pad_with, slice_axes
from j2o.passes.lower.table import Lowering, lower


def _axis_limit(size: Dim, window: Dim) -> Dim:
    """The largest start at which a window fits."""
    return dims.sub(size, window)


def _vector(op: Lowering, entries: Sequence[Dim]) -> Value:
    return op.dims(tuple(entries))


@lower("dynamic_slice")
def dynamic_slice(op: Lowering, x: Value, *starts: Value, slice_sizes: Shape) -> Value:
    axes = [
        i for i, (d, s) in enumerate(zip(x.type.shape, slice_sizes, strict=True)) if not (type(d) is type(s) and d == s)
    ]
    if not axes:
        return x
    return _window(op, x, _clamped_starts(op, x.type.shape, slice_sizes, starts, axes), slice_sizes, axes)


def _window(op: Lowering, x: Value, begin: Value, sizes: Shape, axes: Sequence[int]) -> Value:
    """The window of these sizes that starts at `begin`, `i64[len(axes)]`, on some axes and is whole on the others."""
    end = op.Add(begin, _vector(op, [sizes[i] for i in axes]))
    shape = tuple(sizes[i] if i in axes else d for i, d in enumerate(x.type.shape))
    return op.apply("onnx.Slice", x, begin, end, np.asarray(axes, np.int64), types=[x.type.with_shape(shape)])


def _clamped_starts(op: Lowering, shape: Shape, sizes: Shape, starts: Sequence[Value], axes: Sequence[int]) -> Value:
    """`i64[len(axes)]`: the starts, moved so that the window lies inside."""
    parts = [op.reshape(_to_i64(op, starts[i]), (1,)) for i in axes]
    begin = op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]
    top = _vector(op, [_axis_limit(shape[i], sizes[i]) for i in axes])
    return op.Max(op.Min(begin, top), 0)


def _to_i64(op: Lowering, i: Value) -> Value:
    if i.type.dtype == DType.U64:  # beyond the signed range is past the end in any case
        i = op.Where(op.Less(i, 2**63), i, op.const(2**63 - 1, DType.U64))
    return op.cast(i, DType.I64)


@lower("dynamic_update_slice")
def dynamic_update_slice(op: Lowering, x: Value, update: Value, *starts: Value) -> Value:
    if not x.type.shape:
        return update
    sizes = update.type.shape
    axes = [i for i, (d, s) in enumerate(zip(x.type.shape, sizes, strict=True)) if not (type(d) is type(s) and d == s)]
    if not axes:
        return update
    begin = _clamped_starts(op, x.type.shape, sizes, starts, axes)
    # rows along the updated axes, the others whole
    whole = [i for i in range(x.type.rank) if i not in axes]
    order = [*axes, *whole]
    grid = tuple(sizes[i] for i in axes)
    columns = []
    for k, i in enumerate(axes):
        line = op.Add(arange(op, sizes[i], DType.I64), op.slice(begin, 0, k, k + 1))
        spread = op.reshape(line, tuple(sizes[i] if j == i else 1 for j in axes))
        columns.append(op.unsqueeze(op.expand(spread, grid), [-1]))
    index = op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]
    out = op.ScatterND(op.transpose(x, order), index, op.transpose(update, order))
    return op.transpose(out, [order.index(i) for i in range(len(order))])


# ------------------------------------------------------------------------------------------------ gather


@lower("gather")
def gather(
    op: Lowering, x: Value, indices: Value, *, dimension_numbers: Any, slice_sizes: Shape, mode: str = "fill_or_drop",
    fill_value: Any = None, **_: Any,
) -> Value:  # fmt: skip
    d = dimension_numbers
    index = _to_i64(op, indices)
    axes = list(d.start_index_map)
    limits = [_axis_limit(x.type.shape[a], slice_sizes[a]) for a in axes]
    clipped = op.Max(op.Min(index, _vector(op, limits)), 0)  # XLA clamps what was promised, too
    forms = (form(op, x, clipped, d, slice_sizes) for form in (_simple_gather, _one_window, _general_gather))
    out = next(v for v in forms if v is not None)
    if mode in ("fill_or_drop", "fill"):
        out = _filled(op, x, out, index, clipped, d, fill_value)
    return op.reshape(out, op.out_shape)


def _one_window(op: Lowering, x: Value, index: Value, d: Any, sizes: Shape) -> Value | None:
    """One Slice: a single index, and windows that are whole on the axes that it does not name."""
    axes = list(d.start_index_map)
    whole = all(_equal(s, x.type.shape[i]) for i, s in enumerate(sizes) if i not in axes)
    if index.type.rank != 1 or not axes or not whole:
        return None
    return op.squeeze(_window(op, x, index, sizes, axes), d.collapsed_slice_dims)


def _simple_gather(op: Lowering, x: Value, index: Value, d: Any, sizes: Shape) -> Value | None:
    """One Gather: single indexed axis of window 1, collapsed, the others whole."""
    if d.operand_batching_dims or len(d.start_index_map) != 1:
        return None
    axis = d.start_index_map[0]
    if tuple(d.collapsed_slice_dims) != (axis,) or any(
        not _equal(s, x.type.shape[i]) for i, s in enumerate(sizes) if i != axis
    ):
        return None
    batch = index.type.rank - 1
    flat = op.reshape(index, index.type.shape[:-1])
    out = op.Gather(x, flat, axis=axis)
    # Gather puts the batch where the axis was; JAX where offset_dims leave room
    rest = [i for i in range(x.type.rank) if i != axis]
    rank = batch + len(rest)
    have = list(rest[:axis]) + [("b", k) for k in range(batch)] + list(rest[axis:])
    offsets = iter(rest)
    batches = iter(("b", k) for k in range(batch))
    want = [next(offsets) if i in d.offset_dims else next(batches) for i in range(rank)]
    return op.transpose(out, [have.index(w) for w in want])


def _equal(a: Dim, b: Dim) -> bool:
    return type(a) is type(b) and a == b


def _general_gather(op: Lowering, x: Value, index: Value, d: Any, sizes: Shape) -> Value:
    """GatherND over the indexed and batched axes and the windows on them; the other axes come along whole."""
    rank = x.type.rank
    batch_shape = index.type.shape[:-1]
    nb = len(batch_shape)
    windowed = [a for a in range(rank) if a not in d.collapsed_slice_dims and a not in d.operand_batching_dims]
    # axes that must be indexed: started ones, batching ones, and those whose window is not the whole axis
    indexed = [
        a
        for a in range(rank)
        if a in d.start_index_map or a in d.operand_batching_dims or not _equal(sizes[a], x.type.shape[a])
    ]
    whole = [a for a in range(rank) if a not in indexed]
    inner = [a for a in windowed if a in indexed]  # windows that are spelled out in the index
    grid = (*batch_shape, *(sizes[a] for a in inner))
    columns = []
    for a in indexed:
        columns.append(op.unsqueeze(_column(op, index, d, a, nb, inner, sizes, grid), [-1]))
    nd = op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]
    out = op.GatherND(op.transpose(x, [*indexed, *whole]), nd)
    # now: batch…, inner windows…, whole axes…
    have = [("b", k) for k in range(nb)] + [("w", a) for a in inner] + [("w", a) for a in whole]
    offsets, batches = iter(("w", a) for a in windowed), iter(("b", k) for k in range(nb))
    want = [next(offsets) if i in d.offset_dims else next(batches) for i in range(len(have))]
    return op.transpose(out, [have.index(w) for w in want])


def _column(
    op: Lowering, index: Value, d: Any, axis: int, nb: int, inner: Sequence[int], sizes: Shape, grid: Shape
) -> Value:
    """The index along one axis for every batch entry and window element, `i64[grid]`."""
    starts: Value | None = None
    if axis in d.start_index_map:
        k = d.start_index_map.index(axis)
        starts = op.Gather(index, np.array(k), axis=index.type.rank - 1)
    elif axis in d.operand_batching_dims:
        at = d.start_indices_batching_dims[d.operand_batching_dims.index(axis)]
        size = index.type.shape[at]
        starts = op.reshape(arange(op, size, DType.I64), tuple(size if i == at else 1 for i in range(nb)))
    parts: list[Value] = []
    if starts is not None:
        parts.append(op.reshape(starts, (*starts.type.shape, *(1,) * len(inner))))
    if axis in inner and not _equal(sizes[axis], 1):
        line = arange(op, sizes[axis], DType.I64)
        parts.append(op.reshape(line, tuple(sizes[a] if a == axis else 1 for a in (*[-1] * nb, *inner))))
    if not parts:
        return op.full(grid, 0, DType.I64)
    out = parts[0] if len(parts) == 1 else op.Add(parts[0], parts[1])
    return op.expand(out, grid)


def _filled(op: Lowering, x: Value, out: Value, index: Value, clipped: Value, d: Any, fill_value: Any) -> Value:
    """The fill value wherever a window did not fit."""
    good = op.Equal(index, clipped)
    inside = op.Equal(op.ReduceMin(op.cast(good, DType.I32), np.array([-1]), keepdims=0), 1)
    rank = out.type.rank
    batch_axes = [i for i in range(rank) if i not in d.offset_dims]
    shape = [1] * rank
    for k, i in enumerate(batch_axes):
        shape[i] = inside.type.shape[k]  # type: ignore[call-overload]
    dtype = x.type.dtype
    if fill_value is None:
        fill_value = (
            np.nan
            if dtype.is_float
            else True
            if dtype == DType.BOOL
            else int(np.iinfo(dtype.numpy).min if dtype.is_signed else np.iinfo(dtype.numpy).max)
        )
    fill = op.const(fill_value, dtype)
    return where(
        op, op.reshape(inside, tuple(shape)), out, op.expand(fill, out.type.shape) if dtype == DType.BOOL else fill
    )


# ----------------------------------------------------------------------------------------------- scatter

ONE_THREAD = 1 << 16  # elements that onnxruntime's ScatterND does not divide among threads
_REDUCTIONS = {"scatter": None, "scatter-add": "add", "scatter-mul": "mul", "scatter-min": "min", "scatter-max": "max",
               "scatter_add": "add", "scatter_mul": "mul", "scatter_min": "min", "scatter_max": "max", "scatter-sub": "sub", "scatter_sub": "sub"}  # fmt: skip


@lower(*_REDUCTIONS)
def scatter(
    op: Lowering,
    x: Value,
    *operands: Value,
    dimension_numbers: Any,
    mode: str = "fill_or_drop",
    unique_indices: bool = False,
    **_: Any,
) -> Value | Sequence[Value]:
    reduction = _REDUCTIONS[op.source.kind]
    if computes(op.source):
        return _applied(op, [x, *operands], dimension_numbers, mode, unique_indices)
    indices, updates = operands
    if reduction == "sub":
        reduction, updates = "add", op.Neg(updates)
    dtype, d = x.type.dtype, dimension_numbers
    if dtype == DType.BOOL and reduction:
        reduction = {"add": "max", "max": "max", "mul": "min", "min": "min"}[reduction]
    wide = DType.I32 if dtype == DType.BOOL else DType.F32 if dtype.is_float and dtype.bits <= 16 else dtype
    if wide == dtype or not reduction:
        return _scatter(op, x, indices, updates, d, mode, reduction)
    return op.cast(_scatter(op, op.cast(x, wide), indices, op.cast(updates, wide), d, mode, reduction), dtype)


def _applied(op: Lowering, operands: Sequence[Value], d: Any, mode: str, unique: bool) -> Sequence[Value]:
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

    places = rows(op.jax(_places, operands[n], shape=shape, updates=spread, d=d, mode=mode))
    updates = [rows(v) for v in operands[n + 1 :]]
    # an element more, which takes what is dropped
    tables = [op.Concat(op.reshape(v, (size,)), op.full((1,), 0, v.type.dtype), axis=0) for v in operands[:n]]

    def body(inner: Lowering, i: Value, *lines: Value) -> list[Value]:
        at = inner.Gather(places, i, axis=0)
        old, new = [inner.Gather(v, at, axis=0) for v in lines], [inner.Gather(v, i, axis=0) for v in updates]
        made = apply_elementwise(inner, region, [*old, *new])
        return [inner.ScatterElements(v, at, m, axis=0) for v, m in zip(lines, made, strict=True)]

    return [op.reshape(op.slice(v, 0, 0, size), shape) for v in loop(op, count, tables, body)]


def _places(indices: jax.Array, *, shape: Shape, updates: Shape, d: Any, mode: str) -> jax.Array:
    """Where in the flattened operand each element of the updates goes; past its end where it is dropped."""
    windows = iter(d.update_window_dims)
    fixed = (*d.inserted_window_dims, *d.operand_batching_dims)
    sizes = tuple(1 if i in fixed else updates[next(windows)] for i in range(len(shape)))
    names = lax.GatherDimensionNumbers(
        tuple(d.update_window_dims), tuple(d.inserted_window_dims), tuple(d.scatter_dims_to_operand_dims),
        tuple(d.operand_batching_dims), tuple(d.scatter_indices_batching_dims),
    )  # fmt: skip
    table = lax.iota(jnp.int64, dims.prod(shape)).reshape(shape)
    at = lax.gather(table, indices, names, sizes, mode="clip" if mode == "clip" else "fill", fill_value=-1)
    return jnp.where(at < 0, dims.prod(shape), at)


def _scatter(op: Lowering, x: Value, indices: Value, updates: Value, d: Any, mode: str, reduction: str | None) -> Value:
    rank = x.type.rank
    index = _to_i64(op, indices)
    window_axes = [a for a in range(rank) if a not in d.inserted_window_dims and a not in d.operand_batching_dims]
    sizes: list[Dim] = [1] * rank
    for a, u in zip(window_axes, d.update_window_dims, strict=True):
        sizes[a] = updates.type.shape[u]
    nb = index.type.rank - 1
    axes = list(d.scatter_dims_to_operand_dims)
    indexed = [
        a for a in range(rank) if a in axes or a in d.operand_batching_dims or not _equal(sizes[a], x.type.shape[a])
    ]
    if not indexed:
        indexed = [0] if rank else []
    if not rank:
        return _scatter_scalar(op, x, updates, reduction)
    whole = [a for a in range(rank) if a not in indexed]
    inner = [a for a in window_axes if a in indexed]
    grid = (*index.type.shape[:-1], *(sizes[a] for a in inner))
    limits = [_axis_limit(x.type.shape[a], sizes[a]) for a in axes]
    names = _GatherView(d)
    kept = op.Max(op.Min(index, _vector(op, limits)), 0) if axes else index
    columns = [op.unsqueeze(_column(op, kept, names, a, nb, inner, tuple(sizes), grid), [-1]) for a in indexed]
    nd = op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]
    # updates: batch…, windows… in the order of the operand → batch…, inner…, whole…
    update_batch = [i for i in range(updates.type.rank) if i not in d.update_window_dims]
    at = dict(zip(window_axes, d.update_window_dims, strict=True))
    flat = op.transpose(updates, [*update_batch, *(at[a] for a in inner), *(at[a] for a in whole)])
    order = [*indexed, *whole]
    base = op.transpose(x, order)
    shape = base.type.shape
    # an element more where an axis may have none: the runtime takes no index into nothing
    more = [(0, int(i < len(indexed) and not dims.known_ge(n, 1)), 0) for i, n in enumerate(shape)]
    if any(high for _, high, _ in more):
        base = pad_with(op, base, op.const(0, base.type.dtype), more)
    if mode == "clip" or not axes:
        out = _reduced(op, base, nd, flat, reduction)
    else:
        good = op.ReduceMin(op.cast(op.Equal(index, kept), DType.I32), np.array([-1]), keepdims=0)
        out = _dropping(op, base, nd, flat, op.Less(good, 1), reduction)
    return op.transpose(slice_axes(op, out, (0,) * rank, shape, (1,) * rank), [order.index(i) for i in range(rank)])


def _reduced(op: Lowering, base: Value, nd: Value, updates: Value, reduction: str | None) -> Value:
    """`updates` put or accumulated at `nd`. NaN, which onnxruntime's max and min overlook, is added afterwards."""
    dtype = base.type.dtype
    out = _accumulated(op, base, nd, updates, reduction)
    if reduction not in ("max", "min") or not dtype.is_float:
        return out
    nans = op.Where(op.IsNaN(updates), op.const(math.nan, dtype), op.const(-0.0, dtype))
    return _accumulated(op, out, nd, nans, "add")


def _accumulated(op: Lowering, base: Value, nd: Value, updates: Value, reduction: str | None) -> Value:
    """ScatterND; for what onnxruntime would divide among threads that get in each other's way, ScatterElements."""
    sizes, depth = updates.type.shape, nd.type.shape[-1]
    small = all(type(n) is int for n in sizes) and dims.prod(sizes) <= ONE_THREAD
    if small or not reduction or op.source.attrs.get("unique_indices"):
        return op.ScatterND(base, nd, updates, reduction=reduction)
    lead, width = base.type.shape[:depth], dims.prod(base.type.shape[depth:])
    strides = op.dims(tuple(dims.prod(lead[i + 1 :]) for i in range(depth)))
    rows = op.reshape(op.ReduceSum(op.Mul(nd, strides), np.array([-1]), keepdims=0), (dims.prod(nd.type.shape[:-1]), 1))
    grid = (rows.type.shape[0], width)
    table = op.reshape(base, (dims.prod(lead), width))
    places, added = op.expand(rows, grid), op.reshape(updates, grid)
    out = op.apply("onnx.ScatterElements", table, places, added, axis=0, reduction=reduction, types=[table.type])
    return op.reshape(out, base.type.shape)


class _GatherView:
    """Scatter's dimension numbers under gather's names."""

    def __init__(self, d: Any) -> None:
        self.start_index_map = tuple(d.scatter_dims_to_operand_dims)
        self.operand_batching_dims = tuple(d.operand_batching_dims)
        self.start_indices_batching_dims = tuple(d.scatter_indices_batching_dims)


def _scatter_scalar(op: Lowering, x: Value, updates: Value, reduction: str | None) -> Value:
    line = op.reshape(x, (1,))
    flat = op.reshape(updates, (dims.prod(updates.type.shape),))
    index = op.full((*flat.type.shape, 1), 0, DType.I64)
    return op.reshape(op.ScatterND(line, index, flat, reduction=reduction), ())


def _dropping(op: Lowering, base: Value, nd: Value, flat: Value, misfits: Value, reduction: str | None) -> Value:
    """Windows that do not fit are dropped: their updates change nothing, or go to an extra row that is cut off again."""
    dtype, size, depth = base.type.dtype, base.type.shape[0], nd.type.shape[-1]

    def spread(rank: int) -> Value:
        return op.reshape(misfits, (*misfits.type.shape, *(1,) * (rank - misfits.type.rank)))

    if reduction and 0 not in base.type.shape[:depth] and all(type(n) is int for n in base.type.shape[:depth]):
        kept = op.Where(spread(flat.type.rank), op.const(_unit(reduction, dtype), dtype), flat)
        return _reduced(op, base, nd, kept, reduction)
    away = op.Mul(op.const(np.eye(1, depth, dtype=np.int64)[0]), op.dims((size,)))
    nd = op.Where(spread(nd.type.rank), op.reshape(away, (*(1,) * (nd.type.rank - 1), depth)), nd)
    pads = [0] * (2 * base.type.rank)
    pads[base.type.rank] = 1
    narrow = DType.U8 if dtype == DType.BOOL else dtype  # there is no Pad of bool
    extra = Type(narrow, (dims.add(size, 1), *base.type.shape[1:]))
    padded = op.apply("onnx.Pad", op.cast(base, narrow), np.asarray(pads), op.const(0, narrow), types=[extra])
    out = _reduced(op, op.cast(padded, dtype), nd, flat, reduction)
    return slice_axes(op, out, (0,) * out.type.rank, base.type.shape, (1,) * out.type.rank)


def _unit(reduction: str, dtype: DType) -> float | int:
    """What changes nothing."""
    if reduction in ("add", "mul"):
        return int(reduction == "mul")
    if dtype.is_float:
        return math.inf if reduction == "min" else -math.inf
    return int(getattr(np.iinfo(dtype.numpy), "max" if reduction == "min" else "min"))
