"""Reads the text form of a graph, which `printer.py` writes: `parse(str(graph))` is the graph again.

This is the grammar. Space, newlines and `//` comments may stand between any two parts. `docs/text-form.md`
tells what they mean, with an example.

    text       = graph {"function" signature body}
    graph      = "graph" signature dims body                        (`dims` in the outermost graph alone)
    signature  = "@"name "(" [input {"," input}] ")" ["->" strings]
    input      = value ":" type ["as" string]
    dims       = ["dims" "(" [symbol {"," symbol}] ")"] ["where" strings]
    body       = "{" {node} "return" [operand {"," operand}] "}"

    node       = [value {"," value} "="] operation [attributes] [":" type {"," type}] [location] [regions]
    operation  = "const" literal | "dims" attribute | "call" "@"name operands | op operands
    operands   = "(" [operand {"," operand}] ")"
    operand    = value | "_"                                        (`_` is an operand left out)
    attributes = "{" [symbol "=" attribute {"," symbol "=" attribute}] "}"
    location   = "loc" "(" file "," line "," function "," scope ")"
    regions    = "{" graph {graph} "}"

    attribute  = list | struct | "tensor(" literal ":" type ")" | "dim(" size ")"
               | string | number | dtype | "true" | "false" | "none" | size
    list       = "[" [attribute {"," attribute}] "]"
    struct     = symbol "(" [symbol "=" attribute {"," symbol "=" attribute}] ")"
    literal    = "@"name | ["@"name] element | ["@"name] "[" [element {"," element}] "]"
    element    = "0x" hexadecimal bytes | "true" | "false" | number | string

    value      = "%" and letters, digits, `_./$`            name   = letters, digits, `_.`, or a string
    type       = dtype "[" [size {"," size}] "]"            symbol = letters, digits, `_`
    strings    = "(" [string {"," string}] ")"              string = as in JSON
    size       = an expression; the grammar of these is in `expressions.py`

Reading takes time linear in the text, whatever the text is. ParseError names line and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.errors import DimensionError, ParseError, SpecError
from j2o.ir.cursor import (
    ATOM,
    ELEMENT,
    MARKS,
    NAME,
    OP,
    REGION,
    START,
    STRUCT,
    TYPE,
    VALUE,
    Cursor,
)
from j2o.ir.dims import DimScope
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import Loc
from j2o.ir.notation import CONSTANTS, read_elements, stem
from j2o.ir.tensor import ArrayTensor, LazyTensor, Tensor
from j2o.ir.types import Attr, Dim, DType, Struct, Type

DIGITS = 40  # of an integer; those of attributes have up to 20


def parse(text: str, tensors: Mapping[str, Tensor | np.ndarray] | None = None) -> Graph:
    """Return the graph that a text stands for.

    `tensors` has the data of constants that stand in the text by key only. A constant without data keeps its
    key and type; reading it raises SpecError. Raises ParseError, with line and column where it is the text
    that does not fit. Takes time linear in the text.
    """
    _check_arguments(text, tensors)
    return _Parser(text, tensors or {}).root()


def _check_arguments(text: object, tensors: object) -> None:
    """Raise ParseError for arguments of another kind than `parse` takes."""
    if not isinstance(text, str):
        raise ParseError(f"text: given a {type(text).__name__}, a str is needed")
    if tensors is not None and not isinstance(tensors, Mapping):
        given = type(tensors).__name__
        raise ParseError(
            f"tensors: given a {given}, a mapping from keys to arrays is needed"
        )


def tensors_of(graph: Graph) -> dict[str, Tensor]:
    """Return all constants of a graph by key, functions included: what `parse` needs to restore it wholly."""
    found: dict[str, Tensor] = {}
    for top in (graph, *graph.own_functions.values()):
        for node in top.walk():
            for value in node.attrs.values():
                if isinstance(value, Tensor):
                    found[value.key] = value
    return found


# What the names that a graph defines meant in the graphs around it: a region may use a name again.
Shadowed: TypeAlias = dict[str, Value | None]


class _Literal(NamedTuple):
    """A constant as it is written; `key` or `items`, the elements, may be missing."""

    key: str | None
    items: list[str] | None
    start: int


class _Operation(NamedTuple):
    """An operation with what it operates on: operands, an attribute or, for a constant, a literal."""

    inputs: list[Value | None]
    attrs: dict[str, Attr]
    literal: _Literal | None = None


class _Parser(Cursor):
    """Reads a graph. A method reads the part of the grammar that bears its name."""

    def __init__(self, text: str, tensors: Mapping[str, Tensor | np.ndarray]) -> None:
        super().__init__(text)
        self.tensors = tensors
        self.scope = DimScope()
        self.types: dict[str, Type] = {}
        self.values: Shadowed = {}  # what the names mean here
        self.hints: dict[str, str] = {}

    def root(self) -> Graph:
        """Take the whole text: a graph, and the functions behind it."""
        self.skip(START)
        root = self.graph("graph", outermost=True)
        root.own_dims = self.scope
        while self.has_word("function"):
            self.values = {}
            start = self.pos
            function = self.graph()
            try:
                root.add_function(function)
            except ValueError:
                self.fail("a name that no other function has", start)
        if not self.at_end():
            self.fail("'function' or the end of the text")
        return root

    def graph(self, word: str | None = None, *, outermost: bool = False) -> Graph:
        """Read a graph; `word` is what it begins with, None where that is taken already."""
        if word is not None and not self.has_word(word):
            self.fail(f"'{word}'")
        graph = Graph(self.at())
        shadowed: Shadowed = {}
        self.head(graph, shadowed, outermost)
        while not self.has("}"):
            if self.at_end():
                self.fail("'}'")
            if graph.last is not None and graph.last.op == "return":
                self.fail("'}' after return")
            self.node(graph, shadowed)
        if graph.last is None or graph.last.op != "return":
            self.fail("a 'return' before '}'")
        self.values.update(shadowed)
        return graph

    def head(self, graph: Graph, shadowed: Shadowed, outermost: bool) -> None:
        """Read inputs, output names and dimensions, up to and with the opening brace.

        Types are read last: they may use the dimensions, which stand behind them.
        """
        self.expect("(")
        inputs = [self.input() for _ in self.many(")")]
        if self.has("->"):
            graph.output_names = self.strings()
        if outermost:
            self.dims()
        for name, type_text, given, start in inputs:
            value = graph.add_input(self.type_of(type_text, start), self.hint(name))
            self.define(name, value, shadowed, start)
            if given:
                graph.input_names.append(given)
        self.expect("{")

    def input(self) -> tuple[str, str, str, int]:
        """Return the name, the type's text, the name that the user gave or "", and where the input begins."""
        start = self.pos
        name = self.take(VALUE, "an input such as %x: f32[2]")
        self.expect(":")
        type_text = self.take(TYPE, "a type such as f32[B,8]")
        given = self.string() if self.has_word("as") else ""
        return name, type_text, given, start

    def dims(self) -> None:
        """Read the symbols of sizes and the constraints on them, either of which may be missing."""
        start = self.pos
        names: list[str] = []
        if self.has_word("dims"):
            self.expect("(")
            names = [self.take(NAME, "the name of a dimension") for _ in self.many(")")]
        constraints = self.strings() if self.has_word("where") else []
        try:
            self.scope = DimScope(constraints)
            for name in names:
                self.scope.symbol(name)
        except DimensionError as error:
            self.fail(f"dimensions and constraints ({error})", start)

    def define(self, name: str, value: Value, shadowed: Shadowed, start: int) -> None:
        """Let a name mean a value, up to the end of its graph; ParseError where it has one there already."""
        if name in shadowed:
            self.fail(f"a new name ({name} is defined already)", start)
        shadowed[name] = self.values.get(name)
        self.values[name] = value

    def hint(self, name: str) -> str:
        """Return the hint of a value: its name without `%`, and without the number that made it unique."""
        if name not in self.hints:
            self.hints[name] = stem(name[1:])
        return self.hints[name]

    # ------------------------------------------------------------------- nodes

    def node(self, graph: Graph, shadowed: Shadowed) -> None:
        """Read one node, put it at the end of the graph, and define its results."""
        start = self.pos
        results = self.results()
        op = self.take(OP, "an operation such as onnx.Add")
        if op == "return":
            operands = [] if self.sees(MARKS["}"]) else self.listed(self.operand)
            graph.insert(Node("return", operands, ()))
            return
        inputs, attrs, literal = self.operation(op)
        attrs.update(self.attributes())
        if op in ("const", "dims") and len(results) != 1:
            self.fail(f"one result of {op}", start)
        types = self.result_types(len(results))
        if literal is not None:
            attrs["value"] = self.tensor(literal, types[0])
        loc = self.location() if self.has_word("loc") else None
        regions = self.regions()
        hints = [self.hint(name) for name in results]
        node = graph.insert(Node(op, inputs, types, attrs, regions, loc, hints))
        for name, value in zip(results, node.outputs, strict=True):
            self.define(name, value, shadowed, start)

    def results(self) -> list[str]:
        """Read the names in front of a node, and the `=` behind them; there may be none."""
        if not self.sees(VALUE):
            return []
        names = self.listed(lambda: self.take(VALUE, "a value such as %x"))
        self.expect("=")
        return names

    def operation(self, op: str) -> _Operation:
        """Read what stands behind the name of an operation."""
        if op == "const":
            return _Operation([], {}, self.literal())
        if op == "dims":
            return _Operation([], {"dims": self.attribute()})
        attrs: dict[str, Attr] = {"function": self.at()} if op == "call" else {}
        self.expect("(")
        return _Operation([self.operand() for _ in self.many(")")], attrs)

    def operand(self) -> Value | None:
        """Read the name of a value, which must be defined; None for an operand left out."""
        start = self.pos
        name = self.accept(VALUE)
        if name is None:
            self.take(MARKS["_"], "a value such as %x, or _")
            return None
        value = self.values.get(name)
        if value is None:
            self.fail("a value defined before its use", start)
        return value

    def attributes(self) -> dict[str, Attr]:
        """Take the attributes of a node, if there are some."""
        # regions begin with a brace too
        if self.sees(REGION) or not self.has("{"):
            return {}
        return self.fields("}", "an attribute")

    def fields(self, close: str, what: str) -> dict[str, Attr]:
        """Read names with attributes, and `close`; the last of the same name counts."""
        fields: dict[str, Attr] = {}
        for _ in self.many(close):
            name = self.take(NAME, what)
            self.expect("=")
            fields[name] = self.attribute()
        return fields

    def result_types(self, count: int) -> list[Type]:
        """Read the types behind a node; ParseError where it has another number of results."""
        types = self.listed(self.type) if self.has(":") else []
        if len(types) != count:
            plural = "" if count == 1 else "s"
            self.fail(f"{count} type{plural} after ':', one for each result")
        return types

    def location(self) -> Loc:
        """Read what stands behind `loc`: ("model.py", 12, "function", "scope")."""
        start = self.pos
        self.expect("(")
        parts: list[Any] = [self.attribute() for _ in self.many(")")]
        if [type(part) for part in parts] != [str, int, str, str]:
            self.fail('a location such as ("model.py", 12, "function", "scope")', start)
        return Loc(*parts)

    def regions(self) -> list[Graph]:
        """Read the graphs in braces behind a node; none where no braces follow."""
        regions: list[Graph] = []
        if self.skip(REGION):
            with self.inside():
                while not self.has("}"):
                    regions.append(self.graph("graph"))
        return regions

    # -------------------------------------------------------------- types and attributes

    def type(self) -> Type:
        """Take a type."""
        start = self.pos
        return self.type_of(self.take(TYPE, "a type such as f32[B,8]"), start)

    def type_of(self, text: str, start: int) -> Type:
        """Return the type that a text stands for; each text is looked at once."""
        if text not in self.types:
            self.types[text] = self.new_type(text, start)
        return self.types[text]

    def new_type(self, text: str, start: int) -> Type:
        """The type that a text is, read the first time that it occurs."""
        name, _, shape = text.removesuffix("]").partition("[")
        try:
            dtype = DType(name.strip())
        except ValueError:
            self.fail("an element type such as f32, i64, bool", start)
        try:
            sizes = self.scope.shape(shape)
        except DimensionError as error:
            self.fail(f"a type ({error})", start)
        if any(type(size) is int and size < 0 for size in sizes):
            self.fail("a type whose sizes are 0 or more", start)
        return Type(dtype, sizes)

    def attribute(self) -> Attr:
        """Read any attribute. What fits none of the others is a size, such as `2*B + 1`."""
        if self.has("["):
            with self.inside():
                return tuple([self.attribute() for _ in self.many("]")])
        if self.has("tensor("):
            return self.typed_tensor()
        name = self.accept(STRUCT)
        if name is not None:
            with self.inside():
                return Struct(name.removesuffix("("), **self.fields(")", "a field"))
        start = self.pos
        atom = self.accept(ATOM)
        if atom is not None:
            return self.atom(atom, start)
        text = self.expression()
        if text.startswith("dim(") and text.endswith(")"):
            text = text[len("dim(") : -1]
        return self.size(text, start)

    def typed_tensor(self) -> Tensor:
        """Read a constant with its type, up to and with the closing bracket."""
        literal = self.literal()
        self.expect(":")
        tensor = self.tensor(literal, self.type())
        self.expect(")")
        return tensor

    def atom(self, text: str, start: int) -> Attr:
        """Return what one word, number or string stands for."""
        if text in CONSTANTS:
            return CONSTANTS[text]
        if text[0] == '"':
            return self.unquoted(text, start)
        is_word = text[0].isalpha() or text[0] == "_"
        if is_word and text not in ("inf", "nan"):  # the symbol of a size
            return self.size(text, start)
        if not text.lstrip("+-").isdecimal():
            return float(text)
        if len(text) > DIGITS:
            self.fail(f"a number of at most {DIGITS} digits", start)
        return int(text)

    def expression(self) -> str:
        """Take the text of a size, up to the mark outside brackets that closes it."""
        depth = 0
        for end in range(self.pos, len(self.text)):
            mark = self.text[end]
            if not depth and mark in ",)]}\n:":
                break
            if mark == "(":
                depth += 1
            elif mark == ")":
                depth -= 1
        else:
            self.fail("an attribute")
        text = self.text[self.pos : end].strip()
        if not text:
            self.fail("an attribute")
        self.pos = end
        self.skip(START)
        return text

    def size(self, text: str, start: int) -> Dim:
        """Return the size that an expression stands for."""
        try:
            return self.scope.dim(text.strip())
        except (DimensionError, IndexError) as error:
            self.fail(f"an attribute ({error})", start)

    # --------------------------------------------------------------- constants

    def literal(self) -> _Literal:
        """Read a constant as it is written: a key, one element or a list of them, or a key and elements."""
        start = self.pos
        key = self.at() if self.text.startswith("@", self.pos) else None
        if self.has("["):
            items = [self.take(ELEMENT, "an element") for _ in self.many("]")]
            return _Literal(key, items, start)
        one = self.accept(ELEMENT)
        if one is None and key is None:
            self.fail('a number, a list of numbers or @"key"')
        return _Literal(key, None if one is None else [one], start)

    def tensor(self, literal: _Literal, type: Type) -> Tensor:
        """Return the constant of that type that a literal stands for."""
        if not type.is_static:
            self.fail("a constant of known size", literal.start)
        if literal.items is None:  # the elements are not in the text
            return self.outside(str(literal.key), type)
        try:
            array = read_elements(literal.items, type)
        except (ValueError, KeyError, OverflowError, TypeError) as error:
            self.fail(f"elements of {type} ({_line(error)})", literal.start)
        return ArrayTensor(array, literal.key)

    def outside(self, key: str, type: Type) -> Tensor:
        """Return a constant by its key alone, with the data that the caller gave.

        Where there is none, reading the constant says so.
        """
        given = self.tensors.get(key)
        if given is None:
            return LazyTensor(type, key, _missing)
        tensor = _as_tensor(given, key)
        if tensor.type != type:
            self.fail(f'@"{key}" of type {type}; the tensor given is {tensor.type}')
        return tensor


def _missing() -> Any:
    """The reader of a constant of which the text has the key alone: it raises."""
    raise SpecError(
        "it stands in the text by key alone; give its data with parse(text, tensors=…)"
    )


def _as_tensor(given: Any, key: str) -> Tensor:
    """What a caller gives for a key, as a tensor; ParseError for what is no array."""
    if isinstance(given, Tensor):
        return given
    try:
        return ArrayTensor(np.asarray(given), key)
    except (TypeError, ValueError, KeyError) as error:
        raise ParseError(
            f"tensors: {key!r} is no array of numbers ({_line(error)})"
        ) from None


def _line(error: Exception) -> str:
    """Return the message of an error, in one line that is not endless."""
    return " ".join(str(error).split())[:200]
