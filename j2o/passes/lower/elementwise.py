"""Elementwise primitives: arithmetic, comparison, selection, logic, bits.

Primitives that are one ONNX operator are rows of a table; each of the others has a rule that bears its name.
Elementary functions that take more than one operator are in `elementary.py`.
`docs/semantics.md` says what the rules make up for. onnxruntime's Where turns a -0 of its first branch into
0: where the sign of zero matters, it stands in the second.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType
from j2o.passes.lower.table import (
    Lowering,
    lower,
    lower_elementwise,
    lower_with,
)
from j2o.passes.structure.inline import our_platform

# ONNX's operator says the same as the primitive, for every dtype that it may have
lower_elementwise(
    {
        # arithmetic
        "abs": "Abs",
        "add": "Add",
        "ceil": "Ceil",
        "floor": "Floor",
        "neg": "Neg",
        "sub": "Sub",
        # elementary functions
        "cos": "Cos",
        "exp": "Exp",
        "log": "Log",
        "sin": "Sin",
        "sqrt": "Sqrt",
        "tanh": "Tanh",
        # comparisons
        "eq": "Equal",
        "ge": "GreaterOrEqual",
        "gt": "Greater",
        "le": "LessOrEqual",
        "lt": "Less",
    }
)


@lower(
    # there is one device, and one layout
    "device_put",
    "layout_constraint",
    "mesh_cast",
    "pcast",
    "pvary",
    "reshard",
    "sharding_constraint",
    # what they say is for JAX's transformations, or for XLA's scheduling
    "custom_lin_identity",
    "name",
    "optimization_barrier",
    "reduce_precision_identity",
    "stop_gradient",
    # values are never changed in place
    "copy",
    "copy_p",
    "random_clone",
)
def identity(op: Lowering, *operands: Value, **_: Any) -> tuple[Value, ...]:
    return operands


@lower("platform_index")
def platform_index(op: Lowering, *, platforms: Any) -> Value:
    """The branch for the CPU, where JAX's values to compare with come from."""
    return op.const(our_platform(platforms), DType.I32)


@lower("dim_as_value")
def dim_as_value(op: Lowering, *, dim: Dim) -> Value:
    """A symbolic size as a scalar."""
    return op.dim(dim, op.out_dtype)


# ------------------------------------------------------------------------------------------- arithmetic


def is_bool(x: Value) -> bool:
    """Return True for a value of bools."""
    return x.type.dtype == DType.BOOL


@lower("add_any")
def add_any(op: Lowering, x: Value, y: Value) -> Value:
    """The sum of two gradients."""
    return op.Or(x, y) if is_bool(x) else op.Add(x, y)


@lower("max")
def max_(op: Lowering, x: Value, y: Value) -> Value:
    return op.Or(x, y) if is_bool(x) else op.Max(x, y)


@lower("min")
def min_(op: Lowering, x: Value, y: Value) -> Value:
    return op.And(x, y) if is_bool(x) else op.Min(x, y)


@lower("mul")
def mul(op: Lowering, x: Value, y: Value, *, out_dtype: DType | None = None) -> Value:
    """The product; of integers that JAX multiplies into a wider dtype, in that one."""
    left = x if out_dtype is None else op.cast(x, out_dtype)
    right = y if out_dtype is None else op.cast(y, out_dtype)
    return op.result("Mul", left, right)


@lower("square")
def square(op: Lowering, x: Value) -> Value:
    return op.result("Mul", x, x)


@lower("rsqrt")
def rsqrt(op: Lowering, x: Value) -> Value:
    return op.result("Reciprocal", op.Sqrt(x))


@lower("pow")
def pow_(op: Lowering, x: Value, y: Value) -> Value:
    """Integer exponents in the dtype of the base, which has a kernel."""
    return op.Pow(x, op.cast(y, x.type.dtype) if y.type.dtype.is_int else y)


