"""Hessenberg, tridiagonal and Schur forms, and eigenvalues of general matrices, as plain JAX.

The QR algorithm with implicit shifts (Francis): single shifts for complex matrices, double ones for
real matrices. All of it is Householder reflections of the whole matrix, in double precision, one
matrix of a batch after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax
from jax.typing import DTypeLike

from j2o.ir import dims
from j2o.passes.lower.decompositions.eigen import hermitian, scaled
from j2o.passes.lower.decompositions.linalg import apply_q, reflector
from j2o.passes.lower.decompositions.matrices import (
    Pair,
    batched,
    diagonal,
    epsilon,
    grid,
    is_empty,
    positions,
    square_size,
    take,
    wide,
)
from j2o.passes.lower.table import lower_with


def in_turn(fn: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """`fn` on one matrix after the other: each loops as long as it needs."""

    @functools.wraps(fn)
    def mapped(a: Array, **params: Any) -> tuple[Array, ...]:
        *batch, rows, columns = a.shape
        if not batch:
            return fn(a, **params)
        one = functools.partial(fn, **params)
        flat = a.reshape(dims.prod(batch), rows, columns)
        results = lax.map(one, flat)
        return tuple(r.reshape(*batch, *r.shape[1:]) for r in results)

    return mapped


# -------------------------------------------------------------- Hessenberg, tridiagonal


def reflected(a: Array, v: Array, tau: Array) -> Array:
    """A (I - tau v v^H)."""
    along_v = tau * (a @ v)
    return a - along_v[:, None] * v.conj()


def similar(a: Array, v: Array, tau: Array) -> Array:
    """H^H A H for the reflection H = I - tau v v^H."""
    along_v = v.conj() @ a
    from_left = a - (tau.conj() * v)[:, None] * along_v
    return reflected(from_left, v, tau)


@lower_with("hessenberg")
@batched
def hessenberg(a: Array) -> Pair:
    """LAPACK's gehrd: the Hessenberg matrix, with the Householder vectors below it, and their `tau`."""
    n = a.shape[0]
    at = positions(n)

    def step(a: Array, j: Array) -> tuple[Array, Pair]:
        x = take(a, j, 1)
        v, tau, beta = reflector(x, j + 1, at)
        with_v = jnp.where(at > j + 1, v, x)
        packed = jnp.where(at == j + 1, beta, with_v)
        return similar(a, v, tau), (packed, tau)

    last = dims.sub(n, 1)
    a, (packed, taus) = lax.scan(step, a, positions(last))
    whole = jnp.concatenate([packed.T, a[:, last:]], 1)
    return whole, taus


@lower_with("tridiagonal")
@batched
def tridiagonal(a: Array, *, lower: bool) -> tuple[Array, Array, Array, Array]:
    """LAPACK's sytrd: one triangle with the Householder vectors, diagonal, second diagonal and `tau`."""
    if lower:
        return _lower_tridiagonal(a)
    of_flipped = _lower_tridiagonal(jnp.flip(a))
    packed, on_diagonal, beside, taus = map(jnp.flip, of_flipped)
    return packed, on_diagonal, beside, taus


def _lower_tridiagonal(a: Array) -> tuple[Array, Array, Array, Array]:
    """`tridiagonal` of the matrix that the lower triangle holds."""
    packed, taus = hessenberg(hermitian(a, lower=True))
    row, column = grid(*a.shape)
    packed = jnp.where(row >= column, packed, a)
    on_diagonal = diagonal(packed).real
    beside = below_diagonal(packed).real
    return packed, on_diagonal, beside, taus


def below_diagonal(a: Array) -> Array:
    """The elements next to the diagonal of a square matrix, below it."""
    one_up = jnp.concatenate([a[1:], a[:1]])
    return diagonal(one_up)[: dims.sub(a.shape[0], 1)]


# ------------------------------------------------------------------------- QR algorithm


class Window(NamedTuple):
    """The rows `low` to `high` of H that a sweep works on.

    Below `high`, H is done. `low == high` where all is.
    """

    low: Array
    high: Array


class Progress(NamedTuple):
    """The state of the QR iteration: A = Z H Z^H at every moment."""

    sweeps: Array
    stalled: Array  # sweeps since `window.high` has changed
    window: Window
    h: Array
    z: Array


