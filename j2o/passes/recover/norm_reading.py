"""Reads (x - μ) / √(σ² + ε) where μ and σ² are the mean and the variance over some parts of the axes of x.

Between x, its mean and its variance stand changes of shape: programs reshape to [.., groups, channels of a
group], reduce, and broadcast the statistics back by Squeeze, Expand and Reshape. `parted_axes.py` tells which
of them fit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from j2o.ir.graph import Node, Value
from j2o.ir.ops import RESHAPES, VIEWS
from j2o.ir.types import DType, from_zero, same_shape
from j2o.passes.layout.contractions import Labels, joined, regrouped
from j2o.passes.recover.parted_axes import PartedAxes, parts_of


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


def sorted_axes(norm: Norm) -> SortedAxes:
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


def axes_of_mean(node: Node | None) -> tuple[int, ...]:
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
    if not axes_of_mean(mean.node):
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
    return bool(sorted_axes(norm).split)


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
    over = axes_of_mean(mean)
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
        """Return True where a value is the tensor in some shape."""
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
        if axes_of_mean(value.node) != self.over:
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
