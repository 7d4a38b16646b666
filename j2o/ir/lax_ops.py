"""The `lax` dialect: one operation a JAX primitive, named as JAX names it. Types come from JAX's own avals."""

from __future__ import annotations

from j2o.ir.ops import OpSpec, Trait, register_dialect

EFFECTFUL = frozenset({"random_seed_effect", "debug_callback", "io_callback", "pure_callback", "while_effect"})
COMMUTATIVE = frozenset({"add", "mul", "max", "min", "and", "or", "xor", "eq", "ne"})


def _find(kind: str) -> OpSpec:
    traits = {Trait.PURE} if kind not in EFFECTFUL else set()
    if kind in COMMUTATIVE:
        traits.add(Trait.COMMUTATIVE)
    return OpSpec(f"lax.{kind}", frozenset(traits))


register_dialect("lax", _find)
