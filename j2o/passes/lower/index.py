"""Gather and dynamic slices in JAX's general form.

`lax.gather` takes windows of `slice_sizes` at start indices. Every form becomes one GatherND over all
indexed axes, with the offsets in the windows added to the starts; the common forms become one Gather or
Slice. So the rows `x[i]` of x: f32[9,4] at i: i64[5,1], windows of (1, 4) without their first axis, become

    Gather(x, Reshape(i, [5]), axis=0) : f32[5,4]

Sources: `jax.lax.gather` (XLA's), ONNX's Gather, GatherND and Slice.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
        columns = columns_of(index)
        if len(columns) < 2:
            return op.Max(op.Min(index, op.dims(last_starts)), 0)
        clamped = []
        for column, last in zip(columns, last_starts, strict=True):
            limit = op.dim(last, column.type.dtype)
            clamped.append(op.Max(op.Min(column, limit), 0))
        return to_i64(op, op.Concat(*clamped, axis=-1))

    def places(
        self,
        op: Lowering,
        index: Value,
        shape: Shape,
        indexed: Sequence[int] | None = None,
    ) -> Value:
        """`i64[batch…, inner…, n]`: where each element of the windows lies along the `n` indexed axes.

        The batch are the axes of the index. The inner axes are those of the windows that are indexed, too:
        their elements are spelled out.
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


def columns_of(index: Value) -> list[Value]:
    """The columns that an index was put together of, in i32 or i64; none where it was made otherwise.

    An index of one axis is looked at as it is: its columns are single numbers.
    """
    source = index
    if index.op == "onnx.Cast" and index.producer.operand(0).type.dtype is DType.I32:
        source = index.producer.operand(0)
    if source.op != "onnx.Concat" or source.type.rank < 2:
        return []
    columns = list(source.producer.operands)
    if source.producer.int_attr("axis") % source.type.rank != source.type.rank - 1:
        return []
    return columns if all(is_one(v.type.shape[-1]) for v in columns) else []


def line(op: Lowering, size: Dim, axis: int, rank: int) -> Value:
    """0, 1, … along one axis of an array of this rank that has size 1 elsewhere."""
    shape: list[Dim] = [1] * rank
    shape[axis] = size
    return op.reshape(arange(op, size, DType.I64), tuple(shape))


# ------------------------------------------------------------------------------------------------ slices


@lower("dynamic_slice")
def dynamic_slice(op: Lowering, x: Value, *starts: Value, slice_sizes: Shape) -> Value:
    """A window of this shape; its starts are moved so that it lies inside."""
    axes = cut_axes(x.type.shape, slice_sizes)
    if not axes:
        return x
    windows = IndexedWindows(axes, (), {}, slice_sizes)
    begin = windows.clamped(op, start_vector(op, starts, axes), x.type.shape)
    return _window(op, x, begin, slice_sizes, axes)


def cut_axes(shape: Shape, sizes: Shape) -> list[int]:
    """The axes on which a window of these sizes is less than the whole."""
    return [i for i, d in enumerate(shape) if not same_dim(d, sizes[i])]


def start_vector(op: Lowering, starts: Sequence[Value], axes: Sequence[int]) -> Value:
    """`i64[len(axes)]`: the starts on these axes."""
    parts = [op.reshape(to_i64(op, starts[i]), (1,)) for i in axes]
    return op.Concat(*parts, axis=0) if len(parts) > 1 else parts[0]


def to_i64(op: Lowering, index: Value) -> Value:
    """An index in i64, as ONNX takes it."""
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
    shape = list(x.type.shape)
    for axis in axes:
        shape[axis] = sizes[axis]
    places = np.asarray(axes, np.int64)
    result = x.type.with_shape(tuple(shape))
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
        fits = fits_on_all_axes(op, index, inside)
        out = _filled(op, out, fits, numbers.offset_dims, fill_value)
    return op.reshape(out, op.out_shape)


