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
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


def counted(op):
    """0, 1, 2, …, as `jnp.arange(n)` is traced."""
    numbers = op.lax.iota(...)
    times_one = op.either(op.lax.mul(numbers, 1.0), numbers)
    return op.either(op.lax.add(times_one, 0.0), times_one)


def middles(op):
    """½, 1½, 2½, …, as `jnp.arange(n) + 0.5` is traced."""
    return op.lax.add(counted(op), 0.5)


@rewrite("nearest", at="lax", shared=True, where=takes_vectors)
def nearest(op, x, m, n, from_end, numbers, sizes):
    """x[⌊(i + ½) m / n⌋] along one axis of m elements, n a multiple of m."""
    quotient = op.lax.div(op.lax.mul(middles(op), m), n)
    place = op.lax.convert_element_type(op.lax.floor(quotient))
    # indexing counts places below 0 from the end; here none is
    wrapped = op.lax.select_n(op.lax.lt(place, 0), place, from_end)
    indices = op.lax.broadcast_in_dim(op.either(wrapped, place), ...)
    return gather_of(op, x, indices, numbers, sizes)


@nearest.becomes
def _(op, x, m, n, _from_end, numbers, sizes):
    axes = indexed_axes(x, numbers, sizes)
    if axes is None or len(axes) != 1:
        return None
    (axis,) = axes
    indices = op.root.operand(1)
    places = vector_along(indices, 0) if indices.type.rank == 2 else None
    if places is None:
        return None
    size = x.type.shape[axis]
    new_size = places.type.shape[0]
    if type(size) is int or not _is_dim(m, size) or not _is_dim(n, new_size):
        return None
    factor = dims.divides(size, new_size)
    if type(factor) is not int:
        return None
    return _repeated(op, x, axis, factor)


def _repeated(op: RuleBuilder, x: Value, axis: int, times: int) -> Value:
    """Each element along an axis that often, one beside the other."""
    behind = axis + 1
    copies = (*x.type.shape[:behind], times, *x.type.shape[behind:])
    repeated = op.expand(op.unsqueeze(x, [behind]), copies)
    return op.reshape(repeated, op.out_type.shape)


def _is_dim(value: Value, dim: Dim) -> bool:
    """Return True for a scalar that is a size."""
    known = dim_of(value)
    return known is not None and same_dim(known, dim)


NEAREST = (nearest,)
