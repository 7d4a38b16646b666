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
from j2o.ir.types import DType, Shape, same_dim
from j2o.passes.clean.nans import never_nan
from j2o.passes.lower.elementwise import where
from j2o.passes.lower.index import IndexedWindows
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.shape import pad_with, slice_axes
from j2o.passes.lower.table import Lowering

# elements that onnxruntime's ScatterND does not divide among threads
ONE_THREAD = 1 << 16


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
    base, places, updates = writes.base, writes.places, writes.updates
    if reduction or writes.is_one_each:
        fits = _spread(op, writes.fits, updates)
        dtype = base.type.dtype
        if reduction:
            harmless = op.const(_unit(reduction, dtype), dtype)
        else:
            harmless = writes.read(op)
        updates = where(op, fits, updates, harmless)
        return _reduced(op, writes._replace(updates=updates), reduction)
    shape = base.type.shape
    extra_row = op.dims([shape[0], *(0,) * (places.type.shape[-1] - 1)])
    padded = padded_after(op, base, [1, *(0,) * (len(shape) - 1)])
    away = op.Where(_spread(op, writes.fits, places), places, extra_row)
    return first_elements(op, op.ScatterND(padded, away, updates), shape)


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
    """ScatterND, where onnxruntime does not divide it among threads that get in each other's way.

    There it is ScatterElements, of the flattened operand.
    """
    base, places, updates = writes.base, writes.places, writes.updates
    if writes.axis is not None:
        axis = writes.axis
        return op.ScatterElements(base, places, updates, axis=axis, reduction=reduction)
    shape = updates.type.shape
    is_small = all(type(n) is int for n in shape) and dims.prod(shape) <= ONE_THREAD
    is_safe = is_small or not reduction or op.source.attrs.get("unique_indices")
    if is_safe:
        return op.ScatterND(base, places, updates, reduction=reduction)
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
