"""What is padded around windows so that Conv and the operators of pooling see those that JAX sees.

ONNX has `auto_pad`, which follows sizes that are not known, and `pads`, which are numbers. An operator
refuses an axis that is smaller than one window, of which JAX makes a result without elements. Such an axis
gets room for one window, and what is too much is cut off behind.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, Shape
from j2o.passes.lower.shape import Padding, first_of_each, pad_with
from j2o.passes.lower.table import Lowering

AxisPadding: TypeAlias = tuple[Dim, Dim]  # before, after


# ------------------------------------------------------------------------------- auto_pad and pads


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


def low_then_high(pairs: Sequence[tuple[int, int]]) -> tuple[int, ...]:
    """Amounts of padding as ONNX's `pads` has them: before all axes, then after all axes."""
    low = [before for before, _ in pairs]
    high = [after for _, after in pairs]
    return (*low, *high)


# ------------------------------------------------------------------------- room for one window


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


def room_for_one(size: Dim) -> Room:
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