@lower("integer_pow")
def integer_pow(op: Lowering, x: Value, *, y: int) -> Value:
    """By repeated squaring."""
    if y < 0:
        return op.Reciprocal(integer_pow(op, x, y=-y))
    if y == 0:
        return op.expand(op.const(1, x.type.dtype), x.type.shape)
    out: Value | None = None
    while True:
        if y & 1:
            out = x if out is None else op.Mul(out, x)
        y >>= 1
        if not y:
            assert out is not None
            return out
        x = op.Mul(x, x)


@lower("sign")
def sign(op: Lowering, x: Value) -> Value:
    """ONNX's Sign gives 0 for NaN and +0 for -0; both keep themselves in JAX."""
    if not x.type.dtype.is_float:
        return op.Sign(x)
    has_sign = op.Or(op.Less(x, 0.0), op.Greater(x, 0.0))
    return op.Where(has_sign, op.Sign(x), x)


class Divisor(NamedTuple):
    """A divisor of integers without what a processor traps on: that is 1 instead.

    `zero` is where it was 0, `wrapped` where it was -1 under the least number; None where it cannot be.
    """

    safe: Value
    zero: Value | None
    wrapped: Value | None


@lower("div")
def div(op: Lowering, x: Value, y: Value) -> Value:
    """XLA's x / 0 is -1 (all ones) for integers, and its INT_MIN / -1 is INT_MIN."""
    dtype = x.type.dtype
    if not dtype.is_int:
        return op.result("Div", x, y)
    divisor = _safe_divisor(op, x, y)
    quotient = op.Div(x, divisor.safe)
    if divisor.wrapped is not None:
        quotient = op.Where(divisor.wrapped, x, quotient)
    if divisor.zero is None:
        return quotient
    return op.Where(divisor.zero, op.const(np.asarray(-1), dtype), quotient)


@lower("rem")
def rem(op: Lowering, x: Value, y: Value) -> Value:
    """XLA's x rem 0 is x for integers. x rem -1 is 0, as x rem 1 is."""
    if x.type.dtype.is_float:
        return op.Mod(x, y, fmod=1)
    divisor = _safe_divisor(op, x, y)
    multiple = op.Mul(op.Div(x, divisor.safe), divisor.safe)
    rest = op.Sub(x, multiple)
    return rest if divisor.zero is None else op.Where(divisor.zero, x, rest)


def _safe_divisor(op: Lowering, x: Value, y: Value) -> Divisor:
    """A divisor with 1 where the runtime would stop the process: at 0, and at -1 under the lowest number."""
    dtype = x.type.dtype
    known = _known(y)
    zero = wrapped = None
    if known is None or (known == 0).any():
        zero = op.Equal(y, 0)
    if dtype.is_signed and (known is None or (known == -1).any()):
        least, _ = dtype.integers
        wrapped = op.And(op.Equal(x, least), op.Equal(y, -1))
    found = [v for v in (zero, wrapped) if v is not None]
    if not found:
        return Divisor(y, zero, wrapped)
    unsafe = functools.reduce(op.Or, found)
    return Divisor(op.Where(unsafe, op.const(1, dtype), y), zero, wrapped)


def _known(x: Value) -> np.ndarray | None:
    """The elements of a small constant, else None."""
    return x.const.load() if x.const is not None and x.const.is_small else None


@lower("clamp")
def clamp(op: Lowering, low: Value, x: Value, high: Value) -> Value:
    """Clip takes scalars, and must know that they are in order: JAX gives `high` where they are not."""
    if x.type.shape and _in_order(low, high):
        return op.Clip(x, low, high)
    return min_(op, max_(op, x, low), high)


def _in_order(low: Value, high: Value) -> bool:
    """Return True for two constant scalars of which the first is not the greater."""
    if low.const is None or high.const is None:
        return False
    are_scalars = not low.type.shape and not high.type.shape
    return are_scalars and bool(low.const.scalar <= high.const.scalar)


