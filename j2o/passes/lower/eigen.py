"""Eigenvalues and singular values, as plain JAX, for one matrix and mapped over batch dimensions.

Symmetric matrices and singular values by Jacobi rotations, which need nothing but elementwise operations on whole
matrices: in each round every row is rotated with a partner, and n - 1 rounds bring each pair together once (the circle
method of tournaments). General matrices by Householder reduction to Hessenberg form and the shifted QR algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.types import Dim
from j2o.passes.complex import COMPLEX, Z
from j2o.passes.lower.linalg import batched, diagonal, epsilon, positions, qr, square_size, take, wide
from j2o.passes.lower.table import DECOMPOSITIONS, lower_with

Array = jax.Array
SWEEPS = 24  # of Jacobi rotations at most; 5 to 10 are usual


# ------------------------------------------------------------------------------------------------ Jacobi


def partners(n: Dim) -> Any:
    """`[rounds, n]`: with which row each row is rotated in each round; with itself where `n` is odd and it rests."""
    xp: Any = np if type(n) is int else jnp
    odd = dims.add(dims.sub(n, 1), dims.mod(n, 2))  # n - 1 or n
    half = dims.floordiv(dims.add(odd, 1), 2)
    at = xp.arange(n, dtype=np.int32)[None]
    turn = xp.arange(odd, dtype=np.int32)[:, None]
    partner = (turn - at + odd) % odd
    alone = (turn * half) % odd  # is its own partner, or that of the last row
    last = n - 1
    paired = xp.where(at == alone, last, xp.where(at == last, alone, partner))
    even = xp.asarray(dims.sub(n, odd)) == 1
    return xp.where(even, paired, partner).astype(np.int32)


def rotation(own: Array, other: Array, between: Array, first: Array) -> tuple[Array, Array]:
    """Cosines and sines (with a phase) of the rotations that make `[[own, between], [between^H, other]]` diagonal."""
    gap = other - own
    length = jnp.abs(gap) + jnp.sqrt(gap * gap + 4 * square_size(between))
    two = jnp.full((), 2, own.dtype)
    double = jnp.where((gap > 0) | ((gap == 0) & first), two, -two) * between
    tangent = double / jnp.where(length == 0, 1, length)  # the smaller of two: angles of at most 45 degrees
    cosine = 1 / jnp.sqrt(1 + square_size(tangent))
    return cosine, tangent * cosine


def swept(sweep: Callable[..., tuple[Array, ...]], start: tuple[Array, ...], tolerance: Any) -> tuple[Array, ...]:
    """What is left of a measure, and the matrices, once it is no more than the tolerance; `sweep` gives both anew."""

    def going(state: tuple[Array, ...]) -> Array:
        return (state[1] > tolerance) & (state[0] < SWEEPS)

    return lax.while_loop(going, lambda s: (s[0] + 1, *sweep(*s[2:])), (jnp.zeros((), jnp.int32), *start))[1:]


def scaled(a: Array) -> tuple[Array, Array]:
    """`a` divided by its largest element, and that: squares neither overflow nor vanish."""
    sizes = jnp.abs(a.real) + jnp.abs(a.imag) if jnp.iscomplexobj(a) else jnp.abs(a)
    size = jnp.max(sizes, initial=0)
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    return a / size, size


@lower_with("eigh")
@batched
def eigh(a: Array, *, lower: bool, subset_by_index: tuple[int, int] | None = None, **_: Any) -> tuple[Array, Array]:
    """Eigenvectors and ascending eigenvalues of the matrix that one triangle of `a` holds; NaN where none are found."""
    n = a.shape[0]
    if type(n) is int and n == 0:
        return a, jnp.zeros((0,), a.real.dtype)
    dtype, real, near = a.dtype, a.real.dtype, 0.1 * epsilon(a)
    a, size = scaled(wide(hermitian(a, lower)))
    rounds, at = jnp.asarray(partners(n)), positions(n)
    tolerance = jnp.maximum(near, epsilon(a) * jnp.sqrt(1.0 * n)) * jnp.sqrt(jnp.sum(square_size(a)))

    def off_diagonal(a: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.where(at[:, None] == at, 0, square_size(a))))

    def turn(state: tuple[Array, Array], partner: Array) -> tuple[tuple[Array, Array], None]:
        a, v = state
        d, across = diagonal(a).real, take(a, partner)
        between = diagonal(across.T).conj() if jnp.iscomplexobj(a) else diagonal(across)
        between = (between + take(between, partner).conj()) / 2  # the same in both rows, whatever the rounding
        between = jnp.where(at == partner, 0, between)
        c, s = (r[:, None] for r in rotation(d, take(d, partner), between, at < partner))
        a = (c * a - s * across).conj().T
        return (c * a - s * take(a, partner), c * v - s * take(v, partner)), None

    def sweep(a: Array, v: Array) -> tuple[Array, ...]:
        a, v = lax.scan(turn, (a, v), rounds)[0]
        return off_diagonal(a), a, v

    left, a, v = swept(sweep, (off_diagonal(a), a, jnp.eye(n, dtype=a.dtype)), tolerance)
    w = diagonal(a).real
    order = jnp.argsort(w)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    found = left <= 1e3 * tolerance
    v, w = jnp.where(found, take(v, order).conj().T, jnp.nan), jnp.where(found, take(w, order) * size, jnp.nan)
    return v.astype(dtype), w.astype(real)


def hermitian(a: Array, lower: bool) -> Array:
    """The matrix that one triangle holds."""
    row, column = positions(a.shape[0])[:, None], positions(a.shape[1])
    half = jnp.where(row > column if lower else row < column, a, 0)
    return half + half.conj().T + jnp.where(row == column, a.real, 0)


@lower_with("svd")
@batched
def svd(
    a: Array, *, full_matrices: bool, compute_uv: bool, subset_by_index: tuple[int, int] | None = None, **_: Any
) -> tuple[Array, ...]:
    """Descending singular values, and U and V^H where asked for: one-sided Jacobi (Hestenes) on the shorter side.

    The rotated rows are s_i u_i^H; their QR factorisation completes U where values are 0, and to a full matrix.
    """
    rows, columns = a.shape
    if dims.known_ge(columns, rows) and not dims.known_ge(rows, columns):
        s, *uv = svd.__wrapped__(  # type: ignore[attr-defined]
            a.T, full_matrices=full_matrices, compute_uv=compute_uv, subset_by_index=subset_by_index
        )
        return (s, uv[1].T, uv[0].T) if compute_uv else (s,)
    if type(columns) is int and columns == 0:
        eye = jnp.eye(rows, rows if full_matrices else 0, dtype=a.dtype)
        return (jnp.zeros((0,), a.real.dtype), eye, a[:0])[: 3 if compute_uv else 1]
    dtype, real = a.dtype, a.real.dtype
    a, size = scaled(wide(a))
    s, x, v = _rotated(a.conj().T, 4 * float(jnp.finfo(dtype).eps), with_v=compute_uv)
    order = jnp.argsort(-s)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    kept = order if dims.known_ge(rows, columns) else order[: dims.minimum(rows, columns)]
    s = (take(s, kept) * size).astype(real)
    if not compute_uv:
        return (s,)
    u, r = qr.__wrapped__(take(x, kept).conj().T, full_matrices=full_matrices)  # type: ignore[attr-defined]
    sign = jnp.where(diagonal(r).real < 0, -1, 1)
    rank = sign.shape[0]
    u = jnp.concatenate([u[:, :rank] * sign, u[:, rank:]], 1)
    return s, u.astype(dtype), take(v, order if full_matrices else kept).astype(dtype)


def _rotated(x: Array, tolerance: float, with_v: bool) -> tuple[Array, Array, Array]:
    """Norms of the rows, the rows and the rotations, once all rows of `x` are made orthogonal."""
    n = x.shape[0]
    rounds, at = jnp.asarray(partners(n)), positions(n)

    def turn(state: tuple[Array, ...], partner: Array) -> tuple[tuple[Array, ...], Array]:
        x, *v = state
        across = take(x, partner)
        d = jnp.sum(square_size(x), 1)
        other = take(d, partner)
        between = jnp.where(at == partner, 0, jnp.sum(x * across.conj(), 1))
        c, s = rotation(d, other, between, at < partner)
        nothing = jnp.minimum(d, other) <= epsilon(x) ** 2 * jnp.max(d)  # no more than rounding errors
        angle = jnp.where(nothing, 0, square_size(between) / jnp.where(nothing, 1, d * other))
        pairs = [(x, across), *((y, take(y, partner)) for y in v)]
        state = tuple(c[:, None] * y - s[:, None] * z for y, z in pairs)
        return state, jnp.max(angle)

    def sweep(*matrices: Array) -> tuple[Array, ...]:
        matrices, angles = lax.scan(turn, matrices, rounds)
        return jnp.sqrt(jnp.max(angles, initial=0)), *matrices

    matrices = (x, jnp.eye(n, dtype=x.dtype)) if with_v else (x,)
    _, x, *v = swept(sweep, (jnp.ones((), x.real.dtype), *matrices), tolerance)
    return jnp.sqrt(jnp.sum(square_size(x), 1)), x, v[0] if v else x


# ---------------------------------------------------------------------------------------- complex matrices


def on_parts(decomposition: str | Callable[..., Any]) -> Callable[..., tuple[Array, ...]]:
    """Plain JAX code, or that of a primitive, for operands in parts; its complex arithmetic is split in turn."""
    fn = DECOMPOSITIONS[decomposition] if isinstance(decomposition, str) else decomposition

    def rule(*operands: Any, **params: Any) -> tuple[Array, ...]:
        results = fn(*(lax.complex(*x) if isinstance(x, Z) else x for x in operands), **params)
        results = results if isinstance(results, tuple) else (results,)
        return tuple(p for r in results for p in ((r.real, r.imag) if jnp.iscomplexobj(r) else (r,)))

    return rule


_DENSE = "cholesky eigh geqp3 geqrf householder_product lu ormqr qr svd triangular_solve tridiagonal_solve"
COMPLEX.update({name: on_parts(name) for name in _DENSE.split()})
