"""Factorisations of dense matrices, as plain JAX: Cholesky, LU and QR.

Written for one matrix and mapped over batch dimensions. A block of columns is factored by a scan
with a few operations a column, on the transposed block, whose rows lie together in memory; the rest
of the matrix follows by matrix products. A symbolic size is one block. Results are LAPACK's, as on
JAX's CPU backend.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from j2o.ir import dims
from j2o.ir.types import Dim
from j2o.passes.lower.decompositions.matrices import (
    BLOCK,
    Pair,
    batched,
    blocks,
    diagonal,
    grid,
    is_empty,
    is_small,
    positions,
    square_size,
    swapped,
    take,
    wide,
)
from j2o.passes.lower.decompositions.systems import substitute
from j2o.passes.lower.table import lower_with

# ----------------------------------------------------------------------------- Cholesky


@lower_with("cholesky")
@batched
def cholesky(a: Array) -> Array:
    """The lower factor, with the upper triangle of `a` above it.

    All NaN where `a` is not positive definite.
    """
    n = a.shape[-1]
    if is_empty(n):
        return a
    rest = wide(a)
    columns = []
    for start, end in blocks(n):
        width = dims.sub(end, start)
        packed = _cholesky_panel(rest[:, :width].T, width)
        below = packed[:, width:]
        rest = rest[width:, width:] - below.T @ below.conj()
        columns.append(jnp.pad(packed, ((0, 0), (start, 0))))
    whole = jnp.concatenate(columns).T.astype(a.dtype)
    row, column = grid(n, n)
    factor = jnp.where(row >= column, whole, a)
    is_definite = jnp.all(diagonal(factor).real > 0)
    return jnp.where(is_definite, factor, jnp.nan)


def _cholesky_panel(panel: Array, width: Dim) -> Array:
    """The first `width` columns of the factor, as rows; `panel` has those of the matrix, as rows."""

    def step(panel: Array, j: Array) -> Pair:
        column = take(panel, j)
        column = column / jnp.sqrt(take(column, j).real)
        across = column[:width, None].conj()
        return panel - across * column, column

    _, packed = lax.scan(step, panel, positions(width))
    return packed


@lower_with("cholesky_update")
def cholesky_update(r: Array, w: Array) -> Array:
    """The upper factor of R^T R + w w^T, by plane rotations."""

    def step(w: Array, row: Pair) -> Pair:
        j, line = row
        cosine, sine = _rotation_to_zero(take(line, j), take(w, j))
        return cosine * w + sine * line, cosine * line - sine * w

    rows = (positions(r.shape[0]), r)
    _, factor = lax.scan(step, w, rows)
    return factor


def _rotation_to_zero(x: Array, y: Array) -> Pair:
    """Cosine and sine of the rotation that takes (x, y) to a vector without a second component."""
    # divided out, so that squares do not overflow
    size = jnp.maximum(jnp.abs(x), jnp.abs(y))
    size = jnp.where(size == 0, 1, size)
    length = jnp.sqrt((x / size) ** 2 + (y / size) ** 2)
    nothing_to_do = y == 0
    cosine = jnp.where(nothing_to_do, 1, x / size / length)
    sine = jnp.where(nothing_to_do, 0, -y / size / length)
    return cosine, sine


@lower_with("symmetric_product")
def symmetric_product(a: Array, c: Array, *, alpha: float, beta: float) -> Array:
    """alpha A A^T + beta C."""
    return alpha * (a @ a.mT) + beta * c


# ----------------------------------------------------------------------------------- LU


class LU(NamedTuple):
    """The packed factors L and U, the pivots, and the permutation `order` for which `a[order] = L U`."""

    packed: Array
    pivots: Array
    order: Array


@lower_with("lu")
@batched
def lu(a: Array) -> LU:
    """LU with partial pivoting: the first block of columns, then what is left, in the same way."""
    rank = dims.minimum(*a.shape)
    if is_small(rank):
        packed, pivots, order = _lu_panel(a.T, rank)
        return LU(packed.T, pivots, order)
    packed, pivots, order = _lu_panel(a[:, :BLOCK].T, BLOCK)
    left = packed.T
    right = take(a[:, BLOCK:], order)
    top = substitute(left[:BLOCK], right[:BLOCK], lower=True, unit=True)
    below = right[BLOCK:] - left[BLOCK:] @ top
    rest: LU = lu(below)
    left_below = take(left[BLOCK:], rest.order)
    upper_rows = jnp.concatenate([left[:BLOCK], top], 1)
    lower_rows = jnp.concatenate([left_below, rest.packed], 1)
    order_below = take(order[BLOCK:], rest.order)
    return LU(
        packed=jnp.concatenate([upper_rows, lower_rows]),
        pivots=jnp.concatenate([pivots, rest.pivots + BLOCK]),
        order=jnp.concatenate([order[:BLOCK], order_below]),
    )


def _lu_panel(panel: Array, steps: Dim) -> LU:
    """The first columns of LU; `panel` and the packed result are transposed."""
    columns = positions(panel.shape[0])
    at = positions(panel.shape[1])
    if is_empty(steps):
        return LU(panel, at[:0], at)

    def step(state: Pair, j: Array) -> tuple[Pair, Array]:
        panel, order = state
        column = take(panel, j)
        candidates = jnp.where(at >= j, _pivot_size(column), -1)
        pivot = lax.argmax(candidates, 0, jnp.int32)
        swap = swapped(at, j, pivot)
        panel = take(panel, swap, 1)
        order = take(order, swap)
        column = take(column, swap)
        top = take(column, j)
        factors = jnp.where((at > j) & (top != 0), column / top, 0)
        row = jnp.where(columns > j, take(panel, j, 1), 0)
        eliminated = panel - row[:, None] * factors
        finished = jnp.where(at > j, factors, column)
        is_finished = (columns == j)[:, None]
        panel = jnp.where(is_finished, finished, eliminated)
        return (panel, order), pivot

    (panel, order), pivots = lax.scan(step, (panel, at), positions(steps))
    return LU(panel, pivots, order)


def _pivot_size(column: Array) -> Array:
    """By what LAPACK compares pivots: |re| + |im|."""
    if jnp.iscomplexobj(column):
        return jnp.abs(column.real) + jnp.abs(column.imag)
    return jnp.abs(column)


@lower_with("lu_pivots_to_permutation")
@functools.partial(batched, rank=1)
def lu_pivots_to_permutation(pivots: Array, *, permutation_size: Dim) -> Array:
    """The permutation that a sequence of exchanges makes."""

    def step(order: Array, exchange: Pair) -> tuple[Array, None]:
        i, j = exchange
        # by indexing, which says what becomes of a pivot that is out of bounds
        half_done = order.at[i].set(order[j])
        return half_done.at[j].set(order[i]), None

    exchanges = (positions(pivots.shape[0]), pivots)
    order, _ = lax.scan(step, positions(permutation_size), exchanges)
    return order


# ----------------------------------------------------------------------------------- QR


class Reflector(NamedTuple):
    """A Householder reflection I - tau v v^H that takes a vector to beta e_j."""

    v: Array
    tau: Array
    beta: Array


def reflector(x: Array, j: Array, at: Array) -> Reflector:
    """LAPACK's larfg: `v` is 1 at `j` and 0 before; (I - tau v v^H)^H x = beta e_j, from `j` on."""
    first = take(x, j)
    tail = jnp.where(at > j, x, 0)
    tail_square = jnp.sum(square_size(tail))
    is_trivial = tail_square == 0
    if jnp.iscomplexobj(x):
        is_trivial = is_trivial & (first.imag == 0)
    size = jnp.sqrt(square_size(first) + tail_square)
    beta = jnp.where(first.real < 0, size, -size)
    safe_beta = jnp.where(is_trivial, 1, beta)
    tau = jnp.where(is_trivial, 0, (beta - first) / safe_beta)
    safe_gap = jnp.where(is_trivial, 1, first - beta)
    v = jnp.where(at == j, 1, tail / safe_gap)
    own = jnp.where(is_trivial, first, beta.astype(x.dtype))
    return Reflector(v, tau, own)


