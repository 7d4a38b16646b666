"""Convolutions: `conv_general_dilated` as Conv, ConvTranspose, ConvInteger, or a MatMul of patches.

Operands are brought to ONNX's layout first: the data to (batch, channels, space…), the weights to
(channels of the result, channels, space…). All that follows works in that layout. Sources:
`jax.lax.conv_general_dilated` (XLA's Conv), ONNX's Conv, ConvTranspose, ConvInteger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, Type, same_dim
from j2o.passes.lower.casts import convert
from j2o.passes.lower.dot import accumulator, contract, pick
from j2o.passes.lower.shape import Padding, arange, first_of_each, pad_with, rev
from j2o.passes.lower.table import Lowering, lower
from j2o.passes.lower.window_padding import (
    AxisPadding,
    Room,
    low_then_high,
    own_windows,
    pads_with_room,
    room_for,
    room_for_one,
    same_padding,
    with_room,
)

BYTES = frozenset({DType.I8, DType.U8})


@dataclass(frozen=True)
class ConvParams:
    """The parameters of a convolution in ONNX's layout, one entry an axis of space.

    `out` is the shape of the whole result in that layout.
    """

    strides: Sequence[int]
    padding: Sequence[AxisPadding]
    lhs_dilation: Sequence[int]
    rhs_dilation: Sequence[int]
    groups: Dim
    out: Shape

    @property
    def is_dense(self) -> bool:
        """True where neither the data nor the weights have gaps between their elements."""
        dilations = (*self.lhs_dilation, *self.rhs_dilation)
        return all(d == 1 for d in dilations)


@lower("conv_general_dilated")
def conv_general_dilated(
    op: Lowering,
    x: Value,
    w: Value,
    *,
    window_strides: Sequence[int],
    padding: Sequence[AxisPadding],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: Dim = 1,
    batch_group_count: Dim = 1,
    preferred_element_type: DType | None = None,
    **_: Any,
) -> Value:
    """Layouts become transposes, batch groups become feature groups; then comes the operator that fits."""
    if _has_no_elements(op.out_shape, x.type.shape, w.type.shape):
        return op.full(op.out_shape, 0, op.out_dtype)  # nothing, or sums of nothing
    spec = dimension_numbers
    x = op.transpose(x, spec.lhs_spec)
    w = op.transpose(w, spec.rhs_spec)
    groups = feature_group_count
    if not same_dim(batch_group_count, 1):
        groups = batch_group_count
        x = _batch_groups_to_channels(op, x, groups)
    out = pick(op.out_shape, spec.out_spec)
    params = ConvParams(
        window_strides, padding, lhs_dilation, rhs_dilation, groups, out
    )
    sums_dtype = accumulator(op, x, w, preferred_element_type)
    y = convert(op, _convolve(op, x, w, params, sums_dtype), op.out_dtype)
    to_jax_layout = np.argsort(spec.out_spec).tolist()
    return op.transpose(y, to_jax_layout)


def _has_no_elements(*shapes: Shape) -> bool:
    """Return True where one of the shapes is known to have no elements."""
    return any(same_dim(d, 0) for shape in shapes for d in shape)


def _batch_groups_to_channels(op: Lowering, x: Value, groups: Dim) -> Value:
    """Group g of the batch meets group g of the filters: the same as groups of channels."""
    batch, channels, *space = x.type.shape
    each = dims.floordiv(batch, groups)
    split = op.reshape(x, (groups, each, channels, *space))
    others = range(2, split.type.rank)
    turned = op.transpose(split, (1, 0, *others))
    all_channels = dims.mul(groups, channels)
    return op.reshape(turned, (each, all_channels, *space))


def _convolve(
    op: Lowering, x: Value, w: Value, params: ConvParams, dtype: DType
) -> Value:
    """The operator that fits, summing in `dtype`; where none does, a MatMul."""
    fits_operators = type(params.groups) is int and x.type.rank > 2
    if fits_operators and _is_of_bytes(op, x, w):
        return _direct(op, "ConvInteger", x, w, params, DType.I32)
    x = op.cast(x, dtype)
    w = op.cast(w, dtype)
    if not fits_operators or not op.supports("Conv", dtype):
        return _patches_times_weights(op, x, w, params)
    if _is_transposed(x, params):
        return _transposed(op, x, w, params)
    return _direct(op, "Conv", x, w, params, dtype)


def _is_of_bytes(op: Lowering, x: Value, w: Value) -> bool:
    """Return True where ConvInteger does it: its sums are exact modulo 2**32."""
    gives_integers = op.out_dtype.is_int and op.out_dtype.bits <= 32
    return gives_integers and {x.type.dtype, w.type.dtype} <= BYTES


# ------------------------------------------------------------------------------------ Conv, ConvInteger


def _direct(
    op: Lowering, operator: str, x: Value, w: Value, params: ConvParams, dtype: DType
) -> Value:
    """Conv or ConvInteger.

    What their `pads` cannot say (negative, symbolic, between the elements) is padded before.
    """
    kernel = w.type.shape[2:]
    sizes = x.type.shape[2:]
    out = params.out
    pads = auto = None
    if params.is_dense:
        auto = same_padding(sizes, kernel, params.strides, params.padding)
    rooms: list[Room] = []
    if auto is None:
        left = _pads_of_operator(params)
        x = _padded(op, x, params, left)
        rooms = _rooms(x, w, params, left)
        space = range(2, x.type.rank)
        x = with_room(op, x, space, rooms, 0)
        pads = pads_with_room(left, rooms)
        out = (*out[:2], *[room.windows for room in rooms])
    y = op.apply(
        f"onnx.{operator}",
        x,
        w,
        strides=tuple(params.strides),
        dilations=tuple(params.rhs_dilation),
        group=params.groups,
        pads=pads,
        auto_pad=auto,
        types=[Type(dtype, out)],
    )
    return own_windows(op, y, [Room(1)] * 2 + rooms, params.out)


def _rooms(
    x: Value, w: Value, params: ConvParams, pads: Sequence[AxisPadding]
) -> list[Room]:
    """How each axis of space has room for one window."""
    rooms: list[Room] = []
    for i, size in enumerate(x.type.shape[2:]):
        reach = _reach(w.type.shape[2 + i], params.rhs_dilation[i])
        window = dims.add(reach, 1)
        rooms.append(room_for(size, pads[i], window, params.strides[i]))
    return rooms


def _reach(kernel: Dim, dilation: int) -> Dim:
    """How far the last element of a window lies from its first."""
    return dims.mul(dims.sub(kernel, 1), dilation)


def _pads_of_operator(params: ConvParams) -> list[tuple[int, int]]:
    """The padding of each axis where `pads` can say it, which is known and not negative; else (0, 0)."""
    left = []
    for low, high in params.padding:
        if _can_hold(low) and _can_hold(high):
            left.append((int(low), int(high)))
        else:
            left.append((0, 0))
    return left


def _can_hold(amount: Dim) -> bool:
    """Return True for an amount that an operator's `pads` can say."""
    return type(amount) is int and amount >= 0


