"""Solvers of triangular and of tridiagonal systems, as plain JAX.

Results are LAPACK's, as on JAX's CPU backend. `linalg.py` says how matrices are cut into blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
from jax import Array, lax

from j2o.ir import dims
from j2o.passes.lower.decompositions.matrices import (
    Pair,
    batched,
    blocks,
    epsilon,
    positions,
    take,
)
from j2o.passes.lower.table import lower_with

# ------------------------------------------------------------------- triangular systems


@lower_with("triangular_solve")
def triangular_solve(
    a: Array,
    b: Array,
    *,
    left_side: bool,
    lower: bool,
    transpose_a: bool,
    conjugate_a: bool = False,
    unit_diagonal: bool = False,
) -> Array:
    """`x` with op(a) x = b, or x op(a) = b; only the given triangle of `a` has influence."""
    if conjugate_a:
        a = a.conj()
    if transpose_a == left_side:
        a = a.mT
        lower = not lower
    solve = functools.partial(batched(substitute), lower=lower, unit=unit_diagonal)
    if left_side:
        return solve(a, b)
    return solve(a, b.mT).mT


def substitute(a: Array, b: Array, *, lower: bool, unit: bool) -> Array:
    """`x` with a x = b for a triangle `a`, block after block of rows; `unit`: its diagonal counts as ones."""
    if lower:
        return _substitute_downwards(a, b, unit)
    return _substitute_upwards(a, b, unit)


def _substitute_downwards(a: Array, b: Array, unit: bool) -> Array:
    """Solve a lower triangle, block by block from the first row on."""
    solved = []
    rest = b
    for start, end in blocks(a.shape[0]):
        width = dims.sub(end, start)
        own = a[start:end, start:end]
        x = _substitute_block(own, rest[:width], lower=True, unit=unit)
        rest = rest[width:] - a[end:, start:end] @ x
        solved.append(x)
    return jnp.concatenate(solved) if solved else b


def _substitute_upwards(a: Array, b: Array, unit: bool) -> Array:
    """Solve an upper triangle, block by block from the last row on."""
    solved = []
    rest = b
    for start, end in reversed(blocks(a.shape[0])):
        own = a[start:end, start:end]
        x = _substitute_block(own, rest[start:], lower=False, unit=unit)
        rest = rest[:start] - a[:start, start:end] @ x
        solved.append(x)
    return jnp.concatenate(solved[::-1]) if solved else b


def _substitute_block(a: Array, b: Array, *, lower: bool, unit: bool) -> Array:
    """Solve one triangle, row by row; with `unit` its diagonal is 1."""

    def step(b: Array, at: Pair) -> Pair:
        j, column = at
        x = take(b, j)
        if not unit:
            x = x / take(column, j)
        return b - column[:, None] * x, x

    columns = (positions(a.shape[0]), a.T)
    _, x = lax.scan(step, b, columns, reverse=not lower)
    return x


# ------------------------------------------------------------------ tridiagonal systems


class SystemRow(NamedTuple):
    """A row of a tridiagonal system during elimination: `diagonal x_i + upper x_{i+1} = right`.

    `size` is what its pivot is compared by. Before elimination a row also has `lower x_{i-1}` on the left.
    """

    diagonal: Array
    upper: Array
    right: Array
    size: Array


class Eliminated(NamedTuple):
    """A row of the triangle that elimination leaves.

    `diagonal x_i + upper x_{i+1} + second x_{i+2} = right`.
    """

    diagonal: Array
    upper: Array
    second: Array
    right: Array


Divide: TypeAlias = Callable[[Array, Array], Array]


@lower_with("tridiagonal_solve")
@functools.partial(batched, rank=1)
def tridiagonal_solve(
    dl: Array, d: Array, du: Array, b: Array, *, perturb_singular: bool = False
) -> Array:
    """Gaussian elimination with partial pivoting.

    `dl`, `d`, `du` and `b` are the diagonals and the right-hand sides, as in JAX's primitive. A singular
    matrix gives NaN, or has its pivots moved off zero.
    """
    is_last = jnp.arange(d.shape[0]) == dims.sub(d.shape[0], 1)
    du = jnp.where(is_last, 0, du)
    sizes = _row_sizes(dl, d, du)
    if not perturb_singular:
        sizes = jnp.ones_like(sizes)
    rows = SystemRow(d, du, b, sizes)
    first = SystemRow(*(column[0] for column in rows))
    others = SystemRow(*(column[1:] for column in rows))
    eliminate = functools.partial(_eliminate, by_size=perturb_singular)
    last, done = lax.scan(eliminate, first, (dl[1:], others))
    if perturb_singular:
        nudge = _nudge(done, last)
        return _back_substituted(done, last, functools.partial(_divided, nudge=nudge))
    x = _back_substituted(done, last, jnp.divide)
    is_regular = jnp.all(done.diagonal != 0) & (last.diagonal != 0)
    return jnp.where(is_regular, x, jnp.nan)


def _row_sizes(lower: Array, diagonal: Array, upper: Array) -> Array:
    """The sum of the absolute values in each row."""
    is_first = jnp.arange(diagonal.shape[0]) == 0
    lower = jnp.where(is_first, 0, lower)
    return jnp.abs(lower) + jnp.abs(diagonal) + jnp.abs(upper)


def _eliminate(
    row: SystemRow, below: tuple[Array, SystemRow], *, by_size: bool
) -> tuple[SystemRow, Eliminated]:
    """One step of elimination with partial pivoting.

    The two rows are exchanged where the lower one has the larger pivot.
    """
    lower, following = below
    own_size = jnp.abs(row.diagonal) * following.size
    lower_size = jnp.abs(lower) * row.size
    stays = (lower == 0) | (own_size >= lower_size)

    def chosen(in_place: Array, exchanged: Array) -> Array:
        return jnp.where(stays, in_place, exchanged)

    pivot = chosen(row.diagonal, lower)
    other = chosen(lower, row.diagonal)
    factor = jnp.where(lower == 0, 0, other / pivot)
    diagonal = chosen(
        following.diagonal - factor * row.upper,
        row.upper - factor * following.diagonal,
    )
    upper = chosen(following.upper, -factor * following.upper)
    right = chosen(
        following.right - factor * row.right,
        row.right - factor * following.right,
    )
    size = following.size
    if by_size:
        size = chosen(size, jnp.abs(diagonal) + jnp.abs(upper))
    done = Eliminated(
        diagonal=pivot,
        upper=chosen(row.upper, following.diagonal),
        second=chosen(jnp.zeros_like(pivot), following.upper),
        right=chosen(row.right, following.right),
    )
    return SystemRow(diagonal, upper, right, size), done


def _back_substituted(done: Eliminated, last: SystemRow, divide: Divide) -> Array:
    """The solution of the triangle, from its last row upwards."""

    def step(known: Pair, row: Eliminated) -> tuple[Pair, Array]:
        next_x, second_x = known
        right = row.right - row.upper * next_x - row.second * second_x
        x = divide(right, row.diagonal)
        return (x, next_x), x

    last_x = divide(last.right, last.diagonal)
    start = (last_x, jnp.zeros_like(last_x))
    _, x = lax.scan(step, start, done, reverse=True)
    return jnp.concatenate([x, last_x[None]])


def _nudge(done: Eliminated, last: SystemRow) -> Array:
    """By how much a pivot is moved away from zero.

    A rounding error of the triangle's largest element (LAPACK's lagtf).
    """
    triangle = jnp.stack([done.diagonal, done.upper, done.second])
    end = jnp.stack([last.diagonal, last.upper])
    largest_before = jnp.max(jnp.abs(triangle), initial=0)
    largest_at_end = jnp.max(jnp.abs(end))
    largest = jnp.maximum(largest_before, largest_at_end)
    return epsilon(last.diagonal) * largest


def _divided(b: Array, pivot: Array, nudge: Array) -> Array:
    """`b / pivot`, the pivot moved away from zero where it overflows (LAPACK's lagts).

    It moves by `nudge`, twice that, and so on.
    """
    tiny = jnp.finfo(b.dtype).tiny
    largest = jnp.max(jnp.abs(b), initial=0)

    def overflows(state: Pair) -> Array:
        size = jnp.abs(state[0])
        too_large = jnp.where(size < tiny, largest * tiny > size, largest > size / tiny)
        return (size < 1) & ((size == 0) | too_large)

    def moved(state: Pair) -> Pair:
        pivot, nudge = state
        return pivot + nudge, 2 * nudge

    least = jnp.maximum(nudge, tiny)
    start = (pivot, jnp.copysign(least, pivot.real))
    pivot, nudge = lax.while_loop(overflows, moved, start)
    scale = jnp.where(jnp.abs(pivot) < tiny, 1 / tiny, jnp.ones_like(nudge))
    return b * scale * (1 / (pivot * scale))
