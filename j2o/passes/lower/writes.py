"""How a scatter writes: by ScatterND, or by ScatterElements along one axis.

Windows that do not fit are dropped: what they would write is made to change nothing, or goes to a row that is
cut off again. Sources: ONNX's ScatterND and ScatterElements.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.ops import VIEWS
from j2o.ir.types import DType, Shape, same_dim
from j2o.passes.clean.nans import never_nan
from j2o.passes.lower.elementwise import where
from j2o.passes.lower.index import IndexedWindows
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.shape import pad_with, slice_axes, split
from j2o.passes.lower.table import Lowering

# elements that onnxruntime's ScatterND does not divide among threads
ONE_THREAD = 1 << 16
# ScatterNDs in a row, each of so many elements
MOST_PARTS = 32
# elements of updates below which it does not matter how some of them are dropped
FEW = 1 << 12


def padded_after(op: Lowering, x: Value, amounts: Sequence[int]) -> Value:
    """`x` with zeros after it."""
    config = [(0, amount, 0) for amount in amounts]
    return pad_with(op, x, op.const(0, x.type.dtype), config)


def first_elements(op: Lowering, x: Value, shape: Shape) -> Value:
    """`x` cut to a shape."""
    rank = len(shape)
    return slice_axes(op, x, (0,) * rank, shape, (1,) * rank)


class Writes(NamedTuple):
    """What is written where.

    `places` are those of ScatterElements along `axis`, or of ScatterND where there is none. `fits` has the
    axes of the index: where it is False a window is dropped; nothing is where it is None. `is_one_each` is
    True where no two windows can meet, since each has a part of `base` of its own.
    """

    base: Value
    places: Value
    updates: Value
    fits: Value | None
    is_one_each: bool
    axis: int | None = None

    def read(self, op: Lowering) -> Value:
        """What stands at the places."""
        if self.axis is None:
            return op.GatherND(self.base, self.places)
        return op.GatherElements(self.base, self.places, axis=self.axis)


class OwnRows(NamedTuple):
    """Writes along one axis, where the others are whole, or run along with axes of the index.

    `order` has the axis of the index for each axis of the operand, and None for one that it has not.
    """

    axis: int
    order: list[int | None]

    @property
    def is_one_each(self) -> bool:
        """True where each row gets one window."""
        return self.order[self.axis] is None

    @property
    def is_of_elements(self) -> bool:
        """True where no axis is whole."""
        others = [k for a, k in enumerate(self.order) if a != self.axis]
        return None not in others

    def laid(self, op: Lowering, x: Value) -> Value:
        """Something with the axes of the index, with those of the operand."""
        missing = [a for a, k in enumerate(self.order) if k is None]
        turned = op.transpose(x, [k for k in self.order if k is not None])
        return op.unsqueeze(turned, missing)

    def writes(
        self, op: Lowering, x: Value, index: Value, rows: Value, fits: Value | None
    ) -> Writes:
        """The writes, for ScatterElements; `rows` has the axes of the index, then those that are whole."""
        whole = itertools.count(index.type.rank - 1)
        perm = []
        for a, k in enumerate(self.order):
            if k is not None:
                perm.append(k)
            elif a != self.axis:
                perm.append(next(whole))
        updates = op.transpose(rows, perm)
        if self.is_one_each:
            updates = op.unsqueeze(updates, [self.axis])
        places = self.laid(op, op.reshape(index, index.type.shape[:-1]))
        return Writes(
            x,
            op.expand(places, updates.type.shape),
            updates,
            None if fits is None else self.laid(op, fits),
            self.is_one_each,
            self.axis,
        )


def read_own_rows(
    shape: Shape, index: Shape, windows: IndexedWindows
) -> OwnRows | None:
    """How rows are written along one axis, as in `x.at[jnp.arange(n), i].set(y)`; None of other writes."""
    if len(windows.axes) != 1 or not windows.batching:
        return None
    (axis,) = windows.axes
    is_whole = all(same_dim(windows.sizes[a], shape[a]) for a in windows.kept)
    if not is_whole or axis in windows.kept or not dims.known_ge(shape[axis], 1):
        return None
    own = {*range(len(index) - 1)} - {*windows.batching.values()}
    if len(own) > 1:
        return None
    order = [windows.batching.get(a) for a in range(len(shape))]
    order[axis] = next(iter(own), None)
    return OwnRows(axis, order)


def are_single(own: OwnRows, fits: Value | None) -> bool:
    """Return True for writes of elements that cannot fall on one another because one of them is dropped."""
    return own.is_of_elements and (own.is_one_each or fits is None)


def written(op: Lowering, writes: Writes, reduction: str | None) -> Value:
    """Windows written or combined.

    Those that do not fit change nothing, or go to an extra row that is cut off again.
    """
    if writes.fits is None:
        return _reduced(op, writes, reduction)
    if (reduction and not _is_dropped_by_place(writes)) or writes.is_one_each:
        updates = _harmless_where_dropped(op, writes, reduction)
        return _reduced(op, writes._replace(updates=updates), reduction)
    base, places = writes.base, writes.places
    shape = base.type.shape
    extra_row = op.dims([shape[0], *(0,) * (places.type.shape[-1] - 1)])
    away = op.Where(_spread(op, writes.fits, places), places, extra_row)
    padded = _with_extra_row(op, base)
    out = _reduced(op, writes._replace(base=padded, places=away), reduction)
    return first_elements(op, out, shape)


def _is_dropped_by_place(writes: Writes) -> bool:
    """Return True where an extra row for what is dropped is cheaper than to look at each element.

    With 10,000 rows of 64 added to 2000, the whole scatter takes 145 µs with it, and 390 µs without. One
    row of updates for four of the operand is about even.
    """
    sizes = (*writes.base.type.shape, *writes.updates.type.shape)
    if writes.axis is not None or writes.is_one_each or not dims.are_integers(sizes):
        return False
    count = writes.updates.type.size
    is_of_rows = count > writes.places.type.size
    return is_of_rows and count >= FEW and writes.base.type.size <= 2 * count


def _harmless_where_dropped(
    op: Lowering, writes: Writes, reduction: str | None
) -> Value:
    """The updates, and in windows that are dropped what changes nothing."""
    updates, fits, dtype = writes.updates, writes.fits, writes.base.type.dtype
    assert fits is not None
    if reduction:
        harmless = op.const(_unit(reduction, dtype), dtype)
    else:
        harmless = writes.read(op)
    return where(op, _spread(op, fits, updates), updates, harmless)


def _with_extra_row(op: Lowering, base: Value) -> Value:
    """`base` with a row of zeros behind it; where all of it is one number, with a row of that."""
    rows, *rest = base.type.shape
    number = base.origin(VIEWS).number
    if number is not None:
        return op.full((dims.add(rows, 1), *rest), number, base.type.dtype)
    return padded_after(op, base, [1, *(0,) * len(rest)])


def _spread(op: Lowering, fits: Value, like: Value) -> Value:
    """`fits`, with ones for the axes that it has not."""
    ones = (1,) * (like.type.rank - fits.type.rank)
    return op.reshape(fits, (*fits.type.shape, *ones))


def _unit(reduction: str, dtype: DType) -> Any:
    """The value that changes nothing in a reduction."""
    least, greatest = limits(dtype)
    return {"add": -0.0, "mul": 1, "min": greatest, "max": least}[reduction]


def _reduced(op: Lowering, writes: Writes, reduction: str | None) -> Value:
    """`updates` put or combined. onnxruntime's max and min overlook NaN, which is put in afterwards."""
    base, updates = writes.base, writes.updates
    dtype = base.type.dtype
    out = _combined(op, writes, reduction)
    if reduction not in ("max", "min") or not dtype.is_float:
        return out
    if not never_nan(updates):
        # NaN is added, and to all other elements -0, which changes none
        nan, nothing = op.const(math.nan, dtype), op.const(-0.0, dtype)
        nans = op.Where(op.IsNaN(updates), nan, nothing)
        out = _combined(op, writes._replace(base=out, updates=nans), "add")
    if not never_nan(base):
        out = op.Where(op.IsNaN(base), base, out)
    return out


