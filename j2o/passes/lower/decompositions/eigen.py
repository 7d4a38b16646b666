"""Eigenvalues and singular values, as plain JAX, for one matrix and mapped over batch dimensions.

Symmetric matrices and singular values by Jacobi rotations, which need nothing but elementwise
operations on whole matrices: in each round every row is rotated with a partner, and n - 1 rounds
bring each pair together once (the circle method of tournaments). General matrices by Householder
reduction to Hessenberg form and the shifted QR algorithm.
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
from j2o.passes.lower.decompositions.linalg import (
    batched,
    diagonal,
    epsilon,
    positions,
    qr,
    square_size,
    take,
    wide,
)
from j2o.passes.lower.table import lower_with

Array = jax.Array
SWEEPS = 24  # of Jacobi rotations at most; 5 to 10 are usual


# ------------------------------------------------------------------------------- Jacobi


def partners(n: Dim) -> Any:
    """`[rounds, n]`, int32: with which row each row is rotated in each round; with itself where `n`
    is odd and it rests.

    The circle method: in round r, the rows i and j with i + j = r (modulo an odd number) meet. The
    row that would meet itself rests, or meets the last row where their number is even.
    """
    xp: Any = np if type(n) is int else jnp
    odd = dims.add(dims.sub(n, 1), dims.mod(n, 2))  # n - 1 or n
    half = dims.floordiv(dims.add(odd, 1), 2)
    row = xp.arange(n, dtype=np.int32)[None]
    round_ = xp.arange(odd, dtype=np.int32)[:, None]
    partner = (round_ - row + odd) % odd
    alone = (round_ * half) % odd  # the row that would meet itself
    last = n - 1
    paired_with_last = xp.where(
        row == alone, last, xp.where(row == last, alone, partner)
    )
    is_even = xp.asarray(dims.sub(n, odd)) == 1
    return xp.where(is_even, paired_with_last, partner).astype(np.int32)


def rotation(
    own: Array, other: Array, between: Array, first: Array
) -> tuple[Array, Array]:
    """Cosines and sines (with a phase) of the rotations that make `[[own, between], [between^H,
    other]]` diagonal.

    `first` tells which row of a pair it is, for pairs whose diagonal elements are equal.
    """
    gap = other - own
    length = jnp.abs(gap) + jnp.sqrt(gap * gap + 4 * square_size(between))
    two = jnp.full((), 2, own.dtype)
    upwards = (gap > 0) | ((gap == 0) & first)
    double = jnp.where(upwards, two, -two) * between
    tangent = double / jnp.where(
        length == 0, 1, length
    )  # the smaller of two: angles of at most 45 degrees
    cosine = 1 / jnp.sqrt(1 + square_size(tangent))
    return cosine, tangent * cosine


def swept(
    sweep: Callable[..., tuple[Array, ...]], start: tuple[Array, ...], tolerance: Any
) -> tuple[Array, ...]:
    """What is left of a measure, and the matrices, once it is no more than the tolerance.

    `sweep` gives both anew.
    """

    def going(state: tuple[Array, ...]) -> Array:
        count, measure = state[:2]
        return (measure > tolerance) & (count < SWEEPS)

    def once_more(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, _, *matrices = state
        return count + 1, *sweep(*matrices)

    _, *found = lax.while_loop(going, once_more, (jnp.zeros((), jnp.int32), *start))
    return tuple(found)


def scaled(a: Array) -> tuple[Array, Array]:
    """`a` divided by its largest element, and that: squares neither overflow nor vanish."""
    if jnp.iscomplexobj(a):
        sizes = jnp.abs(a.real) + jnp.abs(a.imag)
    else:
        sizes = jnp.abs(a)
    size = jnp.max(sizes, initial=0)
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    return a / size, size


def hermitian(a: Array, lower: bool) -> Array:
    """The matrix that one triangle holds."""
    row, column = positions(a.shape[0])[:, None], positions(a.shape[1])
    in_triangle = row > column if lower else row < column
    half = jnp.where(in_triangle, a, 0)
    on_diagonal = jnp.where(row == column, a.real, 0)
    return half + half.conj().T + on_diagonal


# ---------------------------------------------------------------- symmetric eigenvalues


@lower_with("eigh")
@batched
def eigh(
    a: Array, *, lower: bool, subset_by_index: tuple[int, int] | None = None, **_: Any
) -> tuple[Array, Array]:
    """Eigenvectors and ascending eigenvalues of the matrix that one triangle of `a` holds.

    NaN where none are found.
    """
    n = a.shape[0]
    if type(n) is int and n == 0:
        return a, jnp.zeros((0,), a.real.dtype)
    dtype, real_dtype = a.dtype, a.real.dtype
    wanted = 0.1 * epsilon(a)
    a, size = scaled(wide(hermitian(a, lower)))
    norm = jnp.sqrt(jnp.sum(square_size(a)))
    tolerance = jnp.maximum(wanted, epsilon(a) * jnp.sqrt(1.0 * n)) * norm
    left, a, vectors = _jacobi(a, tolerance)
    values = diagonal(a).real
    order = jnp.argsort(values)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    found = left <= 1e3 * tolerance
    vectors = jnp.where(found, take(vectors, order).conj().T, jnp.nan)
    values = jnp.where(found, take(values, order) * size, jnp.nan)
    return vectors.astype(dtype), values.astype(real_dtype)


def _jacobi(a: Array, tolerance: Array) -> tuple[Array, Array, Array]:
    """What is left beside the diagonal, the rotated matrix, and the product of the rotations."""
    n = a.shape[0]
    rounds, at = jnp.asarray(partners(n)), positions(n)

    def beside_diagonal(a: Array) -> Array:
        return jnp.sqrt(jnp.sum(jnp.where(at[:, None] == at, 0, square_size(a))))

    def turn(
        state: tuple[Array, Array], partner: Array
    ) -> tuple[tuple[Array, Array], None]:
        a, v = state
        own, across = diagonal(a).real, take(a, partner)
        between = diagonal(across.T).conj() if jnp.iscomplexobj(a) else diagonal(across)
        between = (
            between + take(between, partner).conj()
        ) / 2  # the same in both rows, whatever the rounding
        between = jnp.where(at == partner, 0, between)
        cosine, sine = rotation(own, take(own, partner), between, at < partner)
        cosine, sine = cosine[:, None], sine[:, None]
        a = (
            (cosine * a - sine * across).conj().T
        )  # the rows; then the columns, as rows of the adjoint
        a = cosine * a - sine * take(a, partner)
        v = cosine * v - sine * take(v, partner)
        return (a, v), None

    def sweep(a: Array, v: Array) -> tuple[Array, ...]:
        (a, v), _ = lax.scan(turn, (a, v), rounds)
        return beside_diagonal(a), a, v

    left, a, v = swept(
        sweep, (beside_diagonal(a), a, jnp.eye(n, dtype=a.dtype)), tolerance
    )
    return left, a, v


# ---------------------------------------------------------------------- singular values


@lower_with("svd")
@batched
def svd(
    a: Array,
    *,
    full_matrices: bool,
    compute_uv: bool,
    subset_by_index: tuple[int, int] | None = None,
    **_: Any,
) -> tuple[Array, ...]:
    """Descending singular values, and U and V^H where asked for.

    One-sided Jacobi (Hestenes) on the shorter side.
    """
    rows, columns = a.shape
    options = {
        "full_matrices": full_matrices,
        "compute_uv": compute_uv,
        "subset_by_index": subset_by_index,
    }
    is_wide = dims.known_ge(columns, rows) and not dims.known_ge(rows, columns)
    if not is_wide:
        return _svd(a, **options)
    values, *vectors = _svd(a.T, **options)
    if not compute_uv:
        return (values,)
    left, right = vectors
    return values, right.T, left.T


def _svd(
    a: Array,
    *,
    full_matrices: bool,
    compute_uv: bool,
    subset_by_index: tuple[int, int] | None,
) -> tuple[Array, ...]:
    """Of a matrix with at least as many rows as columns, or of symbolic sizes.

    The rotated rows are s_i u_i^H; their QR factorisation completes U where values are 0, and to a
    full matrix.
    """
    rows, columns = a.shape
    if type(columns) is int and columns == 0:
        eye = jnp.eye(rows, rows if full_matrices else 0, dtype=a.dtype)
        results = (jnp.zeros((0,), a.real.dtype), eye, a[:0])
        return results if compute_uv else results[:1]
    dtype, real_dtype = a.dtype, a.real.dtype
    tolerance = 4 * epsilon(a)
    a, size = scaled(wide(a))
    values, rotated, v = _orthogonal_rows(
        a.conj().T, tolerance, with_rotations=compute_uv
    )
    order = jnp.argsort(-values)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    kept = (
        order if dims.known_ge(rows, columns) else order[: dims.minimum(rows, columns)]
    )
    values = (take(values, kept) * size).astype(real_dtype)
    if not compute_uv:
        return (values,)
    u = _left_vectors(take(rotated, kept).conj().T, full_matrices)
    vh = take(v, order if full_matrices else kept)
    return values, u.astype(dtype), vh.astype(dtype)


def _left_vectors(scaled_columns: Array, full_matrices: bool) -> Array:
    """U from its columns, each times its singular value: Q of their QR factorisation, which has R's signs."""
    u, r = qr(scaled_columns, full_matrices=full_matrices)
    sign = jnp.where(diagonal(r).real < 0, -1, 1)
    rank = sign.shape[0]
    return jnp.concatenate([u[:, :rank] * sign, u[:, rank:]], 1)