SWEEPS_PER_ROW = 40  # after so many sweeps for each row, the iteration is given up
EXCEPTIONAL = 10  # every so many sweeps without progress, another shift is taken, to leave a cycle


def schur_form(a: Array) -> tuple[Array, Array, Array]:
    """T, Z with A = Z T Z^H, and whether the iteration ended.

    T is triangular; where `a` is real it may have 2x2 blocks. The implicitly shifted QR algorithm: Golub and
    Van Loan, Matrix Computations, 7.5.
    """
    h, z = _hessenberg_and_q(a)
    h, window = _deflated(h)
    most_sweeps = SWEEPS_PER_ROW * (a.shape[0] + 1)

    def unfinished(state: Progress) -> Array:
        is_left = state.window.high > state.window.low
        return is_left & (state.sweeps < most_sweeps)

    zero = jnp.zeros((), jnp.int32)
    start = Progress(zero, zero, window, h, z)
    end = lax.while_loop(unfinished, _sweep, start)
    found = end.window.high == 0
    if jnp.iscomplexobj(a):
        return end.h, end.z, found
    h, z = _split_blocks(end.h, end.z)
    return h, z, found


def _hessenberg_and_q(a: Array) -> Pair:
    """H and Q with A = Q H Q^H."""
    n = a.shape[0]
    packed, taus = hessenberg(a)
    # the reflection i changes no row before i
    vectors = packed[:, : dims.sub(n, 1)]
    shifted = jnp.pad(vectors, ((0, 0), (1, 0)))
    shifted_taus = jnp.pad(taus, (1, 0))
    q = apply_q(shifted, shifted_taus, jnp.eye(n, dtype=a.dtype))
    return _upper_hessenberg(packed), q


def _upper_hessenberg(h: Array) -> Array:
    """The matrix with zeros below the second diagonal."""
    row, column = grid(*h.shape)
    return jnp.where(row <= column + 1, h, 0)


def _deflated(h: Array) -> tuple[Array, Window]:
    """H with its negligible elements below the diagonal gone, and the range of rows to work on."""
    coupled = _coupled_rows(h)
    row, column = grid(*h.shape)
    negligible = (row == column + 1) & ~coupled[:, None]
    h = jnp.where(negligible, 0, h)
    unfinished = coupled
    if not jnp.iscomplexobj(h):  # a real 2x2 block is an end
        above = jnp.pad(coupled[:-1], (1, 0))
        below = jnp.pad(coupled[1:], (0, 1))
        unfinished = coupled & (above | below)
    at = positions(h.shape[0])
    high = jnp.max(jnp.where(unfinished, at, 0))
    starts = ~coupled & (at <= high)
    low = jnp.max(jnp.where(starts, at, 0))
    return h, Window(low, high)


def _coupled_rows(h: Array) -> Array:
    """Which rows are tied to the one above by an element below the diagonal that is not negligible."""
    sizes = jnp.abs(diagonal(h))
    least = epsilon(h) * (sizes[:-1] + sizes[1:])
    is_coupled = jnp.abs(below_diagonal(h)) > least
    return jnp.pad(is_coupled, (1, 0))  # the first row has none above


def _sweep(state: Progress) -> Progress:
    """One QR step: a bulge is made at the upper end of the window and chased down to its lower end."""
    low, high = state.window
    at = positions(state.h.shape[0])
    bulge = 1 if jnp.iscomplexobj(state.h) else 2  # how many rows it reaches down
    is_exceptional = state.stalled % EXCEPTIONAL == EXCEPTIONAL - 1
    first = _first_column(state.h, state.window, is_exceptional)

    def chase(k: Array, pair: Pair) -> Pair:
        h, z = pair
        column_before = take(h, jnp.maximum(k - 1, 0), 1)
        x = jnp.where(k == low, first, column_before)
        end = jnp.minimum(k + bulge, high)
        in_bulge = (at >= k) & (at <= end)
        v, tau, _ = reflector(jnp.where(in_bulge, x, 0), k, at)
        return similar(h, v, tau), reflected(z, v, tau)

    h, z = lax.fori_loop(low, high, chase, (state.h, state.z))
    h, window = _deflated(_upper_hessenberg(h))
    stalled = jnp.where(window.high == high, state.stalled + 1, 0)
    return Progress(state.sweeps + 1, stalled, window, h, z)


