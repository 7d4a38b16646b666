"""Nearest places, which `jax.image.resize` looks up by floats: repeated elements where a size is a multiple.

The place of the i-th of n elements among m is ⌊(i + ½) m / n⌋. Where n = k m that is ⌊i / k⌋ in exact
numbers, and in JAX's float32 for all sizes below 2²²: the quotient is 1 / 2k or more off a whole number.
Where sizes are known the places are, too, and the lookup stays.
"""

from __future__ import annotations

from typing import Any

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.recover.strides import dim_of, gather_of, line_of, takes_lines
from j2o.passes.rewriting.rule import rewrite


def _middles(op):
    """½, 1½, 2½, …, as `jnp.arange(n) + 0.5` is traced."""
    numbers = op.lax.iota(...)
    times_one = op.either(op.lax.mul(numbers, 1.0), numbers)
    plus_zero = op.either(op.lax.add(times_one, 0.0), times_one)
    return op.lax.add(plus_zero, 0.5)


@rewrite("nearest", at="lax", shared=True, where=takes_lines)
def nearest(op, x, size, count, moved, numbers, sizes):
    """x[⌊(i + ½) m / n⌋] along one axis of m elements, n a multiple of m."""
    quotient = op.lax.div(op.lax.mul(_middles(op), size), count)
    place = op.lax.convert_element_type(op.lax.floor(quotient))
    # below 0 it would be counted from the end; it never is
    wrapped = op.lax.select_n(op.lax.lt(place, 0), place, moved)
    indices = op.lax.broadcast_in_dim(op.either(wrapped, place), ...)
    return gather_of(op, x, indices, numbers, sizes)


@nearest.becomes
def _(op, x, size, count, _moved, numbers, sizes):
    axis = _only_axis(x, numbers, sizes)
    indices = op.root.operand(1)
    line = line_of(indices, 0) if indices.type.rank == 2 else None
    if axis is None or line is None:
        return None
    own, wanted = x.type.shape[axis], line.type.shape[0]
    factor = None if type(own) is int else dims.divides(own, wanted)
    if type(factor) is not int or not _is_dim(size, own) or not _is_dim(count, wanted):
        return None
    behind = axis + 1
    wide = [*x.type.shape[:behind], factor, *x.type.shape[behind:]]
    repeated = op.expand(op.unsqueeze(x, [behind]), wide)
    return op.reshape(repeated, op.out_type.shape)


def _only_axis(x: Value, numbers: Any, sizes: Any) -> int | None:
    """The axis along which a gather takes places, where it takes all others whole; None for other gathers."""
    axes = tuple(numbers.collapsed_slice_dims)
    if len(axes) != 1 or tuple(numbers.start_index_map) != axes:
        return None
    (axis,) = axes
    others = [one for one in range(x.type.rank) if one != axis]
    is_whole = all(same_dim(sizes[one], x.type.shape[one]) for one in others)
    is_in_place = list(numbers.offset_dims) == others
    return axis if is_whole and is_in_place else None


def _is_dim(value: Value, dim: Dim) -> bool:
    """Return True for a size as a number."""
    known = dim_of(value)
    return known is not None and same_dim(known, dim)


NEAREST = (nearest,)
