"""GroupNormalization and InstanceNormalization, whatever the order of axes and however groups are split off.

Both are (x - μ) / √(σ² + ε) · scale + bias, where μ and σ² are the mean and the variance of a part of the
channels, and of all places. Programs reshape to [.., groups, channels of a group], reduce, and broadcast the
statistics back by Squeeze, Expand and Reshape.

Each axis is read as a product of *parts*, as a reshape divides it. Where f32[N,64,32] is reshaped to
f32[N,64,8,4] for 8 groups of 4 channels, the parts are N, 64, 8 and 4: the axis of 32 has the parts 8 and 4.
The mean over axes 1 and 3 *keeps* the parts N and 8. A statistic fits where it repeats itself along the parts
that were reduced, and along these alone.

What comes instead has the kept parts in front, [N, groups, all that is reduced]: a kernel normalises rows.

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

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES, VIEWS
from j2o.ir.types import Dim, DType, Shape, from_zero, is_one, same_dim, same_shape
from j2o.passes.layout.contractions import Label, Labels, joined, regrouped, sizes_of
from j2o.passes.layout.perms import inverse
from j2o.passes.recover.norms import is_layer_norm
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# ------------------------------------------------------------------------------- the axes


def parts_of(one: Shape, other: Shape) -> list[Dim] | None:
    """The sizes that the axes of both shapes are products of, in their order; None where there are none.

    [B, 8, 8, 32] and [B, 64, 4, 8] have [B, 8, 8, 4, 8].
    """
    left = [size for size in reversed(one) if not is_one(size)]
    right = [size for size in reversed(other) if not is_one(size)]
    parts: list[Dim] = []
    while left and right:
        a, b = left.pop(), right.pop()
        if same_dim(a, b):
            parts.append(a)
        elif (rest := dims.divides(a, b)) is not None:
            parts.append(a)
            right.append(rest)
        elif (rest := dims.divides(b, a)) is not None:
            parts.append(b)
            left.append(rest)
        else:
            return None
    return None if left or right else parts


@dataclass
class PartedAxes:
    """The parts of which axes are products: the size of each by its label, and those that are not reduced."""

    sizes: dict[Label, Dim]
    kept: frozenset[Label] = frozenset()

    @property
    def parts(self) -> Labels:
        return tuple(self.sizes)

    def new(self, size: Dim) -> Labels:
        """The part along which an Expand repeats; none for an axis of size 1."""
        if is_one(size):
            return ()
        label = len(self.sizes)
        self.sizes[label] = size
        return (label,)

    def seen(self, by_axis: list[Labels], views: Iterable[Node]) -> list[Labels] | None:
        """The parts of each axis behind changes of shape; None where one divides a part."""
        for view in views:
            shape = view.out.type.shape
            if view.op == "onnx.Expand":
                by_axis = self._expanded(by_axis, shape)
            else:
                parted = regrouped(self.sizes, joined(by_axis), shape)
                if parted is None:
                    return None
                by_axis = parted
        return by_axis

    def _expanded(self, by_axis: list[Labels], shape: Shape) -> list[Labels]:
        missing = len(shape) - len(by_axis)
        padded: list[Labels] = [*[()] * missing, *by_axis]
        pairs = zip(padded, shape, strict=True)
        return [group or self.new(size) for group, size in pairs]

    def fits(self, by_axis: list[Labels] | None, to: Sequence[Labels]) -> bool:
        """Return True where a statistic with these axes, broadcast, is that of each element of `to`."""
        if by_axis is None or len(by_axis) > len(to):
            return False
        missing = len(to) - len(by_axis)
        padded: list[Labels] = [*[()] * missing, *by_axis]
        return all(map(self._repeats, padded, to))

    def _repeats(self, statistic: Labels, axis: Labels) -> bool:
        if not statistic:
            return self.kept.isdisjoint(axis)
        if len(statistic) != len(axis):
            return False
        return all(map(self._is_along, statistic, axis))

    def _is_along(self, part: Label, of_axis: Label) -> bool:
        if of_axis in self.kept:
            return part == of_axis
        has_size = same_dim(self.sizes[part], self.sizes[of_axis])
        return has_size and part not in self.kept


# ------------------------------------------------------------------------------ reading


class Norm(NamedTuple):
    """A normalisation: `base` is what it normalises, before a Reshape splits groups off.

    `parts_by_axis` are those of each of its axes, `in_one_pass` tells how the variance was computed.
    """

    base: Value
    axes: PartedAxes
    parts_by_axis: list[Labels]
    epsilon: float
    in_one_pass: bool


class SortedAxes(NamedTuple):
    """Axes by what becomes of their parts: all are kept, some, or none."""

    kept: list[int]
    split: list[int]
    reduced: list[int]


def _sorted_axes(norm: Norm) -> SortedAxes:
    """The axes of what is normalised."""
    axes = SortedAxes([], [], [])
    kept = norm.axes.kept
    for axis, parts in enumerate(norm.parts_by_axis):
        if kept.issuperset(parts):
            axes.kept.append(axis)
        elif kept.isdisjoint(parts):
            axes.reduced.append(axis)
        else:
            axes.split.append(axis)
    return axes


def _seen_through(value: Value, ops: frozenset[str]) -> tuple[Value, list[Node]]:
    """What stands behind nodes of these operators, and the nodes in their order."""
    views: list[Node] = []
    while value.op in ops:
        views.append(value.producer)
        value = value.producer.operand(0)
    return value, views[::-1]


def _before_reshape(value: Value) -> Value:
    """The operand of a change of shape, else the value itself."""
    return value.producer.operand(0) if value.op in RESHAPES else value


def _axes_of_mean(node: Node | None) -> tuple[int, ...]:
    """The axes of a ReduceMean; none for another node."""
    if node is None or node.op != "onnx.ReduceMean":
        return ()
    axes = node.optional(1)
    if axes is None or not axes.known_ints:
        return ()
    return from_zero(axes.known_ints, node.operand(0).type.rank)


def read_norm(x: Value, mean: Value, deviation: Value) -> Norm | None:
    """The normalisation that x - μ and √(σ² + ε) are of; None where it is none."""
    if x.type.dtype != DType.F32 or 0 in x.type.shape:
        return None
    for base in _bases(x, mean):
        reader = _reader(base, mean.origin(VIEWS).producer)
        if reader is None or not reader.is_centred(x, mean):
            continue
        norm = reader.norm_of(base, deviation, x)
        if norm is not None and (base is x or _splits(norm)):
            return norm
    return None


def _bases(x: Value, mean: Value) -> Iterator[Value]:
    """The tensors that may be normalised: in front of a Reshape, or behind it."""
    mean = mean.origin(VIEWS)
    if not _axes_of_mean(mean.node):
        return
    operand = mean.producer.operand(0)
    if _before_reshape(operand) is x:
        yield x
    elif _before_reshape(operand) is _before_reshape(x):
        yield _before_reshape(x)
    if operand is x:
        yield x


def _splits(norm: Norm) -> bool:
    """Return True where an axis is reduced in part, which is why a Reshape stands there."""
    return bool(_sorted_axes(norm).split)


def _reader(base: Value, mean: Node) -> _StatisticsReader | None:
    """What reads the statistics of a tensor; None where its axes have no parts in common with a mean's."""
    operand = mean.operand(0)
    sizes = parts_of(base.type.shape, operand.type.shape)
    if sizes is None:
        return None
    axes = PartedAxes(dict(enumerate(sizes)))
    by_axis = regrouped(axes.sizes, axes.parts, operand.type.shape)
    if by_axis is None:
        return None
    over = _axes_of_mean(mean)
    left = [group for axis, group in enumerate(by_axis) if axis not in over]
    axes.kept = frozenset(joined(left))
    return _StatisticsReader(axes, axes.parts, mean, over, by_axis)


