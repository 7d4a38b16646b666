"""Convolutions: `conv_general_dilated` in every form as Conv, ConvTranspose, ConvInteger, or one MatMul of gathered patches.

Operands are brought to ONNX's layout first (batch, channels, spatial…; out channels, in channels, spatial…); all that
follows works on that form. Sources: `jax.lax.conv_general_dilated` (XLA's Conv), ONNX's Conv, ConvTranspose, ConvInteger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, Type, same_dim
from j2o.passes.lower.casts import convert
from j2o.passes.lower.dot import accumulator, contract
from j2o.passes.lower.shape import arange, pad_with, rev, slice_axes
from j2o.passes.lower.table import Lowering, lower

BYTES = frozenset({DType.I8, DType.U8})


@dataclass(frozen=True)
class Form:
    """What a convolution in ONNX's layout has besides its operands; `out` is the shape of the result in that layout."""

    strides: Sequence[int]
    padding: Sequence[tuple[Dim, Dim]]
    lhs_dilation: Sequence[int]
    rhs_dilation: Sequence[int]
    groups: Dim
    out: Shape


@lower("conv_general_dilated")
def conv_general_dilated(
    op: Lowering, x: Value, w: Value, *, window_strides: Sequence[int], padding: Sequence[tuple[Dim, Dim]],
    lhs_dilation: Sequence[int], rhs_dilation: Sequence[int], dimension_numbers: Any, feature_group_count: Dim = 1,
    batch_group_count: Dim = 1, preferred_element_type: DType | None = None, **_: Any,
) -> Value:  # fmt: skip
    """Layouts as transposes, batch groups as feature groups, then the operator that fits."""
    spec = dimension_numbers
    out = tuple(op.out_shape[axis] for axis in spec.out_spec)
    if any(same_dim(d, 0) for v in (op.out_type, x.type, w.type) for d in v.shape):
        return op.full(op.out_shape, 0, op.out_dtype)  # no elements, or sums of none
    x, w = op.transpose(x, spec.lhs_spec), op.transpose(w, spec.rhs_spec)
    if not same_dim(batch_group_count, 1):
        x = _batch_groups_to_channels(op, x, batch_group_count)
    groups = (
        feature_group_count if same_dim(batch_group_count, 1) else batch_group_count
    )
    form = Form(window_strides, padding, lhs_dilation, rhs_dilation, groups, out)
    y = _convolve(op, x, w, form, accumulator(op, x, w, preferred_element_type))
    return op.transpose(
        convert(op, y, op.out_dtype), np.argsort(spec.out_spec).tolist()
    )


def _batch_groups_to_channels(op: Lowering, x: Value, groups: Dim) -> Value:
    """Group g of the batch convolves with group g of the filters: the same as groups of channels."""
    n, c, *spatial = x.type.shape
    each = dims.floordiv(n, groups)
    split = op.transpose(
        op.reshape(x, (groups, each, c, *spatial)), (1, 0, *range(2, x.type.rank + 1))
    )
    return op.reshape(split, (each, dims.mul(groups, c), *spatial))


def _convolve(op: Lowering, x: Value, w: Value, form: Form, dtype: DType) -> Value:
    static_groups = type(form.groups) is int and x.type.rank > 2
    if (
        static_groups
        and {x.type.dtype, w.type.dtype} <= BYTES
        and op.out_dtype.is_int
        and op.out_dtype.bits <= 32
    ):
        return _direct(op, "ConvInteger", x, w, form, DType.I32)  # exact modulo 2**32
    x, w = op.cast(x, dtype), op.cast(w, dtype)
    if not static_groups or not op.supports("Conv", dtype):
        return _patches_times_weights(op, x, w, form)
    if _is_transposed(x, w, form):
        return _transposed(op, x, w, form)
    return _direct(op, "Conv", x, w, form, dtype)


