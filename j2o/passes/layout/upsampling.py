"""`upsampling` and `repeated_rows`: repeating elements along axes is one Resize, or a Gather for each axis.

    Reshape(Expand(Unsqueeze(x, [3]), [B, C, H, 2, W]), [B, C, 2·H, W])
    becomes   Resize(x, scales=[1, 1, 2, 1])

Programs repeat by `jnp.repeat`, by broadcasting along an axis of its own that a Reshape then merges, by Tile
in place of that, or by a lookup of places (`jax.image.resize`). `upsampling` makes Resize of all, in front of
`transposes`, which moves it to where its neighbours are. On onnxruntime's CPU Resize takes a twentieth of the
time of the other forms where the last axis is repeated (images in NCHW), but three times that of Gather where
whole rows are; `repeated_rows` makes Gather of these behind `transposes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, DType, Shape, is_one, same_dim, same_shape
from j2o.passes.context import Context
from j2o.passes.layout.free import REPEATS, scales_of
from j2o.passes.pipeline import graph_pass

# of sounds and images; kernels of Resize take others as loops over all axes
RANKS = (3, 4)
MOST_WRITTEN_OUT = 4096  # places that a constant counts


class Repeats(NamedTuple):
    """How often each element of a tensor, seen in a shape, is repeated along each axis of that."""

    source: Value
    shape: Shape
    factors: tuple[int, ...]


@graph_pass("upsampling", at="onnx", level=2)
def upsampling(graph: Graph, context: Context) -> int:
    """Make one Resize of what repeats elements along axes, and Gather where Resize is not to be had."""
    count = 0
    nodes = graph.nodes_of("onnx.Gather", "onnx.Reshape")
    for node in reversed(nodes):  # the last of several in a row first
        if node.used:
            repeats = _read_repeats(node.out)
            if repeats is not None:
                count += _write(node, repeats, context)
    return count


# ------------------------------------------------------------------------------ reading


def _read_repeats(value: Value) -> Repeats | None:
    """What a value, and what in front of it serves it alone, repeats; None where nothing is."""
    shape = value.type.shape
    found = Repeats(value, shape, (1,) * len(shape))
    while True:
        inner = found.source.origin(RESHAPES)
        between = {found.source, inner} - {value}
        is_alone = all(one.only_user is not None for one in between)
        before = _read_once(inner, found.shape) if is_alone else None
        if before is None:
            return found if max(found.factors, default=1) > 1 else None
        pairs = zip(before.factors, found.factors, strict=True)
        found = before._replace(factors=tuple(one * other for one, other in pairs))


def _read_once(value: Value, shape: Shape) -> Repeats | None:
    """What one lookup, Expand or Tile repeats, seen in a shape."""
    match value.op:
        case "onnx.Gather" if same_shape(value.type.shape, shape):
            return _of_places(value.producer)
        case "onnx.Expand" | "onnx.Tile":
            return _of_broadcast(value, shape)
        case _:
            return None


def _of_places(node: Node) -> Repeats | None:
    """A lookup of the places 0, 0, 1, 1, …, each as often as the others."""
    x, indices = node.operands
    axis = node.int_attr("axis", 0) % x.type.rank
    size = x.type.shape[axis]
    tensor = indices.const
    if tensor is None or indices.type.rank != 1 or not tensor.is_small:
        return None
    if type(size) is not int or not size or tensor.size % size:
        return None
    factor = tensor.size // size
    if not np.array_equal(tensor.load(), np.repeat(np.arange(size), factor)):
        return None
    factors = [1] * x.type.rank
    factors[axis] = factor
    return Repeats(x, x.type.shape, tuple(factors))


def _of_broadcast(wide: Value, shape: Shape) -> Repeats | None:
    """What is broadcast along axes of its own, each behind another axis that it is merged with in `shape`."""
    narrow = wide.producer.operand(0)
    if narrow.type.rank != wide.type.rank:
        return None
    own: list[Dim] = []
    factors: list[int] = []
    for size, count in zip(narrow.type.shape, wide.type.shape, strict=True):
        if same_dim(size, count):
            own.append(size)
            factors.append(1)
            continue
        is_behind_one = bool(own) and factors[-1] == 1
        if not is_one(size) or type(count) is not int or not is_behind_one:
            return None
        factors[-1] = count
    if len(own) != len(shape):
        return None
    sizes = map(dims.mul, own, factors)
    is_merged = all(map(same_dim, sizes, shape))
    return Repeats(narrow, tuple(own), tuple(factors)) if is_merged else None


# ------------------------------------------------------------------------------ writing


def _write(node: Node, repeats: Repeats, context: Context) -> int:
    """Put Resize or Gather in the place of a node; returns whether either is to be had."""
    _, shape, factors = repeats
    is_resize = _can_resize(node.out.type.dtype, shape, factors, context)
    is_lookup = node.op == "onnx.Gather"
    if not is_resize and (is_lookup or not _can_gather(shape, factors)):
        return 0
    op = Builder(node.home, node, node.loc, node.out.hint)
    x = op.reshape(repeats.source.origin(RESHAPES), shape)
    if is_resize:
        scales = op.const(np.array(factors, np.float32))
        new = op.Resize(x, None, scales, **REPEATS)
    else:
        new = _gathered(op, x, factors)
    new.retype(node.out.type)
    node.replace_by(new)
    return 1


def _can_resize(
    dtype: DType, shape: Shape, factors: Sequence[int], context: Context
) -> bool:
    """Return True where the target has a kernel, and examples are not repeated."""
    is_image = len(shape) in RANKS and factors[0] == 1 and 0 not in shape
    return is_image and context.prefers("onnx.Resize", dtype)


def _can_gather(shape: Shape, factors: Sequence[int]) -> bool:
    """Return True where the places along each repeated axis are few numbers."""
    for size, factor in zip(shape, factors, strict=True):
        if factor == 1:
            continue
        if type(size) is not int or size * factor > MOST_WRITTEN_OUT:
            return False
    return True


def _gathered(op: Builder, x: Value, factors: Sequence[int]) -> Value:
    """`x` with its elements repeated along each axis by a lookup of places."""
    for axis, factor in enumerate(factors):
        size = x.type.shape[axis]
        if factor > 1:
            assert type(size) is int
            places = np.repeat(np.arange(size), factor)
            x = op.Gather(x, op.const(places), axis=axis)
    return x


# ------------------------------------------------------------------- behind `transposes`


@graph_pass("repeated_rows", at="onnx", level=2)
def repeated_rows(graph: Graph) -> int:
    """Make Gathers of a Resize that repeats whole rows, and so leaves the last axis as it is."""
    count = 0
    for node in graph.nodes_of("onnx.Resize"):
        scales = scales_of(node)
        if scales is None or scales[-1] != 1:
            continue
        factors = [math.floor(scale) for scale in scales]
        x = node.operand(0)
        if _can_gather(x.type.shape, factors):
            op = Builder(node.home, node, node.loc, node.out.hint)
            node.replace_by(_gathered(op, x, factors))
            count += 1
    return count
