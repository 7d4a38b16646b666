"""Axes as products of *parts*, as reshapes divide and merge them.

Where f32[N,64,32] is reshaped to f32[N,64,8,4] for 8 groups of 4 channels, the parts are N, 64, 8 and 4, and
the axis of 32 has the parts 8 and 4. The mean over axes 1 and 3 *keeps* the parts N and 8. A statistic fits
where it repeats itself along the parts that were reduced, and along these alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from j2o.ir import dims
from j2o.ir.graph import Node
from j2o.ir.types import Dim, Shape, is_one, same_dim
from j2o.passes.layout.contractions import Label, Labels, joined, regrouped


def parts_of(one: Shape, other: Shape) -> list[Dim] | None:
    """The sizes that the axes of both shapes are products of, in their order; None where there are none.

    [B, 8, 8, 32] and [B, 64, 4, 8] have [B, 8, 8, 4, 8].
    """
    left = [size for size in reversed(one) if not is_one(size)]
    right = [size for size in reversed(other) if not is_one(size)]
    parts: list[Dim] = []
    # the smaller of two axes is a part; what it leaves of the larger one is compared with the next axis
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
        """The labels of all parts, in order."""
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
        """The parts of each axis behind an Expand: axes that it adds or makes longer get new ones."""
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
        """Return True where an axis of a statistic is that of each element of an axis."""
        if not statistic:
            return self.kept.isdisjoint(axis)
        if len(statistic) != len(axis):
            return False
        return all(map(self._is_along, statistic, axis))

    def _is_along(self, part: Label, of_axis: Label) -> bool:
        """Return True where a part is the kept one itself, or repeats along one that was reduced."""
        if of_axis in self.kept:
            return part == of_axis
        has_size = same_dim(self.sizes[part], self.sizes[of_axis])
        return has_size and part not in self.kept
