"""Scatter and updates of dynamic slices in JAX's general form: gather turned around.

`lax.scatter` puts windows of updates at start indices, or combines them with what is there. Every form
becomes one ScatterND over all indexed axes, but for windows along one inner axis. Sources: `jax.lax.scatter`
(XLA's), ONNX's ScatterND, ScatterElements and TensorScatter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, same_dim
from j2o.passes.components.split import computes
from j2o.passes.lower.dot import pick
from j2o.passes.lower.elementwise import where
from j2o.passes.lower.index import (
    IndexedWindows,
    cut_axes,
    fits_on_all_axes,
    line,
    start_vector,
    to_i64,
)
from j2o.passes.lower.reduce import apply_elementwise, loop
from j2o.passes.lower.table import Lowering, lower
from j2o.passes.lower.writes import (
    Writes,
    are_single,
    first_elements,
    padded_after,
    read_own_rows,
    written,
)

# ------------------------------------------------------------------------------------------------ slices


@lower("dynamic_update_slice")
def dynamic_update_slice(
    op: Lowering, x: Value, update: Value, *starts: Value
) -> Value:
    """A scatter of one window."""
    axes = cut_axes(x.type.shape, update.type.shape)
    if not axes:
        return update
    if len(axes) == 1 and axes[0] > 0:
        written = _written_along(op, x, update, starts[axes[0]], axes[0])
        if written is not None:
            return written
    numbers = lax.ScatterDimensionNumbers(tuple(range(x.type.rank)), (), tuple(axes))
    index = start_vector(op, starts, axes)
    return _scatter(op, x, index, update, numbers, "clip", None)


# what changes no number
REPEATING = (
    "onnx.Cast",
    "onnx.Expand",
    "onnx.Reshape",
    "onnx.Squeeze",
    "onnx.Unsqueeze",
)
# of an axis: so many places are faster written one by one than by transposing all
FEW = 1 / 16


def _written_along(
    op: Lowering, x: Value, update: Value, start: Value, axis: int
) -> Value | None:
    """A window that is less than the whole along one inner axis, which so need not become the first.

    None where no operator is good at it.
    """
    shape, count = x.type.shape, update.type.shape[axis]
    size = shape[axis]
    is_single = same_dim(count, 1)
    is_few = type(count) is int and type(size) is int and count <= FEW * size
    if not is_single and not is_few:
        joined = _put_between(op, x, update, start, axis)
        if joined is not None:
            return joined
    last_start = op.dim(dims.sub(shape[axis], count))
    begin = op.Max(op.Min(to_i64(op, start), last_start), 0)
    if op.prefers("TensorScatter", x):
        everywhere = op.expand(op.reshape(begin, (1,)), shape[:1])
        return op.TensorScatter(x, update, everywhere, axis=axis)
    if not is_single and not is_few:
        return None
    places = begin if is_single else op.Add(begin, line(op, count, axis, x.type.rank))
    places = op.expand(places, update.type.shape)
    return op.ScatterElements(x, places, update, axis=axis)


def _put_between(
    op: Lowering, x: Value, update: Value, start: Value, axis: int
) -> Value | None:
    """What is in front of a window, the window, and what is behind it.

    None where the window is not known to lie inside.
    """
    begin = _known_start(start, x.type.shape[axis], update.type.shape[axis])
    if begin is None:
        return None
    end = dims.add(begin, update.type.shape[axis])
    front = op.slice(x, axis, 0, begin)
    behind = op.slice(x, axis, end, x.type.shape[axis])
    parts = []
    for part in (front, update, behind):
        if not same_dim(part.type.shape[axis], 0):
            parts.append(part)
    return op.Concat(*parts, axis=axis)


def _known_start(start: Value, size: Dim, count: Dim) -> Dim | None:
    """Where a window begins, if that is known, and the window lies inside of so many places."""
    known = start.origin(REPEATING).known
    if known is None or len(known) != 1:
        return None
    (begin,) = known
    is_inside = dims.known_ge(begin, 0) and dims.known_ge(dims.sub(size, count), begin)
    return begin if is_inside else None


# ----------------------------------------------------------------------------------------------- scatter

# how ScatterND combines what is there with what comes; versions of JAX write the names in either way
REDUCTIONS: dict[str, str | None] = {
    "scatter": None,
    "scatter-add": "add",
    "scatter-max": "max",
    "scatter-min": "min",
    "scatter-mul": "mul",
    "scatter-sub": "sub",
    "scatter_add": "add",
    "scatter_max": "max",
    "scatter_min": "min",
    "scatter_mul": "mul",
    "scatter_sub": "sub",
}
# booleans are combined as 0 and 1
REDUCTIONS_OF_BOOLS = {"add": "max", "max": "max", "min": "min", "mul": "min"}


@lower(*REDUCTIONS)
def scatter(
    op: Lowering,
    x: Value,
    *operands: Value,
    dimension_numbers: Any,
    mode: str = "fill_or_drop",
    unique_indices: bool = False,
    **_: Any,
) -> Value | Sequence[Value]:
    """Updates put, or combined with what is there, at indices.

    A window that does not lie inside is dropped, or in mode "clip" moved inside.
    """
    numbers = dimension_numbers
    if computes(op.source):
        return _applied(op, [x, *operands], numbers, mode, unique_indices)
    indices, updates = operands
    reduction = REDUCTIONS[op.source.kind]
    if reduction is None and _is_whole(x.type.shape, updates.type.shape, numbers):
        return updates
    if reduction == "sub":
        reduction, updates = "add", op.Neg(updates)
    dtype = x.type.dtype
    if reduction:
        if dtype == DType.BOOL:
            reduction = REDUCTIONS_OF_BOOLS[reduction]
        wide = _combined_in(dtype)
        x, updates = op.cast(x, wide), op.cast(updates, wide)
    out = _scatter(op, x, indices, updates, numbers, mode, reduction)
    return op.cast(out, dtype)


def _is_whole(shape: Shape, updates: Shape, numbers: Any) -> bool:
    """Return True where the updates are one window that covers the operand, as in `x.at[...].set(y)`.

    nnx writes so what it assigns to a variable (`self.cache[...] = y`). Such a window has no index, and no
    axis that only one of the two has.
    """
    is_indexed = numbers.scatter_dims_to_operand_dims or numbers.operand_batching_dims
    if is_indexed or numbers.inserted_window_dims or len(shape) != len(updates):
        return False
    return all(map(same_dim, shape, updates))


def _combined_in(dtype: DType) -> DType:
    """The dtype in which ScatterND has kernels that combine."""
    if dtype == DType.BOOL:
        return DType.I32
    return DType.F32 if dtype.is_float and dtype.bits <= 16 else dtype


# ------------------------------------------------------------------------------- scatter of any function


def _applied(
    op: Lowering, operands: Sequence[Value], numbers: Any, mode: str, unique: bool
) -> Sequence[Value]:
    """`lax.scatter_apply`: a function of elements and updates, one index after the other where they may meet.

    The operands are arrays, the indices, then the updates of each array. The arrays are flattened into tables
    with an element more, which takes what is dropped.
    """
    count = len(operands) // 2
    arrays, indices, updates = operands[:count], operands[count], operands[count + 1 :]
    shape, update_shape = arrays[0].type.shape, updates[0].type.shape
    windows = list(numbers.update_window_dims)
    batch = [i for i in range(len(update_shape)) if i not in windows]
    if unique:
        rounds, width = 1, dims.prod(update_shape)
    else:
        rounds = dims.prod(pick(update_shape, batch))
        width = dims.prod(pick(update_shape, windows))

    def rows(v: Value) -> Value:
        """One row a round."""
        return op.reshape(op.transpose(v, [*batch, *windows]), (rounds, width))

    where_to: dict[str, Any] = {"shape": shape, "updates": update_shape}
    places = rows(op.jax(_places, indices, numbers=numbers, mode=mode, **where_to))
    update_rows = [rows(v) for v in updates]
    tables = [_with_one_more(op, v) for v in arrays]
    region = op.source.graphs[0]

    def body(inner: Lowering, i: Value, *state: Value) -> list[Value]:
        at = inner.Gather(places, i, axis=0)
        old = [inner.Gather(table, at, axis=0) for table in state]
        new = [inner.Gather(row, i, axis=0) for row in update_rows]
        made = apply_elementwise(inner, region, [*old, *new])
        changed = zip(state, made, strict=True)
        return [inner.ScatterElements(table, at, v, axis=0) for table, v in changed]

    results = loop(op, rounds, tables, body)
    size = dims.prod(shape)
    return [op.reshape(op.slice(table, 0, 0, size), shape) for table in results]


def _with_one_more(op: Lowering, array: Value) -> Value:
    """An array, flattened, and a zero."""
    flat = op.reshape(array, (array.type.size,))
    return op.Concat(flat, op.full((1,), 0, array.type.dtype), axis=0)


def _places(
    indices: jax.Array, *, shape: Shape, updates: Shape, numbers: Any, mode: str
) -> jax.Array:
    """Where in the flattened operand each element of the updates goes; past its end where it is dropped.

    The places are what a gather with the same windows takes from 0, 1, 2, …
    """
    windows = iter(numbers.update_window_dims)
    dropped = (*numbers.inserted_window_dims, *numbers.operand_batching_dims)
    sizes = []
    for axis in range(len(shape)):
        sizes.append(1 if axis in dropped else updates[next(windows)])
    gather_numbers = lax.GatherDimensionNumbers(
        offset_dims=tuple(numbers.update_window_dims),
        collapsed_slice_dims=tuple(numbers.inserted_window_dims),
        start_index_map=tuple(numbers.scatter_dims_to_operand_dims),
        operand_batching_dims=tuple(numbers.operand_batching_dims),
        start_indices_batching_dims=tuple(numbers.scatter_indices_batching_dims),
    )
    size = dims.prod(shape)
    table = lax.iota(jnp.int64, size).reshape(shape)
    at = lax.gather(
        table,
        indices,
        gather_numbers,
        tuple(sizes),
        mode="clip" if mode == "clip" else "fill",
        fill_value=-1,
    )
    return jnp.where(at < 0, size, at)


# -------------------------------------------------------------------------- scatter as ScatterND


class ScatterPlan(NamedTuple):
    """How a scatter becomes ScatterND, which indexes the first axes of its operand.

    It takes the other axes whole. `order` are the axes of the operand, the indexed ones first;
    `updates_order` those of the updates, the axes of the index first. `room` is 1 on axes that get an element
    more, because they may have none: the runtime takes no index into nothing.
    """

    windows: IndexedWindows
    order: list[int]
    updates_order: list[int]
    room: list[int]


def _plan(shape: Shape, updates: Shape, numbers: Any) -> ScatterPlan:
    """The plan for an operand and updates of these shapes."""
    rank = len(shape)
    operand_batch = numbers.operand_batching_dims
    index_batch = numbers.scatter_indices_batching_dims
    batching = dict(zip(operand_batch, index_batch, strict=True))
    dropped = numbers.inserted_window_dims
    kept = [a for a in range(rank) if a not in dropped and a not in batching]
    along = dict(zip(kept, numbers.update_window_dims, strict=True))  # of the updates
    sizes = tuple(updates[along[a]] if a in along else 1 for a in range(rank))
    axes = numbers.scatter_dims_to_operand_dims
    windows = IndexedWindows(axes, dropped, batching, sizes)
    indexed = windows.indexed(shape)
    order = [*indexed, *(a for a in range(rank) if a not in indexed)]
    batch = [i for i in range(len(updates)) if i not in numbers.update_window_dims]
    updates_order = [*batch, *(along[a] for a in order if a in along)]
    room = [0] * rank
    for i, axis in enumerate(indexed):
        room[i] = int(not dims.known_ge(shape[axis], 1))
    return ScatterPlan(windows, order, updates_order, room)


def _scatter(
    op: Lowering,
    x: Value,
    indices: Value,
    updates: Value,
    numbers: Any,
    mode: str,
    reduction: str | None,
) -> Value:
    """Updates put at the indices, or combined with what is there by one of ScatterND's reductions."""
    if not x.type.shape:  # a scalar is the one row of an operand
        row, one_row = op.reshape(x, (1,)), lax.ScatterDimensionNumbers((), (0,), ())
        out = _scatter(op, row, indices, updates, one_row, mode, reduction)
        return op.reshape(out, ())
    plan = _plan(x.type.shape, updates.type.shape, numbers)
    index = to_i64(op, indices)
    if reduction is None and _is_inner_window(x.type.shape, index, plan):
        (axis,) = plan.windows.axes
        joined = _written_along(op, x, updates, op.reshape(index, ()), axis)
        if joined is not None:
            return joined
    inside = plan.windows.clamped(op, index, x.type.shape)
    if reduction is None and _is_one_place(x.type.shape, index.type.shape, plan):
        return _put_in_one_place(op, x, index, inside, updates, plan, mode)
    fits = None  # where everything does
    if mode != "clip" and plan.windows.axes:
        fits = fits_on_all_axes(op, index, inside)
    rows = op.transpose(updates, plan.updates_order)
    return _put_anywhere(op, x, inside, rows, fits, plan, reduction)


