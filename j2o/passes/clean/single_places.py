"""`single_places`: a tensor that is taken apart place by place is sliced, so that its parts keep the axis.

The corners of boxes are `box[..., 0]`, `box[..., 1]` and so on; what is computed of them is stacked again.
Cut as slices with a Squeeze, which moves behind what is computed (`unit_axes`), they become one Split
(`parts`), and nothing has to get the axis back. Where a Squeeze stays beside its slice, `tidy` makes a
Gather again.
"""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.passes.pipeline import graph_pass

MOST = 16  # parts: more are seldom computed with one by one


@graph_pass("single_places", at="onnx", level=2)
def single_places(graph: Graph) -> int:
    """Gathers of all places of an axis, for functions of each element → Squeeze(Slice(x)) for each."""
    taken: dict[tuple[Value, int], dict[int, Node]] = {}
    for node in graph.nodes_of("onnx.Gather"):
        axis = node.int_attr("axis", 0) % node.operand(0).type.rank
        place = _single_place(node, axis)
        if place is not None:
            taken.setdefault((node.operand(0), axis), {})[place] = node
    count = 0
    for (x, axis), nodes in taken.items():
        if 1 < len(nodes) == x.type.shape[axis] and len(nodes) <= MOST:
            count += len(nodes)
            for place, node in nodes.items():
                node.replace_by(_sliced(node, axis, place))
    return count


def _single_place(node: Node, axis: int) -> int | None:
    """The place that a Gather takes of an axis of known size, without it; None for another Gather.

    None as well where something else than a function of each element takes the result: that moves no Squeeze.
    """
    x, index = node.operands
    size, place = x.type.shape[axis], index.number
    if type(size) is not int or place is None or index.type.rank:
        return None
    if not -size <= place < size:
        return None
    users = list(node.out.users())
    if not users or not all(user.spec.elementwise for user in users):
        return None
    return int(place) % size


def _sliced(node: Node, axis: int, place: int) -> Value:
    """The place as a slice, without the axis."""
    op = Builder(node.home, node, node.loc, node.out.hint)
    bounds = [op.dims([number]) for number in (place, place + 1, axis, 1)]
    return op.squeeze(op.Slice(node.operand(0), *bounds), [axis])