def _direct(
    op: Lowering, operator: str, x: Value, w: Value, form: Form, dtype: DType
) -> Value:
    """Conv or ConvInteger; what their `pads` cannot say (negative, symbolic, between the elements) is padded before."""
    dense = all(d == 1 for d in (*form.lhs_dilation, *form.rhs_dilation))
    same = same_padding(x.type.shape[2:], w.type.shape[2:], form.strides, form.padding)
    pads, auto, out = None, same if dense else None, form.out
    if auto is None:
        padded, padding = _padded(op, x, form, keep=True)
        pads = (*(low for low, _ in padding), *(high for _, high in padding))
        x = wide_enough(
            op,
            padded,
            range(2, x.type.rank),
            pads,
            w.type.shape[2:],
            form.rhs_dilation,
            0,
        )
        out = out if x is padded else (*out[:2], *(dims.maximum(d, 1) for d in out[2:]))
    y = op.apply(
        f"onnx.{operator}", x, w, strides=tuple(form.strides), dilations=tuple(form.rhs_dilation), group=form.groups,
        pads=pads, auto_pad=auto, types=[Type(dtype, out)],
    )  # fmt: skip
    return slice_axes(op, y, (0,) * y.type.rank, form.out, (1,) * y.type.rank)


def wide_enough(
    op: Lowering, x: Value, axes: Sequence[int], pads: Sequence[int], kernel: Sequence[Dim], dilations: Sequence[int],
    value: Any,
) -> Value:  # fmt: skip
    """`x`, with `value` after it where it may be smaller than one window, which operators refuse; JAX then has no windows."""
    config: list[tuple[Dim, Dim, int]] = [(0, 0, 0)] * x.type.rank
    for i, axis in enumerate(axes):
        length = dims.add(x.type.shape[axis], pads[i] + pads[i + len(axes)])
        span = dims.add(dims.mul(dims.sub(kernel[i], 1), dilations[i]), 1)
        config[axis] = (0, dims.maximum(dims.sub(span, length), 0), 0)
    return pad_with(op, x, op.const(value, x.type.dtype), config)


def same_padding(
    sizes: Sequence[Dim],
    kernel: Sequence[Dim],
    strides: Sequence[int],
    padding: Sequence[tuple[Dim, Dim]],
) -> str | None:
    """`auto_pad`, where symbolic padding is what JAX's "SAME" or "SAME_LOWER" gives on every axis: no sizes at run time.

    onnxruntime takes it otherwise where windows are dilated, or have gaps between them: those are padded by numbers.
    """
    if all(type(p) is int for pair in padding for p in pair):
        return None
    pairs = []
    for n, k, s in zip(sizes, kernel, strides, strict=True):
        if not dims.known_ge(k, s) or not dims.known_ge(n, 1):
            return None
        total = dims.maximum(
            dims.sub(dims.add(dims.mul(dims.sub(dims.ceildiv(n, s), 1), s), k), n), 0
        )
        less = dims.floordiv(total, 2)
        pairs.append((less, dims.sub(total, less)))
    if list(map(tuple, padding)) == pairs:
        return "SAME_UPPER"
    return (
        "SAME_LOWER"
        if list(map(tuple, padding)) == [pair[::-1] for pair in pairs]
        else None
    )


def _padded(
    op: Lowering, x: Value, form: Form, keep: bool
) -> tuple[Value, list[tuple[int, int]]]:
    """`x` dilated and padded, and the padding that is left for the operator, where `keep` lets it have any."""
    rest: list[tuple[int, int]] = []
    config: list[tuple[Dim, Dim, int]] = [(0, 0, 0), (0, 0, 0)]
    for (low, high), dilation in zip(form.padding, form.lhs_dilation, strict=True):
        stays = (
            keep and type(low) is int and type(high) is int and low >= 0 and high >= 0
        )
        rest.append((int(low), int(high)) if stays else (0, 0))
        config.append((0, 0, dilation - 1) if stays else (low, high, dilation - 1))
    return pad_with(op, x, op.const(0, x.type.dtype), config), rest


# --------------------------------------------------------------------------------- transposed convolutions


def _is_transposed(x: Value, w: Value, form: Form) -> bool:
    """Whether the convolution spreads its input: then ConvTranspose does not multiply with the zeros in between.

    An input that grows; one that shrinks (the gradient of weights is such a case) would mostly be computed to be cut off.
    """
    return (
        any(d != 1 for d in form.lhs_dilation)
        and all(s == 1 for s in form.strides)
        and all(
            dims.known_ge(o, n)
            for o, n in zip(form.out[2:], x.type.shape[2:], strict=True)
        )
    )