def _orthogonal_rows(
    x: Array, tolerance: float, *, with_rotations: bool
) -> tuple[Array, Array, Array]:
    """Norms of the rows, the rows, and the rotations, once all rows of `x` are made orthogonal."""
    n = x.shape[0]
    rounds, at = jnp.asarray(partners(n)), positions(n)

    def turn(
        state: tuple[Array, ...], partner: Array
    ) -> tuple[tuple[Array, ...], Array]:
        x, *v = state
        across = take(x, partner)
        own = jnp.sum(square_size(x), 1)
        other = take(own, partner)
        between = jnp.where(at == partner, 0, jnp.sum(x * across.conj(), 1))
        cosine, sine = rotation(own, other, between, at < partner)
        cosine, sine = cosine[:, None], sine[:, None]
        is_rounding = jnp.minimum(own, other) <= epsilon(x) ** 2 * jnp.max(own)
        angle = jnp.where(
            is_rounding,
            0,
            square_size(between) / jnp.where(is_rounding, 1, own * other),
        )
        turned = [cosine * x - sine * across]
        turned += [cosine * rows - sine * take(rows, partner) for rows in v]
        return tuple(turned), jnp.max(angle)

    def sweep(*matrices: Array) -> tuple[Array, ...]:
        matrices, angles = lax.scan(turn, matrices, rounds)
        return jnp.sqrt(jnp.max(angles, initial=0)), *matrices

    matrices = (x, jnp.eye(n, dtype=x.dtype)) if with_rotations else (x,)
    _, x, *v = swept(sweep, (jnp.ones((), x.real.dtype), *matrices), tolerance)
    norms = jnp.sqrt(jnp.sum(square_size(x), 1))
    return norms, x, v[0] if v else x
