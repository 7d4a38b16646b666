"""Elementwise primitives: arithmetic, comparison, logic, bits, elementary functions.

One-to-one primitives stand in the table; the others are short rules. `docs/semantics.md` has what they make up for.
onnxruntime's Where turns a -0 of its first branch into 0: where the sign of zero matters, it stands in the second.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.table import (
    DECOMPOSITIONS,
    LOWERINGS,
    Lowering,
    Rule,
    lower,
    lower_elementwise,
    lower_formula,
    lower_with,
)
from j2o.passes.structure.inline import our_platform

lower_elementwise({
    "add": "Add", "sub": "Sub", "neg": "Neg", "abs": "Abs", "floor": "Floor", "ceil": "Ceil", "exp": "Exp",
    "log": "Log", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sqrt": "Sqrt", "eq": "Equal", "ge": "GreaterOrEqual",
    "gt": "Greater", "le": "LessOrEqual", "lt": "Less",
})  # fmt: skip


@lower("stop_gradient", "copy", "copy_p", "optimization_barrier", "sharding_constraint", "pvary", "reduce_precision_identity",
       "mesh_cast", "layout_constraint", "custom_lin_identity", "device_put", "reshard", "pcast", "name", "random_clone")  # fmt: skip
def identity(op: Lowering, *operands: Value, **_: Any) -> tuple[Value, ...]:
    return operands


LOWERINGS |= {
    "platform_index": lambda op, *, platforms: op.const(
        our_platform(platforms), DType.I32
    ),
    "dim_as_value": lambda op, *, dim: op.dim(dim, op.out_dtype),
    "square": lambda op, x: op.Mul(x, x),
    "rsqrt": lambda op, x: op.Reciprocal(op.Sqrt(x)),
    "pow": lambda op, x, y: op.Pow(
        x, op.cast(y, x.type.dtype) if y.type.dtype.is_int else y
    ),
    "is_finite": lambda op, x: op.Less(op.Abs(x), math.inf),
    "mul": lambda op, x, y, *, out_dtype=None: op.Mul(
        *(op.cast(v, out_dtype or v.type.dtype) for v in (x, y))
    ),
}


def _of_bools_or(boolean: str, operator: str) -> Callable[..., Value]:
    """A rule: one operator for bool, the other for the rest."""
    return lambda op, *xs: op.apply(
        f"onnx.{boolean if xs[0].type.dtype == DType.BOOL else operator}", *xs
    )


for _name, _bools, _operator in (
    ("and", "And", "BitwiseAnd"), ("or", "Or", "BitwiseOr"), ("xor", "Xor", "BitwiseXor"), ("not", "Not", "BitwiseNot"),
    ("add_any", "Or", "Add"),
):  # fmt: skip
    lower(_name)(_of_bools_or(_bools, _operator))
max_ = lower("max")(_of_bools_or("Or", "Max"))
min_ = lower("min")(_of_bools_or("And", "Min"))


# ------------------------------------------------------------------------------------------- arithmetic


@lower("logistic")
def logistic(op: Lowering, x: Value) -> Value:
    """Sigmoid; its parts where a logarithm follows: onnxruntime's kernel is 0 from about -16 on, and that -inf."""
    has_logarithm = any(user.op == "lax.log" for user in op.source.out.users())
    if has_logarithm and x.type.dtype in (DType.F32, DType.F64):
        return op.Reciprocal(op.Add(op.Exp(op.Neg(x)), 1.0))
    return op.Sigmoid(x)


@lower("sign")
def sign(op: Lowering, x: Value) -> Value:
    if not x.type.dtype.is_float:
        return op.Sign(x)
    # ONNX Sign gives 0 for NaN and +0 for -0; both keep themselves in JAX
    return op.Where(op.Or(op.Less(x, 0.0), op.Greater(x, 0.0)), op.Sign(x), x)


@lower("div")
def div(op: Lowering, x: Value, y: Value) -> Value:
    if not x.type.dtype.is_int:
        return op.Div(x, y)
    # XLA: x / 0 is -1 (all ones), INT_MIN / -1 is INT_MIN; a processor would trap on both
    safe, zero, wrapped = _safe_divisor(op, x, y)
    quotient = op.Div(x, safe)
    if wrapped is not None:
        quotient = op.Where(wrapped, x, quotient)
    return (
        quotient
        if zero is None
        else op.Where(zero, op.const(np.asarray(-1), x.type.dtype), quotient)
    )


