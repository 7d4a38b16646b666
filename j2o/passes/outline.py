"""Functions: what `@j2o.function` marked becomes a function graph and calls of it; equal bodies share one definition.

A function may not use values from outside: the weights that its body holds become inputs, so blocks that differ in
nothing but their weights have equal bodies.
"""

from __future__ import annotations

from j2o.functions import MARK
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.same import same, structural_hash
from j2o.ir.tensor import Tensor
from j2o.passes.inline import is_marked
from j2o.passes.pipeline import graph_pass


@graph_pass("functions", at="lax", level=0, scope="root")
def functions(graph: Graph) -> int:
    """Turn marked regions into functions, inner ones first."""
    return _Outliner(graph).run(graph)


class _Outliner:
    def __init__(self, root: Graph) -> None:
        self.root = root
        self.by_hash: dict[int, list[Graph]] = {}

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
        weights = lift_weights(body)
        node.graphs = ()
        body.parent = None
        outer = [node.graph.insert(weight, before=node).out for weight in weights]
        function = self.shared(body, name)
        types = [v.type for v in node.outputs]
        call = Node(
            "call",
            [*node.inputs, *outer],
            types,
            {"function": function.name},
            (),
            node.loc,
            [v.hint for v in node.outputs],
        )
        node.graph.insert(call, before=node)
        node.replace_by(*call.outputs)

    def shared(self, body: Graph, name: str) -> Graph:
        """The function that equals `body`, or `body` itself, added under a free name."""
        key = structural_hash(body)
        for known in self.by_hash.get(key, ()):
            if same(known, body) is None:
                return known
        functions = self.root.functions
        body.name, n = name, 0
        while body.name in functions:
            n += 1
            body.name = f"{name}_{n}"
        self.by_hash.setdefault(key, []).append(body)
        return self.root.add_function(body)


def lift_weights(body: Graph) -> list[Node]:
    """Make the arrays that a body holds inputs of it; returns their `const` nodes, detached, in the order of the inputs.

    Scalars without a name stay: they belong to the program text. Equal constants become one input.
    """
    inputs: dict[Tensor, Value] = {}
    lifted: list[Node] = []
    for node in list(body.walk()):
        tensor = node.out.const if node.op == "const" else None
        if tensor is None or not (tensor.shape or tensor.name):
            continue
        if tensor not in inputs:
            inputs[tensor] = body.add_input(node.out.type, node.out.hint)
            lifted.append(node)
        node.out.replace_by(inputs[tensor])
        assert node.graph is not None
        node.graph.unlink(node)
    return lifted
