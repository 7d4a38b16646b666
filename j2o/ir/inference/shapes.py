"""Inference of operators that reshape, join, cut or pick elements."""

from __future__ import annotations

import math
from collections.abc import Sequence

from j2o.ir import dims
from j2o.ir.dims_agree import agree
from j2o.ir.graph import Node
from j2o.ir.inference.table import (
    axes_of,
    axis_attr,
    broadcast,
    entries,
    fail,
    infers,
    operand,
    type_of,
    types_of,
    with_sizes,
)
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType, Type, is_one, same_dim

END = 2**62  # ends beyond this mean the end of the axis


# ------------------------------------------------------------------------------- shapes


@infers("Shape")
def shape_of(node: Node) -> Type:
    rank = type_of(node, 0).rank
    start = node.int_attr("start", 0)
    end = node.int_attr("end", rank)
    return Type(DType.I64, (len(range(rank)[start:end]),))


@infers("Size")
def number_of_elements(node: Node) -> Type:
    return Type(DType.I64, ())


@infers("ConstantOfShape")
def constant_of_shape(node: Node) -> Type:
    value = node.attrs.get("value")
    dtype = value.dtype if isinstance(value, Tensor) else DType.F32
    return Type(dtype, tuple(entries(node, 0)))


@infers("Reshape")
def reshape(node: Node) -> Type:
    x = type_of(node, 0)
    wanted = list(entries(node, 1))
    if not node.attrs.get("allowzero"):
        wanted = [_or_as_it_was(x, axis, size) for axis, size in enumerate(wanted)]
    open_axes = [axis for axis, size in enumerate(wanted) if _is(size, -1)]
    if open_axes:
        axis = open_axes[0]
        others = wanted[:axis] + wanted[axis + 1 :]
        wanted[axis] = _rest(node, x.size, others)
    elif not _same_size(dims.prod(wanted), x.size):
        raise fail(node, f"{x.size} elements in the shape {wanted}")
    return x.with_shape(tuple(wanted))


def _is(size: Dim, number: int) -> bool:
    """Return True where a size is that number, and no expression."""
    return type(size) is int and size == number


def _or_as_it_was(x: Type, axis: int, size: Dim) -> Dim:
    """The size that a Reshape asks for; 0 stands for that of the operand."""
    return x.shape[axis] if _is(size, 0) else size


def _rest(node: Node, size: Dim, others: Sequence[Dim]) -> Dim:
    """The size that -1 stands for in a Reshape of `size` elements, beside the other axes."""
    others_size = dims.prod(others)
    quotient = dims.divides(others_size, size)
    if quotient is None:
        why = f"{size} elements are not known to be a multiple of {others_size}"
        raise fail(node, why)
    return quotient


def _same_size(a: Dim, b: Dim) -> bool:
    """Return True where two numbers of elements are equal, or agree at all of many sizes."""
    return same_dim(a, b) or agree(a, b, divisible=True)


@infers("Flatten")
def flatten(node: Node) -> Type:
    """A matrix: the axes in front of `axis`, and the others."""
    x = type_of(node, 0)
    axis = node.int_attr("axis", 1)
    rows = dims.prod(x.shape[:axis])
    columns = dims.prod(x.shape[axis:])
    return x.with_shape((rows, columns))


@infers("Unsqueeze")
def unsqueeze(node: Node) -> Type:
    x = type_of(node, 0)
    axes = [int(axis) for axis in entries(node, 1)]
    rank = x.rank + len(axes)
    added = {axis % rank for axis in axes}
    rest = iter(x.shape)
    return x.with_shape(tuple([1 if i in added else next(rest) for i in range(rank)]))


@infers("Squeeze")
def squeeze(node: Node) -> Type:
    x = type_of(node, 0)
    ones = [i for i, d in enumerate(x.shape) if is_one(d)]
    axes = set(axes_of(node, 1, x.rank, ones))
    if not axes.issubset(ones):
        raise fail(node, f"axes {sorted(axes)} are not all of size 1")
    return x.with_shape(tuple([d for i, d in enumerate(x.shape) if i not in axes]))


@infers("Expand")
def expand(node: Node) -> Type:
    x = type_of(node, 0)
    return x.with_shape(broadcast(node, [x.shape, tuple(entries(node, 1))]))


@infers("Tile")
def tile(node: Node) -> Type:
    x = type_of(node, 0)
    repeats = entries(node, 1)
    pairs = zip(x.shape, repeats, strict=True)
    return x.with_shape(tuple(dims.mul(size, times) for size, times in pairs))


@infers("Transpose")
def transpose(node: Node) -> Type:
    x = type_of(node, 0)
    perm = node.ints_attr("perm", range(x.rank)[::-1])
    if sorted(perm) != list(range(x.rank)):
        raise fail(node, f"perm is no permutation of {x.rank} axes")
    return x.with_shape(tuple([x.shape[axis] for axis in perm]))


@infers("Concat")
def concat(node: Node) -> Type:
    parts = types_of(node)
    first = parts[0]
    axis = axis_attr(node, first.rank)
    others = with_sizes(first.shape, axis)
    for part in parts:
        is_alike = part.dtype == first.dtype and part.rank == first.rank
        if not is_alike or with_sizes(part.shape, axis) != others:
            raise fail(node, "the parts differ in more than the axis")
    size = dims.total(part.shape[axis] for part in parts)
    return first.with_shape(with_sizes(first.shape, axis, size))


