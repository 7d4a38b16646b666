"""`own_rows`: an index that counts along an axis, as in `x[jnp.arange(n), i]`, is no index but a batch.

Each row takes from its own row of the operand. JAX's gather and scatter have a form for that: an axis of the
operand runs along with an axis of the indices (`operand_batching_dims`), as `vmap` writes it. Such an index
lies inside, so that no form of what is done with others outside matters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr, Shape, Struct, is_one, same_dim
from j2o.passes.pipeline import graph_pass
from j2o.passes.recover.strides import columns_of, dim_of, not_wrapped


class Names(NamedTuple):
    """How the dimension numbers of an operation call their fields."""

    starts: str  # the axis of the operand that each column is an index of
    dropped: str
    batches: str  # the axes of the operand that run along with axes of the indices
    along: str  # these axes of the indices


GATHER = Names(
    "start_index_map",
    "collapsed_slice_dims",
    "operand_batching_dims",
    "start_indices_batching_dims",
)
SCATTER = Names(
    "scatter_dims_to_operand_dims",
    "inserted_window_dims",
    "operand_batching_dims",
    "scatter_indices_batching_dims",
)


@graph_pass("own_rows", at="lax", level=2)
def own_rows(graph: Graph) -> int:
    """Axes of gathers and scatters that run along with an axis of the indices are batches of these."""
    count = 0
    for node in graph:
        if node.op == "lax.gather":
            count += _batch(graph, node, GATHER)
        elif node.op.startswith("lax.scatter"):
            count += _batch(graph, node, SCATTER)
    return count


def _batch(graph: Graph, node: Node, names: Names) -> bool:
    """Make batches of the columns of an index that count; returns whether there are any."""
    place = (
        len(node.inputs) // 2
    )  # scatters have as many updates behind it as operands in front
    indices = node.operand(place)
    columns = columns_of(indices)
    numbers: Any = node.attrs["dimension_numbers"]
    starts = getattr(numbers, names.starts)
    if len(columns) < 2 or len(columns) != len(starts):
        return False
    kept, batches = _divided(node.operand(0).type.shape, columns, numbers, names)
    if not kept or len(kept) == len(columns):
        return False
    node.set_attr("dimension_numbers", _with_batches(numbers, names, kept, batches))
    op = Builder(graph, before=node, loc=node.loc, hint=indices.hint)
    left = [column for _, column in kept]
    node.set_input(place, _side_by_side(op, left))
    return True


def _divided(
    shape: Shape, columns: list[Value], numbers: Any, names: Names
) -> tuple[list[tuple[int, Value]], dict[int, int]]:
    """The columns that stay an index, with their axes; the batches, as axes of the operand and the index."""
    operand_axes = getattr(numbers, names.batches)
    index_axes = getattr(numbers, names.along)
    batches = dict(zip(operand_axes, index_axes, strict=True))
    kept = []
    for axis, column in zip(getattr(numbers, names.starts), columns, strict=True):
        along = _counted_axis(column)
        is_free = along is not None and along not in batches.values()
        is_row = is_free and axis in getattr(numbers, names.dropped)
        if along is None or not is_row:
            kept.append((axis, column))
        elif same_dim(shape[axis], column.type.shape[along]):
            batches[axis] = along
        else:
            kept.append((axis, column))
    return kept, batches


def _with_batches(
    numbers: Struct,
    names: Names,
    kept: list[tuple[int, Value]],
    batches: dict[int, int],
) -> Struct:
    """The dimension numbers with these indices and batches."""
    axes = sorted(batches)
    dropped = getattr(numbers, names.dropped)
    fields: dict[str, Attr] = {
        names.starts: tuple(axis for axis, _ in kept),
        names.dropped: tuple(axis for axis in dropped if axis not in batches),
        names.batches: tuple(axes),
        names.along: tuple(batches[axis] for axis in axes),
    }
    return Struct(numbers.name, **{**numbers.fields, **fields})


def _side_by_side(op: Builder, columns: list[Value]) -> Value:
    """The columns as one array of indices."""
    if len(columns) == 1:
        return columns[0]
    last = columns[0].type.rank - 1
    shape = (*columns[0].type.shape[:-1], len(columns))
    result = columns[0].type.with_shape(shape)
    return op.apply("lax.concatenate", *columns, dimension=last, types=[result])


# ------------------------------------------------------------------------- what counts


def _counted_axis(value: Value) -> int | None:
    """The axis along which a value counts 0, 1, 2, …, and on which alone it depends; None of another."""
    value = not_wrapped(value)
    node = value.node
    if node is None:
        return None
    match node.op:
        case "lax.iota":
            return node.int_attr("dimension")
        case "lax.broadcast_in_dim":
            return _axis_behind(node)
        case "lax.convert_element_type" if _keeps_numbers(node):
            return _counted_axis(node.operand(0))
        case "lax.select_n" if _is_never(node.operand(0)):
            return _counted_axis(node.operand(1))
        case "lax.add":
            return _axis_beside(node, 0)
        case "lax.mul":
            return _axis_beside(node, 1)
        case "const":
            return _axis_of_constant(value)
        case _:
            return None


def _axis_behind(node: Node) -> int | None:
    """Where a broadcast puts the axis along which its operand counts; that axis itself is not repeated."""
    source = node.operand(0)
    axis = _counted_axis(source)
    if axis is None:
        return None
    behind = node.ints_attr("broadcast_dimensions")[axis]
    is_whole = same_dim(source.type.shape[axis], node.out.type.shape[behind])
    return behind if is_whole else None


def _keeps_numbers(node: Node) -> bool:
    """Return True for a conversion of integers to some in which JAX counts places."""
    is_int = node.operand(0).type.dtype.is_int and node.out.type.dtype.is_int
    return is_int and node.out.type.dtype.bits >= 32


def _is_never(condition: Value) -> bool:
    """Return True for a small constant that is False everywhere."""
    tensor = condition.const
    return tensor is not None and tensor.is_small and not tensor.load().any()


def _axis_beside(node: Node, unit: int) -> int | None:
    """The axis along which one operand counts, where the other is the number that changes nothing."""
    for value, other in (node.operands, node.operands[::-1]):
        if dim_of(other) == unit:
            return _counted_axis(value)
    return None


def _axis_of_constant(value: Value) -> int | None:
    """The axis along which a small constant counts."""
    tensor = value.const
    if tensor is None or not tensor.is_small or not tensor.dtype.is_int:
        return None
    array = tensor.load()
    for axis, size in enumerate(array.shape):
        ones = [1] * array.ndim
        ones[axis] = size
        line = np.arange(size).reshape(ones)
        if not is_one(size) and np.array_equal(
            array, np.broadcast_to(line, array.shape)
        ):
            return axis
    return None