def _gathered(
    op: Lowering,
    x: Value,
    index: Value,
    windows: IndexedWindows,
    offset_dims: Sequence[int],
) -> Value:
    """One Slice for a single index; else what is gathered, with its axes in the order that JAX wants."""
    windows, index = _without_whole_axes(op, windows, index, x.type.shape)
    index_axes = _axes_of_index(index)
    if not index_axes and _is_one_slice(windows, x.type.shape):
        window = _window(op, x, index, windows.sizes, windows.axes)
        return op.squeeze(window, windows.dropped)
    wanted = _interleaved(windows.kept, index_axes, offset_dims)
    # axes along which a window has one element are dropped, and put back behind the others
    units = [a for a in windows.axes if a in wanted and is_one(windows.sizes[a])]
    windows = replace(windows, dropped=[*windows.dropped, *units])
    out = _gathered_windows(op, x, index, windows)
    with_units = op.unsqueeze(out.value, range(len(out.axes), len(wanted)))
    axes = [*out.axes, *units]
    return op.transpose(with_units, [axes.index(a) for a in wanted])


def _is_one_slice(windows: IndexedWindows, shape: Shape) -> bool:
    """Return True for a window that is more than a row, all of whose indexed axes have a start."""
    indexed = windows.indexed(shape)
    is_row = list(windows.dropped) == indexed
    return not is_row and set(indexed) <= set(windows.axes)


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


class Gathered(NamedTuple):
    """What is gathered, and what its axes are: a for axis a of the operand, ~k for axis k of the index."""

    value: Value
    axes: list[int]


def _axes_of_index(index: Value) -> list[int]:
    """The axes of an index but the last, which has the columns, as `Gathered` calls them."""
    return [~k for k in range(index.type.rank - 1)]