@infers("Split")
def split(node: Node) -> tuple[Type, ...]:
    x = type_of(node, 0)
    axis = axis_attr(node, x.rank, 0)
    count = node.int_attr("num_outputs", 1)
    part = dims.ceildiv(x.shape[axis], count)
    last = dims.sub(x.shape[axis], dims.mul(part, count - 1))
    sizes = entries(node, 1, [part] * (count - 1) + [last])
    return tuple(x.with_shape(with_sizes(x.shape, axis, size)) for size in sizes)


def slice_size(size: Dim, start: Dim, end: Dim, step: int) -> Dim:
    """How many elements `[start:end:step]` takes of an axis, by ONNX's (numpy's) rules of clamping."""
    if step > 0:
        first = _bound(start, size, 0, size)
        beyond = _bound(end, size, 0, size)
        span = dims.sub(beyond, first)
    else:
        last = dims.sub(size, 1)
        first = _bound(start, size, 0, last)
        beyond = _bound(end, size, -1, last)
        span = dims.sub(first, beyond)
    if abs(step) == 1:
        count = span
    else:  # written as JAX writes it
        count = dims.add(dims.floordiv(dims.sub(span, 1), abs(step)), 1)
    return dims.maximum(count, 0)


def _bound(bound: Dim, size: Dim, low: Dim, high: Dim) -> Dim:
    """A bound of a slice, counted from the front and clamped to `low … high`."""
    if type(bound) is int:
        if bound >= END:
            return high
        if bound <= -END:
            return low
        if bound < 0:
            bound = dims.add(bound, size)
    return dims.minimum(dims.maximum(bound, low), high)


@infers("Slice")
def slice_(node: Node) -> Type:
    x = type_of(node, 0)
    starts = entries(node, 1)
    ends = entries(node, 2)
    axes = axes_of(node, 3, x.rank, range(len(starts)))
    steps = entries(node, 4, [1] * len(starts))
    shape = list(x.shape)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        shape[axis] = slice_size(x.shape[axis], start, end, int(step))
    return x.with_shape(tuple(shape))


@infers("Pad")
def pad(node: Node) -> Type:
    x = type_of(node, 0)
    pads = entries(node, 1)
    axes = axes_of(node, 3, x.rank, range(x.rank))
    shape = list(x.shape)
    for i, axis in enumerate(axes):
        both = dims.add(pads[i], pads[i + len(axes)])
        shape[axis] = dims.add(shape[axis], both)
    return x.with_shape(tuple(shape))


@infers("Range")
def range_(node: Node) -> Type:
    start = operand(node, 0).const
    limit = operand(node, 1).const
    step = operand(node, 2).const
    if start is None or limit is None or step is None:
        raise fail(node, "give the type of the output: its size is not known here")
    count = -((start.scalar - limit.scalar) // step.scalar)  # rounded up
    return Type(start.dtype, (max(0, count),))


@infers("DepthToSpace", "SpaceToDepth")
def depth_space(node: Node) -> Type:
    x = type_of(node, 0)
    block = node.int_attr("blocksize")
    batch, channels, *spatial = x.shape
    if node.kind == "DepthToSpace":
        channels = dims.floordiv(channels, block * block)
        sides = [dims.mul(side, block) for side in spatial]
    else:
        channels = dims.mul(channels, block * block)
        sides = [dims.floordiv(side, block) for side in spatial]
    return x.with_shape((batch, channels, *sides))


@infers("Resize")
def resize(node: Node) -> Type:
    """Where each axis has a constant scale: a whole number, or one of a known size."""
    x = type_of(node, 0)
    scales = None if node.optional(2) is None else operand(node, 2).const
    factors: list[float] = [] if scales is None else scales.load().tolist()
    sizes = list(map(_resized, x.shape, factors))
    if len(factors) != x.rank or None in sizes:
        raise fail(node, "give the type of the output: its size is not known here")
    return x.with_shape(tuple([size for size in sizes if size is not None]))


def _resized(size: Dim, scale: float) -> Dim | None:
    """The size of an axis that grows, rounded down; None where that is not known."""
    if scale.is_integer():
        return dims.mul(size, int(scale))
    return math.floor(size * scale) if type(size) is int else None


# -------------------------------------------------------------------- indexing, sorting


@infers("Gather")
def gather(node: Node) -> Type:
    x = type_of(node, 0)
    indices = type_of(node, 1)
    return x.with_shape(with_sizes(x.shape, axis_attr(node, x.rank, 0), *indices.shape))


@infers("GatherElements")
def gather_elements(node: Node) -> Type:
    return type_of(node, 0).with_shape(type_of(node, 1).shape)


@infers("GatherND")
def gather_nd(node: Node) -> Type:
    x = type_of(node, 0)
    indices = type_of(node, 1)
    batch_axes = node.int_attr("batch_dims", 0)
    indexed_axes = indices.shape[-1]
    if type(indexed_axes) is not int:
        raise fail(node, "the last axis of the indices must be static")
    taken = x.shape[batch_axes + indexed_axes :]  # of each place that is read
    return x.with_shape((*indices.shape[:-1], *taken))


@infers("OneHot")
def one_hot(node: Node) -> Type:
    indices = type_of(node, 0)
    (depth,) = entries(node, 1)
    axis = node.int_attr("axis", -1) % (indices.rank + 1)
    shape = (*indices.shape[:axis], depth, *indices.shape[axis:])
    return Type(type_of(node, 2).dtype, shape)


@infers("TopK")
def top_k(node: Node) -> tuple[Type, ...]:
    """The greatest elements, and where they were."""
    x = type_of(node, 0)
    (count,) = entries(node, 1)
    out = x.with_shape(with_sizes(x.shape, axis_attr(node, x.rank, -1), count))
    return out, out.with_dtype(DType.I64)
