"""Gather and dynamic slices in JAX's general form.

`lax.gather` takes windows of `slice_sizes` at start indices. Every form becomes one GatherND over all
indexed axes, with the offsets in the windows added to the starts; the common forms become one Gather or
Slice. Sources: `jax.lax.gather` (XLA's), ONNX's Gather, GatherND and Slice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType, Shape, is_one, same_dim
from j2o.passes.lower.dot import pick
from j2o.passes.lower.elementwise import where
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.shape import arange
from j2o.passes.lower.table import Lowering, lower


@dataclass(frozen=True)
class IndexedWindows:
    """The windows of an operand that an index names: what the dimension numbers of gather and scatter share.

    Column k of the index holds starts along the axis `axes[k]` of the operand. An axis in `batching` runs
    along with an axis of the index, which it is mapped to. Results and updates do not have the `dropped`
    axes, nor those in `batching`.
    """

    axes: Sequence[int]
    dropped: Sequence[int]
    batching: dict[int, int]
    sizes: Shape

    @property
    def kept(self) -> list[int]:
        """The axes of the operand that results and updates have."""
        away = {*self.dropped, *self.batching}
        return [a for a in range(len(self.sizes)) if a not in away]

    def indexed(self, shape: Shape) -> list[int]:
        """The axes that need an index, at least one; the windows take the others whole."""
        named = {*self.axes, *self.dropped, *self.batching}
        found = []
        for axis, size in enumerate(shape):
            if axis in named or not same_dim(self.sizes[axis], size):
                found.append(axis)
        return found or [0]

    def clamped(self, op: Lowering, index: Value, shape: Shape) -> Value:
        """The starts, moved so that the windows lie inside."""
        if not self.axes:
            return index
        last_starts = [dims.sub(shape[a], self.sizes[a]) for a in self.axes]
        return op.Max(op.Min(index, op.dims(last_starts)), 0)

    def places(
        self,
        op: Lowering,
        index: Value,
        shape: Shape,
        indexed: Sequence[int] | None = None,
    ) -> Value:
        """`i64[batch…, inner…, n]`: where each element of the windows lies along the `n` indexed axes.

        The inner axes are those of the windows that are indexed, too: their elements are spelled out.
        """
        indexed = self.indexed(shape) if indexed is None else list(indexed)
        inner = [a for a in self.kept if a in indexed]
        if list(self.axes) == indexed and not inner:
            return index
        columns = []
        for axis in indexed:
            columns.append(self._column(op, index, axis, shape[axis], inner))
        return op.Concat(*columns, axis=-1) if len(columns) > 1 else columns[0]

    def _column(
        self, op: Lowering, index: Value, axis: int, size: Dim, inner: Sequence[int]
    ) -> Value:
        """`i64[batch…, inner…, 1]`: where each element lies along one axis, which has this size."""
        batch = index.type.shape[:-1]
        column_shape = (*batch, *pick(self.sizes, inner), 1)
        rank = len(column_shape)
        parts = []
        if axis in self.axes:
            parts.append(self._starts(op, index, axis, len(inner)))
        if axis in self.batching:
            parts.append(line(op, size, self.batching[axis], rank))
        if axis in inner and not same_dim(self.sizes[axis], 1):
            along = len(batch) + inner.index(axis)
            parts.append(line(op, self.sizes[axis], along, rank))
        total = functools.reduce(op.Add, parts or [op.const([0])])
        return op.expand(total, column_shape)

    def _starts(self, op: Lowering, index: Value, axis: int, inner: int) -> Value:
        """`i64[batch…, 1…, 1]`: the starts along one axis, with ones for the inner axes."""
        batch = index.type.shape[:-1]
        starts = index
        if len(self.axes) > 1:
            column = np.array([self.axes.index(axis)])
            starts = op.Gather(index, column, axis=len(batch))
        return op.reshape(starts, (*batch, *(1,) * inner, 1)) if batch else starts


def line(op: Lowering, size: Dim, axis: int, rank: int) -> Value:
    """0, 1, … along one axis of an array of this rank that has size 1 elsewhere."""
    shape = tuple(size if i == axis else 1 for i in range(rank))
    return op.reshape(arange(op, size, DType.I64), shape)


# ------------------------------------------------------------------------------------------------ slices


@lower("dynamic_slice")
def dynamic_slice(op: Lowering, x: Value, *starts: Value, slice_sizes: Shape) -> Value:
    """A window of this shape; its starts are moved so that it lies inside."""
    axes = cut_axes(x.type.shape, slice_sizes)
    if not axes:
        return x
    windows = IndexedWindows(axes, (), {}, slice_sizes)
    begin = windows.clamped(op, stacked(op, starts, axes), x.type.shape)
    return _window(op, x, begin, slice_sizes, axes)


def cut_axes(shape: Shape, sizes: Shape) -> list[int]:
    """The axes on which a window of these sizes is less than the whole."""
    return [i for i, d in enumerate(shape) if not same_dim(d, sizes[i])]


def stacked(op: Lowering, starts: Sequence[Value], axes: Sequence[int]) -> Value:
    """`i64[len(axes)]`: the starts on these axes."""
    parts = [op.reshape(to_i64(op, starts[i]), (1,)) for i in axes]
    return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def to_i64(op: Lowering, index: Value) -> Value:
    if index.type.dtype == DType.U64:
        # beyond the signed range is past the end in any case
        greatest = op.const(2**63 - 1, DType.U64)
        index = op.Where(op.Less(index, 2**63), index, greatest)
    return op.cast(index, DType.I64)


def _window(
    op: Lowering, x: Value, begin: Value, sizes: Shape, axes: Sequence[int]
) -> Value:
    """The window that starts at `begin`, `i64[len(axes)]`, on some axes and is whole on the others."""
    end = op.Add(begin, op.dims([sizes[i] for i in axes]))
    shape = tuple(sizes[i] if i in axes else d for i, d in enumerate(x.type.shape))
    places = np.asarray(axes, np.int64)
    result = x.type.with_shape(shape)
    return op.apply("onnx.Slice", x, begin, end, places, types=[result])


# ------------------------------------------------------------------------------------------------ gather


@lower("gather")
def gather(
    op: Lowering,
    x: Value,
    indices: Value,
    *,
    dimension_numbers: Any,
    slice_sizes: Shape,
    mode: str = "fill_or_drop",
    fill_value: Any = None,
    **_: Any,
) -> Value:
    """Windows at the indices.

    A window that does not lie inside is filled with a value (mode "fill_or_drop" or "fill"), or moved inside
    ("clip", and "promise_in_bounds", as XLA does it).
    """
    numbers = dimension_numbers
    operand_batch = numbers.operand_batching_dims
    index_batch = numbers.start_indices_batching_dims
    windows = IndexedWindows(
        numbers.start_index_map,
        numbers.collapsed_slice_dims,
        dict(zip(operand_batch, index_batch, strict=True)),
        slice_sizes,
    )
    fills = mode in ("fill_or_drop", "fill")
    if not fills:
        windows, indices = _without_whole_axes(op, windows, indices, x.type.shape)
    index = to_i64(op, indices)
    inside = windows.clamped(op, index, x.type.shape)
    out = _gathered(op, x, inside, windows, numbers.offset_dims)
    if fills:
        fits = op.Equal(index, inside)
        out = _filled(op, out, fits, numbers.offset_dims, fill_value)
    return op.reshape(out, op.out_shape)


def _gathered(
    op: Lowering,
    x: Value,
    index: Value,
    windows: IndexedWindows,
    offset_dims: Sequence[int],
) -> Value:
    """One Gather along a single axis, one Slice for a single index, else GatherElements or GatherND."""
    windows, index = _without_whole_axes(op, windows, index, x.type.shape)
    indexed = windows.indexed(x.type.shape)
    batch = [~k for k in range(index.type.rank - 1)]  # names for the axes of the index
    takes_rows = list(windows.dropped) == indexed
    if not batch and not takes_rows and set(indexed) <= set(windows.axes):
        window = _window(op, x, index, windows.sizes, windows.axes)
        return op.squeeze(window, windows.dropped)
    want = _interleaved(windows.kept, batch, offset_dims)
    single = [a for a in windows.axes if a in want and is_one(windows.sizes[a])]
    windows = replace(windows, dropped=[*windows.dropped, *single])
    if len(windows.axes) == 1 and list(windows.axes) == indexed:
        out, have = _along_one_axis(op, x, index, windows)
    elif _takes_elements(windows, index):
        out, have = _elements(op, x, index, windows)
    else:
        out, have = _rows_of_batches(op, x, index, windows)
    out = op.unsqueeze(out, range(len(have), len(want)))
    have += single
    return op.transpose(out, [have.index(a) for a in want])


def _without_whole_axes(
    op: Lowering, windows: IndexedWindows, index: Value, shape: Shape
) -> tuple[IndexedWindows, Value]:
    """Leave out starts along axes of which the windows take everything: they can only be 0."""
    needed = []
    for column, axis in enumerate(windows.axes):
        is_whole = same_dim(windows.sizes[axis], shape[axis])
        if not is_whole or axis in windows.dropped:
            needed.append(column)
    if not needed or len(needed) == len(windows.axes):
        return windows, index
    axes = [windows.axes[column] for column in needed]
    index = op.Gather(index, np.array(needed), axis=index.type.rank - 1)
    return replace(windows, axes=axes), index


# each of these gives the result, and the axis that each of its axes is: of the operand, or ~k, of the index


def _along_one_axis(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> tuple[Value, list[int]]:
    """Elements or windows along one axis: a Gather."""
    (axis,) = windows.axes
    places = windows.places(op, index, x.type.shape)
    out = op.Gather(x, op.reshape(places, places.type.shape[:-1]), axis=axis)
    batch = [~k for k in range(index.type.rank - 1)]
    inner = [axis] if axis in windows.kept else []
    rank = x.type.rank
    return out, [*range(axis), *batch, *inner, *range(axis + 1, rank)]


def _takes_elements(windows: IndexedWindows, index: Value) -> bool:
    """Return True where the index names single elements along one axis, and all others run along with it."""
    if len(windows.axes) != 1 or windows.kept:
        return False
    return len(windows.batching) == index.type.rank - 2 == len(windows.sizes) - 1


def _elements(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> tuple[Value, list[int]]:
    """Elements along one axis, by as many indices as there are rows: `jnp.take_along_axis`."""
    (axis,) = windows.axes
    rank = x.type.rank
    (own,) = {*range(rank)} - {*windows.batching.values()}
    order = [windows.batching.get(a, own) for a in range(rank)]
    places = op.reshape(index, index.type.shape[:-1])
    out = op.GatherElements(x, op.transpose(places, order), axis=axis)
    return out, [~k for k in order]


def _rows_of_batches(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> tuple[Value, list[int]]:
    """A GatherND, whose batches are the axes that run along with those of the index."""
    rank = x.type.rank
    batched = list(windows.batching)
    indexed = [a for a in windows.indexed(x.type.shape) if a not in batched]
    if not indexed:
        batched, indexed = [], windows.indexed(x.type.shape)
    front = [windows.batching[a] for a in batched]
    behind = [k for k in range(index.type.rank - 1) if k not in front]
    whole = [a for a in range(rank) if a not in batched and a not in indexed]
    data = op.transpose(x, [*batched, *indexed, *whole])
    if batched:
        index = op.transpose(index, [*front, *behind, index.type.rank - 1])
    places = windows.places(op, index, x.type.shape, indexed)
    out = op.GatherND(data, places, batch_dims=len(batched) or None)
    inner = [a for a in windows.kept if a in indexed]
    return out, [*(~k for k in (*front, *behind)), *inner, *whole]


def _interleaved(
    kept: Sequence[int], batch: Sequence[int], offset_dims: Sequence[int]
) -> list[int]:
    """The axes of a result: those of the windows where `offset_dims` say, those of the index between them."""
    windows, batches = iter(kept), iter(batch)
    order = []
    for i in range(len(kept) + len(batch)):
        order.append(next(windows) if i in offset_dims else next(batches))
    return order


def _filled(
    op: Lowering, out: Value, fits: Value, offset_dims: Sequence[int], fill_value: Any
) -> Value:
    """The fill value wherever a window did not fit: on some axis, for `fits` has them all."""
    inside = on_all_axes(op, fits)
    dtype, sizes = out.type.dtype, iter(inside.type.shape)
    shape = tuple(1 if i in offset_dims else next(sizes) for i in range(out.type.rank))
    return where(op, op.reshape(inside, shape), out, _fill(op, fill_value, dtype))


def _fill(op: Lowering, fill_value: Any, dtype: DType) -> Value:
    """The fill value as a scalar: a number, or a size such as `x.shape[0]`, which names no element.

    A number that the dtype does not hold is converted as JAX does it, by numpy.
    """
    if fill_value is None:
        fill_value = _default_fill(dtype)
    if isinstance(fill_value, Tensor):  # a complex number, where the operand is none
        fill_value = fill_value.load()
    if dims.is_symbolic(fill_value):
        return op.dim(fill_value, dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return op.const(np.asarray(fill_value).astype(dtype.numpy))


def on_all_axes(op: Lowering, fits: Value) -> Value:
    """True where the last axis of a bool array has no False."""
    if is_one(fits.type.shape[-1]):
        return op.squeeze(fits, [fits.type.rank - 1])
    least = op.ReduceMin(op.cast(fits, DType.I32), np.array([-1]), keepdims=0)
    return op.Equal(least, 1)


def _default_fill(dtype: DType) -> Any:
    """NaN; of integers the least signed, or the greatest unsigned number."""
    if dtype.is_float:
        return math.nan
    least, greatest = limits(dtype)
    return least if dtype.is_signed else greatest
