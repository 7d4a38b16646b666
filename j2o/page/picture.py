"""The graph that one can look at: from a graph to what `picture.js` draws.

The data is one table each of types, files, modules, values, nodes and graphs, which name each other by
number, so that it is small. Constants and shape vectors are values with a text, and no nodes.

    types    "f32[B,128]"
    operands by operator, the names of its operands
    values   [name, type], of a constant [name, type, text, whether it is a weight]
    nodes    {op, in, out}, and where there are some: attrs, at [file, line], module, graphs (its bodies),
             call (the body of the function)
    graphs   {name, module, inputs, outputs, members}, the model first; inputs and outputs [value, name]
    members  the number of a node, or {name, module, members} of a module
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.notation import elements_text
from j2o.ir.onnx_ops import GRAPH_ATTRIBUTES, schema
from j2o.ir.ops import LABEL
from j2o.ir.places import portable
from j2o.ir.printer import attr_text, value_names
from j2o.ir.scopes import Scope, scopes
from j2o.ir.tensor import ArrayTensor, Tensor
from j2o.ir.types import Attr
from j2o.page.modules import Member, Module, tree

# in the order in which they run
SCRIPTS = (
    "picture-things.js",
    "picture-boxes.js",
    "picture-levels.js",
    "picture-details.js",
    "picture.js",
)
LONG = 160  # characters of an attribute
ENTRIES = 16  # of a list in an attribute, and elements of a constant
UNSEEN = frozenset({"const", "dims", "return"})  # operations that no box stands for


def document(graph: Graph, *, sources: bool = True) -> dict[str, Any]:
    """Return a root graph with its modules, functions and regions as plain data, for JSON.

    Without `sources` no node has its source line.
    """
    return _Document(graph, sources).data()


class _Table:
    """Numbers entries in the order in which they come."""

    def __init__(self) -> None:
        self.numbers: dict[Hashable, int] = {}

    def number(self, entry: Hashable) -> int:
        return self.numbers.setdefault(entry, len(self.numbers))

    def entries(self) -> list[Any]:
        return list(self.numbers)


class _Document:
    """The tables as far as they are made."""

    def __init__(self, graph: Graph, sources: bool) -> None:
        self.root = graph
        self.sources = sources
        self.scopes = scopes(graph)
        self.names = value_names(graph)
        self.operands: dict[str, list[str]] = {}
        self.types = _Table()
        self.files = _Table()
        self.modules = _Table()
        self.values = _Table()
        self.numbers: dict[Node, int] = {}
        self.nodes: list[dict[str, Any]] = []
        self.graphs: list[dict[str, Any]] = []
        functions = graph.own_functions
        self.functions = {name: 1 + i for i, name in enumerate(functions)}

    def data(self) -> dict[str, Any]:
        """All tables."""
        tops = [self.root, *self.root.own_functions.values()]
        self.graphs = [{} for _ in tops]  # functions have their numbers from the start
        for number, top in enumerate(tops):
            self.graphs[number] = self.graph(top, top.name, ())
        values = [self.value(value) for value in self.values.entries()]
        return {
            "operands": self.operands,
            "types": self.types.entries(),
            "files": self.files.entries(),
            "modules": self.modules.entries(),
            "values": values,
            "nodes": self.nodes,
            "graphs": self.graphs,
        }

    def graph(self, graph: Graph, name: str, around: Scope) -> dict[str, Any]:
        """The entry of a graph. `around` is the module of the node whose region it is."""
        numbers: list[int] = []
        paths: dict[int, Scope] = {}
        before: dict[int, set[int]] = {}
        for node in graph:
            if node.op in UNSEEN:
                continue
            number = self.number(node)
            numbers.append(number)
            paths[number] = _inside(self.scopes[node], around)
            before[number] = self.makers(node)
        level = self.plain(tree(numbers, paths, before), around)
        return {
            **level,
            "name": name,
            "inputs": self.ends(graph.inputs, graph.input_names),
            "outputs": self.ends(graph.outputs, graph.output_names),
        }

    def plain(self, member: Member, around: Scope) -> Any:
        """A member of a level as data; `around` is the module of the node whose region it is in."""
        if not isinstance(member, Module):
            return member
        path = "/".join((*around, *member.path))
        inner = [self.plain(one, around) for one in member.members]
        return {
            "name": member.name,
            "module": self.modules.number(path),
            "members": inner,
        }

    def ends(self, values: Any, names: list[str]) -> list[list[Any]]:
        """Inputs or outputs, each with the name that the model has for it."""
        shown = [*names, *[""] * len(values)]  # functions and regions have none
        numbers = [self.values.number(value) for value in values]
        return [[number, name] for number, name in zip(numbers, shown, strict=False)]

    def makers(self, node: Node) -> set[int]:
        """The nodes whose results a node or its regions use."""
        users = [node]
        for region in node.graphs:
            users += region.walk()
        makers = {value.node for user in users for value in user.operands}
        return {self.numbers[maker] for maker in makers if maker in self.numbers}

    def number(self, node: Node) -> int:
        """Make the entry of a node, and return its number."""
        number = len(self.nodes)
        self.numbers[node] = number
        op = node.op.removeprefix("onnx.")
        if node.dialect == "onnx" and op not in self.operands:
            self.operands[op] = _operands(op)
        entry: dict[str, Any] = {"op": op}
        self.nodes.append(entry)
        entry["in"] = [self.operand(value) for value in node.inputs]
        entry["out"] = [self.values.number(value) for value in node.outputs]
        scope = self.scopes[node]
        details = {
            "attrs": _attributes(node) or None,
            "at": self.place(node),
            "module": self.modules.number("/".join(scope)) if scope else None,
            "graphs": self.regions(node) or None,
            "call": self.called(node),
        }
        entry |= {key: found for key, found in details.items() if found is not None}
        return number

    def operand(self, value: Value | None) -> int:
        """The number of an operand, -1 of one that is left out."""
        return -1 if value is None else self.values.number(value)

    def called(self, node: Node) -> int | None:
        """The number of the body of the function that a node calls."""
        if node.op != "call":
            return None
        return self.functions[node.str_attr("function")]

    def place(self, node: Node) -> list[int] | None:
        """The source line of a node."""
        if node.loc is None or not self.sources:
            return None
        return [self.files.number(portable(node.loc.file)), node.loc.line]

    def regions(self, node: Node) -> list[int]:
        """The numbers of the regions of a node."""
        known = GRAPH_ATTRIBUTES.get(node.kind, ())
        numbers: list[int] = []
        for i, region in enumerate(node.graphs):
            name = known[i] if i < len(known) else f"body {i + 1}"
            entry = self.graph(region, name.replace("_", " "), self.scopes[node])
            numbers.append(len(self.graphs))
            self.graphs.append(entry)
        return numbers

    def value(self, value: Value) -> list[Any]:
        """The entry of a value."""
        name = self.names[value].removeprefix("%")
        entry = [name, self.types.number(str(value.type))]
        tensor = value.const
        if tensor is not None:
            is_weight = bool(tensor.name) or tensor.size > ENTRIES
            return [*entry, _contents(tensor), int(is_weight)]
        if value.op == "dims":
            return [*entry, _bounded(value.known or ()), 0]
        return entry


def _inside(scope: Scope, around: Scope) -> Scope:
    """The steps of a scope inside of the module around it."""
    return scope[len(around) :] if scope[: len(around)] == around else scope


def _operands(op: str) -> list[str]:
    """The names of an operator's operands, without the one that stands for any number of them."""
    known = schema(op)
    names = list(known.input_names)
    return names[:-1] if known.variadic else names


def _attributes(node: Node) -> dict[str, str]:
    """The attributes of a node as text."""
    hidden = {LABEL, "function"} if node.op == "call" else {LABEL}
    shown = sorted(node.attrs.items())
    return {name: _bounded(value) for name, value in shown if name not in hidden}


def _bounded(value: Attr) -> str:
    """An attribute as text that is never long."""
    if isinstance(value, tuple) and len(value) > ENTRIES:
        text = attr_text(value[:ENTRIES])
        return f"{text[:LONG]} and {len(value) - ENTRIES} more"
    if isinstance(value, Tensor):
        return f"{_contents(value)} : {value.type}"
    if isinstance(value, float) and value == np.float32(value):
        return str(np.float32(value))  # 1e-06, as ONNX keeps it
    text = attr_text(value)
    return text if len(text) <= LONG else f"{text[:LONG]}…"


def _contents(tensor: Tensor) -> str:
    """The path of a weight, the elements of a small constant, nothing for another."""
    if tensor.name or tensor.size > ENTRIES or not isinstance(tensor, ArrayTensor):
        return tensor.name
    text = elements_text(tensor)
    return text if len(text) <= LONG else f"{text[:LONG]}…"
