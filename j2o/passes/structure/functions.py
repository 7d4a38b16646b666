"""Functions: what `@j2o.function` marked becomes a function graph and calls of it.

A function may not use values from outside: the weights that its body holds become inputs. So blocks that
differ in nothing but their weights have equal bodies, and equal bodies share one definition.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from j2o.ir.copies import clone_node
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.marks import MARK
from j2o.ir.node import Loc
from j2o.ir.same import fingerprint
from j2o.ir.scopes import placed, take_out_common
from j2o.ir.tensor import Tensor
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import inline, is_marked


@graph_pass("functions", at="lax", level=0, scope="root")
def functions(graph: Graph, context: Context) -> int:
    """Turn marked regions into functions, inner ones first; put them in place for a target without any."""
    if context.target is not None and not context.target.functions:
        return _put_in_place(graph)
    return Outliner(graph).run(graph)


def _put_in_place(graph: Graph) -> int:
    """Inline what was marked, as if it had not been."""
    for node in graph.walk():
        if is_marked(node):
            name = str(node.attrs["name"])
            node.set_attr("name", name.removeprefix(MARK))
    return inline(graph)


class Outliner:
    """Makes functions of graphs; equal ones become one."""

    def __init__(self, root: Graph) -> None:
        self.root = root
        self.made: dict[Hashable, Graph] = {}

    def run(self, graph: Graph) -> int:
        """Outline the marked nodes of a graph and its regions, inner ones first; returns their number."""
        count = 0
        for node in list(graph.holders):
            for region in node.graphs:
                count += self.run(region)
            if is_marked(node):
                self.outline(node)
                count += 1
        return count

    def outline(self, node: Node) -> None:
        """Replace a marked node by a call; its region becomes a function or is found to equal one."""
        body = node.graphs[0]
        name = str(node.attrs["name"]).removeprefix(MARK) or "function"
        for inside, value in zip(body.inputs, node.inputs, strict=True):
            inside.hint = inside.hint or role(value)
        outer = lift_weights(body, node)
        node.graphs = ()
        body.parent = None
        loc = placed(node.loc, take_out_common(body))
        function = self.shared(body, name)
        operands = [*node.inputs, *outer]
        call = call_of(function, operands, node.outputs, loc)
        node.home.insert(call, before=node)
        node.replace_by(*call.outputs)

    def shared(self, body: Graph, name: str) -> Graph:
        """The function that equals `body`, or `body` itself, added under a free name."""
        key = fingerprint(body)
        if key in self.made:
            return self.made[key]
        functions = self.root.functions
        body.name = name
        number = 0
        while body.name in functions:
            number += 1
            body.name = f"{name}_{number}"
        self.made[key] = self.root.add_function(body)
        return body


def call_of(
    function: Graph,
    operands: Sequence[Value | None],
    results: Sequence[Value],
    loc: Loc | None,
) -> Node:
    """A call of a function, not inserted yet, whose results have the types and hints of `results`."""
    types = [value.type for value in results]
    hints = [value.hint for value in results]
    attrs = {"function": function.name}
    return Node("call", operands, types, attrs, (), loc, hints)


def lift_weights(body: Graph, holder: Node) -> list[Value]:
    """Make inputs of what a body holds or takes from outside.

    Returns the values for these inputs, in their order; constants are moved in front of
    `holder`. Scalars without a name stay: they belong to the program text. Equal constants become one input.
    """
    inputs: dict[Tensor | Value, Value] = {}
    outer: list[Value] = []

    def given(key: Tensor | Value, value: Value) -> Value:
        """The input that stands for a value; one for each key."""
        if key not in inputs:
            inputs[key] = body.add_input(value.type, role(value))
            outer.append(value)
        return inputs[key]

    for node in list(body.walk()):
        for i, value in enumerate(node.inputs):
            if value is not None and not _is_inside(value.graph, body):
                node.set_input(i, given(value.const or value, value))
        tensor = node.out.const if node.op == "const" else None
        if tensor is not None and (tensor.shape or tensor.name):
            node.home.unlink(node)
            copy = holder.home.insert(clone_node(node, {}), before=holder)
            node.out.replace_by(given(tensor, copy.out))
            if not copy.used and copy.out not in outer:
                copy.erase()
    return outer


def role(value: Value | None) -> str:
    """A name for the input of a function that is `value` at one call: the end of a weight's path."""
    if value is None or value.const is None:
        return "x"
    return "_".join(value.const.name.split("/")[-2:])


def _is_inside(graph: Graph | None, body: Graph) -> bool:
    """Return True where a graph is `body` or a region inside of it."""
    while graph is not None and graph is not body:
        graph = graph.outer
    return graph is body
