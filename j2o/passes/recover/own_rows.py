"""`own_rows`: an index that counts along an axis, as in `x[jnp.arange(n), i]`, is no index but a batch.

    x: f32[n,m], gather at [arange(n), i]: i32[n,2], start_index_map (0, 1)
    becomes the gather at        i: i32[n,1], start_index_map (1,), operand_batching_dims (0,)

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


class FieldNames(NamedTuple):
    """How the dimension numbers of an operation call the parts of `IndexedWindows` in `lower/index.py`."""

    axes: str  # the axis of the operand that each column is an index of
    dropped: str  # the axes of the operand that the windows do not have
    # the axes of the operand that run along with axes of the indices
    operand_batch: str
    index_batch: str  # these axes of the indices


GATHER = FieldNames(
    axes="start_index_map",
    dropped="collapsed_slice_dims",
    operand_batch="operand_batching_dims",
    index_batch="start_indices_batching_dims",
)
SCATTER = FieldNames(
    axes="scatter_dims_to_operand_dims",
    dropped="inserted_window_dims",
    operand_batch="operand_batching_dims",
    index_batch="scatter_indices_batching_dims",
)


@graph_pass("own_rows", at="lax", level=2)
def own_rows(graph: Graph) -> int:
    """Axes of gathers and scatters that run along with an axis of the indices are batches of these."""
    count = 0
    for node in graph.nodes_of("lax.gather"):
        count += _batch(graph, node, GATHER)
    scatters = [op for op in graph.ops if op.startswith("lax.scatter")]
    for node in graph.nodes_of(*scatters):
        count += _batch(graph, node, SCATTER)
    return count


class IndexColumns(NamedTuple):
    """What becomes of the columns of an index.

    `kept` are those that stay, by the axis of the operand that they are an index of. `batching` has for an
    axis of the operand the axis of the index that it runs along with.
    """

    kept: dict[int, Value]
    batching: dict[int, int]


def _batch(graph: Graph, node: Node, names: FieldNames) -> bool:
    """Make batches of the columns of an index that count; returns whether there are any."""
    # operands stand in front of the indices; a scatter has as many updates behind them
    place = len(node.inputs) // 2
    indices = node.operand(place)
    columns = columns_of(indices)
    numbers: Any = node.attrs["dimension_numbers"]
    axes = getattr(numbers, names.axes)
    if len(columns) < 2 or len(columns) != len(axes):
        return False
    found = _index_columns(node.operand(0).type.shape, columns, numbers, names)
    if not found.kept or len(found.kept) == len(columns):
        return False
    node.set_attr("dimension_numbers", _with_batches(numbers, names, found))
    op = Builder(graph, before=node, loc=node.loc, hint=indices.hint)
    node.set_input(place, _side_by_side(op, list(found.kept.values())))
    return True


def _index_columns(
    shape: Shape, columns: list[Value], numbers: Any, names: FieldNames
) -> IndexColumns:
    """Which columns count along an axis of the index, and so are batches, and which stay."""
    operand_batch = getattr(numbers, names.operand_batch)
    index_batch = getattr(numbers, names.index_batch)
    dropped = getattr(numbers, names.dropped)
    batching = dict(zip(operand_batch, index_batch, strict=True))
    kept: dict[int, Value] = {}
    for axis, column in zip(getattr(numbers, names.axes), columns, strict=True):
        along = _index_axis(column)
        if along is None or along in batching.values() or axis not in dropped:
            kept[axis] = column
        elif same_dim(shape[axis], column.type.shape[along]):
            batching[axis] = along
        else:
            kept[axis] = column
    return IndexColumns(kept, batching)


def _with_batches(numbers: Struct, names: FieldNames, columns: IndexColumns) -> Struct:
    """The dimension numbers with these indices and batches."""
    batching = columns.batching
    operand_batch = sorted(batching)
    dropped = getattr(numbers, names.dropped)
    fields: dict[str, Attr] = {
        names.axes: tuple(columns.kept),
        names.dropped: tuple(axis for axis in dropped if axis not in batching),
        names.operand_batch: tuple(operand_batch),
        names.index_batch: tuple(batching[axis] for axis in operand_batch),
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


def _index_axis(column: Value) -> int | None:
    """The axis along which a column of an index counts; None where that is the last, of the columns."""
    axis = _counted_axis(column)
    return None if axis == column.type.rank - 1 else axis


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
        counted = np.broadcast_to(np.arange(size).reshape(ones), array.shape)
        if not is_one(size) and np.array_equal(array, counted):
            return axis
    return None
