"""Linear interpolation, which `jax.image.resize` traces to a product with a matrix of weights, is one Resize.

    dot_general(x, weights(H, 2·H))   becomes   Resize(x, scales=[1, 2, 1, 1], mode="linear")

The weights of a place p = (i + ½) m / n - ½ among m elements are 1 - |p - j| where that is above 0, divided
by their sum: at the ends, where a neighbour is missing, the sum is what is left of it. Resize takes the
last element there in place of the missing one, which is the same. Not so where a program makes an image
smaller, and means over more than two neighbours (`antialias`): those keep their matrix.

Several axes are one Resize, which then stands in front of the transposes that the products leave.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import Dim, Shape, same_dim
from j2o.passes.layout.free import (
    interpolated_axes,
    is_linear_resize,
    resizes_axes,
)
from j2o.passes.recover.nearest import counted, middles
from j2o.passes.recover.strides import dim_of
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# how far the place of an element may be from that of JAX: both round it
MOST_APART = 2e-6
# what the sum of the weights must be above, to be divided by: it is a half at least
SMALLEST_SUM = 0.5
# axes of size 1 that make an image of a tensor, so that no element meets those of another example:
# the number of axes, and those that are resized → where the axes are added
ADDED: dict[tuple[int, tuple[int, ...]], tuple[int, ...]] = {
    (1, (0,)): (0, 1, 2),
    (2, (0,)): (0, 2),
    (2, (1,)): (1, 2),
    (2, (0, 1)): (0, 1),
    (3, (0,)): (0,),
    (3, (1,)): (2,),
    (3, (2,)): (2,),
    (3, (0, 1)): (0,),
    (3, (1, 2)): (0,),
}

# -------------------------------------------------------------------------- the pattern


def _as_float(op, number):
    """A number, which is converted where it is computed of symbolic sizes."""
    return op.either(op.lax.convert_element_type(number), number)


def _spread(op, x):
    """`x`, repeated along some axes."""
    return op.lax.broadcast_in_dim(x, ...)


def _row(op, x):
    """A vector as a row."""
    return op.lax.broadcast_in_dim(x, broadcast_dimensions=(1,))


def _column(op, x):
    """A vector as a column."""
    return op.lax.broadcast_in_dim(x, broadcast_dimensions=(0,))


def _places(op, inverse, moved):
    """(i + ½) · inverse - ½ for each element of the result; `moved` is a translation by 0."""
    scaled = op.lax.mul(middles(op), _as_float(op, inverse))
    return op.lax.sub(op.lax.sub(scaled, _as_float(op, moved)), 0.5)


def _weights(op, inverse, moved, stretch, least, last):
    """What each element of the result takes of each of the operand's."""
    places = _places(op, inverse, moved)
    own_places = counted(op)
    distance = op.lax.abs(op.lax.sub(_row(op, places), _column(op, own_places)))
    stretched = op.lax.div(distance, _as_float(op, stretch))
    triangle = op.lax.max(op.lax.sub(1.0, op.lax.abs(stretched)), 0.0)
    total = _row(op, op.lax.reduce_sum(triangle, axes=(0,)))
    one = _spread(op, _as_float(op, 1))
    zero = _spread(op, _as_float(op, 0))
    divisor = op.lax.select_n(op.lax.ne(total, 0.0), one, total)
    share = op.lax.div(triangle, divisor)
    is_sum = op.lax.gt(op.lax.abs(total), least)
    shares = op.lax.select_n(_spread(op, is_sum), zero, share)
    is_behind_first = op.lax.ge(places, -0.5)
    is_before_last = op.lax.le(places, _as_float(op, last))
    is_inside = op.apply("lax.and", is_behind_first, is_before_last)
    return op.lax.select_n(_spread(op, _row(op, is_inside)), zero, shares)


def _has_weights(node: Node) -> bool:
    """Return True for a product with a matrix that is chosen element by element."""
    for value in node.inputs:
        if value is not None and value.op == "lax.select_n" and value.type.rank == 2:
            return True
    return False


@rewrite("linear_resize", at="lax", shared=True, where=_has_weights)
def linear_resize(op, x, inverse, moved, stretch, least, last, numbers):
    """A product along one axis with the weights of linear interpolation."""
    weights = _weights(op, inverse, moved, stretch, least, last)
    rest = {"precision": ..., "preferred_element_type": ...}
    behind = op.lax.dot_general(x, weights, dimension_numbers=numbers, **rest)
    before = op.lax.dot_general(weights, x, dimension_numbers=numbers, **rest)
    return op.either(behind, before)