def _padded(
    op: Lowering, x: Value, params: ConvParams, left: Sequence[tuple[int, int]]
) -> Value:
    """`x` dilated, and padded but for what is left to the operator."""
    config: list[Padding] = [(0, 0, 0), (0, 0, 0)]
    for i, dilation in enumerate(params.lhs_dilation):
        low, high = params.padding[i]
        low_left, high_left = left[i]
        low = dims.sub(low, low_left)
        high = dims.sub(high, high_left)
        config.append((low, high, dilation - 1))
    return pad_with(op, x, op.const(0, x.type.dtype), config)


# --------------------------------------------------------------------------------- transposed convolutions


def _is_transposed(x: Value, params: ConvParams) -> bool:
    """Return True where the convolution spreads its input.

    ConvTranspose then multiplies with none of the zeros in between. The input must grow: of one that shrinks
    (the gradient of weights is such a case) most would be computed to be cut off. It must have elements: JAX
    spreads none of them to none, which ConvTranspose's formula does not say.
    """
    spreads = any(d != 1 for d in params.lhs_dilation)
    if not spreads or any(s != 1 for s in params.strides):
        return False
    sizes = x.type.shape[2:]
    has_elements = all(dims.known_ge(size, 1) for size in sizes)
    return has_elements and all(map(dims.known_ge, params.out[2:], sizes))


class TransposedAxis(NamedTuple):
    """The padding of one axis for ConvTranspose, which cuts its full result by `pads`.

    `after` is what its attributes cannot hold: it is padded, or cut where negative, after the operator.
    """

    pads: tuple[int, int]
    output_padding: int
    after: Padding


def _transposed_axis(
    padding: AxisPadding, kernel: Dim, dilation: int, spacing: int
) -> TransposedAxis:
    """The amounts for one axis.

    The full result has `reach` elements more at each end than that of `conv_general_dilated` without padding.
    """
    reach = _reach(kernel, dilation)
    cut_low = dims.sub(reach, padding[0])
    cut_high = dims.sub(reach, padding[1])
    held_low, held_high = _held(cut_low), _held(cut_high)
    more = -cut_high if type(cut_high) is int else 0
    if not 0 < more < spacing:
        more = 0
    after_low = dims.sub(held_low, cut_low)
    after_high = dims.sub(dims.sub(held_high, cut_high), more)
    return TransposedAxis((held_low, held_high), more, (after_low, after_high, 0))