@lower("rem")
def rem(op: Lowering, x: Value, y: Value) -> Value:
    if x.type.dtype.is_float:
        return op.Mod(x, y, fmod=1)
    safe, zero, _ = _safe_divisor(op, x, y)  # x rem -1 is 0, as x rem 1 is
    rest = op.Sub(x, op.Mul(op.Div(x, safe), safe))
    return rest if zero is None else op.Where(zero, x, rest)


def _safe_divisor(
    op: Lowering, x: Value, y: Value
) -> tuple[Value, Value | None, Value | None]:
    """The divisor with 0, and -1 under INT_MIN, made 1; and where these were, None where they cannot be."""
    dtype = x.type.dtype
    known = y.const.load() if y.const is not None and y.const.is_small else None
    zero = op.Equal(y, 0) if known is None or (known == 0).any() else None
    wrapped = None
    if dtype.is_signed and (known is None or (known == -1).any()):
        wrapped = op.And(op.Equal(x, int(np.iinfo(dtype.numpy).min)), op.Equal(y, -1))
    unsafe = (
        zero if wrapped is None else wrapped if zero is None else op.Or(zero, wrapped)
    )
    return (
        (y if unsafe is None else op.Where(unsafe, op.const(1, dtype), y)),
        zero,
        wrapped,
    )


@lower("clamp")
def clamp(op: Lowering, low: Value, x: Value, high: Value) -> Value:
    if (
        low.const is not None
        and high.const is not None
        and not low.type.shape
        and not high.type.shape
    ):
        ordered = low.const.scalar <= high.const.scalar
        if ordered and x.type.shape:
            return op.Clip(x, low, high)
    return min_(op, max_(op, x, low), high)


@lower("integer_pow")
def integer_pow(op: Lowering, x: Value, *, y: int) -> Value:
    if y < 0:
        return op.Reciprocal(integer_pow(op, x, y=-y))
    if y == 0:
        return op.expand(op.const(1, x.type.dtype), x.type.shape)
    out: Value | None = None
    while True:  # by squaring
        if y & 1:
            out = x if out is None else op.Mul(out, x)
        y >>= 1
        if not y:
            assert out is not None
            return out
        x = op.Mul(x, x)


@lower("round")
def round_(op: Lowering, x: Value, *, rounding_method: str) -> Value:
    if rounding_method == "to_nearest_even":
        return op.Round(x)
    # half away from zero; adding a half would carry 0.49999997 to 1
    whole = op.Where(op.Greater(x, 0.0), op.Floor(x), op.Ceil(x))
    away = op.GreaterOrEqual(op.Abs(op.Sub(x, whole)), 0.5)
    return op.Where(away, op.Add(whole, op.Sign(x)), whole)


@lower("ne")
def ne(op: Lowering, x: Value, y: Value) -> Value:
    if x is y and x.type.dtype.is_float:
        return op.IsNaN(x)
    return op.Xor(x, y) if x.type.dtype == DType.BOOL else op.Not(op.Equal(x, y))


@lower_with("nextafter")
def nextafter(x: jax.Array, y: jax.Array) -> jax.Array:
    bits = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    x, y = jnp.broadcast_arrays(x, y)
    i = lax.bitcast_convert_type(x, bits)
    one, low = jnp.asarray(1, bits), jnp.asarray(jnp.iinfo(bits).min, bits)
    moved = jnp.where(
        x == 0,
        jnp.where(y > 0, one, low + one),
        i + jnp.where((x < y) == (i >= 0), one, -one),
    )
    out = lax.bitcast_convert_type(
        jnp.where(x == y, lax.bitcast_convert_type(y, bits), moved), x.dtype
    )
    return jnp.where(jnp.isnan(x) | jnp.isnan(y), jnp.asarray(jnp.nan, x.dtype), out)


# -------------------------------------------------------------------------------------- logic, selection


