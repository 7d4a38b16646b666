"""What constants are, as rules of this folder ask: a float, one number in all places, nothing but ones."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType

BROADCAST = ("lax.broadcast_in_dim",)  # what makes a tensor of one number, in jaxprs


def float_of(value: Value | None) -> float | None:
    """The one float of a constant, which may be infinite or NaN; None of another value."""
    if value is None or not value.type.dtype.is_float:
        return None
    number = value.number
    return None if number is None else float(number)


def finite_float_of(value: Value | None) -> float | None:
    """The one float of a constant, where it is finite; None of another value."""
    number = float_of(value)
    return number if number is not None and math.isfinite(number) else None


def is_near(number: float | None, wanted: float, dtype: DType) -> bool:
    """Return True where a number is the wanted one but for roundings to a float dtype."""
    if number is None:
        return False
    # twice the error of one rounding: 1 / √2 has two
    rounding = float(ml_dtypes.finfo(dtype.numpy).eps)
    return math.isclose(number, wanted, rel_tol=rounding)


def uniform_of(value: Value) -> float | None:
    """The number that all elements of a small constant are; None of another value."""
    tensor = value.const
    if tensor is None or not tensor.is_small or not tensor.size:
        return None
    elements = tensor.load().astype(np.float64)
    first = elements.flat[0]
    return float(first) if (elements == first).all() else None


def is_all_one(value: Value) -> bool:
    """Return True for a constant of nothing but ones, of a size that is looked through."""
    tensor = value.const
    return tensor is not None and tensor.is_small and bool((tensor.load() == 1).all())
