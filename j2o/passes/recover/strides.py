"""Slices with steps, which JAX writes as a gather where some size is symbolic.

`x[:, 1::2]` takes the places 1 + 2 · iota. Where the indices of each axis are such a progression, and all of
them lie inside, that is ONNX's Slice:

    gather(x, broadcast(1 + 2 · iota))   becomes   Slice(x, starts=[1], ends=[…], axes=[1], steps=[2])

A step below 0 comes as the same places from the last to the first, and the result in reverse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.ops import TO_THE_END, TO_THE_FRONT
from j2o.ir.types import Dim, Shape, same_dim
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


class Progression(NamedTuple):
    """`start`, `start + step`, …, `count` of them."""

    start: Dim
    step: int
    count: Dim

    @property
    def last(self) -> Dim:
        """The last number."""
        return self.at(dims.sub(self.count, 1))

    def at(self, place: Dim) -> Dim:
        """The number at a place, which may lie behind the last one."""
        return dims.add(self.start, dims.mul(self.step, place))

    def times(self, factor: Dim) -> Progression | None:
        """All numbers times a factor; None for a symbolic one, which would make a symbolic step."""
        if type(factor) is not int:
            return None
        return Progression(dims.mul(self.start, factor), self.step * factor, self.count)

    def plus(self, number: Dim) -> Progression:
        """All numbers plus another."""
        return self._replace(start=dims.add(self.start, number))

    def reversed(self) -> Progression:
        """The same numbers from the last to the first."""
        return Progression(self.last, -self.step, self.count)

    def is_inside(self, size: Dim) -> bool:
        """Return True where all numbers are known to be places of an axis."""
        ends = (self.start, self.last)
        inner = dims.sub(size, 1)
        return all(dims.known_ge(e, 0) and dims.known_ge(inner, e) for e in ends)

    def begin(self, size: Dim) -> Dim:
        """Where Slice begins: -1 for the last place, whose number then need not be computed."""
        is_last = same_dim(self.start, dims.sub(size, 1))
        return -1 if self.step < 0 and is_last else self.start

    def end(self, size: Dim) -> Dim | None:
        """What Slice ends in front of; None where that is not known."""
        following = self.at(self.count)
        if self.step > 0:
            is_past = dims.known_ge(following, size)
            return TO_THE_END if is_past else dims.add(self.last, 1)
        if dims.known_ge(-1, following):
            return TO_THE_FRONT
        return following if dims.known_ge(following, 0) else None


# which places are taken, on each axis that is not taken whole
Taken: TypeAlias = "dict[int, Progression]"


# ---------------------------------------------------------------------------- the indices


def _progression(value: Value) -> Progression | None:
    """A vector of integers as a progression; None for others."""
    node = value.node
    if node is None or value.type.rank != 1:
        return None
    match node.op:
        case "lax.iota":
            return Progression(0, 1, value.type.shape[0])
        case "lax.rev":
            found = _progression(node.operand(0))
            return None if found is None else found.reversed()
        case "lax.convert_element_type" if node.operand(0).type.dtype.is_int:
            return _progression(node.operand(0))
        case "lax.add" | "lax.mul":
            return _shifted(node)
        case _:
            return None


def _shifted(node: Node) -> Progression | None:
    """A progression plus, or times, a number."""
    for vector, number in (node.operands, node.operands[::-1]):
        found = _progression(vector)
        by = dim_of(number)
        if found is not None and by is not None:
            return found.plus(by) if node.op == "lax.add" else found.times(by)
    return None


def dim_of(value: Value) -> Dim | None:
    """The integer, or the size, that a scalar is; None where that is not known."""
    value = value.origin(("lax.copy", "lax.convert_element_type"))
    if value.op == "lax.dim_as_value":
        return value.producer.attrs["dim"]  # type: ignore[return-value]  # a size
    known = value.known
    return known[0] if known is not None and value.type.rank == 0 else None


def columns_of(indices: Value) -> list[Value]:
    """The indices of each axis, in a shape that has as many axes as there are, and one of size 1."""
    if indices.op == "lax.concatenate":
        is_last = indices.producer.int_attr("dimension") == indices.type.rank - 1
        return list(indices.producer.operands) if is_last else []
    return [indices]


def not_wrapped(places: Value) -> Value:
    """The places of which a program counts those below 0 from the end; none is."""
    if places.op != "lax.select_n" or len(places.producer.operands) != 3:
        return places
    is_below, kept, _ = places.producer.operands
    if is_below.op != "lax.lt":
        return places
    subject, zero = is_below.producer.operands
    return kept if subject is kept and dim_of(zero) == 0 else places


def vector_along(column: Value, axis: int) -> Value | None:
    """The vector that lies along an axis of a column, and is repeated along all others."""
    if column.op != "lax.broadcast_in_dim":
        return None
    source = column.producer.operand(0)
    along = column.producer.attrs["broadcast_dimensions"]
    is_along = source.type.rank == 1 and along == (axis,)
    is_whole = is_along and same_dim(source.type.shape[0], column.type.shape[axis])
    return source if is_whole else None


def indexed_axes(x: Value, numbers: Any, sizes: Shape) -> tuple[int, ...] | None:
    """The axes along which a gather takes places, where it takes all others whole and where they are.

    None for other gathers.
    """
    axes = tuple(numbers.collapsed_slice_dims)
    others = [axis for axis in range(x.type.rank) if axis not in axes]
    has_columns_in_order = tuple(numbers.start_index_map) == axes == tuple(sorted(axes))
    leaves_others = list(numbers.offset_dims) == others
    if not has_columns_in_order or not leaves_others:
        return None
    is_whole = all(same_dim(sizes[axis], x.type.shape[axis]) for axis in others)
    return axes if is_whole else None


def _taken(x: Value, indices: Value, numbers: Any, sizes: Shape) -> Taken | None:
    """Which places of `x` are taken; None for another gather."""
    axes = indexed_axes(x, numbers, sizes)
    columns = columns_of(indices)
    if axes is None or not len(columns) == len(axes) == indices.type.rank - 1:
        return None
    taken: Taken = {}
    for place, (axis, column) in enumerate(zip(axes, columns, strict=True)):
        vector = vector_along(column, place)
        found = None if vector is None else _progression(vector)
        if found is None or not found.is_inside(x.type.shape[axis]):
            return None
        taken[axis] = found
    return taken


# ------------------------------------------------------------------------------ the rules


def gather_of(op: Any, x: Any, indices: Any, numbers: Any, sizes: Any) -> Any:
    """The pattern of a gather, whatever is to become of indices that lie outside."""
    return op.lax.gather(
        x,
        indices,
        dimension_numbers=numbers,
        slice_sizes=sizes,
        fill_value=...,
        indices_are_sorted=...,
        mode=...,
        unique_indices=...,
    )


def takes_vectors(gather: Node) -> bool:
    """Return True where the indices of each axis are a vector that is repeated along the other axes."""
    for column in columns_of(gather.operand(1)):
        if column.op != "lax.broadcast_in_dim":
            return False
        if column.producer.operand(0).type.rank != 1:
            return False
    return True


@rewrite("strided", at="lax", where=takes_vectors)
def strided(op, x, indices, numbers, sizes):
    """x[a::s, …], as a gather."""
    return gather_of(op, x, indices, numbers, sizes)


@strided.becomes
def _(op, x, indices, numbers, sizes):
    taken = _taken(x, indices, numbers, sizes)
    if taken is None:
        return None
    users = list(op.root.out.users())
    if len(users) == 1 and users[0].op == "lax.rev":
        axes = users[0].ints_attr("dimensions")
        if _ends(x, _turned(taken, axes)) is not None:
            return op.decline("the reversal behind it is of the same slice")
    return _slice(op, x, taken)


@rewrite("strided_back", at="lax")
def strided_back(op, x, indices, numbers, sizes, axes):
    """x[::-s, …], as a gather and a reversal."""
    return op.lax.rev(gather_of(op, x, indices, numbers, sizes), dimensions=axes)


@strided_back.becomes
def _(op, x, indices, numbers, sizes, axes):
    taken = _taken(x, indices, numbers, sizes)
    return None if taken is None else _slice(op, x, _turned(taken, axes))


def _turned(taken: Taken, axes: Sequence[int]) -> Taken | None:
    """The same places in reverse on some axes; None where an axis is whole."""
    if not taken.keys() >= set(axes):
        return None
    turned = dict(taken)
    for axis in axes:
        turned[axis] = taken[axis].reversed()
    return turned


def _ends(x: Value, taken: Taken | None) -> list[Dim] | None:
    """What Slice ends in front of on each axis; None where that is not known."""
    if taken is None:
        return None
    ends: list[Dim] = []
    for axis, found in taken.items():
        end = found.end(x.type.shape[axis])
        if end is None:
            return None
        ends.append(end)
    return ends


def _slice(op: RuleBuilder, x: Value, taken: Taken | None) -> Value | None:
    """Slice of the places on some axes."""
    ends = _ends(x, taken)
    if taken is None or ends is None:
        return op.decline("where a slice back ends is not known")
    starts = [found.begin(x.type.shape[axis]) for axis, found in taken.items()]
    steps = [found.step for found in taken.values()]
    bounds = [op.dims(bound) for bound in (starts, ends, list(taken), steps)]
    return op.apply("onnx.Slice", x, *bounds, types=[op.out_type])


STRIDES = (strided, strided_back)
