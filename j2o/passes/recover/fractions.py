"""Fractions from bits: how JAX makes random floats.

Its random bits become the mantissa of a float in [1, 2), and 1 is taken off. That is the number that the bits
are, times a power of 2: exact, and no operator is needed that sees the bits of a float.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import rewrite

FLOATS = frozenset([DType.BF16, DType.F16, DType.F32, DType.F64])


@rewrite("fraction", at="lax")
def fraction(op, mantissa, one: Const, dtype):
    """The float in [1, 2) with a mantissa, less 1."""
    unite = getattr(op.lax, "or")  # a keyword of Python
    bits = op.either(unite(mantissa, one), unite(one, mantissa))
    return op.lax.sub(op.lax.bitcast_convert_type(bits, new_dtype=dtype), 1.0)


@fraction.becomes
def _(op, mantissa, one, dtype):
    if dtype not in FLOATS or not _is_exponent_of_one(one, dtype):
        return None
    digits = ml_dtypes.finfo(dtype.numpy).nmant
    if _bits_in_use(mantissa) > digits:
        return op.decline("bits of the mantissa are those of the exponent, too")
    return op.Mul(op.cast(mantissa, dtype), 2.0**-digits)


def _is_exponent_of_one(bits: Value, dtype: DType) -> bool:
    """Return True for the bits of 1.0, as an unsigned integer: its mantissa is 0."""
    tensor = bits.const
    if tensor is None or tensor.size != 1 or bits.type.dtype.bits != dtype.bits:
        return False
    one = np.ones((), dtype.numpy).view(f"u{dtype.bits // 8}")
    return bits.type.dtype.numpy.kind == "u" and int(tensor.scalar) == int(one)


def _bits_in_use(value: Value) -> int:
    """How many of the lowest bits of an unsigned integer may be set."""
    shifted = 0
    while value.op in ("lax.shift_right_logical", "lax.convert_element_type"):
        source = value.producer.operand(0)
        if value.op == "lax.shift_right_logical":
            by = value.producer.operand(1).number
            if by is None:
                break
            shifted += int(by)
        elif not _is_widened(source.type.dtype, value.type.dtype):
            break
        value = source
    return max(value.type.dtype.bits - shifted, 0)


def _is_widened(source: DType, wide: DType) -> bool:
    """Return True where zeros are put in front of an unsigned integer."""
    return source.numpy.kind == "u" and source.bits <= wide.bits


FRACTIONS = (fraction,)