class Block(NamedTuple):
    """The elements of a 2x2 block, [[a, b], [c, d]]."""

    a: Array
    b: Array
    c: Array
    d: Array


def _block_that_ends_at(h: Array, end: Array) -> Block:
    """The block on the diagonal whose last row is `end`."""
    both = end + jnp.arange(-1, 1)
    (a, b), (c, d) = take(take(h, both), both, 1)
    return Block(a, b, c, d)


def _first_column(h: Array, window: Window, is_exceptional: Array) -> Array:
    """The first column of the shifted matrix: of H - s, or of H² - t H + d where `h` is real.

    The shifts are the eigenvalues of the last 2x2 block, or the one nearer to its corner; now and
    then another, to leave a cycle.
    """
    block = _block_that_ends_at(h, window.high)
    a, b, c, d = block
    at = positions(h.shape[0])
    x = take(h, window.low, 1)
    unit = (at == window.low).astype(h.dtype)
    size = jnp.abs(c) + jnp.abs(d)
    if jnp.iscomplexobj(h):
        nearer = _nearer_eigenvalue(block)
        shift = jnp.where(is_exceptional, d + size, nearer)
        return x - shift * unit
    trace = jnp.where(is_exceptional, 1.5 * size, a + d)
    determinant = jnp.where(is_exceptional, size * size, a * d - b * c)
    return h @ x - trace * x + determinant * unit


def _nearer_eigenvalue(block: Block) -> Array:
    """Of a complex block, the eigenvalue nearer to d (Wilkinson's shift)."""
    a, b, c, d = block
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    points_away = (half * root.conj()).real < 0
    below = half + jnp.where(points_away, -root, root)
    is_none = below == 0
    safe_below = jnp.where(is_none, 1, below)
    return d - jnp.where(is_none, 0, b * c / safe_below)


def _split_blocks(h: Array, z: Array) -> Pair:
    """Rotate each 2x2 block: to a triangle, or to equal diagonal elements for complex eigenvalues."""
    n = h.shape[0]
    row, column = grid(n, n)

    def step(state: Pair, i: Array) -> tuple[Pair, None]:
        h, z = state
        cosine, sine, is_real = _block_rotation(_block_that_ends_at(h, i + 1))
        is_on_block = (row == column) & ((row == i) | (row == i + 1))
        is_below = (row == i + 1) & (column == i)
        is_above = (row == i) & (column == i + 1)
        turn = jnp.where(is_on_block, cosine, jnp.eye(n, dtype=h.dtype))
        turn = jnp.where(is_below, -sine, turn)
        turn = jnp.where(is_above, sine, turn)
        h = turn @ h @ turn.T
        h = jnp.where(is_below & is_real, 0, h)
        return (h, z @ turn.T), None

    (h, z), _ = lax.scan(step, (h, z), positions(dims.sub(n, 1)))
    return _upper_hessenberg(h), z


def _block_rotation(block: Block) -> tuple[Array, Array, Array]:
    """Cosine and sine for `_split_blocks`, and whether the eigenvalues are real (LAPACK's lanv2)."""
    a, b, c, d = block
    half = (a - d) / 2
    discriminant = half * half + b * c
    is_real = discriminant >= 0
    root = jnp.sqrt(jnp.maximum(discriminant, 0))
    farther = half + jnp.where(half < 0, -1, 1) * root
    total = b + c
    of_real = jnp.hypot(c, farther)
    of_complex = jnp.hypot(total, a - d)
    length = jnp.where(is_real, of_real, of_complex)
    is_done = (c == 0) | (length == 0)
    length = jnp.where(is_done, 1, length)
    # for complex ones: this makes both diagonal elements equal
    equal_cosine = jnp.sqrt((1 + jnp.abs(total) / length) / 2)
    signed_half = jnp.where(total < 0, half, -half)
    equal_sine = signed_half / (length * equal_cosine)
    cosine = jnp.where(is_real, farther / length, equal_cosine)
    sine = jnp.where(is_real, c / length, equal_sine)
    cosine = jnp.where(is_done, 1, cosine)
    sine = jnp.where(is_done, 0, sine)
    return cosine, sine, is_real


