"""Gradients of max-pooling: what is chosen by the extreme of each window.

Sources: `select_and_gather_add` and `select_and_scatter_add` of `jax.lax`; XLA's SelectAndScatter is the
second.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import jax.numpy as jnp
from jax import Array, lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType, Shape, dtype_of, same_dim
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.shape import Padding, arange, pad_with
from j2o.passes.lower.table import Lowering, lower, lower_with
from j2o.passes.lower.window_places import (
    Windows,
    row_major_strides,
    windows_of,
    with_size,
)

Pair: TypeAlias = tuple[Array, Array]  # an element, its tangent


@lower_with("select_and_gather_add")
def select_and_gather_add(
    tangents: Array, x: Array, *, select_prim: str, **windows: Any
) -> Array:
    """The tangent at the extreme of each window; the first of equal ones."""

    keeps = getattr(lax, select_prim)

    def choose(best: Pair, item: Pair) -> Pair:
        x, tangent = best
        other, other_tangent = item
        keep = keeps(x, other)
        chosen = lax.select(keep, x, other)
        return chosen, lax.select(keep, tangent, other_tangent)

    unit = _unit_of(select_prim, dtype_of(x.dtype))
    inits = (jnp.asarray(unit, x.dtype), jnp.asarray(0, x.dtype))
    _, chosen = lax.reduce_window((x, tangents), inits, choose, **windows)
    return chosen


def _unit_of(select_prim: str, dtype: DType) -> Any:
    """What no other number is passed over for: "ge" looks for the greatest, "le" for the least."""
    least, greatest = limits(dtype)
    return least if select_prim == "ge" else greatest


@lower("select_and_scatter_add")
def select_and_scatter_add(
    op: Lowering, source: Value, x: Value, *, select_prim: str, **windows: Any
) -> Value:
    """Each element of `source` is added where the extreme of its window lies, the first of equal ones."""
    w = windows_of(source.type.shape, **windows)
    dtype = x.type.dtype
    sizes = (*w.counts, *x.type.shape)
    if any(same_dim(d, 0) for d in sizes):
        return op.full(op.out_shape, 0, dtype)
    padded = w.spread(op, x, _unit_of(select_prim, dtype))
    places = _places_of_extremes(op, padded, w, select_prim)
    flat = (source.type.size,)
    flat_places = op.reshape(places, flat)
    flat_source = op.reshape(source, flat)
    added = _scatter_add(op, flat_places, flat_source, padded.type.shape)
    cut: list[Padding] = []
    for low, high in w.padding:
        cut.append((dims.sub(0, low), dims.sub(0, high), 0))
    return pad_with(op, added, op.const(0, dtype), cut)


def _places_of_extremes(
    op: Lowering, padded: Value, w: Windows, select_prim: str
) -> Value:
    """`i64`: where the extreme of each window lies in the padded operand, flattened.

    Of equal ones, the first.
    """
    operator = {"ge": "GreaterOrEqual", "le": "LessOrEqual"}[select_prim]
    strides = row_major_strides(padded.type.shape)
    first, *others = w.offsets()
    best = w.at(op, padded, first)
    # of the extreme, from the window's start on
    place = op.full(w.counts, 0, DType.I64)
    for offset in others:
        value = w.at(op, padded, offset)
        here = op.dim(dims.total(map(dims.mul, offset, strides)))
        keep = op.apply(f"onnx.{operator}", best, value)
        best = op.Where(keep, best, value)
        place = op.Where(keep, place, here)
    ones = (1,) * len(strides)
    for axis, count in enumerate(w.counts):
        step = op.dim(dims.mul(w.strides[axis], strides[axis]))
        starts = op.Mul(arange(op, count, DType.I64), step)
        along_axis = op.reshape(starts, with_size(ones, axis, count))
        place = op.Add(place, along_axis)
    return place


def _scatter_add(op: Lowering, places: Value, values: Value, shape: Shape) -> Value:
    """Zeros of `shape` with flat `values` added at flat `places`.

    16-bit floats, for which there is no kernel, are added in float32.
    """
    dtype = values.type.dtype
    wide = dtype
    if dtype in (DType.F16, DType.BF16):
        wide = DType.F32
    elif dtype == DType.BOOL:
        wide = DType.U8
    size = dims.prod(shape)
    zeros = op.full((size,), 0, wide)
    added = op.cast(values, wide)
    out = op.ScatterElements(zeros, places, added, axis=0, reduction="add")
    return op.cast(op.reshape(out, shape), dtype)
