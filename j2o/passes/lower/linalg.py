"""Factorisations and solvers of dense matrices, as plain JAX: Cholesky, triangular systems, LU, QR, tridiagonal systems.

Written for one matrix and mapped over batch dimensions. A block of columns is factored by a scan with a few operations a
column, on the transposed block, whose rows lie together in memory; the rest of the matrix follows by matrix products. A
symbolic size is one block. Results are LAPACK's, as on JAX's CPU backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir import dims
from j2o.ir.types import Dim
from j2o.passes.lower.table import lower_with

Array = jax.Array
BLOCK = 32


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
    """Ranges of columns that are worked on one after the other."""
    if type(n) is not int:
        return [(0, n)]
    width = max(BLOCK, -(-n // 16))
    return [(k, min(k + width, n)) for k in range(0, n, width)]


def is_small(n: Dim) -> bool:
    """Whether one block is best."""
    return type(n) is not int or n <= BLOCK


def take(x: Array, index: Array, axis: int = 0) -> Array:
    """`x[index]` along an axis, for an index or a vector of them that lie inside."""
    if not dims.known_ge(x.shape[axis], 1):  # JAX takes nothing from what may be empty
        x = lax.pad(x, jnp.zeros((), x.dtype), [(0, int(i == axis), 0) for i in range(x.ndim)])
    sizes = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
    offset = tuple(range(x.ndim - 1)) if index.ndim == 0 else tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(offset, (axis,), (axis,))
    return lax.gather(x, index[..., None], numbers, sizes, mode="promise_in_bounds")


def positions(n: Dim) -> Array:
    return lax.iota(jnp.int32, n)


def diagonal(a: Array) -> Array:
    """The diagonal of a matrix."""
    rows, columns = a.shape
    if not dims.known_ge(dims.mul(rows, columns), 0):  # JAX makes no vector of such a size
        return jnp.where(positions(rows)[:, None] == positions(columns), a, 0).sum(1)[: dims.minimum(rows, columns)]
    flat = a.reshape(dims.mul(rows, columns))
    return take(flat, jnp.arange(dims.minimum(rows, columns)) * (columns + 1))


def wide(a: Array) -> Array:
    """In double precision: where one step builds on the other, single precision would lose its last digits."""
    return a.astype(jnp.complex128 if jnp.iscomplexobj(a) else jnp.float64)


def epsilon(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)


def square_size(x: Array) -> Array:
    """|x|², real."""
    return x.real * x.real + x.imag * x.imag if jnp.iscomplexobj(x) else x * x


def swapped(at: Array, i: Array, j: Array) -> Array:
    """The indices `at` = 0, 1, … with two of them exchanged."""
    return jnp.where(at == i, j, jnp.where(at == j, i, at))


# ---------------------------------------------------------------------------------------------- Cholesky


@lower_with("cholesky")
@batched
def cholesky(a: Array) -> Array:
    """The lower factor, with the upper triangle of `a` above it; all NaN where `a` is not positive definite."""
    n = a.shape[-1]
    rest, columns = wide(a), []
    for k, end in blocks(n):
        width, rows = dims.sub(end, k), rest.shape[0]

        def step(p: Array, j: Array, width: Dim = width) -> tuple[Array, Array]:
            column = take(p, j)
            column = column / jnp.sqrt(take(column, j).real)
            return p - column[:width, None].conj() * column, column

        _, packed = lax.scan(step, rest[:, :width].T, positions(width))
        below = packed[:, width:]
        rest = rest[width:, width:] - below.T @ below.conj()
        columns.append(jnp.pad(packed, ((0, 0), (dims.sub(n, rows), 0))))
    if not columns:
        return a
    at = positions(n)
    factor = jnp.where(at[:, None] >= at, jnp.concatenate(columns).T.astype(a.dtype), a)
    return jnp.where(jnp.all(diagonal(factor).real > 0), factor, jnp.nan)


@lower_with("cholesky_update")
def cholesky_update(r: Array, w: Array) -> Array:
    """The upper factor of R^T R + w w^T, by plane rotations."""

    def step(w: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        j, line = row
        x, y = take(line, j), take(w, j)
        size = jnp.maximum(jnp.abs(x), jnp.abs(y))
        size = jnp.where(size == 0, 1, size)
        length = jnp.sqrt((x / size) ** 2 + (y / size) ** 2)
        still = y == 0
        c, s = jnp.where(still, 1, x / size / length), jnp.where(still, 0, -y / size / length)
        return c * w + s * line, c * line - s * w

    return lax.scan(step, w, (positions(r.shape[0]), r))[1]


lower_with("symmetric_product")(lambda a, c, *, alpha, beta: alpha * (a @ a.mT) + beta * c)


# ------------------------------------------------------------------------------------ triangular systems


@lower_with("triangular_solve")
def triangular_solve(
    a: Array, b: Array, *, left_side: bool, lower: bool, transpose_a: bool, conjugate_a: bool = False, unit_diagonal: bool = False
) -> Array:  # fmt: skip
    """`x` with op(a) x = b, or x op(a) = b; only the given triangle of `a` has influence."""
    if conjugate_a:
        a = a.conj()
    if transpose_a == left_side:
        a, lower = a.mT, not lower
    x = batched(substitute)(a, b if left_side else b.mT, lower=lower, unit=unit_diagonal)
    return x if left_side else x.mT


def substitute(a: Array, b: Array, *, lower: bool, unit: bool) -> Array:
    """`x` with a x = b, block after block of rows."""
    parts = []
    order = blocks(a.shape[0])
    for k, end in order if lower else reversed(order):
        width = dims.sub(end, k)
        mine = b[:width] if lower else b[k:]
        x = _substitute_block(a[k:end, k:end], mine, lower, unit)
        parts.append(x)
        b = b[width:] - a[end:, k:end] @ x if lower else b[:k] - a[:k, k:end] @ x
    return jnp.concatenate(parts if lower else parts[::-1]) if parts else b


def _substitute_block(a: Array, b: Array, lower: bool, unit: bool) -> Array:
    def step(b: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        j, column = at
        x = take(b, j)
        x = x if unit else x / take(column, j)
        return b - column[:, None] * x, x

    return lax.scan(step, b, (positions(a.shape[0]), a.T), reverse=not lower)[1]


# ---------------------------------------------------------------------------------------------------- LU


@lower_with("lu")
@batched
def lu(a: Array) -> tuple[Array, Array, Array]:
    """The packed factors, the pivots, and the permutation `p` for which `a[p] = L U`."""
    rank = dims.minimum(*a.shape)
    if is_small(rank):
        packed, pivots, order = _lu_panel(a.T, rank)
        return packed.T, pivots, order
    packed, pivots, order = _lu_panel(a[:, :BLOCK].T, BLOCK)
    left, right = packed.T, take(a[:, BLOCK:], order)
    top = substitute(left[:BLOCK], right[:BLOCK], lower=True, unit=True)
    rest, more, after = lu(right[BLOCK:] - left[BLOCK:] @ top)
    factors = [jnp.concatenate(row, 1) for row in ([left[:BLOCK], top], [take(left[BLOCK:], after), rest])]
    order = jnp.concatenate([order[:BLOCK], take(order[BLOCK:], after)])
    return jnp.concatenate(factors), jnp.concatenate([pivots, more + BLOCK]), order


def _lu_panel(p: Array, steps: Dim) -> tuple[Array, Array, Array]:
    """The first columns of LU; `p` and the packed result are transposed."""
    columns, at = positions(p.shape[0]), positions(p.shape[1])
    if type(steps) is int and steps == 0:
        return p, at[:0], at

    def step(state: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], Array]:
        p, order = state
        column = take(p, j)
        size = jnp.abs(column.real) + jnp.abs(column.imag) if jnp.iscomplexobj(column) else jnp.abs(column)
        pivot = lax.argmax(jnp.where(at >= j, size, -1), 0, jnp.int32)
        swap = swapped(at, j, pivot)
        p, order, column = take(p, swap, 1), take(order, swap), take(column, swap)
        top = take(column, j)
        factors = jnp.where((at > j) & (top != 0), column / top, 0)
        row = jnp.where(columns > j, take(p, j, 1), 0)
        p = jnp.where((columns == j)[:, None], jnp.where(at > j, factors, column), p - row[:, None] * factors)
        return (p, order), pivot

    (p, order), pivots = lax.scan(step, (p, at), positions(steps))
    return p, pivots, order


@lower_with("lu_pivots_to_permutation")
@functools.partial(batched, rank=1)
def lu_pivots_to_permutation(pivots: Array, *, permutation_size: Dim) -> Array:
    """The permutation that a sequence of exchanges makes."""

    def step(order: Array, exchange: tuple[Array, Array]) -> tuple[Array, None]:
        i, j = exchange  # by indexing, which says what becomes of a pivot that is out of bounds
        return order.at[i].set(order[j]).at[j].set(order[i]), None

    return lax.scan(step, positions(permutation_size), (positions(pivots.shape[0]), pivots))[0]


# ---------------------------------------------------------------------------------------------------- QR


def reflector(x: Array, j: Array, at: Array) -> tuple[Array, Array, Array]:
    """LAPACK's larfg: `v`, 1 at `j` and 0 before, `tau` and `beta` with (I - tau v v^H)^H x = beta e_j, from `j` on."""
    first, tail = take(x, j), jnp.where(at > j, x, 0)
    norm = jnp.sum(square_size(tail))
    trivial = (norm == 0) & (first.imag == 0) if jnp.iscomplexobj(x) else norm == 0
    size = jnp.sqrt(square_size(first) + norm)
    beta = jnp.where(first.real < 0, size, -size)
    tau = jnp.where(trivial, 0, (beta - first) / jnp.where(trivial, 1, beta))
    v = jnp.where(at == j, 1, tail / jnp.where(trivial, 1, first - beta))
    return v, tau, jnp.where(trivial, first, beta.astype(x.dtype))