@linear_resize.becomes
def _(op, x, inverse, moved, stretch, least, last, numbers):
    product = _product(op.root, x, numbers)
    if product is None:
        return None
    _, size, wanted, _ = product
    scale = _Scale(size, wanted)
    is_linear = (
        scale.is_inverse(inverse)
        and scale.is_nothing(moved, inverse)
        and scale.is_stretch(stretch, inverse)
        and _is_below(least, SMALLEST_SUM)
        and scale.is_last(last)
    )
    if not is_linear:
        return op.decline("the weights are not those of two neighbours")
    if not op.prefers("Resize", x):
        return op.decline("the target has no Resize of this dtype")
    if not scale.is_exact():
        return op.decline("the places would be rounded otherwise")
    return _write(op, x, product)


# -------------------------------------------------------------------------- the product


class Product(NamedTuple):
    """A product along one axis of a tensor: of what size that is, and of what size it becomes.

    The result has that axis first where the weights are the left operand, and last where they are the right.
    """

    axis: int
    size: Dim
    wanted: Dim
    is_last: bool


def _product(node: Node, x: Value, numbers: Any) -> Product | None:
    """The product of a match; None for one over other axes."""
    contracting, batch = numbers
    if any(batch) or any(len(axes) != 1 for axes in contracting):
        return None
    is_last = node.operand(0) is x
    side = 0 if is_last else 1
    axis = contracting[side][0]
    weights = node.operand(1 - side)
    if contracting[1 - side][0] != 0:
        return None
    size, wanted = weights.type.shape
    return Product(axis, size, wanted, is_last)


# ---------------------------------------------------------------------------- the numbers


def _number(value: Value) -> float | None:
    """The number that a constant scalar is."""
    if value.const is None or value.type.rank:
        return None
    return float(value.const.scalar)


def _is_below(value: Value, limit: float) -> bool:
    """Return True for a number from 0 to below a limit."""
    number = _number(value)
    return number is not None and 0 <= number < limit


def _is_number(value: Value, wanted: Dim) -> bool:
    """Return True for a scalar that is this size, as an integer or a float."""
    known = dim_of(value)
    if known is not None:
        return same_dim(known, wanted)
    number = _number(value)
    return number is not None and type(wanted) is int and number == wanted


def _operands_of(value: Value, kind: str) -> Sequence[Value]:
    """The operands of the operation that makes a value, if that is of this kind."""
    return value.producer.operands if value.op == kind else ()


class _Scale(NamedTuple):
    """How large an axis is, and how large it becomes."""

    size: Dim
    wanted: Dim

    def is_inverse(self, value: Value) -> bool:
        """Return True for size / wanted, as JAX computes it: 1 / (wanted / size)."""
        number = _number(value)
        if number is not None:
            if type(self.size) is not int or type(self.wanted) is not int:
                return False
            return bool(np.float32(number) == self._rounded())
        match _operands_of(value, "lax.div"):
            case [one, quotient] if _number(one) == 1:
                parts = _operands_of(quotient, "lax.div")
                return (
                    len(parts) == 2
                    and _is_number(parts[0], self.wanted)
                    and _is_number(parts[1], self.size)
                )
            case _:
                return False

    def _rounded(self) -> np.float32:
        """Size over wanted size, as the program rounds it."""
        assert type(self.size) is int
        assert type(self.wanted) is int
        return np.float32(1.0 / (self.wanted / self.size))

    def is_nothing(self, value: Value, inverse: Value) -> bool:
        """Return True for no translation: 0, or 0 times the scale."""
        factors = _operands_of(value, "lax.mul")
        if inverse in factors:
            return any(_number(factor) == 0 for factor in factors)
        return _number(value) == 0

    def is_stretch(self, value: Value, inverse: Value) -> bool:
        """Return True for 1: no means over more than two neighbours are taken."""
        if _number(value) == 1:
            return True
        least = _operands_of(value, "lax.max")
        is_bound = len(least) == 2 and least[0] is inverse and _number(least[1]) == 1
        return is_bound and dims.known_ge(self.wanted, self.size)

    def is_last(self, value: Value) -> bool:
        """Return True for size - ½."""
        number = _number(value)
        if number is not None:
            return type(self.size) is int and number == self.size - 0.5
        match _operands_of(value, "lax.sub"):
            case [size, half]:
                return _is_number(size, self.size) and _number(half) == 0.5
            case _:
                return False

    def is_exact(self) -> bool:
        """Return True where Resize finds the same places.

        JAX multiplies with the inverse, Resize divides by the scale: by a power of two both are exact. Where
        sizes are open, others are not known to be near enough.
        """
        if type(self.size) is not int or type(self.wanted) is not int:
            factor = dims.divides(self.size, self.wanted)
            return type(factor) is int and factor.bit_count() == 1
        middles = np.arange(self.wanted, dtype=np.float32) + np.float32(0.5)
        by_product = middles * self._rounded()
        by_quotient = middles / _scale_of(self.size, self.wanted)
        return bool(np.abs(by_product - by_quotient).max() <= MOST_APART)


