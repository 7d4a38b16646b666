"""Conversions between dtypes: of values, of bits, of precision."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.lower.table import Lowering, lower, lower_with

# ----------------------------------------------------------------------------------------------- values


@lower("convert_element_type")
def convert_element_type(op: Lowering, x: Value, *, new_dtype: DType) -> Value:
    return convert(op, x, new_dtype)


def convert(op: Lowering, x: Value, to: DType) -> Value:
    """A conversion as XLA does it; what ONNX's Cast leaves open is made up for.

    Floats saturate to integers, and NaN becomes 0. All but 0 is True.
    """
    source = x.type.dtype
    if source == to:
        return x
    if to == DType.BOOL:
        return op.Not(op.Equal(x, op.const(0, source)))
    if source.is_float and to.is_int:
        return _float_to_int(op, x, to)
    if to == DType.F8E8M0FNU:
        return _to_power_of_two(op, x)
    if to in FLOAT8_OVERFLOW and _exceeds_float8(source):
        return _to_float8(op, x, to)
    return op.cast(x, to)


# from which number on what is rounded overflows
FLOAT8_OVERFLOW = {DType.F8E4M3FN: 480.0, DType.F8E5M2: 61440.0}


def _exceeds_float8(dtype: DType) -> bool:
    """Return True for a dtype with numbers that are too large for 8 bits."""
    return dtype.is_float or (dtype.is_int and dtype.bits > 8)


def _to_float8(op: Lowering, x: Value, to: DType) -> Value:
    """What overflows is infinite, or NaN where there is no infinity; onnxruntime has other ends."""
    if x.type.dtype.is_int or x.type.dtype.bits < 16:
        x = op.cast(x, DType.F32)
    dtype = x.type.dtype
    limit = op.const(FLOAT8_OVERFLOW[to], dtype)
    overflows = op.GreaterOrEqual(op.Abs(x), limit)
    infinite = op.Mul(x, op.const(np.inf, dtype))
    return op.cast(op.Where(overflows, infinite, x), to)


def _to_power_of_two(op: Lowering, x: Value) -> Value:
    """float8_e8m0fnu holds 2**-127 to 2**127 and NaN.

    NaN stands for 0, for negative numbers, and from 1.5 * 2**127 on.
    """
    x = op.cast(x, DType.F32)
    is_positive = op.Greater(x, 0.0)
    is_representable = op.Less(x, 1.5 * 2.0**127)
    inside = op.And(is_positive, is_representable)
    clipped = op.Clip(x, 2.0**-127, 2.0**127)
    found = op.Where(inside, clipped, op.const(math.nan, DType.F32))
    return op.cast(found, DType.F8E8M0FNU)


def _float_to_int(op: Lowering, x: Value, to: DType) -> Value:
    """Clip to the integers there are, then Cast."""
    if x.type.dtype not in (DType.F32, DType.F64):
        x = op.cast(x, DType.F32)
    carrier = x.type.dtype
    least, greatest = to.integers
    low, top = np.asarray([least, greatest], carrier.numpy)
    number = op.Where(op.IsNaN(x), op.const(0, carrier), x)
    if int(top) > greatest:
        # `top` was rounded up to 2**n: the float below it is cast as it is, from it on a Where saturates
        below = np.nextafter(top, 0, dtype=carrier.numpy)
        inside = op.cast(op.Clip(number, low, below), to)
        is_over = op.GreaterOrEqual(number, top)
        return op.Where(is_over, op.const(greatest, to), inside)
    whole = op.Clip(number, low, top)
    if to.bits < 8:
        whole = op.cast(whole, DType.I8)
    return op.cast(whole, to)


# ------------------------------------------------------------------------------------------------- bits


@lower("bitcast_convert_type")
def bitcast_convert_type(op: Lowering, x: Value, *, new_dtype: DType) -> Value:
    """The same bits as another dtype.

    A narrower one adds an axis of the parts, the lowest first; a wider one takes such an axis away.
    """
    source = x.type.dtype
    if source == new_dtype or source.bits == new_dtype.bits:
        return _same_width(op, x, new_dtype)
    bits = _same_width(op, x, DType(f"u{source.bits}"))
    result = DType(f"u{new_dtype.bits}")
    narrows = result.bits < source.bits
    parts = _parted(op, bits, result) if narrows else _joined(op, bits, result)
    return _same_width(op, parts, new_dtype)


def _parted(op: Lowering, bits: Value, narrow: DType) -> Value:
    """Unsigned integers in narrow parts, along a new last axis."""
    wide = bits.type.dtype
    column = op.unsqueeze(bits, [-1])
    shifted = op.BitShift(column, _shifts(wide, narrow), direction="RIGHT")
    mask = op.const((1 << narrow.bits) - 1, wide)
    return op.cast(op.BitwiseAnd(shifted, mask), narrow)


def _joined(op: Lowering, parts: Value, wide: DType) -> Value:
    """Wide unsigned integers of the parts along the last axis."""
    shifts = _shifts(wide, parts.type.dtype)
    shifted = op.BitShift(op.cast(parts, wide), shifts, direction="LEFT")
    places = map(np.array, range(len(shifts)))
    pieces = [op.Gather(shifted, place, axis=-1) for place in places]
    return functools.reduce(op.BitwiseOr, pieces)


def _shifts(wide: DType, narrow: DType) -> np.ndarray:
    """At which bit of a wide integer each of its narrow parts begins."""
    count = wide.bits // narrow.bits
    return np.arange(count, dtype=wide.numpy) * narrow.bits


def _same_width(op: Lowering, x: Value, to: DType) -> Value:
    """The same bits as a dtype of the same width: BitCast from opset 26 on, before that by arithmetic."""
    source = x.type.dtype
    if source == to:
        return x
    if source.is_int and to.is_int:
        return op.cast(x, to)  # onnxruntime's Cast keeps the bits
    if _has_bit_cast(op, source) and _has_bit_cast(op, to):
        return op.BitCast(x, to=to)
    if _is_float8(source) or _is_float8(to):
        return op.jax(_through_table, x, to=to)
    if source.is_float:
        return op.cast(op.jax(float_to_bits, x), to)
    unsigned = op.cast(x, DType(f"u{source.bits}"))
    return op.jax(bits_to_float, unsigned, to=to)


def _has_bit_cast(op: Lowering, dtype: DType) -> bool:
    """Return True where there is BitCast, and a kernel of it for a dtype."""
    return op.opset >= 26 and op.supports("BitCast", dtype)


def _is_float8(dtype: DType) -> bool:
    return dtype.is_float and dtype.bits == 8


class FloatLayout(NamedTuple):
    """How a float dtype is laid out: sign, exponent, mantissa, from the highest bit on."""

    exponent_bits: int
    mantissa_bits: int
    bias: int  # what the field of the exponent has more than the exponent
    unsigned: Any  # the dtype of the bits

    @property
    def top(self) -> int:
        """The field of the exponent of infinities and NaN: all ones."""
        return (1 << self.exponent_bits) - 1

    @property
    def sign(self) -> Array:
        """The highest bit."""
        return self.integer(1 << (self.exponent_bits + self.mantissa_bits))

    @property
    def infinity(self) -> Array:
        """The exponent all ones, the mantissa 0."""
        return self.integer(self.top << self.mantissa_bits)

    @property
    def quiet_nan(self) -> Array:
        """The usual NaN: as infinity, with the first bit of the mantissa."""
        first = 1 << (self.mantissa_bits - 1)
        return self.infinity | self.integer(first)

    @property
    def mantissa(self) -> Array:
        """The mantissa all ones."""
        return self.integer((1 << self.mantissa_bits) - 1)

    def integer(self, value: int) -> Array:
        return jnp.asarray(value, self.unsigned)


def layout(dtype: Any) -> FloatLayout:
    """The layout of a float dtype."""
    info = jnp.finfo(dtype)
    bias = (1 << (info.nexp - 1)) - 1
    unsigned = jnp.dtype(f"uint{info.bits}")
    return FloatLayout(info.nexp, info.nmant, bias, unsigned)


def float_to_bits(x: Array) -> Array:
    """The bits of floats by arithmetic alone, for opsets without BitCast. NaN gets its usual pattern."""
    form = layout(x.dtype)
    a = jnp.abs(x).astype(jnp.float64)
    finite = jnp.where(jnp.isfinite(a), a, 1.0)
    bits = _bits_of_magnitude(finite, form)
    bits = jnp.where(a == 0, form.integer(0), bits)
    bits = jnp.where(jnp.isnan(x), form.quiet_nan, bits)
    bits = jnp.where(jnp.isinf(a), form.infinity, bits)
    is_negative = (x < 0) | ((x == 0) & (1 / x < 0))
    sign_place = x.dtype.itemsize * 8 - 1
    return bits | (is_negative.astype(form.unsigned) << sign_place)


def _bits_of_magnitude(a: Array, form: FloatLayout) -> Array:
    """The exponent and the mantissa of finite positive numbers."""
    scaled, exponent = _mantissa_and_exponent(a, form.exponent_bits)
    unit = 2.0**form.mantissa_bits
    is_normal = exponent >= 1 - form.bias
    # below that, the field is 0, and the mantissa has no leading 1
    power = jnp.where(is_normal, 0.0, exponent + (form.bias - 1))
    subnormal = scaled * jnp.exp2(power) * unit
    fraction = jnp.where(is_normal, (scaled - 1) * unit, subnormal)
    field = jnp.where(is_normal, exponent + form.bias, 0.0)
    high = field.astype(form.unsigned) << form.mantissa_bits
    return high | fraction.astype(form.unsigned)


def _mantissa_and_exponent(a: Array, exponent_bits: int) -> tuple[Array, Array]:
    """Finite numbers of 0 or more as `mantissa * 2**exponent`, with a mantissa in [1, 2); that of 0 is 0.

    The mantissa gets there by powers of two, which are exact.
    """
    scaled = a
    exponent = jnp.zeros(a.shape, jnp.float64)
    step = min(1 << (exponent_bits - 1), 512)
    while step:
        power = 2.0**step
        is_large = scaled >= power
        is_small = scaled < 2.0 ** (1 - step)
        raised = jnp.where(is_small & (scaled > 0), scaled * power, scaled)
        scaled = jnp.where(is_large, scaled * 2.0**-step, raised)
        taken = jnp.where(is_small & (a > 0), -step, 0)
        added = jnp.where(is_large, step, taken)
        exponent = exponent + added
        step //= 2
    return scaled, exponent


def bits_to_float(u: Array, *, to: DType) -> Array:
    """Floats of their bits by arithmetic alone."""
    form = layout(to.numpy)
    mantissa = (u & form.mantissa).astype(jnp.float64)
    field = (u >> form.mantissa_bits) & form.integer(form.top)
    field = field.astype(jnp.float64)
    leading = jnp.where(field > 0, 2.0**form.mantissa_bits, 0.0)
    whole = mantissa + leading
    exponent = jnp.maximum(field, 1.0) - form.bias - form.mantissa_bits
    scaled = _times_power_of_two(whole, exponent)
    special = jnp.where(mantissa > 0, jnp.nan, jnp.inf)
    out = jnp.where(field == form.top, special, scaled)
    is_negative = (u >> (u.dtype.itemsize * 8 - 1)) == 1
    sign = jnp.where(is_negative, -1.0, 1.0)
    return (out * sign).astype(to.numpy)


POWERS = (512, *(512 >> i for i in range(10)))  # the largest may be due twice


def _times_power_of_two(x: Array, exponent: Array) -> Array:
    """`x * 2**exponent`, exactly: by a few powers, each of which is a float64."""
    left = jnp.abs(exponent)
    is_positive = exponent > 0
    for power in POWERS:
        is_due = left >= power
        factor = jnp.where(is_positive, 2.0**power, 2.0**-power)
        x = jnp.where(is_due, x * factor, x)
        left = jnp.where(is_due, left - power, left)
    return x


def _through_table(x: Array, *, to: DType) -> Array:
    """Between 8-bit floats and integers: their 256 values are looked up."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        values = jnp.asarray(_all_values(to.numpy))
        places = x.astype(jnp.uint8).astype(jnp.int32)
        return values[places].astype(to.numpy)
    values = _all_values(x.dtype)
    wide = x.astype(jnp.float32)[..., None]
    same_sign = jnp.signbit(wide) == np.signbit(values)
    same = (wide == values) & same_sign
    both_nan = jnp.isnan(wide) & np.isnan(values)
    place = jnp.argmax(same | both_nan, -1)
    return place.astype(to.numpy)