def _qr_panel(p: Array, steps: Dim, fixed: Array | None = None) -> tuple[Array, Array, Array]:
    """The first columns of QR, packed, their `tau`, and the order of columns; `p` and the packed result are transposed.

    Past the first `fixed` columns, the largest that is left comes next.
    """
    columns, at = positions(p.shape[0]), positions(p.shape[1])
    if type(steps) is int and steps == 0:
        return p, jnp.zeros((0,), p.dtype), columns

    def step(state: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        p, order = state
        if fixed is not None:
            norms = jnp.sum(jnp.where(at >= j, square_size(p), 0), 1)
            largest = lax.argmax(jnp.where(columns >= j, norms, -1), 0, jnp.int32)
            swap = swapped(columns, j, jnp.where(j < fixed, j, largest))
            p, order = take(p, swap), take(order, swap)
        x = take(p, j)
        v, tau, beta = reflector(x, j, at)
        packed = jnp.where(at == j, beta, jnp.where(at > j, v, x))
        return (p - (tau.conj() * (p @ v.conj()))[:, None] * v, order), (packed, tau)

    (p, order), (packed, taus) = lax.scan(step, (p, columns), positions(steps))
    return jnp.concatenate([packed, p[steps:]]), taus, order


@lower_with("geqp3")
@batched
def geqp3(a: Array, marks: Array, **_: Any) -> tuple[Array, Array, Array]:
    """As geqrf, with pivoting; columns that have a mark are exchanged to the front. Their order counts from 1."""
    at = positions(a.shape[1])

    def step(state: tuple[Array, Array], row: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (order, count), (j, mark) = state, row
        order = take(order, swapped(at, j, jnp.where(mark, count, j)))
        return (order, count + mark.astype(count.dtype)), None

    first, count = lax.scan(step, (at, jnp.zeros((), jnp.int32)), (at, marks != 0))[0]
    packed, taus, order = _qr_panel(take(a.T, first), dims.minimum(*a.shape), count)
    return packed.T, (take(first, order) + 1).astype(marks.dtype), taus


@lower_with("geqrf")
@batched
def geqrf(a: Array) -> tuple[Array, Array]:
    """R in the upper triangle, the Householder vectors below, and their `tau`."""
    rank = dims.minimum(*a.shape)
    if is_small(rank):
        packed, taus, _ = _qr_panel(a.T, rank)
        return packed.T, taus
    packed, taus, _ = _qr_panel(a[:, :BLOCK].T, BLOCK)
    right = apply_q(packed.T, taus, a[:, BLOCK:], adjoint=True)
    rest, more = geqrf(right[BLOCK:])
    right = jnp.concatenate([right[:BLOCK], rest])
    return jnp.concatenate([packed.T, right], 1), jnp.concatenate([taus, more])


def apply_q(a: Array, taus: Array, c: Array, *, adjoint: bool = False) -> Array:
    """Q c or Q^H c, for the Q of Householder vectors below the diagonal of `a`; I - V T V^H for each block of them."""
    order = blocks(taus.shape[0])
    for k, end in order if adjoint else reversed(order):
        part = a[k:, k:end]
        row, column = positions(part.shape[0])[:, None], positions(part.shape[1])
        v = jnp.where(row > column, part, (row == column).astype(a.dtype))
        tau = taus[k:end]
        grown = tau[:, None] * (v.conj().T @ v)
        t = substitute(grown, jnp.where(column[:, None] == column, tau, 0), lower=False, unit=True)
        below = c[k:]
        below = below - v @ ((t.conj().T if adjoint else t) @ (v.conj().T @ below))
        c = jnp.concatenate([c[:k], below])
    return c


lower_with("householder_product")(batched(lambda a, taus: apply_q(a, taus, jnp.eye(*a.shape, dtype=a.dtype))))


@lower_with("ormqr")
def ormqr(a: Array, taus: Array, c: Array, *, left: bool, transpose: bool) -> Array:
    """Q c, Q^H c, c Q or c Q^H."""
    if left:
        return batched(apply_q)(a, taus, c, adjoint=transpose)
    return batched(apply_q)(a, taus, c.mT.conj(), adjoint=not transpose).mT.conj()


@lower_with("qr")
@batched
def qr(a: Array, *, full_matrices: bool, pivoting: bool = False, **_: Any) -> tuple[Array, ...]:
    """Q and R; with pivoting also the order of columns for which `a[:, p] = Q R`."""
    rows, columns = a.shape
    rank = dims.minimum(rows, columns)
    if pivoting:
        packed, taus, order = _qr_panel(a.T, rank, jnp.zeros((), jnp.int32))
        packed = packed.T
    else:
        (packed, taus), order = geqrf(a), None
    size = rows if full_matrices else rank
    q = apply_q(packed[:, :rank], taus, jnp.eye(rows, size, dtype=a.dtype))
    r = jnp.where(positions(size)[:, None] <= positions(columns), packed[:size], 0)
    return (q, r) if order is None else (q, r, order)


# ----------------------------------------------------------------------------------- tridiagonal systems


@lower_with("tridiagonal_solve")
@functools.partial(batched, rank=1)
def tridiagonal_solve(dl: Array, d: Array, du: Array, b: Array, *, perturb_singular: bool = False) -> Array:
    """Gaussian elimination with partial pivoting; a singular matrix gives NaN, or has its pivots moved off zero."""
    perturb, zero = perturb_singular, jnp.zeros_like(d[0])

    def eliminate(row: tuple[Array, ...], below: tuple[Array, ...]) -> tuple[Any, Any]:
        (d0, u0, b0, s0), (l1, d1, u1, b1, s1) = row, below
        keep = (l1 == 0) | (jnp.abs(d0) * s1 >= jnp.abs(l1) * s0)
        factor = jnp.where(l1 == 0, 0, jnp.where(keep, l1, d0) / jnp.where(keep, d0, l1))
        d2 = jnp.where(keep, d1 - factor * u0, u0 - factor * d1)
        u2 = jnp.where(keep, u1, -factor * u1)
        s2 = jnp.where(keep, s1, jnp.abs(d2) + jnp.abs(u2)) if perturb else s1
        done = jnp.where(keep, d0, l1), jnp.where(keep, u0, d1), jnp.where(keep, zero, u1), jnp.where(keep, b0, b1)
        return (d2, u2, jnp.where(keep, b1 - factor * b0, b0 - factor * b1), s2), done

    def back(known: tuple[Array, Array], row: tuple[Array, ...]) -> tuple[tuple[Array, Array], Array]:
        d0, u0, v0, b0 = row
        b0 = b0 - u0 * known[0] - v0 * known[1]
        x = _divided(b0, d0, nudge) if perturb else b0 / d0
        return (x, known[0]), x

    last = jnp.arange(d.shape[0]) == dims.sub(d.shape[0], 1)
    du = jnp.where(last, 0, du)
    lines = jnp.abs(jnp.where(jnp.arange(d.shape[0]) == 0, 0, dl)) + jnp.abs(d) + jnp.abs(du)
    sizes = lines if perturb else jnp.ones_like(lines)  # of rows: by these, pivots are compared
    last, done = lax.scan(eliminate, (d[0], du[0], b[0], sizes[0]), (dl[1:], d[1:], du[1:], b[1:], sizes[1:]))
    largest = jnp.max(jnp.abs(jnp.stack(done[:3])[:, :-1]), initial=0)
    nudge = epsilon(d) * jnp.maximum(largest, jnp.max(jnp.abs(jnp.stack([d[0], du[0], last[0]]))))
    end = _divided(last[2], last[0], nudge) if perturb else last[2] / last[0]
    _, x = lax.scan(back, (end, jnp.zeros_like(end)), done, reverse=True)
    x = jnp.concatenate([x, end[None]])
    return x if perturb else jnp.where(jnp.all(done[0] != 0) & (last[0] != 0), x, jnp.nan)


def _divided(b: Array, pivot: Array, nudge: Array) -> Array:
    """`b / pivot`, the pivot moved away from zero, by `nudge` and twice that and so on, where it overflows (LAPACK's lagts)."""
    tiny = jnp.finfo(b.dtype).tiny
    largest = jnp.max(jnp.abs(b), initial=0)

    def overflows(state: tuple[Array, Array]) -> Array:
        size = jnp.abs(state[0])
        return (size < 1) & ((size == 0) | jnp.where(size < tiny, largest * tiny > size, largest > size / tiny))

    nudge = jnp.copysign(jnp.maximum(nudge, tiny), pivot.real)
    pivot, _ = lax.while_loop(overflows, lambda s: (s[0] + s[1], 2 * s[1]), (pivot, nudge))
    scale = jnp.where(jnp.abs(pivot) < tiny, 1 / tiny, jnp.ones_like(nudge))
    return b * scale * (1 / (pivot * scale))