def _put_anywhere(
    op: Lowering,
    x: Value,
    index: Value,
    rows: Value,
    fits: Value | None,
    plan: ScatterPlan,
    reduction: str | None,
) -> Value:
    """Rows, in the order of the plan, put at an index that lies inside, or combined with what is there."""
    own = read_own_rows(x.type.shape, index.type.shape, plan.windows)
    if own is not None and (reduction or are_single(own, fits)):
        return written(op, own.writes(op, x, index, rows, fits), reduction)
    turned = op.transpose(x, plan.order)
    writes = Writes(
        padded_after(op, turned, plan.room),
        plan.windows.places(op, index, x.type.shape),
        rows,
        fits,
        is_one_each=len(plan.windows.batching) == index.type.rank - 1,
    )
    out = first_elements(op, written(op, writes, reduction), turned.type.shape)
    return op.transpose(out, np.argsort(plan.order).tolist())


def _is_inner_window(shape: Shape, index: Value, plan: ScatterPlan) -> bool:
    """Return True for one window inside, less than the whole along one inner axis, as in `x.at[:, 1:3]`."""
    windows = plan.windows
    axes = list(windows.axes)
    is_one = index.type.rank == 1 and len(axes) == 1
    if not is_one or len(windows.kept) != len(shape):
        return False
    if axes == [0] or cut_axes(shape, windows.sizes) != axes:
        return False
    (axis,) = axes
    return _known_start(index, shape[axis], windows.sizes[axis]) is not None


