"""Functions: what `@j2o.function` marked becomes a function graph and calls of it; equal bodies share one definition.

A function may not use values from outside: the weights that its body holds become inputs, so blocks that differ in
nothing but their weights have equal bodies.
"""

from __future__ import annotations

from collections.abc import Hashable

from j2o.ir.graph import Graph, Node, Value, clone_node
from j2o.ir.marks import MARK
from j2o.ir.same import fingerprint
from j2o.ir.tensor import Tensor
from j2o.passes.pipeline import graph_pass
from j2o.passes.structure.inline import is_marked


@graph_pass("functions", at="lax", level=0, scope="root")
def functions(graph: Graph) -> int:
    """Turn marked regions into functions, inner ones first."""
    return Outliner(graph).run(graph)


class Outliner:
    """Makes functions of graphs; equal ones become one."""

    def __init__(self, root: Graph) -> None:
        self.root = root
        self.made: dict[Hashable, Graph] = {}

    def run(self, graph: Graph) -> int:
        count = 0
        for node in graph:
            for region in node.graphs:
                count += self.run(region)
            if is_marked(node):
                self.outline(node)
                count += 1
        return count

    def outline(self, node: Node) -> None:
        """Replace a marked node by a call; its region becomes a function or is found to equal one."""
        assert node.graph is not None
        body = node.graphs[0]
        name = str(node.attrs["name"]).removeprefix(MARK) or "function"
        for inside, value in zip(body.inputs, node.inputs, strict=True):
            inside.hint = inside.hint or role(value)
        outer = lift_weights(body, node)
        node.graphs = ()
        body.parent = None
        function = self.shared(body, name)
        types, hints = [v.type for v in node.outputs], [v.hint for v in node.outputs]
        call = Node(
            "call",
            [*node.inputs, *outer],
            types,
            {"function": function.name},
            (),
            node.loc,
            hints,
        )
        node.graph.insert(call, before=node)
        node.replace_by(*call.outputs)

    def shared(self, body: Graph, name: str) -> Graph:
        """The function that equals `body`, or `body` itself, added under a free name."""
        key = fingerprint(body)
        if key in self.made:
            return self.made[key]
        functions = self.root.functions
        body.name, n = name, 0
        while body.name in functions:
            n += 1
            body.name = f"{name}_{n}"
        self.made[key] = self.root.add_function(body)
        return body


def lift_weights(body: Graph, holder: Node) -> list[Value]:
    """Make what a body holds or takes from outside inputs of it; returns the values for these, in front of `holder`.

    Scalars without a name stay: they belong to the program text. Equal constants become one input.
    """
    assert holder.graph is not None
    inputs: dict[Tensor | Value, Value] = {}
    outer: list[Value] = []

    def given(key: Tensor | Value, value: Value) -> Value:
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
            assert node.graph is not None
            node.graph.unlink(node)
            copy = holder.graph.insert(clone_node(node, {}), before=holder)
            node.out.replace_by(given(tensor, copy.out))
            if not copy.used and copy.out not in outer:
                copy.erase()
    return outer


def role(value: Value | None) -> str:
    """What a function may call an input that is `value` at one call: the end of a weight's path."""
    if value is None or value.const is None:
        return "x"
    return "_".join(value.const.name.split("/")[-2:])


def _is_inside(graph: Graph | None, body: Graph) -> bool:
    while graph is not None and graph is not body:
        graph = graph.outer
    return graph is body