def _held(cut: Dim) -> int:
    """An amount as `pads` can hold it; 0 where it cannot."""
    return int(cut) if _can_hold(cut) else 0


def _transposed(op: Lowering, x: Value, w: Value, params: ConvParams) -> Value:
    """ConvTranspose of the reversed weights, cut and padded to what `conv_general_dilated` gives.

    The operator counts on one element at least along each axis; where there may be none, a zero is added.
    """
    space = range(2, x.type.rank)
    rooms = [room_for_one(size) for size in x.type.shape[2:]]
    x = with_room(op, x, space, rooms, 0)
    axes = []
    for axis, padding in enumerate(params.padding):
        kernel = w.type.shape[2 + axis]
        dilation = params.rhs_dilation[axis]
        spacing = params.lhs_dilation[axis]
        axes.append(_transposed_axis(padding, kernel, dilation, spacing))
    output_padding = tuple(axis.output_padding for axis in axes)
    full = op.ConvTranspose(
        x,
        _weights_of_transposed(op, w, params.groups),
        strides=tuple(params.lhs_dilation),
        dilations=tuple(params.rhs_dilation),
        group=params.groups,
        pads=low_then_high([axis.pads for axis in axes]),
        output_padding=output_padding if any(output_padding) else None,
    )
    after = [(0, 0, 0), (0, 0, 0)]
    after += [axis.after for axis in axes]
    y = pad_with(op, full, op.const(0, x.type.dtype), after)
    return first_of_each(op, y, params.out)


def _weights_of_transposed(op: Lowering, w: Value, groups: Dim) -> Value:
    """Weights `(out, in / groups, …)` as ConvTranspose takes them.

    Those are `(in, out / groups, …)`, reversed in space.
    """
    space = range(2, w.type.rank)
    to_reverse = [a for a in space if not same_dim(w.type.shape[a], 1)]
    w = rev(op, w, dimensions=to_reverse)
    if same_dim(groups, 1):
        return op.transpose(w, (1, 0, *space))
    out, inner, *kernel = w.type.shape
    each = dims.floordiv(out, groups)
    split = op.reshape(w, (groups, each, inner, *kernel))
    others = range(3, split.type.rank)
    turned = op.transpose(split, (0, 2, 1, *others))
    all_inner = dims.mul(groups, inner)
    return op.reshape(turned, (all_inner, each, *kernel))


# ------------------------------------------------------------------------------- where Conv has no kernel


def _patches_times_weights(
    op: Lowering, x: Value, w: Value, params: ConvParams
) -> Value:
    """Gather what each position of the result sees, and contract it with the weights.

    That is one MatMul, of any dtype that MatMul takes.
    """
    filters, inner, *kernel = w.type.shape
    space = params.out[2:]
    n = len(kernel)
    x = _patches(op, x, kernel, params)
    batch, _, *patches = x.type.shape
    each = dims.floordiv(filters, params.groups)
    x = op.reshape(x, (batch, params.groups, inner, *patches))
    w = op.reshape(w, (params.groups, each, inner, *kernel))
    x_over = [2, *range(4, 4 + 2 * n, 2)]
    w_over = [2, *range(3, 3 + n)]
    y = contract(op, x, w, x_over, w_over, [1], [0])
    y = op.reshape(y, (params.groups, batch, *space, each))
    space_axes = range(2, 2 + n)
    channels_second = op.transpose(y, (1, 0, 2 + n, *space_axes))
    return op.reshape(channels_second, params.out)


def _patches(
    op: Lowering, x: Value, kernel: Sequence[Dim], params: ConvParams
) -> Value:
    """What each position of the result sees.

    That is (batch, channels, out of axis 0, kernel of axis 0, out of axis 1, …), made from the last axis on.
    """
    x = _padded(op, x, params, [(0, 0)] * len(kernel))
    for i in reversed(range(len(kernel))):
        axis = 2 + i
        stride = params.strides[i]
        dilation = params.rhs_dilation[i]
        seen = _positions(op, params.out[axis], kernel[i], stride, dilation)
        x = op.Gather(x, seen, axis=axis)
    return x


def _positions(
    op: Lowering, out: Dim, kernel: Dim, stride: int, dilation: int
) -> Value:
    """`i64[out, kernel]`: where along the input each element of each window lies."""
    if type(out) is int and type(kernel) is int:
        starts = np.arange(out)[:, None] * stride
        offsets = np.arange(kernel) * dilation
        return op.const(starts + offsets)
    windows = op.unsqueeze(arange(op, out, DType.I64), [1])
    places = arange(op, kernel, DType.I64)
    return op.Add(op.Mul(windows, stride), op.Mul(places, dilation))