class QR(NamedTuple):
    """R above, Householder vectors below, packed and transposed; their `tau`; the order of the columns."""

    packed: Array
    taus: Array
    order: Array


def _qr_panel(panel: Array, steps: Dim, fixed: Array | None = None) -> QR:
    """The first columns of QR; `panel` is transposed.

    With `fixed`, columns are exchanged: past the first `fixed` ones, the largest that is left comes next.
    """
    columns = positions(panel.shape[0])
    at = positions(panel.shape[1])
    if is_empty(steps):
        return QR(panel, jnp.zeros((0,), panel.dtype), columns)

    def step(state: Pair, j: Array) -> tuple[Pair, Pair]:
        panel, order = state
        if fixed is not None:
            next_column = jnp.where(j < fixed, j, _largest_from(panel, j))
            swap = swapped(columns, j, next_column)
            panel = take(panel, swap)
            order = take(order, swap)
        x = take(panel, j)
        v, tau, beta = reflector(x, j, at)
        packed = jnp.where(at == j, beta, jnp.where(at > j, v, x))
        across = tau.conj() * (panel @ v.conj())
        return (panel - across[:, None] * v, order), (packed, tau)

    start = (panel, columns)
    (panel, order), (packed, taus) = lax.scan(step, start, positions(steps))
    return QR(jnp.concatenate([packed, panel[steps:]]), taus, order)