class _StatisticsReader(NamedTuple):
    """Reads what is made of a tensor, and of its mean over some axes.

    `parts` are those of the tensor, `operand_parts` those of each axis of the operand of the mean, which is
    reduced `over` some axes.
    """

    axes: PartedAxes
    parts: Labels
    mean: Node
    over: tuple[int, ...]
    operand_parts: list[Labels]

    def parts_of_tensor(self, value: Value) -> list[Labels] | None:
        """The parts of each axis of the tensor in some shape."""
        return regrouped(self.axes.sizes, self.parts, value.type.shape)

    def parts_of_mean(self, reduction: Node) -> list[Labels]:
        """The parts of each axis of a mean over the same axes."""
        kept: list[Labels] = []
        has_ones = reduction.int_attr("keepdims", 1)
        for axis, group in enumerate(self.operand_parts):
            if axis not in self.over:
                kept.append(group)
            elif has_ones:
                kept.append(())
        return kept

    def parts_of_seen_mean(self, value: Value) -> list[Labels] | None:
        """The parts of each axis of a value that is the mean in some shape."""
        mean, views = _seen_through(value, VIEWS)
        if mean.node is not self.mean:
            return None
        return self.axes.seen(self.parts_of_mean(self.mean), views)

    def is_same_tensor(self, value: Value) -> bool:
        return value.origin(RESHAPES) is self.mean.operand(0).origin(RESHAPES)

    def is_centred(self, x: Value, mean: Value) -> bool:
        """Return True where x - mean is the tensor less its mean, in some shape."""
        if not self.is_same_tensor(x):
            return False
        by_axis = self.parts_of_tensor(x)
        if by_axis is None:
            return False
        return self.axes.fits(self.parts_of_seen_mean(mean), by_axis)

    def norm_of(self, base: Value, deviation: Value, x: Value) -> Norm | None:
        """The normalisation of `base`, where √(σ² + ε) is of this tensor and fits `x`."""
        root = read_deviation(deviation)
        by_axis = self.parts_of_tensor(base)
        of_x = self.parts_of_tensor(x)
        if root is None or by_axis is None or of_x is None:
            return None
        parts = self.parts_of_variance(root.variance)
        seen = None if parts is None else self.axes.seen(parts, root.views)
        if not self.axes.fits(seen, of_x):
            return None
        in_one_pass = root.variance.op == "onnx.Sub"
        return Norm(base, self.axes, by_axis, root.epsilon, in_one_pass)

    def parts_of_variance(self, value: Value) -> list[Labels] | None:
        """The parts of each axis of σ², which is mean((x - μ)²) or mean(x²) - μ²."""
        if value.op != "onnx.Sub":
            return self.parts_of_mean_square(value, centred=True)
        squares, square = value.producer.operands
        mean = _squared(square)
        by_axis = self.parts_of_mean_square(squares, centred=False)
        if mean is None or by_axis is None or self.parts_of_seen_mean(mean) != by_axis:
            return None
        return by_axis

    def parts_of_mean_square(
        self, value: Value, *, centred: bool
    ) -> list[Labels] | None:
        """The parts of each axis of the mean of the tensor's squares, or of those of x - μ."""
        if _axes_of_mean(value.node) != self.over:
            return None
        squares = value.producer.operand(0)
        if not same_shape(squares.type.shape, self.mean.operand(0).type.shape):
            return None
        root = _squared(squares.origin(RESHAPES))
        if root is None:
            return None
        root = root.origin(RESHAPES)
        if centred:
            is_of_x = root.op == "onnx.Sub" and self.is_centred(*root.producer.operands)
        else:
            is_of_x = self.is_same_tensor(root)
        return self.parts_of_mean(value.producer) if is_of_x else None


