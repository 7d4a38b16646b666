"""Gradients of max-pooling: what is chosen by the extreme of each window.

Sources: `select_and_gather_add` and `select_and_scatter_add` of `jax.lax`; XLA's SelectAndScatter is the
second.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType, Shape, dtype_of, same_dim
from j2o.passes.lower.reduce import limits
from j2o.passes.lower.shape import arange, pad_with
from j2o.passes.lower.table import Lowering, lower, lower_with
from j2o.passes.lower.window import Windows, windows_of

Pair: TypeAlias = tuple[jax.Array, jax.Array]  # an element, its tangent


@lower_with("select_and_gather_add")
def select_and_gather_add(
    tangents: jax.Array, x: jax.Array, *, select_prim: str, **windows: Any
) -> jax.Array:
    """The tangent at the extreme of each window; the first of equal ones."""

    keeps = getattr(lax, select_prim)

    def choose(best: Pair, item: Pair) -> Pair:
        keep = keeps(best[0], item[0])
        return lax.select(keep, best[0], item[0]), lax.select(keep, best[1], item[1])

    unit = limits(dtype_of(x.dtype))[select_prim == "le"]
    inits = tuple(jnp.asarray(v, x.dtype) for v in (unit, 0))
    return lax.reduce_window((x, tangents), inits, choose, **windows)[1]


@lower("select_and_scatter_add")
def select_and_scatter_add(
    op: Lowering, source: Value, x: Value, *, select_prim: str, **windows: Any
) -> Value:
    """Each element of `source` is added where the extreme of its window lies, the first of equal ones."""
    w = dataclasses.replace(windows_of(op, **windows), counts=source.type.shape)
    dtype = x.type.dtype
    if any(same_dim(d, 0) for d in (*w.counts, *x.type.shape)):
        return op.full(op.out_shape, 0, dtype)
    padded = w.spread(op, x, limits(dtype)[select_prim == "le"])
    places = _places_of_extremes(op, padded, w, select_prim)
    size = source.type.size
    flat_places, flat_source = op.reshape(places, (size,)), op.reshape(source, (size,))
    added = _scatter_add(op, flat_places, flat_source, padded.type.shape)
    cut = [(dims.sub(0, low), dims.sub(0, high), 0) for low, high in w.padding]
    return pad_with(op, added, op.const(0, dtype), cut)


def _places_of_extremes(
    op: Lowering, padded: Value, w: Windows, select_prim: str
) -> Value:
    """`i64`: where the extreme of each window lies in the padded operand, flattened.

    Of equal ones, the first.
    """
    operator = {"ge": "GreaterOrEqual", "le": "LessOrEqual"}[select_prim]
    shape = padded.type.shape
    strides = [dims.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    first, *others = w.offsets()
    best = w.at(op, padded, first)
    place = op.full(
        w.counts, 0, DType.I64
    )  # of the extreme, from the window's start on
    for offset in others:
        value = w.at(op, padded, offset)
        here = op.dim(dims.total(map(dims.mul, offset, strides)))
        keep = op.apply(f"onnx.{operator}", best, value)
        best = op.Where(keep, best, value)
        place = op.Where(keep, place, here)
    for axis, count in enumerate(w.counts):
        step = op.dim(dims.mul(w.strides[axis], strides[axis]))
        starts = op.Mul(arange(op, count, DType.I64), step)
        along = tuple(count if i == axis else 1 for i in range(len(shape)))
        place = op.Add(place, op.reshape(starts, along))
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
    out = op.ScatterElements(
        zeros, places, op.cast(values, wide), axis=0, reduction="add"
    )
    return op.cast(op.reshape(out, shape), dtype)