@lower("select_n")
def select_n(op: Lowering, which: Value, *cases: Value) -> Value:
    if which.type.dtype == DType.BOOL:
        return cases[0] if len(cases) == 1 else where(op, which, cases[1], cases[0])
    out = cases[-1]
    for i in range(len(cases) - 2, -1, -1):
        out = where(op, op.Less(which, i + 1), cases[i], out)
    return out


def where(op: Lowering, condition: Value, x: Value, y: Value) -> Value:
    """Where, on bool operands by logic (there is no such kernel)."""
    if x.type.dtype != DType.BOOL:
        return op.Where(condition, x, y)
    return op.Or(op.And(condition, x), op.And(op.Not(condition), y))


# what only moves elements of its first operand; Pad has a value of its own, which stands in its third
MOVES = frozenset(
    [
        "Expand",
        "Reshape",
        "Transpose",
        "Unsqueeze",
        "Squeeze",
        "Slice",
        "Gather",
        "Identity",
        "Pad",
    ]
)


def never_nan(x: Value) -> bool:
    """Whether no element of `x` can be NaN: it comes from a small constant without one, or from integers."""
    while (node := x.node) is not None:
        if not x.type.dtype.is_float:
            return True
        if x.const is not None:
            return x.const.is_small and not np.isnan(x.const.load()).any()
        widens = (
            node.op == "onnx.Cast" and x.type.dtype.bits >= 16
        )  # a narrower float may have no infinity
        moves = node.dialect == "onnx" and node.kind in MOVES
        operand = node.inputs[0] if moves or widens else None
        filled = node.inputs[2] if node.op == "onnx.Pad" else None
        if operand is None or (filled is not None and not never_nan(filled)):
            return False
        x = operand
    return not x.type.dtype.is_float


