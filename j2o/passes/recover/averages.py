"""Averages of windows over the elements that are there, without those of the padding.

Frameworks sum the windows of an operand, then those of ones, and divide: Flax's `avg_pool` with
`count_include_pad=False`, Keras's with `padding="same"`. That is one AveragePool:

    reduce_window_sum(x) / reduce_window_sum(ones)   becomes   AveragePool(x), count_include_pad = 0
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, same_dim
from j2o.passes.lower.pooling import dtype_of_pooling, fits_window, pooled
from j2o.passes.lower.window import only_combination
from j2o.passes.lower.window_padding import low_then_high, same_padding
from j2o.passes.lower.window_places import Windows, windows_of
from j2o.passes.recover.constants import BROADCAST, finite_float_of, is_all_one
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# how JAX's primitives say how windows lie
WINDOWS = (
    "window_dimensions",
    "window_strides",
    "padding",
    "base_dilation",
    "window_dilation",
)
Attrs: TypeAlias = "dict[str, Any]"


# ---------------------------------------------------------------------------------- the rules


@rewrite("sums_of_windows", at="lax")
def sums_of_windows(op, x, zero: Const):
    """A reduction of windows that adds, from 0 on: JAX names it only where it sees the 0.

    Lowering finds this too (`reduce_window` in `lower/window.py`), but later than `average_of_present` looks.
    """
    any_windows = dict.fromkeys(WINDOWS, ...)
    return op.lax.reduce_window(x, zero, consts=..., **any_windows)


@sums_of_windows.becomes
def _(op, x, zero):
    (computation,) = op.root.graphs
    combination = only_combination(computation)
    if combination is None or combination.op != "lax.add":
        return None
    if finite_float_of(zero) != 0:
        return op.decline("the sums do not begin at 0")
    windows = {name: op.root.attrs[name] for name in WINDOWS}
    return op.apply("lax.reduce_window_sum", x, types=[op.out_type], **windows)


@rewrite("average_of_present", at="lax")
def average_of_present(op, x, counts):
    """Sums of windows by the numbers of elements in them."""
    any_windows = dict.fromkeys(WINDOWS, ...)
    return op.lax.div(op.lax.reduce_window_sum(x, **any_windows), counts)


@average_of_present.becomes
def _(op, x, counts):
    sums = op.root.operand(0).producer
    attrs: Any = sums.attrs
    windows = windows_of(sums.out.type.shape, **attrs)
    if not x.type.dtype.is_float or not _counts_elements(counts, sums, windows):
        return None
    if any(step != 1 for step in (*windows.base, *windows.dilations)):
        return op.decline("windows with gaps may have no elements")
    axes = _axes_of_space(windows)
    if not 1 <= len(axes) <= 3:
        return op.decline("AveragePool has one to three axes of space")
    padding = _padding(x, windows, axes)
    if padding is None:
        return op.decline("AveragePool cannot do the padding itself")
    return _averages(op, x, windows, axes, padding)


def _counts_elements(counts: Value, sums: Node, windows: Windows) -> bool:
    """Return True for the sums of the same windows over ones."""
    if counts.op != sums.op or counts.producer.attrs != sums.attrs:
        return False
    ones = counts.producer.operand(0)
    x = sums.operand(0)
    for axis, size in enumerate(windows.sizes):
        is_alike = same_dim(ones.type.shape[axis], x.type.shape[axis])
        if not is_alike and not same_dim(size, 1):
            return False
    return is_all_one(ones.origin(BROADCAST))


# ------------------------------------------------------------------------------- the operator


def _axes_of_space(windows: Windows) -> list[int]:
    """The axes that AveragePool pools: all but two, the first and the last of those that stay whole."""
    rank = len(windows.sizes)
    whole = [axis for axis in range(rank) if windows.keeps(axis)]
    batch_and_channel = {*whole[:1], *whole[-1:]}
    return [axis for axis in range(rank) if axis not in batch_and_channel]


def _padding(x: Value, windows: Windows, axes: Sequence[int]) -> Attrs | None:
    """The attributes that say the padding of these axes; None where none can.

    Every window must have an element, and the operand a window.
    """
    sizes: list[Dim] = [windows.sizes[axis] for axis in axes]
    lengths = [x.type.shape[axis] for axis in axes]
    padding = [windows.padding[axis] for axis in axes]
    if not all(dims.known_ge(length, 1) for length in lengths):
        return None
    strides = [windows.strides[axis] for axis in axes]
    auto = same_padding(lengths, sizes, strides, padding)
    if auto is not None:
        return {"auto_pad": auto}
    pads: list[tuple[int, int]] = []
    for length, size, (low, high) in zip(lengths, sizes, padding, strict=True):
        has_elements = fits_window(low, size) and fits_window(high, size)
        padded = dims.add(dims.add(length, low), high)
        if not has_elements or not dims.known_ge(padded, size):
            return None
        pads.append((int(low), int(high)))
    return {"pads": low_then_high(pads)}


def _averages(
    op: RuleBuilder, x: Value, windows: Windows, axes: Sequence[int], padding: Attrs
) -> Value | None:
    """AveragePool over some axes, in a dtype that it has."""
    values = op.cast(x, dtype_of_pooling(x.type.dtype))
    if not op.prefers("AveragePool", values):
        return None
    averages = pooled(
        op,
        values,
        "AveragePool",
        axes,
        windows.counts,
        count_include_pad=0,
        kernel_shape=tuple(windows.sizes[axis] for axis in axes),
        strides=tuple(windows.strides[axis] for axis in axes),
        **padding,
    )
    return op.cast(averages, x.type.dtype)


AVERAGES = (sums_of_windows, average_of_present)