def _largest_from(panel: Array, j: Array) -> Array:
    """The column, from `j` on, that has the largest norm from row `j` on."""
    columns = positions(panel.shape[0])
    at = positions(panel.shape[1])
    left = jnp.where(at >= j, square_size(panel), 0)
    norms = jnp.sum(left, 1)
    candidates = jnp.where(columns >= j, norms, -1)
    return lax.argmax(candidates, 0, jnp.int32)


@lower_with("geqp3")
@batched
def geqp3(a: Array, marks: Array, **_: Any) -> tuple[Array, Array, Array]:
    """As geqrf, with pivoting.

    Columns that have a mark are exchanged to the front. Their order counts from 1.
    """
    front, count = _marked_first(marks != 0)
    turned = take(a.T, front)
    packed, taus, order = _qr_panel(turned, dims.minimum(*a.shape), count)
    from_one = take(front, order) + 1
    return packed.T, from_one.astype(marks.dtype), taus


def _marked_first(is_marked: Array) -> Pair:
    """An order of columns in which those with a mark come first, and how many these are."""
    at = positions(is_marked.shape[0])

    def step(state: Pair, row: Pair) -> tuple[Pair, None]:
        order, count = state
        j, mark = row
        place = jnp.where(mark, count, j)
        order = take(order, swapped(at, j, place))
        return (order, count + mark.astype(count.dtype)), None

    start = (at, jnp.zeros((), jnp.int32))
    end, _ = lax.scan(step, start, (at, is_marked))
    return end


@lower_with("geqrf")
@batched
def geqrf(a: Array) -> Pair:
    """R in the upper triangle, the Householder vectors below, and their `tau`."""
    rank = dims.minimum(*a.shape)
    if is_small(rank):
        packed, taus, _ = _qr_panel(a.T, rank)
        return packed.T, taus
    packed, taus, _ = _qr_panel(a[:, :BLOCK].T, BLOCK)
    right = apply_q(packed.T, taus, a[:, BLOCK:], adjoint=True)
    rest, more = geqrf(right[BLOCK:])
    right = jnp.concatenate([right[:BLOCK], rest])
    whole = jnp.concatenate([packed.T, right], 1)
    return whole, jnp.concatenate([taus, more])


def apply_q(a: Array, taus: Array, c: Array, *, adjoint: bool = False) -> Array:
    """Q c or Q^H c, for the Q of Householder vectors below the diagonal of `a`.

    A block of them is I - V T V^H (LAPACK's larft), V with ones on its diagonal.
    """
    order = blocks(taus.shape[0])
    for start, end in order if adjoint else reversed(order):
        v = _householder_vectors(a[start:, start:end])
        t = _block_factor(v, taus[start:end])
        if adjoint:
            t = t.conj().T
        below = c[start:]
        below = below - v @ (t @ (v.conj().T @ below))
        c = jnp.concatenate([c[:start], below])
    return c


def _householder_vectors(packed: Array) -> Array:
    """What stands below the diagonal, with ones on it and zeros above."""
    row, column = grid(*packed.shape)
    ones = (row == column).astype(packed.dtype)
    return jnp.where(row > column, packed, ones)


def _block_factor(v: Array, tau: Array) -> Array:
    """The triangle T for which the product of the reflections is I - V T V^H."""
    row, column = grid(tau.shape[0], tau.shape[0])
    on_diagonal = jnp.where(row == column, tau, 0)
    grown = tau[:, None] * (v.conj().T @ v)
    return substitute(grown, on_diagonal, lower=False, unit=True)


@lower_with("householder_product")
@batched
def householder_product(a: Array, taus: Array) -> Array:
    """The first columns of Q, as many as `a` has."""
    return apply_q(a, taus, jnp.eye(*a.shape, dtype=a.dtype))


@lower_with("ormqr")
def ormqr(a: Array, taus: Array, c: Array, *, left: bool, transpose: bool) -> Array:
    """Q c, Q^H c, c Q or c Q^H."""
    apply = batched(apply_q)
    if left:
        return apply(a, taus, c, adjoint=transpose)
    turned = apply(a, taus, c.mT.conj(), adjoint=not transpose)
    return turned.mT.conj()


@lower_with("qr")
@batched
def qr(
    a: Array, *, full_matrices: bool, pivoting: bool = False, **_: Any
) -> tuple[Array, ...]:
    """Q and R; with pivoting also the order of columns for which `a[:, p] = Q R`."""
    rows, columns = a.shape
    rank = dims.minimum(rows, columns)
    order = None
    if pivoting:
        panel, taus, order = _qr_panel(a.T, rank, jnp.zeros((), jnp.int32))
        packed = panel.T
    else:
        packed, taus = geqrf(a)
    size = rows if full_matrices else rank
    q = apply_q(packed[:, :rank], taus, jnp.eye(rows, size, dtype=a.dtype))
    row, column = grid(size, columns)
    r = jnp.where(row <= column, packed[:size], 0)
    return (q, r) if order is None else (q, r, order)
