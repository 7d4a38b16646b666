"""Collective operations. There is one device: named axes have size 1.

Axes by number, which vmap makes, are axes of the operands, and reduced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.reduce import reduce_max, reduce_min, reduce_sum
from j2o.passes.lower.table import Lowering, lower


@lower("psum", "psum_invariant")
def psum(op: Lowering, *operands: Value, axes: Sequence[Any], **_: Any) -> list[Value]:
    return _reduced(op, reduce_sum, operands, axes)


@lower("pmax")
def pmax(op: Lowering, *operands: Value, axes: Sequence[Any], **_: Any) -> list[Value]:
    return _reduced(op, reduce_max, operands, axes)


@lower("pmin")
def pmin(op: Lowering, *operands: Value, axes: Sequence[Any], **_: Any) -> list[Value]:
    return _reduced(op, reduce_min, operands, axes)


def _reduced(
    op: Lowering,
    rule: Callable[..., Value],
    operands: Sequence[Value],
    axes: Sequence[Any],
) -> list[Value]:
    """Reductions over axes that have numbers; those of devices, of which there is one, have names."""
    by_number = [a for a in axes if type(a) is int]
    return [rule(op, x, axes=by_number) for x in operands]


@lower(
    "all_gather",
    "all_gather_invariant",
    "all_gather_reduced",
    "all_to_all",
    "reduce_scatter",
)
def from_one_device(op: Lowering, x: Value, **_: Any) -> Value:
    """The operand; an axis of size 1 may come or go."""
    return op.reshape(x, op.out_shape)


@lower("ppermute")
def ppermute(
    op: Lowering, *operands: Value, perm: Sequence[Any], **_: Any
) -> list[Value]:
    """What no device sends is 0."""
    if perm:
        return list(operands)
    return [op.full(x.type.shape, 0, x.type.dtype) for x in operands]


@lower("axis_index")
def axis_index(op: Lowering, **_: Any) -> Value:
    return op.const(0, DType.I32)
