"""Nearest places, which `jax.image.resize` looks up by floats: repeated elements where a size is a multiple.

    x[⌊(iota(2·H) + ½) · H / (2·H)⌋]   becomes   Reshape(Expand(Unsqueeze(x, 1), [H, 2, …]), [2·H, …])

The place of the i-th of n elements among m is ⌊(i + ½) m / n⌋. Where n = k m that is ⌊i / k⌋ in exact
numbers, and in JAX's float32 for all sizes below 2²²: the quotient is 1 / 2k or more off a whole number.
Where sizes are known the places are, too, and the lookup stays.
"""

from __future__ import annotations

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.recover.strides import (
    dim_of,
    gather_of,
    indexed_axes,
    takes_vectors,
    vector_along,
)
from j2o.passes.rewriting.rule import rewrite


def middles(op):
    """½, 1½, 2½, …, as `jnp.arange(n) + 0.5` is traced."""
    numbers = op.lax.iota(...)
    times_one = op.either(op.lax.mul(numbers, 1.0), numbers)
    plus_zero = op.either(op.lax.add(times_one, 0.0), times_one)
    return op.lax.add(plus_zero, 0.5)


@rewrite("nearest", at="lax", shared=True, where=takes_vectors)
def nearest(op, x, size, count, moved, numbers, sizes):
    """x[⌊(i + ½) m / n⌋] along one axis of m elements, n a multiple of m."""
    quotient = op.lax.div(op.lax.mul(middles(op), size), count)
    place = op.lax.convert_element_type(op.lax.floor(quotient))
    # below 0 it would be counted from the end; it never is
    wrapped = op.lax.select_n(op.lax.lt(place, 0), place, moved)
    indices = op.lax.broadcast_in_dim(op.either(wrapped, place), ...)
    return gather_of(op, x, indices, numbers, sizes)


@nearest.becomes
def _(op, x, size, count, _moved, numbers, sizes):
    axes = indexed_axes(x, numbers, sizes)
    indices = op.root.operand(1)
    places = vector_along(indices, 0) if indices.type.rank == 2 else None
    if axes is None or len(axes) != 1 or places is None:
        return None
    (axis,) = axes
    own = x.type.shape[axis]
    wanted = places.type.shape[0]
    if type(own) is int or not _is_dim(size, own) or not _is_dim(count, wanted):
        return None
    factor = dims.divides(own, wanted)
    if type(factor) is not int:
        return None
    behind = axis + 1
    wide = [*x.type.shape[:behind], factor, *x.type.shape[behind:]]
    repeated = op.expand(op.unsqueeze(x, [behind]), wide)
    return op.reshape(repeated, op.out_type.shape)


def _is_dim(value: Value, dim: Dim) -> bool:
    """Return True for a scalar that is this size."""
    known = dim_of(value)
    return known is not None and same_dim(known, dim)


NEAREST = (nearest,)
