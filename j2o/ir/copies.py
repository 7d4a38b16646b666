"""Copies of graphs and of nodes, and the nodes of a graph that are moved into another."""

from __future__ import annotations

from collections.abc import Sequence

from j2o.ir.graph import Graph, Node, Value


def clone_graph(graph: Graph, values: dict[Value, Value]) -> Graph:
    """Return a copy with regions and functions.

    Values of graphs around it are kept, or taken from `values`, which learns what each value became.
    """
    copy = Graph(graph.name, graph.own_dims)
    copy.input_names = list(graph.input_names)
    copy.output_names = list(graph.output_names)
    for value in graph.inputs:
        values[value] = copy.add_input(value.type, value.hint)
    for node in graph:
        copy.insert(clone_node(node, values))
    for name, function in graph.own_functions.items():
        copy.own_functions[name] = function.clone()
        copy.own_functions[name].parent_graph = copy
    return copy


def clone_node(node: Node, values: dict[Value, Value]) -> Node:
    """Return a copy of a node, its operands taken from `values` where they are there.

    `values` learns the new outputs.
    """
    inputs = [
        None if value is None else values.get(value, value) for value in node.inputs
    ]
    graphs = [graph.clone(values) for graph in node.graphs]
    types = [value.type for value in node.outputs]
    hints = [value.hint for value in node.outputs]
    copy = Node(node.op, inputs, types, node.attrs, graphs, node.loc, hints)
    values.update(zip(node.outputs, copy.outputs, strict=True))
    return copy


def splice(graph: Graph, args: Sequence[Value], before: Node) -> tuple[Value, ...]:
    """Move the nodes of `graph` in front of `before`, its inputs replaced by `args`, and return its outputs.

    `graph` is used up: nobody may use it afterwards.
    """
    for value, arg in zip(graph.inputs, args, strict=True):
        value.replace_by(arg)
    home = before.home
    outputs = graph.outputs
    for node in graph:
        if node.op != "return":
            graph.unlink(node)
            home.insert(node, before=before)
    graph.drop()
    return outputs