def _all_values(dtype: Any) -> np.ndarray:
    """The 256 values of an 8-bit float, in the order of their bits."""
    bits = np.arange(256, dtype=np.uint8)
    return bits.view(dtype).astype(np.float32)


# -------------------------------------------------------------------------------------------- precision


@lower_with("reduce_precision")
def reduce_precision(x: Array, *, exponent_bits: int, mantissa_bits: int) -> Array:
    """Round to fewer bits: the mantissa to nearest even.

    Values past the exponent become infinite, those below it zero.
    """
    form = layout(x.dtype)
    bits = lax.bitcast_convert_type(x, form.unsigned)
    if mantissa_bits < form.mantissa_bits:
        dropped = form.mantissa_bits - mantissa_bits
        bits = _round_mantissa(bits, form, dropped)
    if exponent_bits < form.exponent_bits:
        bias = (1 << (exponent_bits - 1)) - 1
        bits = _limit_exponent(bits, form, bias)
    rounded = lax.bitcast_convert_type(bits.astype(form.unsigned), x.dtype)
    return jnp.where(jnp.isnan(x), x, rounded)


def _round_mantissa(bits: Array, form: FloatLayout, dropped: int) -> Array:
    """Drop so many of the lowest bits, half to even. A carry goes on into the exponent, as it should."""
    last_kept = (bits >> dropped) & 1
    almost_half = form.integer((1 << (dropped - 1)) - 1)
    bits = bits + last_kept + almost_half
    return (bits >> dropped) << dropped


def _limit_exponent(bits: Array, form: FloatLayout, bias: int) -> Array:
    """Exponents as a dtype with another bias has them: above is infinity, below is zero, of the same sign."""
    largest = form.integer((form.bias + bias) << form.mantissa_bits)
    zero = form.integer((form.bias - bias) << form.mantissa_bits)
    sign = bits & form.sign
    field = bits & form.infinity
    bits = jnp.where(field <= zero, sign, bits)
    return jnp.where(field > largest, sign | form.infinity, bits)