def _combined(op: Lowering, writes: Writes, reduction: str | None) -> Value:
    """ScatterND of so few elements that onnxruntime does not divide it among threads.

    These would get in each other's way. Where the elements are too many or nobody knows how many, it is
    ScatterElements of the flattened operand, which takes 20 times as long for rows, and less for numbers.
    """
    base, places, updates = writes.base, writes.places, writes.updates
    if writes.axis is not None:
        axis = writes.axis
        return op.ScatterElements(base, places, updates, axis=axis, reduction=reduction)
    parts = _rows_of_parts(writes)
    if len(parts) == 1 or not reduction or op.source.attrs.get("unique_indices"):
        return op.ScatterND(base, places, updates, reduction=reduction)
    if parts and base.type.rank > 1:
        return _one_after_another(op, writes, parts, reduction)
    return _combined_by_elements(op, writes, reduction)


def _rows_of_parts(writes: Writes) -> tuple[int, ...]:
    """How many rows of updates each ScatterND takes; none where one row after the other is too much."""
    if not dims.are_integers(writes.updates.type.shape):
        return ()
    elements = writes.updates.type.size
    if elements <= ONE_THREAD:
        return (math.prod(writes.places.type.shape[:-1]),)
    rows = math.prod(writes.places.type.shape[:-1])
    most = max(1, ONE_THREAD * rows // elements)
    if rows > MOST_PARTS * most:
        return ()
    full, rest = divmod(rows, most)
    return (most,) * full + (rest,) * bool(rest)


def _one_after_another(
    op: Lowering, writes: Writes, parts: tuple[int, ...], reduction: str
) -> Value:
    """A ScatterND for each part of the rows; from the second on, onnxruntime writes in place."""
    shape = writes.updates.type.shape
    batch = writes.places.type.rank - 1
    count, depth = sum(parts), writes.places.type.shape[-1]
    places = op.reshape(writes.places, (count, depth))
    updates = op.reshape(writes.updates, (count, *shape[batch:]))
    places_of_parts = split(op, places, sizes=parts, axis=0)
    updates_of_parts = split(op, updates, sizes=parts, axis=0)
    out = writes.base
    for some, rows in zip(places_of_parts, updates_of_parts, strict=True):
        out = op.ScatterND(out, some, rows, reduction=reduction)
    return out


def _combined_by_elements(op: Lowering, writes: Writes, reduction: str | None) -> Value:
    """ScatterElements of the flattened operand, which runs on one thread."""
    base, places, updates = writes.base, writes.places, writes.updates
    depth = places.type.shape[-1]
    lead, rest = base.type.shape[:depth], base.type.shape[depth:]
    flat_places = places
    if depth > 1:
        strides = [dims.prod(lead[axis + 1 :]) for axis in range(depth)]
        parts = op.Mul(places, op.dims(strides))
        flat_places = op.ReduceSum(parts, np.array([-1]), keepdims=0)
    count, width = dims.prod(places.type.shape[:-1]), dims.prod(rest)
    column = op.reshape(flat_places, (count, 1))
    table = op.reshape(base, (dims.prod(lead), width))
    out = op.apply(
        "onnx.ScatterElements",
        table,
        op.expand(column, (count, width)),
        op.reshape(updates, (count, width)),
        axis=0,
        reduction=reduction,
        types=[table.type],
    )
    return op.reshape(out, base.type.shape)
