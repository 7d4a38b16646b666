"""Hessenberg, tridiagonal and Schur forms, and eigenvalues of general matrices, as plain JAX.

The QR algorithm with implicit shifts (Francis): single shifts for complex matrices, double ones for
real matrices. All of it is Householder reflections of the whole matrix, in double precision, one
matrix of a batch after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir import dims
from j2o.passes.lower.decompositions.eigen import epsilon, hermitian, scaled
from j2o.passes.lower.decompositions.linalg import (
    apply_q,
    batched,
    diagonal,
    positions,
    reflector,
    square_size,
    take,
    wide,
)
from j2o.passes.lower.table import lower_with

Array = jax.Array
Pair = tuple[Array, Array]


def in_turn(fn: Callable[..., tuple[Array, ...]]) -> Callable[..., tuple[Array, ...]]:
    """`fn` on one matrix after the other: each loops as long as it needs."""

    @functools.wraps(fn)
    def mapped(a: Array, **params: Any) -> tuple[Array, ...]:
        batch, size = a.shape[:-2], a.shape[-2:]
        if not batch:
            return fn(a, **params)
        results = lax.map(lambda x: fn(x, **params), a.reshape(dims.prod(batch), *size))
        return tuple(r.reshape(*batch, *r.shape[1:]) for r in results)

    return mapped


# -------------------------------------------------------------- Hessenberg, tridiagonal


def reflected(a: Array, v: Array, tau: Array) -> Array:
    """A (I - tau v v^H)."""
    return a - (tau * (a @ v))[:, None] * v.conj()


def similar(a: Array, v: Array, tau: Array) -> Array:
    """H^H A H for the reflection H = I - tau v v^H."""
    return reflected(a - (tau.conj() * v)[:, None] * (v.conj() @ a), v, tau)


@lower_with("hessenberg")
@batched
def hessenberg(a: Array) -> Pair:
    """LAPACK's gehrd: the Hessenberg matrix, with the Householder vectors below it, and their `tau`."""
    n = a.shape[0]
    at = positions(n)

    def step(a: Array, j: Array) -> tuple[Array, Pair]:
        x = take(a, j, 1)
        v, tau, beta = reflector(x, j + 1, at)
        packed = jnp.where(at == j + 1, beta, jnp.where(at > j + 1, v, x))
        return similar(a, v, tau), (packed, tau)

    last = dims.sub(n, 1)
    a, (packed, taus) = lax.scan(step, a, positions(last))
    return jnp.concatenate([packed.T, a[:, last:]], 1), taus


@lower_with("tridiagonal")
@batched
def tridiagonal(a: Array, *, lower: bool) -> tuple[Array, Array, Array, Array]:
    """LAPACK's sytrd: one triangle with the Householder vectors, diagonal, second diagonal and `tau`."""
    if lower:
        return _lower_tridiagonal(a)
    packed, diagonal_, beside, taus = _lower_tridiagonal(jnp.flip(a))
    return jnp.flip(packed), jnp.flip(diagonal_), jnp.flip(beside), jnp.flip(taus)


def _lower_tridiagonal(a: Array) -> tuple[Array, Array, Array, Array]:
    at = positions(a.shape[0])
    packed, taus = hessenberg(hermitian(a, lower=True))
    packed = jnp.where(at[:, None] >= at, packed, a)
    return packed, diagonal(packed).real, below_diagonal(packed).real, taus


def below_diagonal(a: Array) -> Array:
    """The elements next to the diagonal of a square matrix, below it."""
    return diagonal(jnp.concatenate([a[1:], a[:1]]))[: dims.sub(a.shape[0], 1)]


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
    """T, Z with A = Z T Z^H, and whether the iteration ended: T is triangular, or has 2x2 blocks
    where `a` is real.

    The implicitly shifted QR algorithm: Golub and Van Loan, Matrix Computations, 7.5.
    """
    n = a.shape[0]
    h, z = _hessenberg_and_q(a)
    is_real = not jnp.iscomplexobj(a)
    h, window = _deflated(h)

    def unfinished(state: Progress) -> Array:
        return (state.window.high > state.window.low) & (
            state.sweeps < SWEEPS_PER_ROW * (n + 1)
        )

    zero = jnp.zeros((), jnp.int32)
    end = lax.while_loop(unfinished, _sweep, Progress(zero, zero, window, h, z))
    found = end.window.high == 0
    h, z = _split_blocks(end.h, end.z) if is_real else (end.h, end.z)
    return h, z, found


def _hessenberg_and_q(a: Array) -> Pair:
    """H and Q with A = Q H Q^H."""
    n = a.shape[0]
    packed, taus = hessenberg(a)
    shifted = jnp.pad(
        packed[:, : dims.sub(n, 1)], ((0, 0), (1, 0))
    )  # the reflection i changes no row before i
    q = apply_q(shifted, jnp.pad(taus, (1, 0)), jnp.eye(n, dtype=a.dtype))
    return _upper_hessenberg(packed), q