@lower("round")
def round_(op: Lowering, x: Value, *, rounding_method: str) -> Value:
    """Halves to even are ONNX's Round. Away from zero: adding a half would carry 0.49999997 to 1."""
    if rounding_method == "to_nearest_even":
        return op.Round(x)
    whole = op.Where(op.Greater(x, 0.0), op.Floor(x), op.Ceil(x))
    away = op.GreaterOrEqual(op.Abs(op.Sub(x, whole)), 0.5)
    return op.Where(away, op.Add(whole, op.Sign(x)), whole)


@lower_with("nextafter")
def nextafter(x: jax.Array, y: jax.Array) -> jax.Array:
    """The neighbouring float: its bits, read as an integer, are one more or one less."""
    bits_dtype = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    x, y = jnp.broadcast_arrays(x, y)
    bits = lax.bitcast_convert_type(x, bits_dtype)
    one = jnp.asarray(1, bits_dtype)
    sign_bit = jnp.asarray(jnp.iinfo(bits_dtype).min, bits_dtype)
    least_of_its_sign = jnp.where(y > 0, one, sign_bit + one)
    grows = (x < y) == (bits >= 0)
    moved = jnp.where(x == 0, least_of_its_sign, bits + jnp.where(grows, one, -one))
    found = jnp.where(x == y, lax.bitcast_convert_type(y, bits_dtype), moved)
    out = lax.bitcast_convert_type(found, x.dtype)
    is_nan = jnp.isnan(x) | jnp.isnan(y)
    return jnp.where(is_nan, jnp.asarray(jnp.nan, x.dtype), out)


# ------------------------------------------------------------------------------- comparison, selection


@lower("ne")
def ne(op: Lowering, x: Value, y: Value) -> Value:
    """There is no such operator. `x != x` is how programs ask for NaN."""
    if x is y and x.type.dtype.is_float:
        return op.IsNaN(x)
    return op.Xor(x, y) if is_bool(x) else op.Not(op.Equal(x, y))


@lower("is_finite")
def is_finite(op: Lowering, x: Value) -> Value:
    return op.Less(op.Abs(x), math.inf)


@lower("select_n")
def select_n(op: Lowering, which: Value, *cases: Value) -> Value:
    """The element of the case at `which`: True is the second of two."""
    if is_bool(which):
        return cases[0] if len(cases) == 1 else where(op, which, cases[1], cases[0])
    out = cases[-1]
    for i in reversed(range(len(cases) - 1)):
        out = where(op, op.Less(which, i + 1), cases[i], out)
    return out


def where(op: Lowering, condition: Value, x: Value, y: Value) -> Value:
    """Where; of bool operands by logic, for there is no such kernel."""
    if not is_bool(x):
        return op.Where(condition, x, y)
    return op.Or(op.And(condition, x), op.And(op.Not(condition), y))


