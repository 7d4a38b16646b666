"""Eigenvalues of symmetric matrices and singular values, as plain JAX, by Jacobi rotations.

These need nothing but elementwise operations on whole matrices: in each round every row is rotated with
a partner, and n - 1 rounds bring each pair together once (the circle method of tournaments).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from j2o.ir import dims
from j2o.ir.types import Dim
from j2o.passes.lower.decompositions.linalg import qr
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

SWEEPS = 24  # of Jacobi rotations at most; 5 to 10 are usual


# ------------------------------------------------------------------------------- Jacobi


def partners(n: Dim) -> Any:
    """`[rounds, n]`, int32: with which row each row is rotated in each round.

    With itself where `n` is odd and it rests. For n = 4: [[3, 2, 1, 0], [1, 0, 3, 2], [2, 3, 0, 1]].

    The circle method: in round r, the rows i and j with i + j = r (modulo an odd number) meet. The row
    that would meet itself rests, or meets the last row where their number is even.
    """
    xp: Any = np if type(n) is int else jnp
    odd = dims.add(dims.sub(n, 1), dims.mod(n, 2))  # n - 1 or n
    half = dims.floordiv(dims.add(odd, 1), 2)
    row = xp.arange(n, dtype=np.int32)[None]
    round_ = xp.arange(odd, dtype=np.int32)[:, None]
    partner = (round_ - row + odd) % odd
    alone = (round_ * half) % odd  # the row that would meet itself
    last = n - 1
    others = xp.where(row == last, alone, partner)
    with_last = xp.where(row == alone, last, others)
    is_even = xp.asarray(dims.sub(n, odd)) == 1
    found = xp.where(is_even, with_last, partner)
    return found.astype(np.int32)


def rotation(own: Array, other: Array, between: Array, first: Array) -> Pair:
    """Cosines and sines (with a phase) of rotations that make 2x2 blocks diagonal.

    The blocks are `[[own, between], [between^H, other]]`, all of them at once. `first` tells which row
    of a pair it is, for pairs whose diagonal elements are equal.
    """
    gap = other - own
    root = jnp.sqrt(gap * gap + 4 * square_size(between))
    length = jnp.abs(gap) + root
    safe_length = jnp.where(length == 0, 1, length)
    two = jnp.full((), 2, own.dtype)
    upwards = (gap > 0) | ((gap == 0) & first)
    double = jnp.where(upwards, two, -two) * between
    # the smaller of two: angles of at most 45 degrees
    tangent = double / safe_length
    cosine = 1 / jnp.sqrt(1 + square_size(tangent))
    return cosine, tangent * cosine


def swept(
    sweep: Callable[..., tuple[Array, ...]], start: tuple[Array, ...], tolerance: Any
) -> tuple[Array, ...]:
    """Sweep until what is left to do is no more than the tolerance: that in the end, and the matrices.

    `start` has what is left in front, and then the matrices; `sweep` takes the matrices, and gives both anew.
    """

    def goes_on(state: tuple[Array, ...]) -> Array:
        count, left = state[:2]
        return (left > tolerance) & (count < SWEEPS)

    def once_more(state: tuple[Array, ...]) -> tuple[Array, ...]:
        count, _, *matrices = state
        return count + 1, *sweep(*matrices)

    none_yet = jnp.zeros((), jnp.int32)
    _, *found = lax.while_loop(goes_on, once_more, (none_yet, *start))
    return tuple(found)


def scaled(a: Array) -> Pair:
    """`a` divided by the size of its largest element, and this size: squares neither overflow nor vanish."""
    if jnp.iscomplexobj(a):
        sizes = jnp.abs(a.real) + jnp.abs(a.imag)
    else:
        sizes = jnp.abs(a)
    size = jnp.max(sizes, initial=0)
    is_usable = (size > 0) & jnp.isfinite(size)
    size = jnp.where(is_usable, size, 1)
    return a / size, size


def hermitian(a: Array, lower: bool) -> Array:
    """The whole Hermitian matrix that one triangle holds."""
    row, column = grid(*a.shape)
    in_triangle = row > column if lower else row < column
    half = jnp.where(in_triangle, a, 0)
    on_diagonal = jnp.where(row == column, a.real, 0)
    return half + half.conj().T + on_diagonal


# ---------------------------------------------------------------- symmetric eigenvalues


@lower_with("eigh")
@batched
def eigh(
    a: Array, *, lower: bool, subset_by_index: tuple[int, int] | None = None, **_: Any
) -> Pair:
    """Eigenvectors and ascending eigenvalues of the matrix that one triangle of `a` holds.

    NaN where none are found.
    """
    n = a.shape[0]
    real_dtype = a.real.dtype
    if is_empty(n):
        return a, jnp.zeros((0,), real_dtype)
    x, size = scaled(wide(hermitian(a, lower)))
    norm = jnp.sqrt(jnp.sum(square_size(x)))
    rounding = epsilon(x) * jnp.sqrt(1.0 * n)
    tolerance = jnp.maximum(0.1 * epsilon(a), rounding) * norm
    left, x, vectors = _jacobi(x, tolerance)
    values = diagonal(x).real
    order = jnp.argsort(values)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    found = left <= 1e3 * tolerance
    columns = take(vectors, order).conj().T
    vectors = jnp.where(found, columns, jnp.nan)
    values = jnp.where(found, take(values, order) * size, jnp.nan)
    return vectors.astype(a.dtype), values.astype(real_dtype)


def _jacobi(a: Array, tolerance: Array) -> tuple[Array, Array, Array]:
    """What is left beside the diagonal, the rotated matrix, and the product of the rotations."""
    n = a.shape[0]
    rounds = jnp.asarray(partners(n))
    at = positions(n)

    def turn(state: Pair, partner: Array) -> tuple[Pair, None]:
        a, v = state
        own = diagonal(a).real
        across = take(a, partner)
        between = _between(a, across, partner)
        cosine, sine = rotation(own, take(own, partner), between, at < partner)
        cosine = cosine[:, None]
        sine = sine[:, None]
        # the rows; then the columns, as rows of the adjoint
        half_done = (cosine * a - sine * across).conj().T
        a = cosine * half_done - sine * take(half_done, partner)
        v = cosine * v - sine * take(v, partner)
        return (a, v), None

    def sweep(a: Array, v: Array) -> tuple[Array, ...]:
        (a, v), _ = lax.scan(turn, (a, v), rounds)
        return _beside_diagonal(a), a, v

    start = (_beside_diagonal(a), a, jnp.eye(n, dtype=a.dtype))
    left, a, v = swept(sweep, start, tolerance)
    return left, a, v


def _beside_diagonal(a: Array) -> Array:
    """The norm of what is not on the diagonal."""
    row, column = grid(*a.shape)
    beside = jnp.where(row == column, 0, square_size(a))
    return jnp.sqrt(jnp.sum(beside))


def _between(a: Array, across: Array, partner: Array) -> Array:
    """The element that each row has at its partner; `across` has the rows of the partners."""
    if jnp.iscomplexobj(a):
        between = diagonal(across.T).conj()
    else:
        between = diagonal(across)
    # the same in both rows, whatever the rounding
    mean = (between + take(between, partner).conj()) / 2
    is_alone = positions(a.shape[0]) == partner
    return jnp.where(is_alone, 0, mean)


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
    """`svd` of a matrix with at least as many rows as columns, or of symbolic sizes.

    The rotated rows are s_i u_i^H; their QR factorisation completes U where values are 0, and to a
    full matrix.
    """
    rows, columns = a.shape
    if is_empty(columns):
        no_values = jnp.zeros((0,), a.real.dtype)
        if not compute_uv:
            return (no_values,)
        u = jnp.eye(rows, rows if full_matrices else 0, dtype=a.dtype)
        return no_values, u, a[:0]
    real_dtype = a.real.dtype
    x, size = scaled(wide(a))
    tolerance = 4 * epsilon(a)
    norms, rotated, v = _orthogonal_rows(
        x.conj().T, tolerance, with_rotations=compute_uv
    )
    order = jnp.argsort(-norms)
    if subset_by_index is not None:
        order = order[slice(*subset_by_index)]
    kept = order
    if not dims.known_ge(rows, columns):
        kept = order[: dims.minimum(rows, columns)]
    values = (take(norms, kept) * size).astype(real_dtype)
    if not compute_uv:
        return (values,)
    scaled_columns = take(rotated, kept).conj().T
    u = _left_vectors(scaled_columns, full_matrices)
    vh = take(v, order if full_matrices else kept)
    return values, u.astype(a.dtype), vh.astype(a.dtype)


def _left_vectors(scaled_columns: Array, full_matrices: bool) -> Array:
    """U from its columns, each times its singular value: Q of their QR factorisation, which has R's signs."""
    u, r = qr(scaled_columns, full_matrices=full_matrices)
    sign = jnp.where(diagonal(r).real < 0, -1, 1)
    rank = sign.shape[0]
    signed = u[:, :rank] * sign
    return jnp.concatenate([signed, u[:, rank:]], 1)