def _upper_hessenberg(h: Array) -> Array:
    """With zeros below the second diagonal."""
    row, column = positions(h.shape[0])[:, None], positions(h.shape[1])
    return jnp.where(row <= column + 1, h, 0)


def _deflated(h: Array) -> tuple[Array, Window]:
    """H with its negligible elements below the diagonal gone, and the range of rows to work on."""
    at = positions(h.shape[0])
    row, column = at[:, None], at
    sizes = jnp.abs(diagonal(h))
    is_coupled = jnp.abs(below_diagonal(h)) > epsilon(h) * (sizes[:-1] + sizes[1:])
    coupled = jnp.pad(is_coupled, (1, 0))  # to the row above; the first is not
    h = jnp.where((row == column + 1) & ~coupled[:, None], 0, h)
    unfinished = coupled
    if not jnp.iscomplexobj(h):  # a real 2x2 block is an end
        before, after = jnp.pad(coupled[:-1], (1, 0)), jnp.pad(coupled[1:], (0, 1))
        unfinished = coupled & (before | after)
    high = jnp.max(jnp.where(unfinished, at, 0))
    low = jnp.max(jnp.where(~coupled & (at <= high), at, 0))
    return h, Window(low, high)


def _sweep(state: Progress) -> Progress:
    """One QR step: a bulge is made at the upper end of the window and chased down to its lower end."""
    (low, high), h, z = state.window, state.h, state.z
    at = positions(h.shape[0])
    bulge = 1 if jnp.iscomplexobj(h) else 2  # how many rows it reaches down
    is_exceptional = state.stalled % EXCEPTIONAL == EXCEPTIONAL - 1
    first = _first_column(h, low, high, is_exceptional)

    def chase(k: Array, pair: Pair) -> Pair:
        h, z = pair
        x = jnp.where(k == low, first, take(h, jnp.maximum(k - 1, 0), 1))
        in_bulge = (at >= k) & (at <= jnp.minimum(k + bulge, high))
        v, tau, _ = reflector(jnp.where(in_bulge, x, 0), k, at)
        return similar(h, v, tau), reflected(z, v, tau)

    h, z = lax.fori_loop(low, high, chase, (h, z))
    h, window = _deflated(_upper_hessenberg(h))
    stalled = jnp.where(window.high == high, state.stalled + 1, 0)
    return Progress(state.sweeps + 1, stalled, window, h, z)


def _last_block(h: Array, end: Array) -> tuple[Array, Array, Array, Array]:
    """The elements a, b, c, d of the 2x2 block [[a, b], [c, d]] whose last row is `end`."""
    both = end + jnp.arange(-1, 1)
    (a, b), (c, d) = take(take(h, both), both, 1)
    return a, b, c, d


def _first_column(h: Array, low: Array, high: Array, is_exceptional: Array) -> Array:
    """The first column of the shifted matrix: of H - s, or of H² - t H + d where `h` is real.

    The shifts are the eigenvalues of the last 2x2 block, or the one nearer to its corner; now and
    then another, to leave a cycle.
    """
    a, b, c, d = _last_block(h, high)
    at = positions(h.shape[0])
    x, unit = take(h, low, 1), (at == low).astype(h.dtype)
    size = jnp.abs(c) + jnp.abs(d)
    if not jnp.iscomplexobj(h):
        trace = jnp.where(is_exceptional, 1.5 * size, a + d)
        determinant = jnp.where(is_exceptional, size * size, a * d - b * c)
        return h @ x - trace * x + determinant * unit
    shift = jnp.where(is_exceptional, d + size, _nearer_eigenvalue(a, b, c, d))
    return x - shift * unit


def _nearer_eigenvalue(a: Array, b: Array, c: Array, d: Array) -> Array:
    """Of the complex matrix [[a, b], [c, d]], the eigenvalue nearer to d (Wilkinson's shift)."""
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    root = jnp.where((half * root.conj()).real < 0, -root, root)
    below = half + root
    is_none = below == 0
    return d - jnp.where(is_none, 0, b * c / jnp.where(is_none, 1, below))


def _split_blocks(h: Array, z: Array) -> Pair:
    """Rotate each 2x2 block.

    To a triangle where its eigenvalues are real, else to equal diagonal elements.
    """
    n = h.shape[0]
    at = positions(n)
    row, column = at[:, None], at

    def step(state: Pair, i: Array) -> tuple[Pair, None]:
        h, z = state
        cosine, sine, is_real = _block_rotation(*_last_block(h, i + 1))
        on_block = (row == column) & ((row == i) | (row == i + 1))
        turn = jnp.where(on_block, cosine, jnp.eye(n, dtype=h.dtype))
        turn = jnp.where((row == i + 1) & (column == i), -sine, turn)
        turn = jnp.where((row == i) & (column == i + 1), sine, turn)
        h = turn @ h @ turn.T
        h = jnp.where((row == i + 1) & (column == i) & is_real, 0, h)
        return (h, z @ turn.T), None

    (h, z), _ = lax.scan(step, (h, z), positions(dims.sub(n, 1)))
    return _upper_hessenberg(h), z


