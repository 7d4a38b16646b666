"""The `lax` dialect: one operation a JAX primitive, named as JAX names it. Types come from JAX's own avals."""

from __future__ import annotations

from j2o.ir.ops import OpSpec, register_dialect

EFFECTFUL = frozenset(
    {"random_seed_effect", "debug_callback", "io_callback", "while_effect"}
)
COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"})

register_dialect(
    "lax",
    lambda kind: OpSpec(pure=kind not in EFFECTFUL, commutative=kind in COMMUTATIVE),
)
