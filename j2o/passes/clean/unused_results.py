"""`unused_results`: what loops carry and stack, and branches give, although nobody uses it.

The usual case is the counter of `jax.lax.fori_loop`, whose body does not look at it:

    i, x = Loop(n, _, 0, x) { (step, go_on, i, x): go_on, i + 1, f(x) }
    becomes   x = Loop(n, _, x) { (step, go_on, x): go_on, f(x) }

A carried value is needed where its last state is used, or where the body needs it: for another result that is
needed, to decide whether to go on, or for an effect.
"""

from __future__ import annotations

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Attr
from j2o.passes.clean.dce import has_effect, remove_unused
from j2o.passes.clean.loops import CARRIED, CarriedPlaces, end_of_carried
from j2o.passes.pipeline import graph_pass

# an If gives what its branches give, and carries nothing
PLACES = {**CARRIED, "onnx.If": CarriedPlaces(input=0, result=0)}
# attributes that have an entry for each stack of a Scan
OF_STACKS = ("scan_output_axes", "scan_output_directions")


@graph_pass("unused_results", at="onnx", level=1)
def unused_results(graph: Graph) -> int:
    """Remove results of loops and branches that nobody uses, and what is carried for them alone."""
    count = 0
    for node in list(graph.holders):
        # a node without any used result is left to `dce`
        if node.op in PLACES and node.used:
            count += _without_unused(node)
    return count


def _without_unused(node: Node) -> int:
    """Write a node without the results that are not needed; returns how many these are."""
    if all(out.uses for out in node.outputs):
        return 0
    carried = _carried_count(node)
    needed = _needed_carries(node, carried)
    kept: list[int] = []
    for index, out in enumerate(node.outputs):
        if out.uses or index in needed:
            kept.append(index)
    if len(kept) == len(node.outputs):
        return 0
    attrs = _attributes(node, kept, carried)
    places = PLACES[node.op]
    for body in node.graphs:
        results = [body.outputs[places.result + index] for index in kept]
        body.set_outputs([*body.outputs[: places.result], *results])
        remove_unused(body)
    gone = [index for index in range(carried) if index not in kept]
    for index in reversed(gone):
        node.graphs[0].remove_input(places.input + index)
    _write(node, kept, gone, attrs)
    return len(node.outputs) - len(kept)


def _write(
    node: Node, kept: list[int], gone: list[int], attrs: dict[str, Attr]
) -> None:
    """Put a node with some results, and without some of the operands that are carried, in its place."""
    first = PLACES[node.op].input
    places_gone = {first + index for index in gone}
    operands = [v for place, v in enumerate(node.inputs) if place not in places_gone]
    outs = [node.outputs[index] for index in kept]
    types = [out.type for out in outs]
    op = Builder(node.home, node, node.loc, outs[0].hint)
    new = op.node(node.op, operands, attrs, types, list(node.graphs))
    for old, value in zip(outs, new.outputs, strict=True):
        old.replace_by(value)
    node.erase()


def _attributes(node: Node, kept: list[int], carried: int) -> dict[str, Attr]:
    """The attributes, those of stacks for the stacks that are kept."""
    attrs = dict(node.attrs)
    for name in OF_STACKS:
        if name in attrs:
            entries = node.ints_attr(name)
            attrs[name] = tuple(
                entries[index - carried] for index in kept if index >= carried
            )
    return attrs


# ------------------------------------------------------------------------- what is needed


def _carried_count(node: Node) -> int:
    """How many values a node carries from round to round."""
    places = CARRIED.get(node.op)
    return 0 if places is None else end_of_carried(node) - places.input


def _needed_carries(node: Node, carried: int) -> set[int]:
    """Which of the carried values are used when all rounds are over, or needed in a round."""
    if not carried:
        return set()
    body, places = node.graphs[0], PLACES[node.op]
    needed = {index for index in range(carried) if node.outputs[index].uses}
    seen: set[Value] = set()
    pending = _needed_at_least(node)
    while pending:
        value = pending.pop()
        if value in seen or value.graph is not body:
            continue
        seen.add(value)
        if value.node is not None:
            pending += value.node.used_values()
            continue
        index = value.index - places.input
        if 0 <= index < carried:
            # a state is needed: so is what makes it in the round before
            needed.add(index)
            pending.append(body.outputs[places.result + index])
    return needed


def _needed_at_least(node: Node) -> list[Value]:
    """Values of a body that are needed whatever it carries."""
    body, first = node.graphs[0], PLACES[node.op].result
    # whether to go on
    values = list(body.outputs[:first])
    for out, result in zip(node.outputs, body.outputs[first:], strict=True):
        if out.uses:
            values.append(result)
    for inner in body:
        if has_effect(inner):
            values += inner.used_values()
    return values
