"""GroupNormalization and InstanceNormalization, whatever the order of axes and however groups are split off.

Both are (x - μ) / √(σ² + ε) · scale + bias, where μ and σ² are the mean and the variance of a part of the
channels, and of all places. Programs reshape to [.., groups, channels of a group], reduce, and broadcast the
statistics back by Squeeze, Expand and Reshape:

    f32[N,64,32] → Reshape f32[N,64,8,4] → less its mean over axes 1 and 3, by its deviation → f32[N,64,32]
    becomes   Transpose f32[N,32,64] → Reshape f32[N,8,256] → InstanceNormalization → and back

`norm_reading.py` finds them and tells which parts of the axes are kept, N and the groups. What comes instead
has these in front, [N, groups, all that is reduced]: a kernel normalises rows.

- InstanceNormalization where the variance is mean(x²) - μ². The kernel takes two passes. It computes
  x · s + (bias - μ · s), which loses digits where |μ| is many σ; subtracting μ² loses more.
- LayerNormalization where the variance is mean((x - μ)²), which is exact there, and so is this kernel. It
  needs a scale of as many elements as are reduced, so that these must be known. It is taken for rows that are
  the last axis already, too, unless a number for each row is a factor, which InstanceNormalization takes in.

GroupNormalization itself is a function that onnxruntime inlines. Its variance may be below 0, so that groups
of equal numbers give NaN.

Where a sum of squares overflows both kernels may give a number for JAX's NaN: `layer-norm-overflow` in
semantics.md. NaN and infinities give NaN.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.ops import VIEWS
from j2o.ir.types import Dim, same_shape
from j2o.passes.layout.contractions import Labels, joined, sizes_of
from j2o.passes.layout.perms import inverse
from j2o.passes.recover.norm_reading import Norm, axes_of_mean, read_norm, sorted_axes
from j2o.passes.recover.norms import is_layer_norm
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# --------------------------------------------------------------------------- the rules


@rewrite("group_norm", shared=True)
def group_norm(op, x, mean, deviation, scale, added):
    """(x - μ) / √(σ² + ε) · scale, where the scale is not the last factor."""
    centred = op.Sub(x, mean)
    reciprocal = op.Reciprocal(deviation)
    scaled = op.Mul(centred, scale)
    factor = op.either(op.Mul(reciprocal, scale), op.Div(scale, deviation))
    return op.either(
        op.Mul(centred, op.either(factor, op.Unsqueeze(factor, added))),
        op.either(op.Mul(scaled, reciprocal), op.Div(scaled, deviation)),
    )


@group_norm.becomes
def _(op, x, mean, deviation, scale, added):
    if len(deviation.uses) > 1:
        return op.decline("the deviation is used as well")
    if added is not None:
        missing = max(deviation.type.rank - scale.type.rank, 0)
        scale = op.reshape(scale, (1,) * missing + scale.type.shape)
        scale = op.Unsqueeze(scale, added)
        deviation = op.Unsqueeze(deviation, added)
    return _replacement(op, x, mean, deviation, scale)


@rewrite("group_norm_plain", shared=True)
def group_norm_plain(op, x, mean, deviation):
    """(x - μ) / √(σ² + ε)."""
    centred = op.Sub(x, mean)
    reciprocal = op.Reciprocal(deviation)
    return op.either(op.Div(centred, deviation), op.Mul(centred, reciprocal))


@group_norm_plain.becomes
def _(op, x, mean, deviation):
    if len(deviation.uses) > 1:
        return op.decline("the deviation is used as well")
    return _replacement(op, x, mean, deviation, None)


def _replacement(
    op: RuleBuilder, x: Value, mean: Value, deviation: Value, scale: Value | None
) -> Value | None:
    """(x - μ) / √(σ² + ε) as one operator and changes of shape, times a scale."""
    norm = read_norm(x, mean, deviation)
    if norm is None:
        return None
    over = axes_of_mean(mean.origin(VIEWS).node)
    is_last = over == tuple(range(over[0], x.type.rank))
    if is_last and is_layer_norm(op, x, over[0], scale):
        return op.decline("LayerNormalization is about to be found")
    order = _order(norm)
    if order is None:
        return op.decline("channels of a group stand apart")
    is_row = _is_last_axis(x, order) and op.prefers("LayerNormalization", x)
    if is_row and not _has_scale_of_channels(op.root.out, scale):
        normal = _by_layer_of_rows(op, x, norm.epsilon)
    else:
        normal = _normalised_in_place(op, x, norm, order)
    if normal is None or scale is None:
        return normal
    return op.Mul(normal, scale)


def _is_last_axis(x: Value, order: Order) -> bool:
    """Return True where the last axis of `x`, and it alone, is reduced."""
    is_in_order = order.perm == tuple(range(len(order.perm)))
    if not is_in_order or order.is_split:
        return False
    return type(order.inner) is int and x.type.shape[-1] == order.inner


def _has_scale_of_channels(out: Value, scale: Value | None) -> bool:
    """Return True where one number for each row is a factor: InstanceNormalization takes it in."""
    if scale is None:
        users = list(out.users())
        if len(users) != 1 or users[0].op != "onnx.Mul":
            return False
        scale = next((v for v in users[0].operands if v is not out), out)
    return scale.const is not None and scale.type.shape[-1:] == (1,)


# ------------------------------------------------------------------- the order of axes


class Order(NamedTuple):
    """The order of the axes in which rows are normalised, and the sizes of the result [outer, groups, inner].

    `perm` has the axes that are kept in front, `rows` of them, then the one that is split into groups and
    channels of a group, if there is one, then those that are reduced.
    """

    perm: tuple[int, ...]
    rows: int
    outer: Dim
    groups: Dim
    inner: Dim
    is_split: bool


def _order(norm: Norm) -> Order | None:
    """The order of the axes in which rows are normalised; None where more than one axis is split."""
    axes = sorted_axes(norm)
    if len(axes.split) > 1:
        return None

    def parts_of(some: Iterable[int]) -> Labels:
        return joined(norm.parts_by_axis[axis] for axis in some)

    def product(parts: Labels) -> Dim:
        return dims.prod(sizes_of(norm.axes.sizes, parts))

    kept = norm.axes.kept
    perm = (*axes.kept, *axes.split, *axes.reduced)
    parts = parts_of(perm)
    rows = parts[: len(kept)]
    inner = parts[len(kept) :]
    if set(rows) != kept:  # the channels of a group stand in front of the groups
        return None
    last_kept = parts_of(axes.split or axes.kept[-1:])
    groups = tuple(part for part in last_kept if part in kept)
    outer = rows[: len(rows) - len(groups)]
    return Order(
        perm=perm,
        rows=len(axes.kept),
        outer=product(outer),
        groups=product(groups),
        inner=product(inner),
        is_split=bool(axes.split),
    )


# ----------------------------------------------------------------------- the operators


def _by_layer_of_rows(op: RuleBuilder, x: Value, epsilon: float) -> Value:
    """LayerNormalization along the last axis of `x`."""
    ones = op.const(np.ones(x.type.shape[-1:], np.float32))
    return op.LayerNormalization(x, ones, axis=x.type.rank - 1, epsilon=epsilon)


def _normalised_in_place(
    op: RuleBuilder, x: Value, norm: Norm, order: Order
) -> Value | None:
    """The normalisation with the axes of `x`; None where no kernel is as exact."""
    rows = _normalised(op, norm, order)
    if rows is None:
        return None
    in_place = op.transpose(rows, inverse(order.perm))
    return op.reshape(in_place, x.type.shape)


def _normalised(op: RuleBuilder, norm: Norm, order: Order) -> Value | None:
    """(base - μ) / √(σ² + ε), its axes in this order; None where no kernel is as exact."""
    base = op.transpose(norm.base, order.perm)
    if norm.in_one_pass:
        out = _by_instance(op, base, order, norm.epsilon)
    elif type(order.inner) is int:
        out = _by_layer(op, base, order, norm.epsilon)
    else:
        return op.decline("the number of places is not known")
    return op.reshape(out, base.type.shape)


def _by_instance(op: RuleBuilder, base: Value, order: Order, epsilon: float) -> Value:
    """InstanceNormalization of a tensor as [N, groups, …], with all that is reduced behind."""
    outer, groups = order.outer, order.groups
    if type(groups) is not int:  # it has a scale and a bias for each
        outer, groups = dims.mul(outer, groups), 1
    front = base.type.shape[:2]
    has_form = base.type.rank > 2 and same_shape(front, (outer, groups))
    rows = base
    if order.is_split or not has_form:
        rows = op.reshape(base, (outer, groups, order.inner))
    ones = op.const(np.ones(groups, np.float32))
    zeros = op.const(np.zeros(groups, np.float32))
    return op.InstanceNormalization(rows, ones, zeros, epsilon=epsilon)


def _by_layer(op: RuleBuilder, base: Value, order: Order, epsilon: float) -> Value:
    """LayerNormalization of a tensor with all that is reduced behind."""
    rows, axis = base, order.rows
    if order.is_split:
        rows = op.reshape(base, (order.outer, order.groups, order.inner))
        axis = 2
    ones = op.const(np.ones(rows.type.shape[axis:], np.float32))
    return op.LayerNormalization(rows, ones, axis=axis, epsilon=epsilon)


GROUP_NORMS = (group_norm, group_norm_plain)