def _scale_of(size: Dim, wanted: Dim) -> np.float32:
    """By which number an axis grows, rounded so that as many elements come out, which Resize rounds down."""
    factor = dims.divides(size, wanted)
    if type(factor) is int:
        return np.float32(factor)
    assert type(size) is int
    assert type(wanted) is int
    scale = np.float32(wanted / size)
    is_enough = float(scale) * size >= wanted
    return scale if is_enough else np.nextafter(scale, np.float32(np.inf))


# ------------------------------------------------------------------------------ writing


class Image(NamedTuple):
    """What a value is a resized and transposed image of.

    Axis `i` of the value is axis `perm[i]` of the image, of which `axes` are resized.
    """

    source: Value
    axes: tuple[int, ...]
    shape: Shape
    perm: tuple[int, ...]


def _write(op: RuleBuilder, x: Value, product: Product) -> Value | None:
    """A Resize in the layout that another one has, if `x` is the result of such a one; then a Transpose."""
    image = _image_behind(x)
    moved = image.perm[product.axis]
    axes = tuple(sorted({*image.axes, moved}))
    shape = list(image.shape)
    shape[moved] = product.wanted
    rank = len(shape)
    added = ADDED.get((rank, axes), ())
    if moved in image.axes or not resizes_axes(rank + len(added), _behind(axes, added)):
        return op.decline("kernels resize the axes of images alone")
    resized = _resize(op, image.source, axes, tuple(shape), added)
    others = [image.perm[axis] for axis in range(rank) if axis != product.axis]
    order = [*others, moved] if product.is_last else [moved, *others]
    return op.transpose(resized, order)


def _image_behind(x: Value) -> Image:
    """The image that is resized already, else the value itself."""
    perm = tuple(range(x.type.rank))
    if x.op == "onnx.Transpose":
        resized = x.producer.operand(0)
        found = _before_resize(resized)
        if found is not None:
            perm = x.producer.ints_attr("perm")
            return Image(*found, resized.type.shape, perm)
    return Image(x, (), x.type.shape, perm)


def _before_resize(value: Value) -> tuple[Value, tuple[int, ...]] | None:
    """What a Resize of this rule is made of, and the axes that it resizes; None for another value."""
    is_squeezed = value.op == "onnx.Squeeze"
    node = value.producer.operand(0).node if is_squeezed else value.node
    if node is None or not is_linear_resize(node):
        return None
    image, axes = node.operand(0), interpolated_axes(node)
    if not is_squeezed:
        return image, axes
    added = image.producer.operand(1).known_ints
    assert added is not None
    own_axes: list[int] = []
    for axis in axes:
        added_before = sum(one < axis for one in added)
        own_axes.append(axis - added_before)
    return image.producer.operand(0), tuple(own_axes)


def _behind(axes: Sequence[int], added: Sequence[int]) -> tuple[int, ...]:
    """The same axes where others are added, whose places these are then."""
    rank = len(added) + 1 + max(axes)
    own = [place for place in range(rank) if place not in added]
    return tuple([own[axis] for axis in axes])


def _resize(
    op: RuleBuilder,
    x: Value,
    axes: Sequence[int],
    wanted: Shape,
    added: Sequence[int],
) -> Value:
    """Resize by a scale for each axis, 1 for those that stay."""
    image = op.unsqueeze(x, added)
    rank = image.type.rank
    own = _behind(range(len(wanted)), added)
    shape: list[Dim] = [1] * rank
    scales = np.ones(rank, np.float32)
    for axis, size in enumerate(wanted):
        shape[own[axis]] = size
        if axis in axes:
            scales[own[axis]] = _scale_of(x.type.shape[axis], size)
    resized = op.apply(
        "onnx.Resize",
        image,
        None,
        op.const(scales),
        mode="linear",
        types=[x.type.with_shape(tuple(shape))],
    )
    return op.squeeze(resized, added)


LINEAR_RESIZE = (linear_resize,)
