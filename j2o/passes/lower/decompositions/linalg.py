"""Factorisations and solvers of dense matrices, as plain JAX: Cholesky, triangular systems, LU, QR,
tridiagonal systems.

Written for one matrix and mapped over batch dimensions. A block of columns is factored by a scan
with a few operations a column, on the transposed block, whose rows lie together in memory; the rest
of the matrix follows by matrix products. A symbolic size is one block. Results are LAPACK's, as on
JAX's CPU backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from j2o.ir import dims
from j2o.ir.types import Dim
from j2o.passes.lower.table import lower_with

Array = jax.Array
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
    return [(start, min(start + width, n)) for start in range(0, n, width)]


def is_small(n: Dim) -> bool:
    """Whether one block is best."""
    return type(n) is not int or n <= BLOCK


def take(x: Array, index: Array, axis: int = 0) -> Array:
    """`x[index]` along an axis, for an index or a vector of them that lie inside."""
    if not dims.known_ge(x.shape[axis], 1):  # JAX takes nothing from what may be empty
        one_more = [(0, int(i == axis), 0) for i in range(x.ndim)]
        x = lax.pad(x, jnp.zeros((), x.dtype), one_more)
    sizes = tuple(1 if i == axis else d for i, d in enumerate(x.shape))
    if index.ndim == 0:
        kept_axes = tuple(range(x.ndim - 1))
    else:
        kept_axes = tuple(i for i in range(x.ndim) if i != axis)
    numbers = lax.GatherDimensionNumbers(kept_axes, (axis,), (axis,))
    return lax.gather(x, index[..., None], numbers, sizes, mode="promise_in_bounds")


def positions(n: Dim) -> Array:
    """0, 1, … n - 1 as int32."""
    return lax.iota(jnp.int32, n)


def diagonal(a: Array) -> Array:
    """The diagonal of a matrix."""
    rows, columns = a.shape
    length = dims.minimum(rows, columns)
    if not dims.known_ge(
        dims.mul(rows, columns), 0
    ):  # JAX makes no vector of such a size
        on_diagonal = positions(rows)[:, None] == positions(columns)
        return jnp.where(on_diagonal, a, 0).sum(1)[:length]
    flat = a.reshape(dims.mul(rows, columns))
    return take(flat, jnp.arange(length) * (columns + 1))


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


def swapped(at: Array, i: Array, j: Array) -> Array:
    """The indices `at` = 0, 1, … with two of them exchanged."""
    return jnp.where(at == i, j, jnp.where(at == j, i, at))


# ----------------------------------------------------------------------------- Cholesky


@lower_with("cholesky")
@batched
def cholesky(a: Array) -> Array:
    """The lower factor, with the upper triangle of `a` above it.

    All NaN where `a` is not positive definite.
    """
    n = a.shape[-1]
    if type(n) is int and n == 0:
        return a
    rest = wide(a)
    columns = []
    for start, end in blocks(n):
        width = dims.sub(end, start)
        packed = _cholesky_panel(rest[:, :width].T, width)
        below = packed[:, width:]
        rest = rest[width:, width:] - below.T @ below.conj()
        columns.append(jnp.pad(packed, ((0, 0), (start, 0))))
    at = positions(n)
    lower_triangle = at[:, None] >= at
    factor = jnp.where(lower_triangle, jnp.concatenate(columns).T.astype(a.dtype), a)
    is_definite = jnp.all(diagonal(factor).real > 0)
    return jnp.where(is_definite, factor, jnp.nan)


def _cholesky_panel(panel: Array, width: Dim) -> Array:
    """The first `width` columns of the factor, as rows; `panel` has those of the matrix, as rows."""

    def step(panel: Array, j: Array) -> tuple[Array, Array]:
        column = take(panel, j)
        column = column / jnp.sqrt(take(column, j).real)
        return panel - column[:width, None].conj() * column, column

    _, packed = lax.scan(step, panel, positions(width))
    return packed


@lower_with("cholesky_update")
def cholesky_update(r: Array, w: Array) -> Array:
    """The upper factor of R^T R + w w^T, by plane rotations."""

    def step(w: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        j, line = row
        x, y = take(line, j), take(w, j)
        size = jnp.maximum(
            jnp.abs(x), jnp.abs(y)
        )  # divided out, so that squares do not overflow
        size = jnp.where(size == 0, 1, size)
        length = jnp.sqrt((x / size) ** 2 + (y / size) ** 2)
        nothing_to_do = y == 0
        cosine = jnp.where(nothing_to_do, 1, x / size / length)
        sine = jnp.where(nothing_to_do, 0, -y / size / length)
        return cosine * w + sine * line, cosine * line - sine * w

    _, factor = lax.scan(step, w, (positions(r.shape[0]), r))
    return factor


@lower_with("symmetric_product")
def symmetric_product(a: Array, c: Array, *, alpha: float, beta: float) -> Array:
    """alpha A A^T + beta C."""
    return alpha * (a @ a.mT) + beta * c


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
        a, lower = a.mT, not lower
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
    solved = []
    rest = b
    for start, end in blocks(a.shape[0]):
        width = dims.sub(end, start)
        x = _substitute_block(a[start:end, start:end], rest[:width], True, unit)
        rest = rest[width:] - a[end:, start:end] @ x
        solved.append(x)
    return jnp.concatenate(solved) if solved else b


def _substitute_upwards(a: Array, b: Array, unit: bool) -> Array:
    solved = []
    rest = b
    for start, end in reversed(blocks(a.shape[0])):
        x = _substitute_block(a[start:end, start:end], rest[start:], False, unit)
        rest = rest[:start] - a[:start, start:end] @ x
        solved.append(x)
    return jnp.concatenate(solved[::-1]) if solved else b


def _substitute_block(a: Array, b: Array, lower: bool, unit: bool) -> Array:
    def step(b: Array, at: tuple[Array, Array]) -> tuple[Array, Array]:
        j, column = at
        x = take(b, j)
        if not unit:
            x = x / take(column, j)
        return b - column[:, None] * x, x

    _, x = lax.scan(step, b, (positions(a.shape[0]), a.T), reverse=not lower)
    return x


# ----------------------------------------------------------------------------------- LU


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
    below = right[BLOCK:] - left[BLOCK:] @ top
    rest, rest_pivots, rest_order = lu(below)
    upper_rows = jnp.concatenate([left[:BLOCK], top], 1)
    lower_rows = jnp.concatenate([take(left[BLOCK:], rest_order), rest], 1)
    return (
        jnp.concatenate([upper_rows, lower_rows]),
        jnp.concatenate([pivots, rest_pivots + BLOCK]),
        jnp.concatenate([order[:BLOCK], take(order[BLOCK:], rest_order)]),
    )


def _lu_panel(panel: Array, steps: Dim) -> tuple[Array, Array, Array]:
    """The first columns of LU: packed, pivots, order of rows.

    `panel` and the packed result are transposed.
    """
    columns, at = positions(panel.shape[0]), positions(panel.shape[1])
    if type(steps) is int and steps == 0:
        return panel, at[:0], at

    def step(state: tuple[Array, Array], j: Array) -> tuple[tuple[Array, Array], Array]:
        panel, order = state
        column = take(panel, j)
        pivot = lax.argmax(jnp.where(at >= j, _pivot_size(column), -1), 0, jnp.int32)
        swap = swapped(at, j, pivot)
        panel, order, column = (
            take(panel, swap, 1),
            take(order, swap),
            take(column, swap),
        )
        top = take(column, j)
        factors = jnp.where((at > j) & (top != 0), column / top, 0)
        row = jnp.where(columns > j, take(panel, j, 1), 0)
        eliminated = panel - row[:, None] * factors
        finished = jnp.where(at > j, factors, column)
        panel = jnp.where((columns == j)[:, None], finished, eliminated)
        return (panel, order), pivot

    (panel, order), pivots = lax.scan(step, (panel, at), positions(steps))
    return panel, pivots, order


def _pivot_size(column: Array) -> Array:
    """By what LAPACK compares pivots: |re| + |im|."""
    if jnp.iscomplexobj(column):
        return jnp.abs(column.real) + jnp.abs(column.imag)
    return jnp.abs(column)


@lower_with("lu_pivots_to_permutation")
@functools.partial(batched, rank=1)
def lu_pivots_to_permutation(pivots: Array, *, permutation_size: Dim) -> Array:
    """The permutation that a sequence of exchanges makes."""

    def step(order: Array, exchange: tuple[Array, Array]) -> tuple[Array, None]:
        i, j = (
            exchange  # by indexing, which says what becomes of a pivot that is out of bounds
        )
        return order.at[i].set(order[j]).at[j].set(order[i]), None

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
    trivial = tail_square == 0
    if jnp.iscomplexobj(x):
        trivial = trivial & (first.imag == 0)
    size = jnp.sqrt(square_size(first) + tail_square)
    beta = jnp.where(first.real < 0, size, -size)
    tau = jnp.where(trivial, 0, (beta - first) / jnp.where(trivial, 1, beta))
    v = jnp.where(at == j, 1, tail / jnp.where(trivial, 1, first - beta))
    return Reflector(v, tau, jnp.where(trivial, first, beta.astype(x.dtype)))


def _qr_panel(
    panel: Array, steps: Dim, fixed: Array | None = None
) -> tuple[Array, Array, Array]:
    """The first columns of QR, packed, their `tau`, and the order of columns; `panel` and the
    packed result are transposed.

    With `fixed`, columns are exchanged: past the first `fixed` ones, the largest that is left comes next.
    """
    columns, at = positions(panel.shape[0]), positions(panel.shape[1])
    if type(steps) is int and steps == 0:
        return panel, jnp.zeros((0,), panel.dtype), columns

    def exchanged(
        panel: Array, order: Array, j: Array, fixed: Array
    ) -> tuple[Array, Array]:
        norms = jnp.sum(jnp.where(at >= j, square_size(panel), 0), 1)
        largest = lax.argmax(jnp.where(columns >= j, norms, -1), 0, jnp.int32)
        swap = swapped(columns, j, jnp.where(j < fixed, j, largest))
        return take(panel, swap), take(order, swap)

    def step(
        state: tuple[Array, Array], j: Array
    ) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
        panel, order = state
        if fixed is not None:
            panel, order = exchanged(panel, order, j, fixed)
        x = take(panel, j)
        v, tau, beta = reflector(x, j, at)
        packed = jnp.where(at == j, beta, jnp.where(at > j, v, x))
        across = tau.conj() * (panel @ v.conj())
        return (panel - across[:, None] * v, order), (packed, tau)

    (panel, order), (packed, taus) = lax.scan(step, (panel, columns), positions(steps))
    return jnp.concatenate([packed, panel[steps:]]), taus, order


@lower_with("geqp3")
@batched
def geqp3(a: Array, marks: Array, **_: Any) -> tuple[Array, Array, Array]:
    """As geqrf, with pivoting.

    Columns that have a mark are exchanged to the front. Their order counts from 1.
    """
    at = positions(a.shape[1])

    def step(
        state: tuple[Array, Array], row: tuple[Array, Array]
    ) -> tuple[tuple[Array, Array], None]:
        order, count = state
        j, mark = row
        order = take(order, swapped(at, j, jnp.where(mark, count, j)))
        return (order, count + mark.astype(count.dtype)), None

    start = (at, jnp.zeros((), jnp.int32))
    front, count = lax.scan(step, start, (at, marks != 0))[0]
    packed, taus, order = _qr_panel(take(a.T, front), dims.minimum(*a.shape), count)
    return packed.T, (take(front, order) + 1).astype(marks.dtype), taus


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
    """Q c or Q^H c, for the Q of Householder vectors below the diagonal of `a`.

    A block of them is I - V T V^H (LAPACK's larft), V with ones on its diagonal.
    """
    order = blocks(taus.shape[0])
    for start, end in order if adjoint else reversed(order):
        part, tau = a[start:, start:end], taus[start:end]
        row, column = positions(part.shape[0])[:, None], positions(part.shape[1])
        ones = (row == column).astype(a.dtype)
        v = jnp.where(row > column, part, ones)
        t = _block_factor(v, tau)
        if adjoint:
            t = t.conj().T
        below = c[start:]
        below = below - v @ (t @ (v.conj().T @ below))
        c = jnp.concatenate([c[:start], below])
    return c


def _block_factor(v: Array, tau: Array) -> Array:
    """The triangle T for which the product of the reflections is I - V T V^H."""
    at = positions(tau.shape[0])
    grown = tau[:, None] * (v.conj().T @ v)
    return substitute(
        grown, jnp.where(at[:, None] == at, tau, 0), lower=False, unit=True
    )


@lower_with("householder_product")
@batched
def householder_product(a: Array, taus: Array) -> Array:
    """The first columns of Q, as many as `a` has."""
    return apply_q(a, taus, jnp.eye(*a.shape, dtype=a.dtype))


@lower_with("ormqr")
def ormqr(a: Array, taus: Array, c: Array, *, left: bool, transpose: bool) -> Array:
    """Q c, Q^H c, c Q or c Q^H."""
    if left:
        return batched(apply_q)(a, taus, c, adjoint=transpose)
    return batched(apply_q)(a, taus, c.mT.conj(), adjoint=not transpose).mT.conj()


@lower_with("qr")
@batched
def qr(
    a: Array, *, full_matrices: bool, pivoting: bool = False, **_: Any
) -> tuple[Array, ...]:
    """Q and R; with pivoting also the order of columns for which `a[:, p] = Q R`."""
    rows, columns = a.shape
    rank = dims.minimum(rows, columns)
    if pivoting:
        packed, taus, order = _qr_panel(a.T, rank, jnp.zeros((), jnp.int32))
        packed = packed.T
    else:
        packed, taus = geqrf(a)
        order = None
    size = rows if full_matrices else rank
    q = apply_q(packed[:, :rank], taus, jnp.eye(rows, size, dtype=a.dtype))
    upper_triangle = positions(size)[:, None] <= positions(columns)
    r = jnp.where(upper_triangle, packed[:size], 0)
    return (q, r) if order is None else (q, r, order)


# ------------------------------------------------------------------ tridiagonal systems


class Row(NamedTuple):
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


def _row_sizes(lower: Array, diagonal: Array, upper: Array) -> Array:
    """The sum of the absolute values in each row."""
    is_first = jnp.arange(diagonal.shape[0]) == 0
    return jnp.abs(jnp.where(is_first, 0, lower)) + jnp.abs(diagonal) + jnp.abs(upper)


def _eliminate(
    row: Row, below: tuple[Array, Row], *, by_size: bool
) -> tuple[Row, Eliminated]:
    """One step of elimination with partial pivoting.

    The two rows are exchanged where the lower one has the larger pivot.
    """
    lower, following = below
    keep = (lower == 0) | (
        jnp.abs(row.diagonal) * following.size >= jnp.abs(lower) * row.size
    )
    pivot, other = (
        jnp.where(keep, row.diagonal, lower),
        jnp.where(keep, lower, row.diagonal),
    )
    factor = jnp.where(lower == 0, 0, other / pivot)

    diagonal = jnp.where(
        keep,
        following.diagonal - factor * row.upper,
        row.upper - factor * following.diagonal,
    )
    upper = jnp.where(keep, following.upper, -factor * following.upper)
    right = jnp.where(
        keep, following.right - factor * row.right, row.right - factor * following.right
    )
    size = following.size
    if by_size:
        size = jnp.where(keep, size, jnp.abs(diagonal) + jnp.abs(upper))
    done = Eliminated(
        diagonal=pivot,
        upper=jnp.where(keep, row.upper, following.diagonal),
        second=jnp.where(keep, jnp.zeros_like(pivot), following.upper),
        right=jnp.where(keep, row.right, following.right),
    )
    return Row(diagonal, upper, right, size), done


@lower_with("tridiagonal_solve")
@functools.partial(batched, rank=1)
def tridiagonal_solve(
    dl: Array, d: Array, du: Array, b: Array, *, perturb_singular: bool = False
) -> Array:
    """Gaussian elimination with partial pivoting; a singular matrix gives NaN, or has its pivots
    moved off zero.

    `dl`, `d`, `du` and `b` are the diagonals and the right-hand sides, as in JAX's primitive.
    """
    is_last = jnp.arange(d.shape[0]) == dims.sub(d.shape[0], 1)
    du = jnp.where(is_last, 0, du)
    sizes = _row_sizes(dl, d, du)
    if not perturb_singular:
        sizes = jnp.ones_like(sizes)
    rows = Row(d, du, b, sizes)
    first = Row(*(column[0] for column in rows))
    others = Row(*(column[1:] for column in rows))
    eliminate = functools.partial(_eliminate, by_size=perturb_singular)
    last, done = lax.scan(eliminate, first, (dl[1:], others))

    if perturb_singular:
        divide = functools.partial(_divided, nudge=_nudge(done, last))
    else:
        divide = jnp.divide

    def back(
        known: tuple[Array, Array], row: Eliminated
    ) -> tuple[tuple[Array, Array], Array]:
        next_x, second_x = known
        right = row.right - row.upper * next_x - row.second * second_x
        x = divide(right, row.diagonal)
        return (x, next_x), x

    last_x = divide(last.right, last.diagonal)
    _, x = lax.scan(back, (last_x, jnp.zeros_like(last_x)), done, reverse=True)
    x = jnp.concatenate([x, last_x[None]])
    if perturb_singular:
        return x
    is_regular = jnp.all(done.diagonal != 0) & (last.diagonal != 0)
    return jnp.where(is_regular, x, jnp.nan)


def _nudge(done: Eliminated, last: Row) -> Array:
    """By how much a pivot is moved away from zero.

    A rounding error of the triangle's largest element (LAPACK's lagtf).
    """
    triangle = jnp.stack([done.diagonal, done.upper, done.second])
    end = jnp.stack([last.diagonal, last.upper])
    largest = jnp.maximum(jnp.max(jnp.abs(triangle), initial=0), jnp.max(jnp.abs(end)))
    return epsilon(last.diagonal) * largest


def _divided(b: Array, pivot: Array, nudge: Array) -> Array:
    """`b / pivot`, the pivot moved away from zero where it overflows (LAPACK's lagts).

    It moves by `nudge`, twice that, and so on.
    """
    tiny = jnp.finfo(b.dtype).tiny
    largest = jnp.max(jnp.abs(b), initial=0)

    def overflows(state: tuple[Array, Array]) -> Array:
        size = jnp.abs(state[0])
        too_large = jnp.where(size < tiny, largest * tiny > size, largest > size / tiny)
        return (size < 1) & ((size == 0) | too_large)

    def moved(state: tuple[Array, Array]) -> tuple[Array, Array]:
        pivot, nudge = state
        return pivot + nudge, 2 * nudge

    nudge = jnp.copysign(jnp.maximum(nudge, tiny), pivot.real)
    pivot, _ = lax.while_loop(overflows, moved, (pivot, nudge))
    scale = jnp.where(jnp.abs(pivot) < tiny, 1 / tiny, jnp.ones_like(nudge))
    return b * scale * (1 / (pivot * scale))
