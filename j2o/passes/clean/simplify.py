"""Algebra: rules that hold for every value, infinities, NaN and signed zeros included.

One of them gives a zero the sign that it has in XLA: x + 0. Two of them round once where the program
rounds twice: x (1 / y) and x / (1 / y).
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from j2o.ir.graph import Node
from j2o.ir.types import DType
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleSet, identities, rewrite

# ------------------------------------------------------------------------------------------- x as it is
#
# These are x for NaN, infinities and both zeros.


def _x(op, x):
    return x


NOTHING = identities(
    {
        "identity": (lambda op, x: op.Identity(x), _x),
        # x + 0.0 is 0.0 for x = -0.0, but JAX gives -0.0 under `jit`, as XLA takes the addition away
        "add_zero": (lambda op, x: op.Add(x, 0), _x),
        "add_negative_zero": (lambda op, x: op.Add(x, -0.0), _x),
        "sub_zero": (lambda op, x: op.Sub(x, 0), _x),
        "mul_one": (lambda op, x: op.Mul(x, 1), _x),
        "div_one": (lambda op, x: op.Div(x, 1), _x),
        "pow_one": (lambda op, x: op.Pow(x, 1), _x),
        # a negation turns the sign alone, that of zeros, infinities and NaN too
        "neg_neg": (lambda op, x: op.Neg(op.Neg(x)), _x),
        # Booleans have two values, and no NaN
        "not_not": (lambda op, x: op.Not(op.Not(x)), _x),
        "and_same": (lambda op, x: op.And(x, x), _x),
        "or_same": (lambda op, x: op.Or(x, x), _x),
        "and_true": (lambda op, x: op.And(x, True), _x),
        "or_false": (lambda op, x: op.Or(x, False), _x),
        # these give NaN where an operand is NaN
        "max_same": (lambda op, x: op.Max(x, x), _x),
        "min_same": (lambda op, x: op.Min(x, x), _x),
    },
    level=1,
)


@rewrite("pow_two", level=1)
def pow_two(op, x):
    return op.Pow(x, 2)


@pow_two.becomes
def _(op, x):
    return op.Mul(x, x)


# ----------------------------------------------------------------------------------------------- signs
#
# A negation turns the sign alone, that of zeros, infinities and NaN too, and rounds nothing; a subtraction
# is the sum with it.


@rewrite("abs_neg", level=1)
def abs_neg(op, x):
    return op.Abs(op.Neg(x))


@abs_neg.becomes
def _(op, x):
    return op.Abs(x)


@rewrite("add_neg", level=1)
def add_neg(op, x, y):
    return op.Add(x, op.Neg(y))


@add_neg.becomes
def _(op, x, y):
    return op.Sub(x, y)


@rewrite("sub_neg", level=1)
def sub_neg(op, x, y):
    return op.Sub(x, op.Neg(y))


@sub_neg.becomes
def _(op, x, y):
    return op.Add(x, y)


@rewrite("scaled_neg", level=1)
def scaled_neg(op, x, c: Const):
    """-x · c is x · -c, as in the exponent of a decay."""
    return op.either(op.Mul(op.Neg(x), c), op.Div(op.Neg(x), c))


@scaled_neg.becomes
def _(op, x, c):
    # of two constants each would hand the sign to the other, for ever
    if x.const is not None or not c.const.is_small:
        return None
    if op.root.op == "onnx.Div" and x.type.dtype.is_int:
        return op.decline(
            "the lowest integer has no negative, so its quotient has another sign"
        )
    return op.apply(op.root.op, x, op.Neg(c))


# -------------------------------------------------------------------------------------------- Booleans
#
# These have two values, and no NaN.


@rewrite("one_less_bool", level=1)
def one_less_bool(op, x, dtype):
    """1 - x is 0 or 1, and 0 is +0 either way."""
    return op.Sub(1, op.Cast(x, to=dtype))


@one_less_bool.becomes
def _(op, x, dtype):
    return op.Cast(op.Not(x), to=dtype) if x.type.dtype == DType.BOOL else None


@rewrite("not_equal_bool", level=1)
def not_equal_bool(op, x):
    return op.Equal(x, False)


@not_equal_bool.becomes
def _(op, x):
    return op.Not(x) if x.type.dtype == DType.BOOL else None


# ------------------------------------------------------------------------------------------ selections
#
# A Where copies what it chooses bit by bit, and what it does not choose has no effect, NaN or not.


@rewrite("where_same", level=1)
def where_same(op, c, x):
    return op.Where(c, x, x)


@where_same.becomes
def _(op, c, x):
    return x


@rewrite("where_true", level=1)
def where_true(op, x, y):
    return op.Where(True, x, y)


@where_true.becomes
def _(op, x, y):
    return x


@rewrite("where_false", level=1)
def where_false(op, x, y):
    return op.Where(False, x, y)


@where_false.becomes
def _(op, x, y):
    return y


@rewrite("where_not", level=1, shared=True)
def where_not(op, c, x, y):
    return op.Where(op.Not(c), x, y)


@where_not.becomes
def _(op, c, x, y):
    return op.Where(c, y, x)


@rewrite("where_both", level=1)
def where_both(op, a, b, x, y):
    """Two masks that hide with the same number: Booleans are cheaper to combine."""
    return op.Where(a, op.Where(b, x, y), y)


@where_both.becomes
def _(op, a, b, x, y):
    return op.Where(op.And(a, b), x, y)


@rewrite("where_either", level=1)
def where_either(op, a, b, x, y):
    return op.Where(a, x, op.Where(b, x, y))


@where_either.becomes
def _(op, a, b, x, y):
    return op.Where(op.Or(a, b), x, y)


@rewrite("where_unless", level=1)
def where_unless(op, a, b, x, y: Const):
    """A mask that tells what is hidden, behind one that tells what is shown."""
    return op.Where(a, y, op.Where(b, x, y))


@where_unless.becomes
def _(op, a, b, x, y):
    return op.Where(op.And(op.Not(a), b), x, y)


@rewrite("integer_is_no_nan", level=1)
def integer_is_no_nan(op, x, other, y):
    """What replaces NaN in the floats of integers is never taken."""
    return op.Where(op.IsNaN(op.Cast(x, to=...)), other, y)


@integer_is_no_nan.becomes
def _(op, x, other, y):
    return None if x.type.dtype.is_float else y


# -------------------------------------------------------------------------------------------- extremes
#
# Max and Min give NaN where an operand is NaN, so x is the result for x = NaN too. Integers have no
# infinities.


@rewrite("max_lowest", level=1)
def max_lowest(op, x):
    return op.Max(x, -np.inf)


@max_lowest.becomes
def _(op, x):
    return x if x.type.dtype.is_float else None


@rewrite("min_highest", level=1)
def min_highest(op, x):
    return op.Min(x, np.inf)


@min_highest.becomes
def _(op, x):
    return x if x.type.dtype.is_float else None


# ------------------------------------------------------------------------------------------- quotients
#
# 1 / x is Reciprocal bit by bit, infinite for ±0 with its sign. The two that round once keep NaN, zeros and
# infinities; they need a dtype in which the inverse of every normal number is finite.


@rewrite("reciprocal", level=1)
def reciprocal(op, x):
    return op.Div(1, x)


@reciprocal.becomes
def _(op, x):
    return op.Reciprocal(x) if x.type.dtype.is_float else None


def inverse_is_as_large(node: Node) -> bool:
    """Return True where an inverse among the operands has the type of the product."""
    wanted = node.out.type
    for value in node.operands:
        if value.op == "onnx.Reciprocal" and value.type == wanted:
            return True
    return False


@rewrite("mul_reciprocal", level=1, where=inverse_is_as_large)
def mul_reciprocal(op, x, y):
    """x (1 / y) is x / y, unless y is a small tensor, of which the inverse is cheaper."""
    return op.Mul(x, op.Reciprocal(y))


@mul_reciprocal.becomes
def _(op, x, y):
    if y.type != op.out_type:
        return None
    return op.Div(x, y) if inverts(y.type.dtype) else None


@rewrite("div_reciprocal", level=1)
def div_reciprocal(op, x, y):
    """x / (1 / y) is x y."""
    return op.Div(x, op.Reciprocal(y))


@div_reciprocal.becomes
def _(op, x, y):
    return op.Mul(x, y) if inverts(y.type.dtype) else None


def inverts(dtype: DType) -> bool:
    """Return True where the inverse of every normal number is finite.

    The least normal numbers of float16 and of the float8 dtypes have none.
    """
    return dtype in (DType.F32, DType.F64, DType.BF16)


# ----------------------------------------------------------------------------------------- conversions
#
# A dtype that holds every value of another holds its infinities and its NaN as well.


@rewrite("cast_cast", level=1)
def cast_cast(op, x):
    """A conversion to a dtype that holds every value of the first, and on, is one conversion."""
    return op.Cast(op.Cast(x))


@cast_cast.becomes
def _(op, x):
    middle = op.root.operand(0).type.dtype
    if not holds(middle, x.type.dtype):
        return None
    return op.cast(x, op.out_type.dtype)


def holds(wide: DType, narrow: DType) -> bool:
    """Return True where every value of `narrow` is a value of `wide`."""
    if wide == narrow or narrow == DType.BOOL:
        return True
    if narrow.is_int and wide.is_int:
        return wide.bits > narrow.bits and (wide.is_signed or narrow.is_unsigned)
    if not wide.is_float or wide.bits < 16:  # narrower ones lack infinities or zeros
        return False
    if narrow.is_float:
        return _holds_floats(wide, narrow)
    return narrow.is_int and narrow.bits <= ml_dtypes.finfo(wide.numpy).nmant + 1


def _holds_floats(wide: DType, narrow: DType) -> bool:
    """Return True where a float dtype reaches as far, as near to 0, and as finely as another."""
    outer, inner = ml_dtypes.finfo(wide.numpy), ml_dtypes.finfo(narrow.numpy)
    if outer.maxexp < inner.maxexp or outer.nmant < inner.nmant:
        return False
    return float(outer.smallest_subnormal) <= float(inner.smallest_subnormal)


simplify = RuleSet(
    "simplify",
    (
        *NOTHING,
        pow_two,
        abs_neg,
        add_neg,
        sub_neg,
        scaled_neg,
        one_less_bool,
        not_equal_bool,
        where_same,
        where_true,
        where_false,
        where_not,
        where_both,
        where_either,
        where_unless,
        integer_is_no_nan,
        max_lowest,
        min_highest,
        reciprocal,
        mul_reciprocal,
        div_reciprocal,
        cast_cast,
    ),
    doc="Algebra and conversions that do nothing.",
)
