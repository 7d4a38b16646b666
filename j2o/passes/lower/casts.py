"""Conversions between dtypes: of values, of bits, of precision."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.table import LOWERINGS, Lowering, lower, lower_with


def convert(op: Lowering, x: Value, to: DType) -> Value:
    """A conversion as XLA does it: floats saturate to integers and NaN becomes 0; what a Cast leaves open is made up for."""
    source = x.type.dtype
    if source == to:
        return x
    if to == DType.BOOL:
        return op.Not(op.Equal(x, op.const(0, source))) if source != DType.BOOL else x
    if source.is_float and to.is_int:
        return _float_to_int(op, x, to)
    if to == DType.F8E8M0FNU:
        return _to_power_of_two(op, x)
    overflows = source.is_float or (source.is_int and source.bits > 8)
    return _float_to_float8(op, x, to) if to in FLOAT8 and overflows else op.cast(x, to)


LOWERINGS["convert_element_type"] = lambda op, x, *, new_dtype: convert(
    op, x, new_dtype
)
FLOAT8 = {
    DType.F8E4M3FN: 480.0,
    DType.F8E5M2: 61440.0,
}  # and from where on what is rounded overflows


def _float_to_float8(op: Lowering, x: Value, to: DType) -> Value:
    """What overflows is infinite, or NaN where there is no infinity; onnxruntime has other ends."""
    x = op.cast(x, DType.F32) if x.type.dtype.bits < 16 or x.type.dtype.is_int else x
    beyond = op.GreaterOrEqual(op.Abs(x), op.const(FLOAT8[to], x.type.dtype))
    return op.cast(op.Where(beyond, op.Mul(x, op.const(np.inf, x.type.dtype)), x), to)


def _to_power_of_two(op: Lowering, x: Value) -> Value:
    """float8_e8m0fnu holds 2**-127 to 2**127 and NaN, which stands for 0, negative numbers, and from 1.5 * 2**127 on."""
    x = op.cast(x, DType.F32)
    inside = op.And(op.Greater(x, 0.0), op.Less(x, 1.5 * 2.0**127))
    return op.cast(
        op.Where(
            inside, op.Clip(x, 2.0**-127, 2.0**127), op.const(math.nan, DType.F32)
        ),
        DType.F8E8M0FNU,
    )


def _float_to_int(op: Lowering, x: Value, to: DType) -> Value:
    x = x if x.type.dtype in (DType.F32, DType.F64) else op.cast(x, DType.F32)
    info, carrier = jnp.iinfo(to.numpy), x.type.dtype
    low, top = np.asarray([info.min, info.max], carrier.numpy)
    inside = op.Where(op.IsNaN(x), op.const(0, carrier), x)
    if int(top) <= info.max:
        whole = op.Clip(inside, low, top)
        return op.cast(op.cast(whole, DType.I8) if to.bits < 8 else whole, to)
    # the largest float below 2**n is cast as it is; what lies at or above it saturates by a Where
    cast = op.cast(op.Clip(inside, low, np.nextafter(top, 0, dtype=carrier.numpy)), to)
    return op.Where(op.GreaterOrEqual(inside, top), op.const(int(info.max), to), cast)


@lower("bitcast_convert_type")
def bitcast_convert_type(op: Lowering, x: Value, *, new_dtype: DType) -> Value:
    source = x.type.dtype
    if source == new_dtype:
        return x
    if source.bits == new_dtype.bits:
        return _same_width(op, x, new_dtype)
    unsigned = _same_width(op, x, DType(f"u{source.bits}"))
    narrow, wide = (
        DType(f"u{min(source.bits, new_dtype.bits)}"),
        DType(f"u{max(source.bits, new_dtype.bits)}"),
    )
    n = wide.bits // narrow.bits
    shifts = np.arange(n, dtype=wide.numpy) * narrow.bits
    if new_dtype.bits < source.bits:  # the lowest part comes first
        mask = op.const((1 << narrow.bits) - 1, wide)
        parts = op.BitwiseAnd(
            op.BitShift(op.unsqueeze(unsigned, [-1]), shifts, direction="RIGHT"), mask
        )
        return _same_width(op, op.cast(parts, narrow), new_dtype)
    parts = op.BitShift(op.cast(unsigned, wide), shifts, direction="LEFT")
    pieces = [op.Gather(parts, np.array(i), axis=-1) for i in range(n)]
    return _same_width(op, functools.reduce(op.BitwiseOr, pieces), new_dtype)


def _same_width(op: Lowering, x: Value, to: DType) -> Value:
    source = x.type.dtype
    if source == to:
        return x
    if source.is_int and to.is_int:
        return op.cast(x, to)  # onnxruntime's Cast keeps the bits
    if op.opset >= 26 and op.supports("BitCast", source) and op.supports("BitCast", to):
        return op.BitCast(x, to=to)
    if (source.is_float and source.bits == 8) or (to.is_float and to.bits == 8):
        return op.jax(_through_table, x, to=to)
    if source.is_float:
        bits = op.jax(float_to_bits, x)
        return op.cast(bits, to)
    return op.jax(bits_to_float, op.cast(x, DType(f"u{source.bits}")), to=to)


def _layout(dtype: Any) -> tuple[int, int, int, Any]:
    """The numbers of exponent and mantissa bits of a float dtype, the bias of exponents, and the dtype of its bits."""
    info = jnp.finfo(dtype)
    return (
        info.nexp,
        info.nmant,
        (1 << (info.nexp - 1)) - 1,
        jnp.dtype(f"uint{info.bits}"),
    )


def float_to_bits(x: jax.Array) -> jax.Array:
    """The bits of floats by arithmetic alone, for opsets without BitCast. NaN gets its usual pattern."""
    exponent_bits, mantissa_bits, bias, unsigned = _layout(x.dtype)
    a = jnp.abs(x).astype(jnp.float64)
    scaled = finite = jnp.where(jnp.isfinite(a), a, 1.0)
    e = jnp.zeros(x.shape, jnp.float64)
    step = min(1 << (exponent_bits - 1), 512)
    while step:  # bring the mantissa to [1, 2) by powers of two, exactly
        up, down = scaled >= 2.0**step, scaled < 2.0 ** (1 - step)
        scaled = jnp.where(
            up,
            scaled * 2.0**-step,
            jnp.where(down & (scaled > 0), scaled * 2.0**step, scaled),
        )
        e = e + jnp.where(up, step, jnp.where(down & (finite > 0), -step, 0))
        step //= 2
    normal = e >= 1 - bias
    fraction = jnp.where(
        normal,
        (scaled - 1) * 2.0**mantissa_bits,
        scaled * jnp.exp2(jnp.where(normal, 0.0, e + (bias - 1))) * 2.0**mantissa_bits,
    )
    field = jnp.where(normal, e + bias, 0.0)
    bits = (field.astype(unsigned) << mantissa_bits) | fraction.astype(unsigned)
    top = jnp.asarray((1 << exponent_bits) - 1, unsigned) << mantissa_bits
    bits = jnp.where(a == 0, jnp.asarray(0, unsigned), bits)
    bits = jnp.where(
        jnp.isinf(a),
        top,
        jnp.where(
            jnp.isnan(x), top | jnp.asarray(1 << (mantissa_bits - 1), unsigned), bits
        ),
    )
    negative = (x < 0) | ((x == 0) & (1 / x < 0))
    return bits | (negative.astype(unsigned) << (x.dtype.itemsize * 8 - 1))


def bits_to_float(u: jax.Array, *, to: DType) -> jax.Array:
    """Floats of their bits by arithmetic alone."""
    exponent_bits, mantissa_bits, bias, unsigned = _layout(to.numpy)
    mantissa = (u & jnp.asarray((1 << mantissa_bits) - 1, unsigned)).astype(jnp.float64)
    field = (
        (u >> mantissa_bits) & jnp.asarray((1 << exponent_bits) - 1, unsigned)
    ).astype(jnp.float64)
    e = jnp.maximum(field, 1.0) - bias - mantissa_bits
    value = mantissa + jnp.where(field > 0, 2.0**mantissa_bits, 0.0)
    scaled, left = value, jnp.abs(e)
    for step in (
        512,
        *(512 >> i for i in range(10)),
    ):  # by powers of two, exactly; the largest may be due twice
        now = left >= step
        scaled = jnp.where(
            now, scaled * jnp.where(e > 0, 2.0**step, 2.0**-step), scaled
        )
        left = jnp.where(now, left - step, left)
    special = field == (1 << exponent_bits) - 1
    out = jnp.where(special, jnp.where(mantissa > 0, jnp.nan, jnp.inf), scaled)
    negative = (u >> (u.dtype.itemsize * 8 - 1)) == 1
    return (out * jnp.where(negative, -1.0, 1.0)).astype(to.numpy)


def _through_table(x: jax.Array, *, to: DType) -> jax.Array:
    """Between 8-bit floats and integers: their 256 values are looked up."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        values = np.arange(256, dtype=np.uint8).view(x.dtype).astype(np.float32)
        wide = x.astype(jnp.float32)
        same = (wide[..., None] == values) & (
            jnp.signbit(wide)[..., None] == np.signbit(values)
        )
        same = same | (jnp.isnan(wide)[..., None] & np.isnan(values))
        return jnp.argmax(same, -1).astype(to.numpy)
    values = np.arange(256, dtype=np.uint8).view(to.numpy).astype(np.float32)
    return jnp.asarray(values)[x.astype(jnp.uint8).astype(jnp.int32)].astype(to.numpy)