@lower_with("schur")
@in_turn
def schur(a: Array, *, compute_schur_vectors: bool, **_: Any) -> tuple[Array, ...]:
    """The Schur form and, where asked for, the unitary matrix; NaN where the iteration does not end."""
    if is_empty(a.shape[0]):
        return (a, a) if compute_schur_vectors else (a,)
    x, size = scaled(wide(a))
    t, z, found = schur_form(x)
    results = (t * size, z) if compute_schur_vectors else (t * size,)
    return _if_found(found, results, a.dtype)


def _if_found(
    found: Array, results: Iterable[Array], dtype: DTypeLike
) -> tuple[Array, ...]:
    """Results in a dtype; NaN where the iteration did not end."""
    checked = [jnp.where(found, r, jnp.nan) for r in results]
    return tuple(r.astype(dtype) for r in checked)


# -------------------------------------------------------------------------- eigenvalues


@lower_with("eig")
@in_turn
def eig(
    a: Array,
    *,
    compute_left_eigenvectors: bool,
    compute_right_eigenvectors: bool,
    **_: Any,
) -> tuple[Array, ...]:
    """Eigenvalues, and left and right eigenvectors where asked for; all of them are complex.

    Eigenvectors have Euclidean norm 1 and a real largest element.
    """
    dtype = jnp.result_type(a.dtype, jnp.complex64)
    wanted = [compute_left_eigenvectors, compute_right_eigenvectors]
    if is_empty(a.shape[0]):
        no_vectors = [jnp.zeros((0, 0), dtype)] * sum(wanted)
        return jnp.zeros((0,), dtype), *no_vectors
    x, size = scaled(wide(a))
    t, z, found = schur_form(x.astype(jnp.complex128))
    values = diagonal(t)
    if not jnp.iscomplexobj(a):
        values = _without_rounded_parts(values, t)
    results = [values * size]
    if compute_left_eigenvectors:
        flipped = jnp.flip(t.conj().T)
        vectors = jnp.flip(_triangular_vectors(flipped))
        results.append(_normalised(z @ vectors))
    if compute_right_eigenvectors:
        vectors = _triangular_vectors(t)
        results.append(_normalised(z @ vectors))
    return _if_found(found, results, dtype)


def _without_rounded_parts(values: Array, t: Array) -> Array:
    """Eigenvalues of a real matrix: an imaginary part that rounding alone can have made is 0."""
    largest = jnp.sqrt(jnp.max(square_size(values)))
    near = 10 * epsilon(t) * t.shape[0] * largest
    is_rounding = jnp.abs(values.imag) <= near
    imaginary = jnp.where(is_rounding, 0, values.imag)
    return lax.complex(values.real, imaginary)


def _triangular_vectors(t: Array) -> Array:
    """The eigenvectors of an upper triangle, as columns, by back substitution.

    Scaled so that none grows beyond 1.
    """
    at = positions(t.shape[0])
    values = diagonal(t)
    least = epsilon(t) * jnp.max(jnp.abs(t))
    least = jnp.where(least == 0, 1, least)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        line = take(t, i)
        gap = values - take(line, i)
        gap = jnp.where(jnp.abs(gap) < least, least, gap)
        is_own = at == i
        unit = is_own.astype(t.dtype)
        # row i of all vectors: 1 in its own, and in those behind what the rows below it make
        new = jnp.where(at > i, (line @ x) / gap, unit)
        x = jnp.where(is_own[:, None], new, x)
        growth = jnp.maximum(1, jnp.abs(new))
        return x / growth, None

    vectors, _ = lax.scan(step, jnp.zeros_like(t), at, reverse=True)
    return vectors


def _normalised(v: Array) -> Array:
    """Columns of Euclidean norm 1, turned so that the largest element is real."""
    sizes = square_size(v)
    norms = jnp.sqrt(jnp.sum(sizes, 0))
    v = v / norms
    place = jnp.argmax(sizes, 0)[None]
    largest = jnp.take_along_axis(v, place, 0)
    phase = largest.conj() / jnp.abs(largest)
    return v * phase