def _transposed(op: Lowering, x: Value, w: Value, form: Form) -> Value:
    """ConvTranspose of the reversed kernel, whose `pads` cut the full result where `conv_general_dilated` pads too little.

    Amounts that its attributes cannot hold are cut or padded after it.
    """
    pads, extra, rest = ([], []), [], [(0, 0, 0), (0, 0, 0)]
    for i, (low, high) in enumerate(form.padding):
        reach = dims.mul(dims.sub(w.type.shape[2 + i], 1), form.rhs_dilation[i])
        cut = [dims.sub(reach, low), dims.sub(reach, high)]
        held = [c if type(c) is int and c >= 0 else 0 for c in cut]
        more = (
            -cut[1] if type(cut[1]) is int and 0 < -cut[1] < form.lhs_dilation[i] else 0
        )
        pads[0].append(held[0])
        pads[1].append(held[1])
        extra.append(more)
        rest.append(
            (dims.sub(held[0], cut[0]), dims.sub(dims.sub(held[1], cut[1]), more), 0)
        )  # type: ignore[arg-type]
    full = op.ConvTranspose(
        x, _swapped(op, w, form.groups), strides=tuple(form.lhs_dilation), dilations=tuple(form.rhs_dilation),
        group=form.groups, pads=(*pads[0], *pads[1]), output_padding=tuple(extra) if any(extra) else None,
    )  # fmt: skip
    return pad_with(op, full, op.const(0, x.type.dtype), rest)


def _swapped(op: Lowering, w: Value, groups: Any) -> Value:
    """Weights `(out, in / groups, …)` as ConvTranspose takes them: `(in, out / groups, …)`, reversed in space."""
    axes = range(2, w.type.rank)
    w = rev(op, w, dimensions=[a for a in axes if not same_dim(w.type.shape[a], 1)])
    if groups == 1:
        return op.transpose(w, (1, 0, *axes))
    out, inner, *spatial = w.type.shape
    split = op.reshape(w, (groups, dims.floordiv(out, groups), inner, *spatial))
    turned = op.transpose(split, (0, 2, 1, *range(3, w.type.rank + 1)))
    return op.reshape(
        turned, (dims.mul(groups, inner), dims.floordiv(out, groups), *spatial)
    )


# ------------------------------------------------------------------------------- where Conv has no kernel


def _patches_times_weights(op: Lowering, x: Value, w: Value, form: Form) -> Value:
    """Gather what each position of the result sees, and contract with the weights in one MatMul (any dtype that it takes)."""
    x, _ = _padded(op, x, form, keep=False)
    n, kernel, out = x.type.rank - 2, w.type.shape[2:], form.out
    for i in reversed(range(n)):  # (batch, channels, out₁, kernel₁, out₂, kernel₂, …)
        seen = _positions(
            op, out[2 + i], kernel[i], form.strides[i], form.rhs_dilation[i]
        )
        x = op.Gather(x, seen, axis=2 + i)
    batch, _, *rest = x.type.shape
    filters, inner = w.type.shape[:2]
    each = dims.floordiv(filters, form.groups)
    x = op.reshape(x, (batch, form.groups, inner, *rest))
    w = op.reshape(w, (form.groups, each, inner, *kernel))
    windows = range(4, 3 + 2 * n, 2)
    y = contract(op, x, w, [2, *windows], [2, *range(3, 3 + n)], [1], [0])
    y = op.reshape(y, (form.groups, batch, *out[2:], each))
    return op.reshape(op.transpose(y, (1, 0, 2 + n, *range(2, 2 + n))), out)


def _positions(
    op: Lowering, out: Dim, kernel: Dim, stride: int, dilation: int
) -> Value:
    """`i64[out, kernel]`: where along the input each tap of each window lies."""
    if type(out) is int and type(kernel) is int:
        return op.const(np.arange(out)[:, None] * stride + np.arange(kernel) * dilation)
    starts = op.Mul(op.unsqueeze(arange(op, out, DType.I64), [1]), stride)
    return op.Add(starts, op.Mul(arange(op, kernel, DType.I64), dilation))
