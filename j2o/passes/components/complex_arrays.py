"""Complex arithmetic over arrays, on pairs of reals: products, extremes, windows, scatters, matrices.

The arithmetic of single numbers is that of `complex.py`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax

from j2o.errors import UnsupportedError
from j2o.passes.components.complex import (
    Array,
    Binary,
    Pair,
    each,
    maximum,
    minimum,
    product,
)
from j2o.passes.components.tables import COMPLEX, on_pairs

# -------------------------------------------------------- products and extremes of many


class Fold(NamedTuple):
    """What many numbers are combined with.

    `unit`, a real number, changes nothing that it is combined with.
    """

    combine: Binary
    unit: float


PRODUCT = Fold(product, 1.0)
GREATEST = Fold(maximum, -math.inf)
LEAST = Fold(minimum, math.inf)


@on_pairs("reduce_prod")
def reduce_prod(z: Pair, *, axes: Sequence[int], **_: Any) -> Pair:
    return _reduced(z, PRODUCT, axes)


@on_pairs("reduce_max")
def reduce_max(z: Pair, *, axes: Sequence[int], **_: Any) -> Pair:
    return _reduced(z, GREATEST, axes)


@on_pairs("reduce_min")
def reduce_min(z: Pair, *, axes: Sequence[int], **_: Any) -> Pair:
    return _reduced(z, LEAST, axes)


@on_pairs("cumprod")
def cumprod(z: Pair, *, axis: int, reverse: bool) -> Pair:
    return _cumulative(z, PRODUCT, axis, reverse)


@on_pairs("cummax")
def cummax(z: Pair, *, axis: int, reverse: bool) -> Pair:
    return _cumulative(z, GREATEST, axis, reverse)


@on_pairs("cummin")
def cummin(z: Pair, *, axis: int, reverse: bool) -> Pair:
    return _cumulative(z, LEAST, axis, reverse)


@on_pairs("reduce_window_max")
def reduce_window_max(z: Pair, **windows: Any) -> Pair:
    return _of_windows(z, GREATEST, **windows)


@on_pairs("reduce_window_min")
def reduce_window_min(z: Pair, **windows: Any) -> Pair:
    return _of_windows(z, LEAST, **windows)


def _reduced(z: Pair, fold: Fold, axes: Sequence[int]) -> Pair:
    """A fold along some axes, the last one first."""
    for axis in sorted(axes, reverse=True):
        z = _running(z, fold, axis).last
    return z


def _cumulative(z: Pair, fold: Fold, axis: int, reverse: bool) -> Pair:
    """All that a fold gives on its way along an axis, from its start or from its end."""
    if not reverse:
        return _running(z, fold, axis).all
    flip = functools.partial(jnp.flip, axis=axis)
    flipped = _running(each(flip, z), fold, axis).all
    return each(flip, flipped)


class Running(NamedTuple):
    """What the first elements along an axis give together, for one, two, … of them; `last` lacks the axis."""

    all: Pair
    last: Pair


def _running(z: Pair, fold: Fold, axis: int) -> Running:
    """A fold along an axis, row by row."""
    rows = each(lambda part: jnp.moveaxis(part, axis, 0), z)
    shape = rows.re.shape[1:]
    start = Pair(
        jnp.full_like(rows.re, fold.unit, shape=shape),
        jnp.zeros_like(rows.re, shape=shape),
    )

    def step(total: Pair, row: Pair) -> tuple[Pair, Pair]:
        total = fold.combine(total, row)
        return total, total

    last, results = lax.scan(step, start, rows)
    results = each(lambda part: jnp.moveaxis(part, 0, axis), results)
    return Running(results, last)


def _of_windows(
    z: Pair,
    fold: Fold,
    *,
    window_dimensions: Sequence[int],
    window_strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    base_dilation: Sequence[int],
    window_dilation: Sequence[int],
) -> Pair:
    """Each window of `z`, folded into one number."""
    unit = Pair(jnp.asarray(fold.unit, z.re.dtype), jnp.asarray(0, z.re.dtype))

    def combine(a: Any, b: Any) -> tuple[Array, ...]:
        return tuple(fold.combine(Pair(*a), Pair(*b)))

    results = lax.reduce_window(
        tuple(z),
        tuple(unit),
        combine,
        window_dimensions=tuple(window_dimensions),
        window_strides=tuple(window_strides),
        padding=[tuple(pair) for pair in padding],  # pyright: ignore[reportArgumentType]
        base_dilation=tuple(base_dilation),
        window_dilation=tuple(window_dilation),
    )
    return Pair(*results)


# ----------------------------------------------------------------------------- scatters


@on_pairs("scatter-mul", "scatter_mul")
def scatter_mul(z: Pair, indices: Array, updates: Pair, **params: Any) -> Pair:
    return _scattered(z, indices, updates, product, **params)


@on_pairs("scatter-max", "scatter_max")
def scatter_max(z: Pair, indices: Array, updates: Pair, **params: Any) -> Pair:
    return _scattered(z, indices, updates, maximum, **params)


@on_pairs("scatter-min", "scatter_min")
def scatter_min(z: Pair, indices: Array, updates: Pair, **params: Any) -> Pair:
    return _scattered(z, indices, updates, minimum, **params)


def _scattered(
    z: Pair,
    indices: Array,
    updates: Pair,
    combine: Binary,
    *,
    dimension_numbers: Any,
    mode: str,
    **_: Any,
) -> Pair:
    """One window after the other: each is read, combined and put back.

    A batch dimension of `z` is treated as one that the indices choose from, in windows of size 1.
    """
    numbers = dimension_numbers
    axes = (*numbers.scatter_dims_to_operand_dims, *numbers.operand_batching_dims)
    single = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    single = tuple(sorted(single))
    sizes = [updates.re.shape[axis] for axis in numbers.update_window_dims]
    whole = tuple(range(len(sizes)))
    read = lax.GatherDimensionNumbers(whole, single, axes)
    write = lax.ScatterDimensionNumbers(whole, single, axes)
    slice_sizes = _with_ones(sizes, single)
    outside = "clip" if mode == "clip" else "drop"

    def step(z: Pair, row: tuple[Array, Pair]) -> tuple[Pair, None]:
        start, new = row

        def taken(part: Array) -> Array:
            return lax.gather(part, start, read, slice_sizes, mode="clip")

        def put_back(part: Array, window: Array) -> Array:
            return lax.scatter(part, start, window, write, mode=outside)

        return each(put_back, z, combine(each(taken, z), new)), None

    starts = _starts(indices, numbers)
    windows = each(lambda part: _rows_of_windows(part, numbers), updates)
    return lax.scan(step, z, (starts, windows))[0]


def _with_ones(sizes: Sequence[int], single: Sequence[int]) -> tuple[int, ...]:
    """Sizes with a 1 at each axis of `single`."""
    whole = list(sizes)
    for axis in single:
        whole.insert(axis, 1)
    return tuple(whole)


def _starts(indices: Array, numbers: Any) -> Array:
    """Where each window begins, one row a window: its index, and its place in each batch dimension."""
    batch = (*indices.shape[:-1], 1)
    places = [
        lax.broadcasted_iota(indices.dtype, batch, axis)
        for axis in numbers.scatter_indices_batching_dims
    ]
    starts = jnp.concatenate([indices, *places], -1)
    return starts.reshape(-1, starts.shape[-1])


def _rows_of_windows(updates: Array, numbers: Any) -> Array:
    """Updates with the windows one after the other on the first axis."""
    inside = numbers.update_window_dims
    between = [axis for axis in range(updates.ndim) if axis not in inside]
    sizes = [updates.shape[axis] for axis in inside]
    return jnp.transpose(updates, (*between, *inside)).reshape(-1, *sizes)


# ----------------------------------------------------------------------------- matrices


def of_decomposition(primitive: str) -> Callable[..., tuple[Array, ...]]:
    """The plain JAX code that a primitive is lowered with, for operands in parts.

    Its complex arithmetic is split in turn. UnsupportedError where the user has put a rule that
    builds ONNX nodes in its place.
    """

    def in_parts(*operands: Pair | Array, **params: Any) -> tuple[Array, ...]:
        # asked when it is needed: a user's rule may have come since
        from j2o.passes.lower.table import DECOMPOSITIONS

        if primitive not in DECOMPOSITIONS:
            why = "its rule builds ONNX nodes, which take no complex numbers"
            raise UnsupportedError([f"{primitive}: {why}"])
        arrays = [lax.complex(*x) if isinstance(x, Pair) else x for x in operands]
        results = DECOMPOSITIONS[primitive](*arrays, **params)
        if not isinstance(results, tuple):
            results = (results,)
        parts: list[Array] = []
        for result in results:
            is_complex = jnp.iscomplexobj(result)
            parts += [result.real, result.imag] if is_complex else [result]
        return tuple(parts)

    return in_parts


# what is lowered with plain JAX code
MATRICES = (
    # factorisations
    "cholesky",
    "geqp3",
    "geqrf",
    "lu",
    "qr",
    "svd",
    # products with the factor Q
    "householder_product",
    "ormqr",
    # eigenvalues, and the forms on the way to them
    "eig",
    "eigh",
    "hessenberg",
    "schur",
    "tridiagonal",
    # solvers
    "triangular_solve",
    "tridiagonal_solve",
)
COMPLEX.update({name: of_decomposition(name) for name in MATRICES})
