"""Prints a graph as text, which `parser.py` reads back exactly. The grammar stands at the head of that file.

Printing takes time linear in the graph. Names are hints: a value prints as `%hint`, `%hint_1`, … and reading
takes the number off again, so printing what was read gives the same text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import cast

from j2o.ir import dims as dim_ops
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import Loc
from j2o.ir.notation import CONSTANTS, PLAIN, elements_text, quoted, stem
from j2o.ir.tensor import ArrayTensor, Tensor
from j2o.ir.types import Attr, DType, Struct, Type

INLINE = 16  # constants of up to this many elements stand in the text
_RESERVED = frozenset({"inf", "nan", *CONSTANTS})
_CONTENT_KEY = re.compile(r"[0-9a-f]{16}|array_\d+")  # a key that the data itself gives
_UNPRINTABLE = re.compile(r"[^\w./$]+")


def to_text(graph: Graph, *, loc: bool = False) -> str:
    """Return the text of a graph with its regions and functions; `loc` adds source locations."""
    return Printer(loc).root(graph)


def value_names(graph: Graph) -> dict[Value, str]:
    """Return the name that each value of a root graph has in its text, such as `%add_1`."""
    printer = Printer(False)
    printer.root(graph)
    return printer.names


class Printer:
    """The lines printed so far, and the names that values have in them."""

    def __init__(self, with_locations: bool) -> None:
        self.with_locations = with_locations
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.counts: dict[str, int] = {}  # of values, by hint
        self.types: dict[Type, str] = {}

    def root(self, graph: Graph) -> str:
        """The text of a graph and of its functions."""
        self.graph(graph, "", "graph")
        for function in graph.own_functions.values():
            self.begin_function()
            self.graph(function, "", "function")
        return "\n".join(self.lines) + "\n"

    def begin_function(self) -> None:
        """A function has names of its own."""
        self.counts = {}

    def name(self, value: Value | None) -> str:
        """Return the name of a value, a new one where it is met first; `_` for an operand left out."""
        if value is None:
            return "_"
        found = self.names.get(value)
        if found is None:
            found = self.names[value] = self.new_name(value.hint)
        return found

    def new_name(self, hint: str) -> str:
        """A name that no other value has: the hint, with a number behind it where it is taken."""
        hint = printable(hint)
        count = self.counts.get(hint, 0)
        self.counts[hint] = count + 1
        if not hint:
            return f"%{count}"
        return f"%{hint}_{count}" if count else f"%{hint}"

    def type(self, type: Type) -> str:
        """A type as text, made once."""
        if type not in self.types:
            self.types[type] = str(type)
        return self.types[type]

    def graph(self, graph: Graph, indent: str, kind: str) -> None:
        """Print one graph: the root, a function or a region."""
        head = f"{indent}{kind} {_at(graph.name)}({self.inputs(graph)})"
        if graph.output_names:
            head += f" -> {_strings(graph.output_names)}"
        place = len(self.lines)
        self.lines.append("")  # the head lists the symbols that the nodes mention
        for node in graph:
            self.node(node, indent + "  ")
        self.lines.append(indent + "}")
        if kind == "graph" and not indent:
            head += self.scope(graph)
        self.lines[place] = head + " {"

    def inputs(self, graph: Graph) -> str:
        """The inputs of a graph, with the names that users see."""
        has_names = len(graph.input_names) == len(graph.inputs)
        inputs: list[str] = []
        for i, value in enumerate(graph.inputs):
            text = f"{self.name(value)}: {self.type(value.type)}"
            if has_names and graph.input_names[i]:
                text += f" as {quoted(graph.input_names[i])}"
            inputs.append(text)
        return ", ".join(inputs)

    def scope(self, graph: Graph) -> str:
        """Return the symbols in the order in which types mention them, and the constraints."""
        if graph.own_dims is None:
            return ""
        symbols = dict.fromkeys(
            name
            for type in self.types
            for size in type.shape
            for name in dim_ops.symbols(size)
        )
        parts: list[str] = []
        if symbols:
            parts.append(f"dims ({', '.join(symbols)})")
        if graph.own_dims.constraints:
            parts.append(f"where {_strings(graph.own_dims.constraints)}")
        return f"\n    {' '.join(parts)}" if parts else ""

    def node(self, node: Node, indent: str) -> None:
        """Print one node, and the regions in it."""
        operands = ", ".join(map(self.name, node.inputs))
        if node.op == "return":
            self.lines.append(f"{indent}return {operands}".rstrip())
            return
        results = ", ".join(map(self.name, node.outputs))
        attrs = dict(node.attrs)
        body = _body(node.op, operands, attrs)
        line = f"{indent}{results} = {body}" if results else indent + body
        if attrs:
            line += f" {{{_fields(sorted(attrs.items()))}}}"
        if node.outputs:
            types = [self.type(value.type) for value in node.outputs]
            line += f" : {', '.join(types)}"
        if self.with_locations and node.loc is not None:
            line += f" {_location(node.loc)}"
        if not node.graphs:
            self.lines.append(line)
            return
        self.lines.append(line + " {")
        for region in node.graphs:
            self.graph(region, indent + "  ", "graph")
        self.lines.append(indent + "}")


def printable(hint: str) -> str:
    """Return a hint as it stands in a name, without the numbers behind it."""
    if not hint or hint.isalpha():
        return hint
    return stem(_UNPRINTABLE.sub("_", hint))


def _body(op: str, operands: str, attrs: dict[str, Attr]) -> str:
    """Return the operation with its operands; what it prints of the attributes is taken out of them."""
    if op == "const":
        value = attrs.pop("value")
        assert isinstance(value, Tensor)
        return f"const {literal(value)}"
    if op == "dims":
        return f"dims {attr_text(attrs.pop('dims'))}"
    if op == "call":
        return f"call {_at(str(attrs.pop('function')))}({operands})"
    return f"{op}({operands})"


def _location(loc: Loc) -> str:
    """A source line as it stands in the text."""
    file = quoted(loc.file)
    function = quoted(loc.function)
    return f"loc({file}, {loc.line}, {function}, {quoted(loc.scope)})"


def _at(name: str) -> str:
    """The name of a graph or function as it stands in the text."""
    return f"@{name}" if PLAIN.fullmatch(name) else f"@{quoted(name)}"


def _strings(texts: Iterable[str]) -> str:
    """Texts in round brackets."""
    return f"({', '.join(map(quoted, texts))})"


def _fields(fields: Iterable[tuple[str, Attr]]) -> str:
    """Names with their values, between commas."""
    return ", ".join([f"{name} = {attr_text(value)}" for name, value in fields])


def attr_text(value: Attr) -> str:
    """Return one attribute as text; TypeError for an object that is no plain attribute."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return quoted(value)
        case DType():
            return value.value
        case tuple():
            entries = cast("tuple[Attr, ...]", value)
            return f"[{', '.join(map(attr_text, entries))}]"
        case Struct():
            return f"{value.name}({_fields(value.fields.items())})"
        case Tensor():
            return f"tensor({literal(value)} : {value.type})"
        case _:
            return _expression(value)


def _expression(value: object) -> str:
    """Return a symbolic size as text; TypeError for another object."""
    if not dim_ops.is_symbolic(value):
        kind = type(value).__name__
        raise TypeError(f"{value!r} of type {kind} is not a plain attribute")
    text = str(value)
    return f"dim({text})" if text in _RESERVED else text


def literal(tensor: Tensor) -> str:
    """Return a constant without its type: `1.5`, `[1, 2]`, `0x…` (bytes), or `@"key"`.

    The key stands where the data does not, and in front of it where somebody chose the key.
    """
    key = f"@{quoted(tensor.key)}"
    if tensor.size > INLINE or not isinstance(tensor, ArrayTensor):
        return key
    elements = elements_text(tensor)
    is_of_content = _CONTENT_KEY.fullmatch(tensor.key) is not None
    return elements if is_of_content else f"{key} {elements}"
