"""Nearest places, which `jax.image.resize` looks up by floats: repeated elements where a size is a multiple.

The place of the i-th of n elements among m is ⌊(i + ½) m / n⌋. Where n = k m that is ⌊i / k⌋ in exact
numbers, and in JAX's float32 for all sizes below 2²²: the quotient is 1 / 2k or more off a whole number.
Where sizes are known the places are, too, and the lookup stays.
"""

from __future__ import annotations

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.recover.strides import dim_of, gather_of, line_of, takes_lines
from j2o.passes.rewriting.rule import rewrite


@rewrite("nearest", at="lax", where=takes_lines)
def nearest(op, x, indices, numbers, sizes):
    """x[⌊(i + ½) m / n⌋] along one axis of m elements, n a multiple of m."""
    return gather_of(op, x, indices, numbers, sizes)


@nearest.becomes
def _(op, x, indices, numbers, sizes):
    axes = tuple(numbers.collapsed_slice_dims)
    if len(axes) != 1 or tuple(numbers.start_index_map) != axes:
        return None
    (axis,) = axes
    others = [one for one in range(x.type.rank) if one != axis]
    is_whole = all(same_dim(sizes[one], x.type.shape[one]) for one in others)
    if list(numbers.offset_dims) != others or not is_whole:
        return None
    line = line_of(indices, 0) if indices.type.rank == 2 else None
    size = x.type.shape[axis]
    factor = None if line is None or type(size) is int else _factor(line, size)
    if factor is None:
        return None
    behind = axis + 1
    wide = [*x.type.shape[:behind], factor, *x.type.shape[behind:]]
    return op.reshape(op.expand(op.unsqueeze(x, [behind]), wide), op.out_type.shape)


def _factor(line: Value, size: Dim) -> int | None:
    """How often each of `size` places is there in a line of nearest places; None for another line."""
    factor = dims.divides(size, line.type.shape[0])
    if type(factor) is not int:
        return None
    place = not_wrapped(line)
    if place.op != "lax.convert_element_type":
        return None
    quotient = _operands(place.producer.operand(0), "lax.floor", 1)
    parts = _operands(_first_of(quotient), "lax.div", 2)
    product = _operands(_first_of(parts), "lax.mul", 2)
    if parts is None or product is None:
        return None
    is_ratio = _is_size(product[1], size) and _is_size(parts[1], line.type.shape[0])
    return factor if is_ratio and _is_middle(product[0]) else None


def not_wrapped(line: Value) -> Value:
    """The places of which those below 0 are counted from the end; none is."""
    chosen = _operands(line, "lax.select_n", 3)
    below = _operands(_first_of(chosen), "lax.lt", 2)
    if chosen is None or below is None or below[0] is not chosen[1]:
        return line
    return chosen[1] if dim_of(below[1]) == 0 else line


def _first_of(operands: list[Value] | None) -> Value | None:
    return operands[0] if operands else None


def _operands(value: Value | None, op: str, count: int) -> list[Value] | None:
    """The operands of an operation, where that is what makes a value."""
    if value is None or value.op != op or len(value.producer.operands) != count:
        return None
    return list(value.producer.operands)


def _is_size(value: Value, size: Dim) -> bool:
    """Return True for a size as a number."""
    known = dim_of(value)
    return known is not None and same_dim(known, size)


def _is_middle(value: Value) -> bool:
    """Return True for 0.5, 1.5, 2.5, …, as `jnp.arange(n) + 0.5` is traced."""
    half = _operands(value, "lax.add", 2)
    if half is None or half[1].number != 0.5:
        return False
    line = half[0]
    plus_zero = _operands(line, "lax.add", 2)
    if plus_zero is not None and plus_zero[0].number == 0.0:
        line = plus_zero[1]
    times_one = _operands(line, "lax.mul", 2)
    if times_one is not None and times_one[0].number == 1.0:
        line = times_one[1]
    return line.op == "lax.iota" and line.type.rank == 1


NEAREST = (nearest,)