# ------------------------------------------------------------------------------------ one place
#
# `x.at[i].set(y)`, `x.at[:, i].set(y)` and `x.at[i, j].set(y)` write one row. Where its place lies outside,
# that row is written as it was: no copy of all of `x` gets an element more and is cut again.


def _is_one_place(shape: Shape, index: Shape, plan: ScatterPlan) -> bool:
    """Return True for one window, of size 1 along the axes that have an index: the first ones, or one."""
    windows = plan.windows
    axes = list(windows.axes)
    is_single = len(index) == 1 and not windows.batching and axes
    if not is_single or windows.indexed(shape) != axes:
        return False
    if len(axes) > 1 and axes != list(range(len(axes))):
        return False
    takes_ones = all(same_dim(windows.sizes[axis], 1) for axis in axes)
    return takes_ones and all(dims.known_ge(shape[axis], 1) for axis in axes)


def _put_in_one_place(
    op: Lowering,
    x: Value,
    index: Value,
    inside: Value,
    updates: Value,
    plan: ScatterPlan,
    mode: str,
) -> Value:
    """`x` with one row written, at `inside`; it is as it was where the index lies elsewhere."""
    axes = plan.windows.axes
    axis, depth, rank = axes[0], len(axes), x.type.rank
    if axis == 0:
        place = op.reshape(inside, (1, depth))
        row = op.reshape(updates, (1, *x.type.shape[depth:]))
    else:
        sizes = (*x.type.shape[:axis], 1, *x.type.shape[axis + 1 :])
        row = op.reshape(updates, sizes)
        place = op.reshape(inside, (1,) * rank)
    if mode != "clip":
        fits = fits_on_all_axes(op, index, inside)
        old = op.GatherND(x, place) if axis == 0 else op.Gather(x, inside, axis=axis)
        row = where(op, fits, row, old)
    if axis == 0:
        return op.ScatterND(x, place, row)
    return op.ScatterElements(x, op.expand(place, row.type.shape), row, axis=axis)
