"""`block_reductions`: blocks of a tensor are reduced where it lies, and means of pixels are AveragePool.

    ReduceMean(Reshape(x, [B, H/2, 2, W/2, 2, C]), axes=[2, 4])
    becomes   Transpose(AveragePool(Transpose(x), kernel_shape=[2, 2], strides=[2, 2]))

Programs shrink images so by hand, and Equinox's adaptive pooling does it one axis after the other, each moved
to the end before. Such reductions are read together, as one of the tensor before all transposes. What it
gives is transposed instead, and has fewer elements.

onnxruntime's AveragePool takes 0.3 to 0.7 of the time of Reshape and ReduceMean, also between two transposes,
where it can hold channels in groups of 16. With other numbers of channels it takes up to ten times as long.
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, DType, Shape, differ_by_ones, is_one, long_axes
from j2o.passes.context import Context
from j2o.passes.layout.blocks import only_made_by
from j2o.passes.layout.contractions import regrouped
from j2o.passes.layout.free import listed_axes
from j2o.passes.layout.perms import inverse, perm_of
from j2o.passes.lower.pooling import pooled
from j2o.passes.pipeline import graph_pass

# to reduce blocks, and then blocks of what that gives, is to reduce larger blocks
KINDS = (
    "onnx.ReduceMax",
    "onnx.ReduceMean",
    "onnx.ReduceMin",
    "onnx.ReduceProd",
    "onnx.ReduceSum",
)
PLACES = ((2, 3), (1, 2))  # the axes of places in images: NCHW, NHWC
HELD_TOGETHER = 16  # channels, by onnxruntime's AveragePool


class BlockReduction(NamedTuple):
    """A reduction of blocks of a tensor, and the order of axes behind it.

    A block has `blocks[axis]` elements along an axis of the source, and `outer[axis]` blocks lie along it.
    `order` lists the axes of the source as the result has them; those that it leaves out have size 1 there.
    `saved` counts the nodes that reading has passed: transposes, and earlier reductions.
    """

    source: Value
    blocks: tuple[int, ...]
    outer: Shape
    order: tuple[int, ...]
    saved: int = 0


@graph_pass("block_reductions", at="onnx", level=2)
def block_reductions(graph: Graph, context: Context) -> int:
    """Reduce blocks where the tensor lies, along all axes at once, by AveragePool where that is faster."""
    count = 0
    # the last of several in a row comes first: it reads those before it
    for node in reversed(graph.nodes_of(*KINDS)):
        reduction = _read(node) if node.used else None
        if reduction is None:
            continue
        places = _places_to_pool(node, reduction, context)
        if places is None and not reduction.saved:
            continue
        _write(node, reduction, places)
        count += 1
    return count


# ------------------------------------------------------------------------------ reading


def _read(node: Node) -> BlockReduction | None:
    """What a node and those before it reduce in blocks; None where it does something else."""
    reduction = _read_one(node)
    while reduction is not None:
        reduction = _before_transposes(reduction)
        before = only_made_by(reduction.source, node.op)
        first = None if before is None else _read_one(before)
        if first is None:
            break
        reduction = _joined(first, reduction)
    return reduction


def _read_one(node: Node) -> BlockReduction | None:
    """A reduction along the inner axes of those that a Reshape parts in two."""
    reshape = only_made_by(node.operand(0), "onnx.Reshape")
    axes = listed_axes(node)
    if reshape is None or axes is None:
        return None
    source, parted = reshape.operand(0), reshape.out.type.shape
    sizes = dict(enumerate(parted))
    parts = regrouped(sizes, tuple(sizes), source.type.shape)
    if parts is None:
        return None
    blocks: list[int] = []
    outer: list[Dim] = []
    for part in parts:
        reduced = [axis in axes for axis in part]
        if reduced not in ([], [False], [False, True]):
            return None
        # an axis of size 1 has no part where the Reshape removes it
        size = parted[part[0]] if part else 1
        block = parted[part[1]] if len(part) == 2 else 1
        if type(block) is not int:
            return None
        outer.append(size)
        blocks.append(block)
    order = tuple(range(len(parts)))
    return BlockReduction(source, tuple(blocks), tuple(outer), order)


def _before_transposes(reduction: BlockReduction) -> BlockReduction:
    """The same reduction of what is there before transposes that serve it alone."""
    while reduction.source.only_user is not None:
        if reduction.source.op == "onnx.Transpose":
            reduction = _before_transpose(reduction, reduction.source.producer)
            continue
        if reduction.source.op not in RESHAPES:
            break
        viewed = reduction.source.producer.operand(0)
        aligned = _aligned(reduction, viewed.type.shape)
        if aligned is None:
            break
        reduction = aligned._replace(source=viewed)
    return reduction


def _before_transpose(reduction: BlockReduction, transpose: Node) -> BlockReduction:
    """The same reduction of the operand of a Transpose."""
    perm = perm_of(transpose)
    assert perm is not None
    back = inverse(perm)
    return BlockReduction(
        source=transpose.operand(0),
        blocks=tuple([reduction.blocks[axis] for axis in back]),
        outer=tuple([reduction.outer[axis] for axis in back]),
        order=tuple([perm[axis] for axis in reduction.order]),
        saved=reduction.saved + 1,
    )


def _joined(first: BlockReduction, second: BlockReduction) -> BlockReduction:
    """A reduction and one of its result as one of the source of the first."""
    aligned = _aligned(second, first.outer)
    assert aligned is not None, "a result has the sizes that its reduction leaves"
    pairs = zip(first.blocks, aligned.blocks, strict=True)
    return BlockReduction(
        source=first.source,
        blocks=tuple([one * other for one, other in pairs]),
        outer=aligned.outer,
        order=aligned.order,
        saved=first.saved + second.saved + 1,
    )


def _aligned(reduction: BlockReduction, shape: Shape) -> BlockReduction | None:
    """The same reduction of a source in another shape, which has only axes of size 1 elsewhere.

    None where the shape has other sizes.
    """
    given = reduction.source.type.shape
    if not differ_by_ones(given, shape):
        return None
    place = dict(zip(long_axes(given), long_axes(shape), strict=True))
    blocks = [1] * len(shape)
    outer: list[Dim] = [1] * len(shape)
    for old, new in place.items():
        blocks[new] = reduction.blocks[old]
        outer[new] = reduction.outer[old]
    return reduction._replace(
        blocks=tuple(blocks),
        outer=tuple(outer),
        order=tuple([place[axis] for axis in reduction.order if axis in place]),
    )


# ------------------------------------------------------------------------------ writing


def _places_to_pool(
    node: Node, reduction: BlockReduction, context: Context
) -> tuple[int, int] | None:
    """The two axes of places along which AveragePool takes the means; None where it is not faster."""
    shape, outer = reduction.source.type.shape, reduction.outer
    dtype = node.out.type.dtype
    is_mean = node.op == "onnx.ReduceMean" and dtype is DType.F32
    if not is_mean or not context.prefers("onnx.AveragePool", dtype):
        return None
    blocked = {axis for axis, block in enumerate(reduction.blocks) if block > 1}
    if len(shape) != 4 or all(is_one(outer[axis]) for axis in blocked):
        return None
    for places in PLACES:
        (channel,) = {1, 2, 3}.difference(places)
        channels = shape[channel]
        if not blocked <= set(places) or type(channels) is not int:
            continue
        is_there = all(dims.known_ge(outer[axis], 1) for axis in places)
        if is_there and channels > 0 and channels % HELD_TOGETHER == 0:
            return places
    return None


def _write(
    node: Node, reduction: BlockReduction, places: tuple[int, int] | None
) -> None:
    """Reduce, and give the axes that are left the order that the result has."""
    op = Builder(node.home, node, node.loc, node.out.hint)
    if places is None:
        reduced = _reduced(op, node, reduction)
    else:
        reduced = _averages(op, reduction, places)
    left_out = set(range(len(reduction.outer))).difference(reduction.order)
    ordered = op.transpose(reduced, [*sorted(left_out), *reduction.order])
    node.out.replace_by(op.reshape(ordered, node.out.type.shape))
    erase_dead(node)


def _reduced(op: Builder, node: Node, reduction: BlockReduction) -> Value:
    """The same kind of reduction along the inner axes of a Reshape."""
    parted: list[Dim] = []
    axes: list[int] = []
    for outer, block in zip(reduction.outer, reduction.blocks, strict=True):
        parted.append(outer)
        if block > 1:
            axes.append(len(parted))
            parted.append(block)
    apart = op.reshape(reduction.source, tuple(parted))
    return op.apply(node.op, apart, op.dims(axes), keepdims=0)


def _averages(op: Builder, reduction: BlockReduction, places: tuple[int, int]) -> Value:
    """AveragePool over two axes."""
    kernel = tuple([reduction.blocks[axis] for axis in places])
    return pooled(
        op,
        reduction.source,
        "AveragePool",
        places,
        reduction.outer,
        kernel_shape=kernel,
        strides=kernel,
    )
