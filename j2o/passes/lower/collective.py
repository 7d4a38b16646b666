"""Collective operations. There is one device: named axes have size 1; axes by number, which vmap makes, are reduced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.reduce import reduce_max, reduce_min, reduce_sum
from j2o.passes.lower.table import LOWERINGS, Lowering, lower


@lower("psum", "psum_invariant", "pmax", "pmin")
def reduced(
    op: Lowering, *operands: Value, axes: Sequence[Any], **_: Any
) -> list[Value]:
    rule = {"pmax": reduce_max, "pmin": reduce_min}.get(op.source.kind, reduce_sum)
    return [rule(op, x, axes=[a for a in axes if type(a) is int]) for x in operands]


LOWERINGS |= {
    **dict.fromkeys(
        [
            "all_gather",
            "all_gather_invariant",
            "all_gather_reduced",
            "reduce_scatter",
            "all_to_all",
        ],
        lambda op, x, **_: op.reshape(x, op.out_shape),
    ),
    # what no device sends is 0
    "ppermute": lambda op, *xs, perm, **_: [
        x if perm else op.full(x.type.shape, 0, x.type.dtype) for x in xs
    ],
    "axis_index": lambda op, **_: op.const(0, DType.I32),
}