@lower_with("reduce_precision")
def reduce_precision(
    x: jax.Array, *, exponent_bits: int, mantissa_bits: int
) -> jax.Array:
    """Round to fewer bits: mantissa to nearest even, values past the exponent to infinity, below it to zero."""
    own_exponent, own_mantissa, bias, unsigned = _layout(x.dtype)
    bits = lax.bitcast_convert_type(x, unsigned)
    if mantissa_bits < own_mantissa:
        drop = own_mantissa - mantissa_bits
        last = (bits >> drop) & 1
        bits = bits + last + jnp.asarray((1 << (drop - 1)) - 1, unsigned)
        bits = (bits >> drop) << drop
    if exponent_bits < own_exponent:
        new = (1 << (exponent_bits - 1)) - 1
        field_mask = jnp.asarray(((1 << own_exponent) - 1) << own_mantissa, unsigned)
        field = bits & field_mask
        sign = bits & jnp.asarray(1 << (own_exponent + own_mantissa), unsigned)
        over = field > jnp.asarray((bias + new) << own_mantissa, unsigned)
        under = field <= jnp.asarray((bias - new) << own_mantissa, unsigned)
        bits = jnp.where(over, sign | field_mask, jnp.where(under, sign, bits))
    return jnp.where(
        jnp.isnan(x), x, lax.bitcast_convert_type(bits.astype(unsigned), x.dtype)
    )