def total_order(x: jax.Array) -> jax.Array:
    """Integers in the order of floats: -NaN < -inf < … < -0 < +0 < … < inf < NaN."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    bits = {1: jnp.int8, 2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[x.dtype.itemsize]
    i = lax.bitcast_convert_type(x, bits)
    return jnp.where(i < 0, jnp.asarray(jnp.iinfo(bits).max, bits) ^ i, i)


DECOMPOSITIONS |= {
    "eq_to": lambda x, y: total_order(x) == total_order(y),
    "le_to": lambda x, y: total_order(x) <= total_order(y),
    "lt_to": lambda x, y: total_order(x) < total_order(y),
}


# -------------------------------------------------------------------------------------------------- bits


@lower("shift_left")
def shift_left(op: Lowering, x: Value, n: Value, direction: str = "LEFT") -> Value:
    """By the width or more gives 0: a processor would shift by the rest."""
    dtype, bits = x.type.dtype, x.type.dtype.bits
    unsigned = DType(
        f"u{bits}"
    )  # onnxruntime's Cast between integers of one width keeps the bits
    amount = op.cast(n, unsigned)
    out = op.cast(op.BitShift(op.cast(x, unsigned), amount, direction=direction), dtype)
    known = n.const.load() if n.const is not None and n.const.is_small else None
    if known is not None and ((known >= 0) & (known < bits)).all():
        return out
    return op.Where(op.Less(amount, bits), out, op.const(0, dtype))


@lower("shift_right_logical")
def shift_right_logical(op: Lowering, x: Value, n: Value) -> Value:
    return shift_left(op, x, n, "RIGHT")


@lower("shift_right_arithmetic")
def shift_right_arithmetic(op: Lowering, x: Value, n: Value) -> Value:
    if x.type.dtype.is_unsigned:
        return shift_right_logical(op, x, n)
    # floor division by 2**n is the arithmetic shift; ~(~x >> n) keeps to logical shifts
    negative = op.Less(x, 0)
    flipped = op.Where(negative, op.BitwiseNot(x), x)
    shifted = shift_right_logical(op, flipped, n)
    return op.Where(negative, op.BitwiseNot(shifted), shifted)


@lower_with("population_count")
def population_count(x: jax.Array) -> jax.Array:
    """Warren, Hacker's Delight, 5-1: sums of bits in pairs, fours, bytes."""
    bits = x.dtype.itemsize * 8
    unsigned = jnp.dtype(f"uint{bits}")
    u = x.astype(unsigned)

    def c(pattern: int) -> jax.Array:
        return jnp.asarray(int(f"{pattern:02x}" * (bits // 8), 16), unsigned)

    u = u - ((u >> 1) & c(0x55))
    u = (u & c(0x33)) + ((u >> 2) & c(0x33))
    u = (u + (u >> 4)) & c(0x0F)
    return ((u * c(0x01)) >> (bits - 8)).astype(x.dtype)


@lower_with("clz")
def clz(x: jax.Array) -> jax.Array:
    """Leading zeros: smear the highest bit to the right, then count the ones."""
    bits = x.dtype.itemsize * 8
    u = x.astype(jnp.dtype(f"uint{bits}"))
    shift = 1
    while shift < bits:
        u = u | (u >> shift)
        shift *= 2
    return (bits - lax.population_count(u)).astype(x.dtype)


# ------------------------------------------------------------------------------- elementary functions

lower_with("exp2")(
    lambda x: lax.exp(x * math.log(2))
)  # XLA rounds the product to the operand's dtype, too


@lower_formula("log1p")
def log1p(x: jax.Array) -> jax.Array:
    """Kahan's: log(u) * x / (u - 1) with u = 1 + x corrects what rounding u lost."""
    u = 1 + x
    d = u - 1
    near = lax.log(u) * (x / jnp.where(d == 0, jnp.ones_like(d), d))
    return jnp.where(jnp.abs(d) > 0, jnp.where(jnp.isinf(u), lax.log(u), near), x)


@lower_formula("expm1")
def expm1(x: jax.Array) -> jax.Array:
    """Kahan's: (u - 1) * x / log(u) with u = exp(x)."""
    u = lax.exp(x)
    d = u - 1
    log_u = lax.log(u)
    near = d * (x / jnp.where((log_u == 0) | jnp.isinf(log_u), jnp.ones_like(x), log_u))
    return jnp.where(jnp.abs(d) > 0, jnp.where((d == -1) | jnp.isinf(u), d, near), x)


def direct(operator: str, formula: Callable[[jax.Array], jax.Array]) -> Rule:
    """The operator where the target has it for the dtype, else the formula (for float64)."""

    def rule(op: Lowering, x: Value) -> Value:
        if x.type.dtype != DType.F64 or op.supports(operator, x.type.dtype):
            return op.apply(f"onnx.{operator}", x)
        return op.jax(formula, x)

    return rule


_ATAN_P = (-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
           -1.228866684490136173410e2, -6.485021904942025371773e1)  # fmt: skip
_ATAN_Q = (1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
           4.853903996359136964868e2, 1.945506571482613964425e2)  # fmt: skip


def _atan(x: jax.Array) -> jax.Array:
    """Cephes: reduce the argument to [0, tan(pi/8)], then a rational approximation (Moshier, 1989)."""
    a = jnp.abs(x)
    big, mid = a > 2.41421356237309504880, a > 0.66
    y = jnp.where(big, math.pi / 2, jnp.where(mid, math.pi / 4, 0.0))
    more = jnp.where(
        big,
        6.123233995736765886130e-17,
        jnp.where(mid, 3.061616997868382943065e-17, 0.0),
    )
    a = jnp.where(
        big, -1.0 / jnp.where(a == 0, 1.0, a), jnp.where(mid, (a - 1) / (a + 1), a)
    )
    z = a * a
    r = (
        a
        * (z * jnp.polyval(jnp.array(_ATAN_P), z) / jnp.polyval(jnp.array(_ATAN_Q), z))
        + a
        + more
    )
    return jnp.where(jnp.abs(x) > 0, jnp.where(x < 0, -(y + r), y + r), x)


def _acos(x: jax.Array) -> jax.Array:
    out = 2 * lax.atan2(jnp.sqrt((1 - x) * (1 + x)), 1 + x)
    return jnp.where(x == -1, jnp.asarray(math.pi, x.dtype), out)


for _name, _operator, _formula in (
    ("tan", "Tan", lambda x: lax.sin(x) / lax.cos(x)), ("asin", "Asin", lambda x: 2 * lax.atan2(x, 1 + jnp.sqrt((1 - x) * (1 + x)))),
    ("acos", "Acos", _acos), ("atan", "Atan", _atan),
):  # fmt: skip
    lower(_name)(direct(_operator, _formula))

# onnxruntime's own are poor near 0 (sinh, asinh, atanh cancel) or overflow early


@lower_formula("sinh")
def sinh(x: jax.Array) -> jax.Array:
    e = lax.expm1(jnp.abs(x))
    small = 0.5 * (e + e / (e + 1))
    half = lax.exp(0.5 * jnp.abs(x))
    out = jnp.where(jnp.abs(x) > 20, 0.5 * half * half, small)
    return jnp.where(
        (jnp.abs(x) > 0) & (jnp.abs(x) < jnp.inf), jnp.where(x < 0, -out, out), x
    )


@lower_formula("cosh")
def cosh(x: jax.Array) -> jax.Array:
    half = lax.exp(0.5 * jnp.abs(x))
    e = lax.exp(jnp.abs(x))
    return jnp.where(jnp.abs(x) > 20, 0.5 * half * half, 0.5 * (e + 1 / e))


@lower_formula("asinh")
def asinh(x: jax.Array) -> jax.Array:
    """sign(x) * log(|x| + sqrt(x² + 1)), by log1p near 0 and in the logarithm's scale for large arguments."""
    a = jnp.abs(x)
    large = a > math.sqrt(float(jnp.finfo(x.dtype).max)) / 2
    safe = jnp.where(large, 1.0, a)
    near = lax.log1p(safe + safe * safe / (1 + jnp.sqrt(safe * safe + 1)))
    out = jnp.where(large, lax.log(a) + math.log(2), near).astype(x.dtype)
    return jnp.where(jnp.abs(x) > 0, jnp.where(x < 0, -out, out), x)


@lower_formula("acosh")
def acosh(x: jax.Array) -> jax.Array:
    large = x > math.sqrt(float(jnp.finfo(x.dtype).max)) / 2
    t = jnp.where(large, 1.0, x - 1)
    near = lax.log1p(t + jnp.sqrt(t * (t + 2)))
    return jnp.where(
        x < 1, jnp.nan, jnp.where(large, lax.log(x) + math.log(2), near)
    ).astype(x.dtype)


lower_formula("atanh")(
    lambda x: jnp.where(jnp.abs(x) > 0, 0.5 * (lax.log1p(x) - lax.log1p(-x)), x)
)


@lower_formula("cbrt")
def cbrt(x: jax.Array) -> jax.Array:
    """exp(log|x| / 3), then one Newton step for the last bits."""
    a = jnp.abs(x)
    safe = jnp.where((a == 0) | jnp.isinf(a), jnp.ones_like(a), a)
    y = lax.exp(lax.log(safe) / 3)
    y = y - (y - safe / (y * y)) / 3
    y = jnp.where((a == 0) | jnp.isinf(a), a, y)
    return jnp.where(jnp.abs(x) > 0, jnp.where(x < 0, -y, y), x)


@lower_formula("atan2")
def atan2(y: jax.Array, x: jax.Array) -> jax.Array:
    """The angle of (x, y), quadrant by quadrant, signed zeros and infinities as C has them."""
    x, y = jnp.broadcast_arrays(x, y)
    ax, ay = jnp.abs(x), jnp.abs(y)
    both = jnp.isinf(ax) & jnp.isinf(ay)
    low, high = jnp.minimum(ax, ay), jnp.maximum(ax, ay)
    ratio = jnp.where(
        both, 1.0, low / jnp.where(high == 0, jnp.ones_like(high), high)
    ).astype(x.dtype)
    angle = lax.atan(ratio)
    angle = jnp.where(ay > ax, math.pi / 2 - angle, angle)
    left = (x < 0) | ((x == 0) & (1 / x < 0))
    angle = jnp.where(left, math.pi - angle, angle)
    above = (y > 0) | ((y == 0) & (1 / y > 0))
    out = jnp.where(above, angle, -angle)
    return jnp.where(
        jnp.isnan(x) | jnp.isnan(y), jnp.asarray(jnp.nan, x.dtype), out.astype(x.dtype)
    )
