"""How windows lie over an operand, and what they have at each place.

A window lies over the operand with padding around (and, by `base_dilation`, between) its elements.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import UnsupportedError
from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, Shape, same_dim
from j2o.passes.lower.shape import Padding, pad_with
from j2o.passes.lower.table import Lowering

Place: TypeAlias = Sequence[int]  # in a window: one index an axis


@dataclass(frozen=True, eq=False)
class Windows:
    """How windows lie: one entry an axis. `counts` is the shape of the result."""

    sizes: Shape
    strides: Sequence[int]
    padding: Sequence[tuple[Dim, Dim]]
    base: Sequence[int]
    dilations: Sequence[int]
    counts: Shape

    def spread(self, op: Lowering, x: Value, value: Any) -> Value:
        """`x` with `value` as padding."""
        config: list[Padding] = []
        for i, (low, high) in enumerate(self.padding):
            config.append((low, high, self.base[i] - 1))
        return pad_with(op, x, op.const(value, x.type.dtype), config)

    @property
    def is_padded(self) -> bool:
        """True where there is padding around the operand, or between its elements."""
        has_gaps = any(b != 1 for b in self.base)
        return has_gaps or not all(map(is_unpadded, self.padding))

    def keeps(self, axis: int) -> bool:
        """Return True where the windows leave an axis as it is."""
        if not same_dim(self.sizes[axis], 1) or self.strides[axis] != 1:
            return False
        return self.base[axis] == 1 and is_unpadded(self.padding[axis])

    def offsets(self) -> Iterator[Place]:
        """The places in a window, in row-major order. UnsupportedError for a symbolic size."""
        places = []
        for size, dilation in zip(self.sizes, self.dilations, strict=True):
            if type(size) is not int:
                raise UnsupportedError(["gradients of a window of symbolic size"])
            places.append(range(0, size * dilation, dilation))
        return itertools.product(*places)

    def at(self, op: Lowering, x: Value, offset: Place | Value) -> Value:
        """What the windows have at one place, of the padded operand.

        The place is known, or an `i64[rank]`.
        """
        if isinstance(offset, Value):
            return self._at_computed_place(op, x, offset)
        for axis, start in enumerate(offset):
            count = self.counts[axis]
            x = every(op, x, axis, start, count, self.strides[axis])
        return x

    def _at_computed_place(self, op: Lowering, x: Value, offset: Value) -> Value:
        """For each window the element at a place that is computed at run time."""
        lengths = list(map(dims.mul, self.counts, self.strides))
        end = op.Add(offset, op.dims(lengths))
        axes = np.arange(x.type.rank)
        steps = np.asarray(self.strides)
        result = x.type.with_shape(self.counts)
        return op.apply("onnx.Slice", x, offset, end, axes, steps, types=[result])


def is_unpadded(amounts: tuple[Dim, Dim]) -> bool:
    """Return True for no padding before and after an axis."""
    low, high = amounts
    return same_dim(low, 0) and same_dim(high, 0)


def with_size(shape: Shape, axis: int, size: Dim) -> Shape:
    """A shape with another size on one axis."""
    sizes = list(shape)
    sizes[axis] = size
    return tuple(sizes)


def every(
    op: Lowering, x: Value, axis: int, start: int, count: Dim, stride: int
) -> Value:
    """`count` elements along an axis, `stride` apart."""
    shape = x.type.shape
    if start == 0 and stride == 1 and same_dim(count, shape[axis]):
        return x
    # the end may lie past the axis: ONNX clamps it
    end = dims.add(start, dims.mul(count, stride))
    result = x.type.with_shape(with_size(shape, axis, count))
    return op.apply(
        "onnx.Slice",
        x,
        op.dims((start,)),
        op.dims((end,)),
        np.array([axis]),
        np.array([stride]),
        types=[result],
    )


def windows_of(
    counts: Shape,
    *,
    window_dimensions: Shape,
    window_strides: Sequence[int],
    padding: Sequence[tuple[Dim, Dim]],
    base_dilation: Sequence[int] | None = None,
    window_dilation: Sequence[int] | None = None,
    **_: Any,
) -> Windows:
    """The windows that the parameters of JAX's primitives describe; `counts` is the shape of the result."""
    ones = (1,) * len(window_dimensions)
    return Windows(
        sizes=window_dimensions,
        strides=window_strides,
        padding=padding,
        base=base_dilation or ones,
        dilations=window_dilation or ones,
        counts=counts,
    )


def row_major_strides(shape: Shape) -> list[Dim]:
    """How many elements a step along each axis passes."""
    return [dims.prod(shape[axis + 1 :]) for axis in range(len(shape))]
