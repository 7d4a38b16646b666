"""Hessenberg, tridiagonal and Schur forms, and eigenvalues of general matrices, as plain JAX.

The QR algorithm with implicit shifts (Francis): single shifts for complex matrices, double ones for real matrices. All of
it is Householder reflections of the whole matrix, in double precision, one matrix of a batch after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir import dims
from j2o.passes.complex import COMPLEX
from j2o.passes.lower.eigen import epsilon, hermitian, on_parts, scaled
from j2o.passes.lower.linalg import apply_q, batched, diagonal, positions, reflector, square_size, take, wide
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


# ------------------------------------------------------------------------------ Hessenberg, tridiagonal


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
    if not lower:
        packed, *rest = tridiagonal.__wrapped__(jnp.flip(a), lower=True)  # type: ignore[attr-defined]
        return jnp.flip(packed), *(jnp.flip(r) for r in rest)  # type: ignore[return-value]
    at = positions(a.shape[0])
    packed, taus = hessenberg.__wrapped__(hermitian(a, lower))  # type: ignore[attr-defined]
    packed = jnp.where(at[:, None] >= at, packed, a)
    return packed, diagonal(packed).real, below_diagonal(packed).real, taus


def below_diagonal(a: Array) -> Array:
    """The elements next to the diagonal of a square matrix, below it."""
    return diagonal(jnp.concatenate([a[1:], a[:1]]))[: dims.sub(a.shape[0], 1)]


# ------------------------------------------------------------------------------------------ QR algorithm


def schur_form(a: Array) -> tuple[Array, Array, Array]:
    """T, Z with A = Z T Z^H, and whether the iteration ended: T is triangular, or has 2x2 blocks where `a` is real."""
    n = a.shape[0]
    at = positions(n)
    row, column = at[:, None], at
    packed, taus = hessenberg.__wrapped__(a)  # type: ignore[attr-defined]
    shifted = jnp.pad(packed[:, : dims.sub(n, 1)], ((0, 0), (1, 0)))  # the reflection i changes no row before i
    z = apply_q(shifted, jnp.pad(taus, (1, 0)), jnp.eye(n, dtype=a.dtype))
    h = jnp.where(row <= column + 1, packed, 0)
    real = not jnp.iscomplexobj(a)

    def living(h: Array) -> Array:
        """Which rows are still coupled to the row above; the first is not."""
        d = jnp.abs(diagonal(h))
        coupled = jnp.abs(below_diagonal(h)) > epsilon(h) * (d[:-1] + d[1:])
        return jnp.pad(coupled, (1, 0))

    def window(h: Array) -> tuple[Array, Array, Array]:
        """`h` with negligible elements gone, and the range of rows to work on, which is empty at the end."""
        live = living(h)
        h = jnp.where((row == column + 1) & ~live[:, None], 0, h)
        before, after = jnp.pad(live[:-1], (1, 0)), jnp.pad(live[1:], (0, 1))
        open_ = live & (before | after) if real else live  # a real 2x2 block is an end
        high = jnp.max(jnp.where(open_, at, 0))
        low = jnp.max(jnp.where(~live & (at <= high), at, 0))
        return h, low, high

    def sweep(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, stalled, low, high, h, z = state
        first = _first_column(h, low, high, stalled % 10 == 9)

        def chase(k: Array, state: Pair) -> Pair:
            h, z = state
            x = jnp.where(k == low, first, take(h, jnp.maximum(k - 1, 0), 1))
            x = jnp.where((at >= k) & (at <= jnp.minimum(k + (2 if real else 1), high)), x, 0)
            v, tau, _ = reflector(x, k, at)
            return similar(h, v, tau), reflected(z, v, tau)

        h, z = lax.fori_loop(low, high, chase, (h, z))
        h, low, end = window(jnp.where(row <= column + 1, h, 0))
        return count + 1, jnp.where(end == high, stalled + 1, 0), low, end, h, z

    zero = jnp.zeros((), jnp.int32)
    h, low, high = window(h)
    start = (zero, zero, low, high, h, z)
    *_, high, h, z = lax.while_loop(lambda s: (s[3] > s[2]) & (s[0] < 40 * (n + 1)), sweep, start)
    if real:
        h, z = _split_blocks(h, z)
    return h, z, high == 0


def _first_column(h: Array, low: Array, high: Array, exceptional: Array) -> Array:
    """The first column of the shifted matrix: of H - s, or of H² - t H + d where `h` is real.

    The shifts are the eigenvalues of the last 2x2 block, or the one nearer to its corner; now and then another, to leave
    a cycle.
    """
    corner = take(take(h, high + jnp.arange(-1, 1)), high + jnp.arange(-1, 1), 1)
    (a, b), (c, d) = corner
    at = positions(h.shape[0])
    x, unit = take(h, low, 1), (at == low).astype(h.dtype)
    size = jnp.abs(c) + jnp.abs(d)
    if not jnp.iscomplexobj(h):
        trace = jnp.where(exceptional, 1.5 * size, a + d)
        determinant = jnp.where(exceptional, size * size, a * d - b * c)
        return h @ x - trace * x + determinant * unit
    half = (a - d) / 2
    root = jnp.sqrt(half * half + b * c)
    root = jnp.where((half * root.conj()).real < 0, -root, root)
    below = half + root
    none = below == 0
    shift = d - jnp.where(none, 0, b * c / jnp.where(none, 1, below))
    return x - jnp.where(exceptional, d + size, shift) * unit


def _split_blocks(h: Array, z: Array) -> Pair:
    """Rotate each 2x2 block: to a triangle where its eigenvalues are real, else to equal diagonal elements (LAPACK's lanv2)."""
    n = h.shape[0]
    at = positions(n)
    row, column = at[:, None], at

    def step(state: Pair, i: Array) -> tuple[Pair, None]:
        h, z = state
        block = take(take(h, i + jnp.arange(2)), i + jnp.arange(2), 1)
        (a, b), (c, d) = block
        half = (a - d) / 2
        inside = half * half + b * c
        is_real = inside >= 0
        far = half + jnp.where(half < 0, -1, 1) * jnp.sqrt(jnp.maximum(inside, 0))
        total = b + c
        length = jnp.where(is_real, jnp.hypot(c, far), jnp.hypot(total, a - d))
        still = (c == 0) | (length == 0)
        length = jnp.where(still, 1, length)
        even = jnp.sqrt((1 + jnp.abs(total) / length) / 2)
        slope = jnp.where(total < 0, half, -half) / (length * even)
        cosine = jnp.where(still, 1, jnp.where(is_real, far / length, even))
        sine = jnp.where(still, 0, jnp.where(is_real, c / length, slope))
        turn = jnp.where((row == column) & ((row == i) | (row == i + 1)), cosine, jnp.eye(n, dtype=h.dtype))
        turn = jnp.where((row == i) & (column == i + 1), sine, jnp.where((row == i + 1) & (column == i), -sine, turn))
        h = turn @ h @ turn.T
        h = jnp.where((row == i + 1) & (column == i) & is_real, 0, h)
        return (h, z @ turn.T), None

    (h, z), _ = lax.scan(step, (h, z), positions(dims.sub(n, 1)))
    return jnp.where(row <= column + 1, h, 0), z


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


# ------------------------------------------------------------------------------------------- eigenvalues


@in_turn
def eig(a: Array, *, compute_left_eigenvectors: bool, compute_right_eigenvectors: bool, **_: Any) -> tuple[Array, ...]:
    """Eigenvalues, left and right eigenvectors, complex, of Euclidean norm 1 with a real largest element."""
    dtype = jnp.result_type(a.dtype, jnp.complex64)
    n = a.shape[0]
    if type(n) is int and n == 0:
        count = 1 + compute_left_eigenvectors + compute_right_eigenvectors
        return tuple(jnp.zeros((0,) if i == 0 else (0, 0), dtype) for i in range(count))
    x, size = scaled(wide(a))
    t, z, found = schur_form(x.astype(jnp.complex128))
    w = diagonal(t)
    if not jnp.iscomplexobj(a):
        near = 10 * epsilon(t) * n * jnp.sqrt(jnp.max(square_size(w)))
        w = lax.complex(w.real, jnp.where(jnp.abs(w.imag) <= near, 0, w.imag))
    results = [w * size]
    if compute_left_eigenvectors:
        results.append(_normalised(z @ jnp.flip(_triangular_vectors(jnp.flip(t.conj().T)))))
    if compute_right_eigenvectors:
        results.append(_normalised(z @ _triangular_vectors(t)))
    return tuple(jnp.where(found, r, jnp.nan).astype(dtype) for r in results)


def _triangular_vectors(t: Array) -> Array:
    """The eigenvectors of an upper triangle, as columns, by back substitution; scaled so that none grows beyond 1."""
    at, w = positions(t.shape[0]), diagonal(t)
    least = epsilon(t) * jnp.max(jnp.abs(t))
    least = jnp.where(least == 0, 1, least)

    def step(x: Array, i: Array) -> tuple[Array, None]:
        line = take(t, i)
        gap = w - take(line, i)
        gap = jnp.where(jnp.abs(gap) < least, least, gap)
        new = jnp.where(at > i, (line @ x) / gap, (at == i).astype(t.dtype))
        return jnp.where((at == i)[:, None], new, x) / jnp.maximum(1, jnp.abs(new)), None

    return lax.scan(step, jnp.zeros_like(t), at, reverse=True)[0]


def _normalised(v: Array) -> Array:
    sizes = square_size(v)
    v = v / jnp.sqrt(jnp.sum(sizes, 0))
    largest = jnp.take_along_axis(v, jnp.argmax(sizes, 0)[None], 0)
    return v * (largest.conj() / jnp.abs(largest))


COMPLEX.update({name: on_parts(name) for name in ("hessenberg", "tridiagonal", "schur")})
COMPLEX["eig"] = on_parts(eig)
