"""The `lax` dialect: one operation a JAX primitive, named as JAX names it.

There is no inference: types come from JAX's own avals.
"""

from __future__ import annotations

from j2o.ir.ops import OpSpec, register_dialect

EFFECTFUL = frozenset(
    {
        "debug_callback",
        "io_callback",
        "random_seed_effect",
        "while_effect",
    }
)
COMMUTATIVE = frozenset({"add", "and", "eq", "max", "min", "mul", "ne", "or", "xor"})


def _find(kind: str) -> OpSpec:
    """What is known of a primitive: by its name, since JAX's are not listed anywhere."""
    return OpSpec(pure=kind not in EFFECTFUL, commutative=kind in COMMUTATIVE)


register_dialect("lax", _find)
