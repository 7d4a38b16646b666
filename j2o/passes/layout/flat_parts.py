"""`flat_parts`: a tensor is split before a Reshape where all its parts get another shape anyway.

    Split(Reshape(x, [B, N, 12, 8]), axis=2), Reshape of each part to [B, N, 32]   becomes   Split(x, axis=2)

So it is with queries, keys and values of one product, since Attention takes heads that are merged.
"""

from __future__ import annotations

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph
from j2o.ir.node import Node, erase_dead
from j2o.ir.ops import RESHAPES
from j2o.ir.types import Dim, Shape, same_dim
from j2o.passes.pipeline import graph_pass


@graph_pass("flat_parts", at="onnx", level=2)
def flat_parts(graph: Graph) -> int:
    """Split(Reshape(x)), Reshape of each part → Split(x), where the parts lie in a row in x, too."""
    return sum(map(_split_before, graph.nodes_of("onnx.Split")))


def _split_before(split: Node) -> int:
    """Split what a Reshape shapes for a Split; returns whether it did."""
    reshape = split.operand(0).node
    if reshape is None or reshape.op != "onnx.Reshape" or len(reshape.out.uses) != 1:
        return 0
    takers = [user for part in split.outputs for user in part.users()]
    if not all(taker.op in RESHAPES for taker in takers):
        return 0
    x, shape = reshape.operand(0), reshape.out.type.shape
    axis = split.int_attr("axis", 0) % len(shape)
    found = _same_places(x.type.shape, shape, axis)
    sizes = [part.type.shape[axis] for part in split.outputs]
    if found is None or not dims.is_static(tuple(sizes)):
        return 0
    along, each = found
    op = Builder(split.home, split, split.loc, x.hint)
    parts = op.Split(x, op.dims([dims.mul(size, each) for size in sizes]), axis=along)
    for old, part in zip(split.outputs, parts, strict=True):
        part.hint = old.hint
        for taker in list(old.users()):
            op = Builder(taker.home, taker, taker.loc, taker.out.hint)
            taker.replace_by(op.reshape(part, taker.out.type.shape))
    erase_dead(split)
    return 1


def _same_places(before: Shape, after: Shape, axis: int) -> tuple[int, int] | None:
    """The axis of a tensor that a Reshape divides for `axis`, and how many places one of `axis` is there.

    None where one place of `axis` is not a number of places in a row there.
    """
    size = after[axis]
    for along, whole in enumerate(before):
        each = _times(whole, size)
        if each and same_dim(dims.prod(before[:along]), dims.prod(after[:axis])):
            return along, each
    return None


def _times(whole: Dim, part: Dim) -> int | None:
    """How often a size is in another one; None where it is not, or that is not known."""
    if type(whole) is not int or type(part) is not int or part < 1 or whole % part:
        return None
    return whole // part