def _gathered_windows(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> Gathered:
    """A Gather along a single axis, else GatherElements or GatherND."""
    indexed = windows.indexed(x.type.shape)
    if len(windows.axes) == 1 and list(windows.axes) == indexed:
        return _along_one_axis(op, x, index, windows)
    if _takes_elements(windows, index):
        return _elements(op, x, index, windows)
    columns = columns_of(index)
    if len(columns) > 1 and not set(windows.kept) & set(indexed):
        return _rows_of_table(op, x, columns, windows)
    return _rows_of_batches(op, x, index, windows)


def _along_one_axis(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> Gathered:
    """Elements or windows along one axis: a Gather."""
    (axis,) = windows.axes
    places = windows.places(op, index, x.type.shape)
    out = op.Gather(x, op.reshape(places, places.type.shape[:-1]), axis=axis)
    before = range(axis)
    inner = [axis] if axis in windows.kept else []
    behind = range(axis + 1, x.type.rank)
    return Gathered(out, [*before, *_axes_of_index(index), *inner, *behind])


def _takes_elements(windows: IndexedWindows, index: Value) -> bool:
    """Return True where the index names single elements along one axis, and all others run along with it."""
    if len(windows.axes) != 1 or windows.kept:
        return False
    return len(windows.batching) == index.type.rank - 2 == len(windows.sizes) - 1


def _elements(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> Gathered:
    """Elements along one axis, by as many indices as there are rows: `jnp.take_along_axis`."""
    (axis,) = windows.axes
    rank = x.type.rank
    # the one axis of the index that runs along with none of the operand, and so stands for `axis`
    (own,) = {*range(rank)} - {*windows.batching.values()}
    order = [windows.batching.get(a, own) for a in range(rank)]
    places = op.reshape(index, index.type.shape[:-1])
    out = op.GatherElements(x, op.transpose(places, order), axis=axis)
    return Gathered(out, [~k for k in order])


LARGEST_I32 = 2**31 - 1


def _rows_of_table(
    op: Lowering, x: Value, columns: Sequence[Value], windows: IndexedWindows
) -> Gathered:
    """Rows at several indices are those of a table at one: a Gather, which is faster than GatherND.

    `x[i, j]` of x: f32[9,4,8] are the rows of f32[36,8] at 4 i + j.
    """
    shape = x.type.shape
    indexed = windows.indexed(shape)
    whole = [a for a in range(x.type.rank) if a not in indexed]
    count = dims.prod(pick(shape, indexed))
    rank = columns[0].type.rank
    dtype = _dtype_of_places(columns, count)
    place: Value | None = None
    for axis in indexed:
        if axis in windows.batching:
            column = op.cast(line(op, shape[axis], windows.batching[axis], rank), dtype)
        else:
            column = op.cast(columns[windows.axes.index(axis)], dtype)
        if place is not None:
            column = op.Add(op.Mul(place, op.dim(shape[axis], dtype)), column)
        place = column
    assert place is not None
    first, end = indexed[0], indexed[-1] + 1
    is_inside = indexed == list(range(first, end)) and end < x.type.rank
    if not is_inside:  # single numbers of the last axes are slow to gather
        x, first = op.transpose(x, [*indexed, *whole]), 0
    before, behind = whole[:first], whole[first:]
    table = op.reshape(x, (*pick(shape, before), count, *pick(shape, behind)))
    out = op.Gather(table, op.squeeze(place, [rank - 1]), axis=first)
    return Gathered(out, [*before, *(~k for k in range(rank - 1)), *behind])


def _dtype_of_places(columns: Sequence[Value], count: Dim) -> DType:
    """The dtype that places in a table of so many rows are computed in."""
    is_small = type(count) is int and count <= LARGEST_I32
    are_small = all(column.type.dtype is DType.I32 for column in columns)
    return DType.I32 if is_small and are_small else DType.I64


def _rows_of_batches(
    op: Lowering, x: Value, index: Value, windows: IndexedWindows
) -> Gathered:
    """A GatherND, whose batches are the axes that run along with those of the index."""
    batched = list(windows.batching)
    indexed = [a for a in windows.indexed(x.type.shape) if a not in batched]
    if not indexed:  # GatherND has to index something
        batched = []
        indexed = windows.indexed(x.type.shape)
    whole = [a for a in range(x.type.rank) if a not in batched and a not in indexed]
    data = op.transpose(x, [*batched, *indexed, *whole])
    last = index.type.rank - 1
    index_batch = [windows.batching[a] for a in batched]
    index_order = [*index_batch, *(k for k in range(last) if k not in index_batch)]
    if batched:
        index = op.transpose(index, [*index_order, last])
    places = windows.places(op, index, x.type.shape, indexed)
    out = op.GatherND(data, places, batch_dims=len(batched) or None)
    inner = [a for a in windows.kept if a in indexed]
    return Gathered(out, [*(~k for k in index_order), *inner, *whole])


def _interleaved(
    kept: Sequence[int], index_axes: Sequence[int], offset_dims: Sequence[int]
) -> list[int]:
    """The axes of a result: those of the windows where `offset_dims` say, those of the index between them."""
    of_windows = iter(kept)
    of_index = iter(index_axes)
    order = []
    for i in range(len(kept) + len(index_axes)):
        order.append(next(of_windows) if i in offset_dims else next(of_index))
    return order


def _filled(
    op: Lowering, out: Value, fits: Value, offset_dims: Sequence[int], fill_value: Any
) -> Value:
    """The fill value wherever a window did not fit."""
    sizes = iter(fits.type.shape)
    shape = tuple(1 if i in offset_dims else next(sizes) for i in range(out.type.rank))
    filling = _fill(op, fill_value, out.type.dtype)
    return where(op, op.reshape(fits, shape), out, filling)


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


def fits_on_all_axes(op: Lowering, index: Value, inside: Value) -> Value:
    """Whether clamping has left all starts of a window as they were; without the axis of the columns."""
    columns, clamped = columns_of(index), columns_of(inside)
    if columns and clamped:
        fits = map(op.Equal, columns, clamped)
        return op.squeeze(functools.reduce(op.And, fits), [index.type.rank - 1])
    fits_somewhere = op.Equal(index, inside)
    if is_one(index.type.shape[-1]):
        return op.squeeze(fits_somewhere, [index.type.rank - 1])
    ones = op.cast(fits_somewhere, DType.I32)
    return op.Equal(op.ReduceMin(ones, np.array([-1]), keepdims=0), 1)


def _default_fill(dtype: DType) -> Any:
    """NaN; of integers the least signed, or the greatest unsigned number."""
    if dtype.is_float:
        return math.nan
    least, greatest = limits(dtype)
    return least if dtype.is_signed else greatest