class Deviation(NamedTuple):
    """√(σ² + ε), and the changes of shape that σ² went through on the way."""

    variance: Value
    epsilon: float
    views: list[Node]


def read_deviation(value: Value) -> Deviation | None:
    """√(σ² + ε), where a negative σ² may have been made 0; None where it is something else."""
    root, last = _seen_through(value, VIEWS)
    if root.op != "onnx.Sqrt":
        return None
    total, middle = _seen_through(root.producer.operand(0), VIEWS)
    if total.op != "onnx.Add":
        return None
    shifted, epsilon = _constant_last(total.producer)
    if epsilon is None or epsilon.number is None:
        return None
    variance, first = _seen_through(shifted, VIEWS)
    before: list[Node] = []
    if _is_limited(variance):
        operand = _constant_last(variance.producer)[0]
        variance, before = _seen_through(operand, VIEWS)
    views = [*before, *first, *middle, *last]
    return Deviation(variance, float(epsilon.number), views)


def _squared(value: Value) -> Value | None:
    """What a value is the square of."""
    if value.op == "onnx.Mul":
        one, other = value.producer.operands
        return one if one is other else None
    if value.op == "onnx.Pow":
        base, exponent = value.producer.operands
        return base if exponent.number == 2 else None
    return None


def _constant_last(node: Node) -> tuple[Value, Value | None]:
    """The operand of a node, or of two the one that is no constant, and the constant."""
    first, second = node.operand(0), node.optional(1)
    if second is None or second.const is not None:
        return first, second
    if first.const is not None:
        return second, first
    return first, None


def _is_limited(value: Value) -> bool:
    """Return True for a value with all that is below 0 made 0."""
    if value.op == "onnx.Relu":
        return True
    if value.op != "onnx.Max" or len(value.producer.operands) != 2:
        return False
    limit = _constant_last(value.producer)[1]
    return limit is not None and limit.number == 0


# ------------------------------------------------------------------------------ writing


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
    axes = _sorted_axes(norm)
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


def _replacement(
    op: RuleBuilder, x: Value, mean: Value, deviation: Value, scale: Value | None
) -> Value | None:
    """(x - μ) / √(σ² + ε) as one operator and changes of shape, times a scale."""
    norm = read_norm(x, mean, deviation)
    if norm is None:
        return None
    over = _axes_of_mean(mean.origin(VIEWS).node)
    is_last = over == tuple(range(over[0], x.type.rank))
    if is_last and is_layer_norm(op, x, over[0], scale):
        return op.decline("LayerNormalization is about to be found")
    order = _order(norm)
    if order is None:
        return op.decline("channels of a group stand apart")
    is_row = _is_last_axis(x, order) and op.prefers("LayerNormalization", x)
    if is_row and not _has_scale_of_channels(op.root.out, scale):
        ones = op.const(np.ones(x.type.shape[-1:], np.float32))
        axis = x.type.rank - 1
        normal = op.LayerNormalization(x, ones, axis=axis, epsilon=norm.epsilon)
        return normal if scale is None else op.Mul(normal, scale)
    rows = _normalised(op, norm, order)
    if rows is None:
        return None
    in_place = op.transpose(rows, inverse(order.perm))
    normal = op.reshape(in_place, x.type.shape)
    return normal if scale is None else op.Mul(normal, scale)


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


GROUP_NORMS = (group_norm, group_norm_plain)
