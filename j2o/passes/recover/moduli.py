"""|z|² of complex numbers, as spectra of power are written: re² + im², with no modulus in between."""

from __future__ import annotations

from j2o.ir.types import DType
from j2o.passes.rewriting.rule import RuleSet, rewrite

PARTS = {DType.C64: DType.F32, DType.C128: DType.F64}


@rewrite("power_of_modulus", at="lax")
def power_of_modulus(op, z):
    """The square of a modulus. It is NaN where a part is, also beside an infinite one, as in XLA."""
    size = op.lax.abs(z)
    return op.either(
        op.lax.integer_pow(size, y=2), op.lax.square(size), op.lax.mul(size, size)
    )


@power_of_modulus.becomes
def _(op, z):
    dtype = PARTS.get(z.type.dtype)
    if dtype is None:
        return None
    part = z.type.with_dtype(dtype)
    re = op.apply("lax.real", z, types=[part])
    im = op.apply("lax.imag", z, types=[part])
    squares = [op.apply("lax.mul", each, each, types=[part]) for each in (re, im)]
    return op.apply("lax.add", *squares, types=[part])


moduli = RuleSet(
    "moduli", (power_of_modulus,), at="lax", level=2, doc="Squares of moduli."
)
