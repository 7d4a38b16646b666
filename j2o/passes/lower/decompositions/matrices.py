"""What the files of linear algebra share: parts of matrices, blocks of columns, batches.

`eigen.py`, `linalg.py`, `schur.py` and `systems.py` are plain JAX, written for one matrix and mapped over
batch dimensions. Sizes may be symbolic.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array, lax

from j2o.ir import dims
from j2o.ir.types import Dim

Pair: TypeAlias = tuple[Array, Array]
BLOCK = 32  # columns that are factored one by one; what they do to the rest is one matrix product
MOST_BLOCKS = 16  # a large matrix gets wider blocks instead of more of them: each is code of its own


def batched(fn: Callable[..., Any], rank: int = 2) -> Callable[..., Any]:
    """`fn`, whose first operand has `rank` dimensions, mapped over all leading dimensions."""

    @functools.wraps(fn)
    def mapped(x: Array, *rest: Array, **params: Any) -> Any:
        one = functools.partial(fn, **params)
        for _ in range(x.ndim - rank):
            one = jax.vmap(one)
        return one(x, *rest)

    return mapped


def blocks(n: Dim) -> list[tuple[Dim, Dim]]:
    """Ranges (start, end) of columns that are worked on one after the other."""
    if type(n) is not int:
        return [(0, n)]
    width = max(BLOCK, -(-n // MOST_BLOCKS))
    starts = range(0, n, width)
    return [(start, min(start + width, n)) for start in starts]


def is_small(n: Dim) -> bool:
    """Return True where one block is best."""
    return type(n) is not int or n <= BLOCK


def is_empty(n: Dim) -> bool:
    """Return True for a size that is known to be 0."""
    return type(n) is int and n == 0


# -------------------------------------------------------------------- parts of matrices


def take(x: Array, index: Array, axis: int = 0) -> Array:
    """`x[index]` along an axis, for an index or a vector of them that lie inside."""
    if not dims.known_ge(x.shape[axis], 1):  # JAX takes nothing from what may be empty
        x = _one_longer(x, axis)
    sizes = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
    if index.ndim == 0:
        kept_axes = tuple(range(x.ndim - 1))
    else:
        kept_axes = tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(kept_axes, (axis,), (axis,))
    places = index[..., None]
    return lax.gather(x, places, numbers, sizes, mode="promise_in_bounds")


def _one_longer(x: Array, axis: int) -> Array:
    """`x` with zeros at the end of an axis."""
    config = [(0, int(i == axis), 0) for i in range(x.ndim)]
    return lax.pad(x, jnp.zeros((), x.dtype), config)


def positions(n: Dim) -> Array:
    """0, 1, … n - 1 as int32."""
    return lax.iota(jnp.int32, n)


def grid(rows: Dim, columns: Dim) -> Pair:
    """The number of its row and that of its column, for each element of a matrix.

    They are `[rows, 1]` and `[columns]`, and broadcast.
    """
    return positions(rows)[:, None], positions(columns)


def diagonal(a: Array) -> Array:
    """The diagonal of a matrix."""
    rows, columns = a.shape
    count = dims.mul(rows, columns)
    length = dims.minimum(rows, columns)
    if not dims.known_ge(count, 0):  # JAX makes no vector of such a size
        row, column = grid(rows, columns)
        return jnp.where(row == column, a, 0).sum(1)[:length]
    return take(a.reshape(count), jnp.arange(length) * (columns + 1))


def swapped(at: Array, i: Array, j: Array) -> Array:
    """The indices `at` = 0, 1, … with two of them exchanged."""
    from_j = jnp.where(at == j, i, at)
    return jnp.where(at == i, j, from_j)


# ------------------------------------------------------------------------------ numbers


def wide(a: Array) -> Array:
    """In double precision.

    Where one step builds on the other, single precision would lose its last digits.
    """
    return a.astype(jnp.complex128 if jnp.iscomplexobj(a) else jnp.float64)


def epsilon(x: Array) -> float:
    """The distance from 1 to the next number of the dtype."""
    return float(jnp.finfo(x.dtype).eps)


def square_size(x: Array) -> Array:
    """|x|², real."""
    if jnp.iscomplexobj(x):
        return x.real * x.real + x.imag * x.imag
    return x * x