def _block_rotation(
    a: Array, b: Array, c: Array, d: Array
) -> tuple[Array, Array, Array]:
    """Cosine and sine for the real block [[a, b], [c, d]], and if its eigenvalues are real (lanv2)."""
    half = (a - d) / 2
    discriminant = half * half + b * c
    is_real = discriminant >= 0
    farther = half + jnp.where(half < 0, -1, 1) * jnp.sqrt(jnp.maximum(discriminant, 0))
    total = b + c
    length = jnp.where(is_real, jnp.hypot(c, farther), jnp.hypot(total, a - d))
    is_done = (c == 0) | (length == 0)
    length = jnp.where(is_done, 1, length)
    equal_cosine = jnp.sqrt(
        (1 + jnp.abs(total) / length) / 2
    )  # makes both diagonal elements equal
    equal_sine = jnp.where(total < 0, half, -half) / (length * equal_cosine)
    cosine = jnp.where(is_done, 1, jnp.where(is_real, farther / length, equal_cosine))
    sine = jnp.where(is_done, 0, jnp.where(is_real, c / length, equal_sine))
    return cosine, sine, is_real


@lower_with("schur")
@in_turn
def schur(a: Array, *, compute_schur_vectors: bool, **_: Any) -> tuple[Array, ...]:
    """The Schur form and, where asked for, the unitary matrix; NaN where the iteration does not end."""
    if type(a.shape[0]) is int and a.shape[0] == 0:
        return (a,) * (1 + compute_schur_vectors)
    x, size = scaled(wide(a))
    t, z, found = schur_form(x)
    results = (t * size, z) if compute_schur_vectors else (t * size,)
    return tuple(jnp.where(found, r, jnp.nan).astype(a.dtype) for r in results)


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
    """Eigenvalues, left and right eigenvectors, complex, of Euclidean norm 1 with a real largest element."""
    dtype = jnp.result_type(a.dtype, jnp.complex64)
    n = a.shape[0]
    wanted = [compute_left_eigenvectors, compute_right_eigenvectors]
    if type(n) is int and n == 0:
        no_vectors = [jnp.zeros((0, 0), dtype)] * sum(wanted)
        return jnp.zeros((0,), dtype), *no_vectors
    x, size = scaled(wide(a))
    t, z, found = schur_form(x.astype(jnp.complex128))
    values = diagonal(t)
    if not jnp.iscomplexobj(a):
        values = _without_rounded_parts(values, t)
    results = [values * size]
    if compute_left_eigenvectors:
        vectors = jnp.flip(_triangular_vectors(jnp.flip(t.conj().T)))
        results.append(_normalised(z @ vectors))
    if compute_right_eigenvectors:
        results.append(_normalised(z @ _triangular_vectors(t)))
    return tuple(jnp.where(found, r, jnp.nan).astype(dtype) for r in results)


def _without_rounded_parts(values: Array, t: Array) -> Array:
    """Eigenvalues of a real matrix: an imaginary part that rounding alone can have made is 0."""
    n = t.shape[0]
    near = 10 * epsilon(t) * n * jnp.sqrt(jnp.max(square_size(values)))
    imaginary = jnp.where(jnp.abs(values.imag) <= near, 0, values.imag)
    return lax.complex(values.real, imaginary)


def _triangular_vectors(t: Array) -> Array:
    """The eigenvectors of an upper triangle, as columns, by back substitution.

    Scaled so that none grows beyond 1.
    """
    at, values = positions(t.shape[0]), diagonal(t)
    least = epsilon(t) * jnp.max(jnp.abs(t))
    least = jnp.where(least == 0, 1, least)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        line = take(t, i)
        gap = values - take(line, i)
        gap = jnp.where(jnp.abs(gap) < least, least, gap)
        unit = (at == i).astype(t.dtype)
        new = jnp.where(at > i, (line @ x) / gap, unit)
        x = jnp.where((at == i)[:, None], new, x)
        return x / jnp.maximum(1, jnp.abs(new)), None

    vectors, _ = lax.scan(step, jnp.zeros_like(t), at, reverse=True)
    return vectors


def _normalised(v: Array) -> Array:
    """Columns of Euclidean norm 1, turned so that the largest element is real."""
    sizes = square_size(v)
    v = v / jnp.sqrt(jnp.sum(sizes, 0))
    largest = jnp.take_along_axis(v, jnp.argmax(sizes, 0)[None], 0)
    return v * (largest.conj() / jnp.abs(largest))
