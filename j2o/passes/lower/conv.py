"""Convolutions: `conv_general_dilated` as Conv, ConvTranspose, ConvInteger, or a MatMul of patches.

Operands are brought to ONNX's layout first: the data to (batch, channels, space…), the weights to
(channels of the result, channels, space…). All that follows works in that layout. Sources:
`jax.lax.conv_general_dilated` (XLA's Conv), ONNX's Conv, ConvTranspose, ConvInteger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, Type, same_dim
from j2o.passes.lower.casts import convert
from j2o.passes.lower.dot import accumulator, contract, pick
from j2o.passes.lower.shape import Padding, arange, first_of_each, pad_with, rev
from j2o.passes.lower.table import Lowering, lower

BYTES = frozenset({DType.I8, DType.U8})
AxisPadding: TypeAlias = tuple[Dim, Dim]  # before, after


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


def low_then_high(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Amounts of padding as ONNX's `pads` has them: before all axes, then after all axes."""
    low = [before for before, _ in pairs]
    high = [after for _, after in pairs]
    return (*low, *high)


class Room(NamedTuple):
    """What is padded behind an axis so that there is one window at least.

    Operators refuse what is smaller; JAX then has no windows. There are `windows` then, `extra` of them too
    many: None where it depends on the size how many.
    """

    windows: Dim
    by_operator: int = 0
    before_it: Dim = 0
    extra: int | None = 0


def room_for(
    size: Dim, pads: AxisPadding, window: Dim, stride: int, most: int | None = None
) -> Room:
    """The room on one axis, of which an operator adds `pads`, and `most` at most behind.

    A whole number of steps makes as many windows too many for all sizes.
    """
    low, high = pads
    length = dims.add(dims.add(size, low), high)
    if dims.known_ge(length, window):
        return Room(_windows_in(length, window, stride))
    if type(window) is int and type(low) is int and type(high) is int:
        least = low + high + dims.known_ge(size, 1)
        extra = -((least - window) // stride)
        more = extra * stride
        windows = _windows_in(dims.add(length, more), window, stride)
        if most is None or high + more <= most:
            return Room(windows, by_operator=more, extra=extra)
        return Room(windows, before_it=more, extra=extra)
    missing = dims.maximum(dims.sub(window, length), 0)
    windows = _windows_in(dims.add(length, missing), window, stride)
    return Room(windows, before_it=missing, extra=None)


def _room_for_one(size: Dim) -> Room:
    """The room for one element on an axis."""
    wanted = dims.maximum(size, 1)
    return Room(wanted, before_it=dims.sub(wanted, size), extra=None)


def _windows_in(length: Dim, window: Dim, stride: int) -> Dim:
    """How many windows an axis has that is not shorter than one."""
    last_start = dims.sub(length, window)
    return dims.add(dims.floordiv(last_start, stride), 1)


def with_room(
    op: Lowering, x: Value, axes: Sequence[int], rooms: Sequence[Room], value: Any
) -> Value:
    """`x`, with `value` behind it where the operator cannot pad."""
    config: list[Padding] = [(0, 0, 0)] * x.type.rank
    for axis, room in zip(axes, rooms, strict=True):
        config[axis] = (0, room.before_it, 0)
    return pad_with(op, x, op.const(value, x.type.dtype), config)


def pads_with_room(
    pads: Sequence[tuple[int, int]], rooms: Sequence[Room]
) -> tuple[int, ...]:
    """`pads` of an operator that makes the room."""
    pairs = zip(pads, rooms, strict=True)
    return low_then_high(
        [(low, high + room.by_operator) for (low, high), room in pairs]
    )


def own_windows(op: Lowering, y: Value, rooms: Sequence[Room], wanted: Shape) -> Value:
    """The windows that JAX has, the first on each axis. `rooms` has an entry for each axis of `y`."""
    if any(room.extra is None for room in rooms):
        return first_of_each(op, y, wanted)
    ends = {axis: -room.extra for axis, room in enumerate(rooms) if room.extra}
    if not ends:
        return y
    return op.apply(
        "onnx.Slice",
        y,
        op.dims([0] * len(ends)),
        op.dims([*ends.values()]),
        op.dims([*ends]),
        types=[y.type.with_shape(wanted)],
    )


def _reach(kernel: Dim, dilation: int) -> Dim:
    """How far the last element of a window lies from its first."""
    return dims.mul(dims.sub(kernel, 1), dilation)


def same_padding(
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    strides: Sequence[int],
    padding: Sequence[AxisPadding],
) -> str | None:
    """`auto_pad`, where symbolic padding is JAX's "SAME" or "SAME_LOWER" on every axis: no sizes at run time.

    None where it is another one, or known. None, too, for windows with gaps between them: onnxruntime takes
    `auto_pad` otherwise there. It does so for dilated windows too, for which the caller must not ask.
    """
    if all(type(low) is int and type(high) is int for low, high in padding):
        return None
    upper = []
    lower = []
    for size, window, stride in zip(sizes, kernel, strides, strict=True):
        if not dims.known_ge(window, stride) or not dims.known_ge(size, 1):
            return None
        total = _same_total(size, window, stride)
        half = dims.floordiv(total, 2)
        more = dims.sub(total, half)
        upper.append((half, more))
        lower.append((more, half))
    given = [tuple(pair) for pair in padding]
    if given == upper:
        return "SAME_UPPER"
    return "SAME_LOWER" if given == lower else None


def _same_total(size: Dim, window: Dim, stride: int) -> Dim:
    """The padding of an axis, of both sides together, by which there are ceil(size / stride) windows."""
    count = dims.ceildiv(size, stride)
    last_start = dims.mul(dims.sub(count, 1), stride)
    needed = dims.add(last_start, window)
    return dims.maximum(dims.sub(needed, size), 0)


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
    rooms = [_room_for_one(size) for size in x.type.shape[2:]]
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
