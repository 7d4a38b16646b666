"""Algebra: rules that hold for every value, infinities, NaN and signed zeros included.

Two of them round once where the program rounds twice: x (1 / y) and x / (1 / y).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.rule import RuleBuilder, RuleSet, identities, rewrite


def _of_int(op: RuleBuilder, x: Value) -> Value | None:
    return x if x.type.dtype.is_int else None


def _inverts(dtype: DType) -> bool:
    """Whether the inverse of every normal number is finite: float16's and float8's least ones have none."""
    return dtype in (DType.F32, DType.F64, DType.BF16)


def _divided(op: RuleBuilder, x: Value, y: Value) -> Value | None:
    """x (1 / y) as x / y, unless y is a small tensor, of which the inverse is cheaper."""
    return op.Div(x, y) if y.type == op.out_type and _inverts(y.type.dtype) else None


def _multiplied(op: RuleBuilder, x: Value, y: Value) -> Value | None:
    """x / (1 / y) as x y."""
    return op.Mul(x, y) if _inverts(y.type.dtype) else None


RULES = identities(
    {
        "identity": (lambda op, x: op.Identity(x), lambda op, x: x),
        "add_zero": (lambda op, x: op.Add(x, 0), _of_int),
        "add_negative_zero": (lambda op, x: op.Add(x, -0.0), lambda op, x: x),  # x + 0.0 is not x for x = -0.0
        "sub_zero": (lambda op, x: op.Sub(x, 0), lambda op, x: x),
        "mul_one": (lambda op, x: op.Mul(x, 1), lambda op, x: x),
        "div_one": (lambda op, x: op.Div(x, 1), lambda op, x: x),
        "pow_one": (lambda op, x: op.Pow(x, 1), lambda op, x: x),
        "pow_two": (lambda op, x: op.Pow(x, 2), lambda op, x: op.Mul(x, x)),
        "neg_neg": (lambda op, x: op.Neg(op.Neg(x)), lambda op, x: x),
        "abs_neg": (lambda op, x: op.Abs(op.Neg(x)), lambda op, x: op.Abs(x)),
        "add_neg": (lambda op, x, y: op.Add(x, op.Neg(y)), lambda op, x, y: op.Sub(x, y)),
        "sub_neg": (lambda op, x, y: op.Sub(x, op.Neg(y)), lambda op, x, y: op.Add(x, y)),
        "not_not": (lambda op, x: op.Not(op.Not(x)), lambda op, x: x),
        "not_equal_bool": (lambda op, x: op.Equal(x, False), lambda op, x: op.Not(x) if x.type.dtype == DType.BOOL else None),
        "where_same": (lambda op, c, x: op.Where(c, x, x), lambda op, c, x: x),
        "where_true": (lambda op, x, y: op.Where(True, x, y), lambda op, x, y: x),
        "where_false": (lambda op, x, y: op.Where(False, x, y), lambda op, x, y: y),
        "where_not": (lambda op, c, x, y: op.Where(op.Not(c), x, y), lambda op, c, x, y: op.Where(c, y, x)),
        "max_same": (lambda op, x: op.Max(x, x), lambda op, x: x),
        "min_same": (lambda op, x: op.Min(x, x), lambda op, x: x),
        "and_same": (lambda op, x: op.And(x, x), lambda op, x: x),
        "or_same": (lambda op, x: op.Or(x, x), lambda op, x: x),
        "and_true": (lambda op, x: op.And(x, True), lambda op, x: x),
        "or_false": (lambda op, x: op.Or(x, False), lambda op, x: x),
        "max_lowest": (lambda op, x: op.Max(x, -np.inf), lambda op, x: x if x.type.dtype.is_float else None),
        "min_highest": (lambda op, x: op.Min(x, np.inf), lambda op, x: x if x.type.dtype.is_float else None),
        "reciprocal": (lambda op, x: op.Div(1, x), lambda op, x: op.Reciprocal(x) if x.type.dtype.is_float else None),
        "mul_reciprocal": (lambda op, x, y: op.Mul(x, op.Reciprocal(y)), _divided),
        "div_reciprocal": (lambda op, x, y: op.Div(x, op.Reciprocal(y)), _multiplied),
    },
    level=1,
)  # fmt: skip


@rewrite("cast_cast", level=1)
def cast_cast(op, x):
    """A conversion to a dtype that holds every value of the first, and on, is one conversion."""
    return op.Cast(op.Cast(x))


@cast_cast.becomes
def _(op, x):
    middle, last = op.root.inputs[0].type.dtype, op.out_type.dtype
    if not holds(middle, x.type.dtype):
        return None
    return op.cast(x, last)


def holds(wide: DType, narrow: DType) -> bool:
    """Whether every value of `narrow` is a value of `wide`."""
    if wide == narrow or narrow == DType.BOOL:
        return True
    if narrow.is_int and wide.is_int:
        return wide.bits > narrow.bits and (wide.is_signed or narrow.is_unsigned)
    if not wide.is_float or wide.bits < 16:  # narrower ones lack infinities or zeros
        return False
    form = ml_dtypes.finfo(wide.numpy)
    if not narrow.is_float:
        return narrow.is_int and narrow.bits <= form.nmant + 1
    kept = ml_dtypes.finfo(narrow.numpy)
    reaches = form.maxexp >= kept.maxexp and float(form.smallest_subnormal) <= float(
        kept.smallest_subnormal
    )
    return reaches and form.nmant >= kept.nmant


simplify = RuleSet(
    "simplify", (*RULES, cast_cast), doc="Algebra and conversions that do nothing."
)