def _orthogonal_rows(
    x: Array, tolerance: float, *, with_rotations: bool
) -> tuple[Array, Array, Array]:
    """Norms of the rows, the rows, and the rotations, once all rows of `x` are made orthogonal."""
    n = x.shape[0]
    rounds = jnp.asarray(partners(n))

    def turn(
        state: tuple[Array, ...], partner: Array
    ) -> tuple[tuple[Array, ...], Array]:
        x, *v = state
        across = take(x, partner)
        cosine, sine, angle = _row_rotation(x, across, partner)
        turned = [cosine * x - sine * across]
        turned += [cosine * rows - sine * take(rows, partner) for rows in v]
        return tuple(turned), angle

    def sweep(*matrices: Array) -> tuple[Array, ...]:
        matrices, angles = lax.scan(turn, matrices, rounds)
        largest = jnp.max(angles, initial=0)
        return jnp.sqrt(largest), *matrices

    matrices = (x, jnp.eye(n, dtype=x.dtype)) if with_rotations else (x,)
    not_yet = jnp.ones((), x.real.dtype)
    _, x, *v = swept(sweep, (not_yet, *matrices), tolerance)
    norms = jnp.sqrt(jnp.sum(square_size(x), 1))
    return norms, x, v[0] if v else x


def _row_rotation(
    x: Array, across: Array, partner: Array
) -> tuple[Array, Array, Array]:
    """Cosines and sines, as columns, that make rows orthogonal to their partners; how far they are from it.

    That is the largest squared cosine of an angle between two rows. Rows that are rounding do not count.
    """
    at = positions(x.shape[0])
    own = jnp.sum(square_size(x), 1)
    other = take(own, partner)
    product = jnp.sum(x * across.conj(), 1)
    between = jnp.where(at == partner, 0, product)
    cosine, sine = rotation(own, other, between, at < partner)
    smaller = jnp.minimum(own, other)
    is_rounding = smaller <= epsilon(x) ** 2 * jnp.max(own)
    safe_product = jnp.where(is_rounding, 1, own * other)
    angle = jnp.where(is_rounding, 0, square_size(between) / safe_product)
    return cosine[:, None], sine[:, None], jnp.max(angle)
