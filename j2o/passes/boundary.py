"""What the exported model does at its boundary beyond the function: layouts, and checks of sizes."""

from __future__ import annotations

from collections.abc import Sequence

from j2o.ir.graph import Graph, Node

TO_NHWC, TO_NCHW = (0, 2, 3, 1), (0, 3, 1, 2)


def _transpose(perm: tuple[int, ...], value: object, type: object, hint: str) -> Node:
    return Node(
        "lax.transpose", [value], [type], {"permutation": perm}, (), None, [hint]
    )  # type: ignore[list-item]


def nchw_inputs(graph: Graph, positions: Sequence[int]) -> None:
    """Let the graph take these 4-D inputs as NCHW while what follows goes on in NHWC."""
    for i in positions:
        value = graph.inputs[i]
        n, h, w, c = value.type.shape
        nhwc = value.type
        value.type = nhwc.with_shape((n, c, h, w))
        node = _transpose(TO_NHWC, None, nhwc, value.hint)
        graph.insert(node, before=graph.start)
        value.replace_by(node.out)
        node.set_inputs([value])


def nchw_outputs(graph: Graph, positions: Sequence[int]) -> None:
    """Let the graph give these 4-D outputs as NCHW."""
    outputs = list(graph.outputs)
    for i in positions:
        n, h, w, c = outputs[i].type.shape
        node = _transpose(
            TO_NCHW,
            outputs[i],
            outputs[i].type.with_shape((n, c, h, w)),
            outputs[i].hint,
        )
        outputs[i] = graph.insert(node).out
    graph.set_outputs(outputs)