def total_order(x: jax.Array) -> jax.Array:
    """Integers in the order of floats: -NaN < -inf < … < -0 < +0 < … < inf < NaN."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    width = x.dtype.itemsize
    bits_dtype = {1: jnp.int8, 2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[width]
    bits = lax.bitcast_convert_type(x, bits_dtype)
    all_but_sign = jnp.asarray(jnp.iinfo(bits_dtype).max, bits_dtype)
    return jnp.where(bits < 0, all_but_sign ^ bits, bits)


@lower_with("eq_to")
def eq_to(x: jax.Array, y: jax.Array) -> jax.Array:
    return total_order(x) == total_order(y)


@lower_with("le_to")
def le_to(x: jax.Array, y: jax.Array) -> jax.Array:
    return total_order(x) <= total_order(y)


@lower_with("lt_to")
def lt_to(x: jax.Array, y: jax.Array) -> jax.Array:
    return total_order(x) < total_order(y)


# ------------------------------------------------------------------------------------------- logic, bits


@lower("and")
def and_(op: Lowering, x: Value, y: Value) -> Value:
    return op.And(x, y) if is_bool(x) else op.BitwiseAnd(x, y)


@lower("or")
def or_(op: Lowering, x: Value, y: Value) -> Value:
    return op.Or(x, y) if is_bool(x) else op.BitwiseOr(x, y)


@lower("xor")
def xor(op: Lowering, x: Value, y: Value) -> Value:
    return op.Xor(x, y) if is_bool(x) else op.BitwiseXor(x, y)


@lower("not")
def not_(op: Lowering, x: Value) -> Value:
    return op.Not(x) if is_bool(x) else op.BitwiseNot(x)


@lower("shift_left")
def shift_left(op: Lowering, x: Value, n: Value) -> Value:
    return _shift(op, x, n, "LEFT")


@lower("shift_right_logical")
def shift_right_logical(op: Lowering, x: Value, n: Value) -> Value:
    return _shift(op, x, n, "RIGHT")


@lower("shift_right_arithmetic")
def shift_right_arithmetic(op: Lowering, x: Value, n: Value) -> Value:
    """The floor of x / 2**n for signed integers; XLA repeats the first bit of unsigned ones too.

    `~(~x >> n)` does it where the first bit is set, by a logical shift.
    """
    dtype = x.type.dtype
    if dtype.is_unsigned:
        _, greatest = dtype.integers
        negative = op.Greater(x, greatest // 2)
    else:
        negative = op.Less(x, 0)
    flipped = op.Where(negative, op.BitwiseNot(x), x)
    shifted = shift_right_logical(op, flipped, n)
    return op.Where(negative, op.BitwiseNot(shifted), shifted)


def _shift(op: Lowering, x: Value, n: Value, direction: str) -> Value:
    """BitShift. By the width or more gives 0: a processor would shift by the rest."""
    dtype = x.type.dtype
    # onnxruntime's Cast between integers of one width keeps the bits
    unsigned = DType(f"u{dtype.bits}")
    amount = op.cast(n, unsigned)
    shifted = op.BitShift(op.cast(x, unsigned), amount, direction=direction)
    out = op.cast(shifted, dtype)
    known = _known(n)
    if known is not None and ((known >= 0) & (known < dtype.bits)).all():
        return out
    return op.Where(op.Less(amount, dtype.bits), out, op.const(0, dtype))


class Bits(NamedTuple):
    """The bits of integers as unsigned numbers: `width` of them, in a dtype of 8 bits or more."""

    number: jax.Array
    width: int


def _bits_of(x: jax.Array) -> Bits:
    """The bits of integers, in an unsigned dtype that numpy has."""
    width = jnp.iinfo(x.dtype).bits
    holder = jnp.dtype(f"uint{max(width, 8)}")
    number = x.astype(holder)
    if width < 8:  # a negative number has filled the holder with ones
        number = number & jnp.asarray(2**width - 1, holder)
    return Bits(number, width)


@lower_with("population_count")
def population_count(x: jax.Array) -> jax.Array:
    """Sums of bits in pairs, fours, bytes (Warren, Hacker's Delight, 5-1)."""
    number = _bits_of(x).number
    size = number.dtype.itemsize

    def in_each_byte(byte: int) -> jax.Array:
        return jnp.asarray(int(f"{byte:02x}" * size, 16), number.dtype)

    pairs = number - ((number >> 1) & in_each_byte(0x55))
    fours = (pairs & in_each_byte(0x33)) + ((pairs >> 2) & in_each_byte(0x33))
    eights = (fours + (fours >> 4)) & in_each_byte(0x0F)
    # the product adds all bytes up in the highest one
    total = (eights * in_each_byte(0x01)) >> (8 * (size - 1))
    return total.astype(x.dtype)


@lower_with("clz")
def clz(x: jax.Array) -> jax.Array:
    """Leading zeros: smear the highest bit to the right, then count the ones."""
    smeared, width = _bits_of(x)
    shift = 1
    while shift < width:
        smeared = smeared | (smeared >> shift)
        shift *= 2
    return (width - lax.population_count(smeared)).astype(x.dtype)
