"""The text form of a graph, which round-trips exactly. `docs/text-form.md` has the grammar; both directions stand in this file,
so that it changes in one place.

Printing and parsing take time linear in the graph. Names are hints: a value prints as `%hint`, `%hint_1`, … and reading
takes the number off again, so printing what was read gives the same text.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar

import numpy as np

from j2o.errors import DimensionError, ParseError, SpecError
from j2o.ir import dims as dim_ops
from j2o.ir.dims import DimScope
from j2o.ir.graph import Graph, Loc, Node, Value
from j2o.ir.tensor import ArrayTensor, LazyTensor, Tensor
from j2o.ir.types import Attr, Dim, DType, Struct, Type

T = TypeVar("T")
INLINE = 16  # constants of up to this many elements stand in the text
_RESERVED = frozenset(
    {"none", "true", "false", "inf", "nan", *(d.value for d in DType)}
)
_CONTENT_KEY = re.compile(r"[0-9a-f]{16}|array_\d+")
NESTED = 100  # lists, structs and regions in each other
DIGITS = 40  # of an integer; those of attributes have up to 20
_UNPRINTABLE = re.compile(r"[^\w./$]+")
_PLAIN = re.compile(r"[A-Za-z_][\w.]*")


# ------------------------------------------------------------------------------------------------ printing


def to_text(graph: Graph, *, loc: bool = False) -> str:
    """The graph with its regions and functions; `loc` adds source locations."""
    return _Printer(loc).root(graph)


class _Printer:
    def __init__(self, loc: bool) -> None:
        self.loc = loc
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.counts: dict[str, int] = {}
        self.types: dict[Type, str] = {}

    def root(self, graph: Graph) -> str:
        self.graph(graph, "", "graph")
        for function in graph._functions.values():
            self.names, self.counts = {}, {}
            self.graph(function, "", "function")
        return "\n".join(self.lines) + "\n"

    def name(self, value: Value | None) -> str:
        if value is None:
            return "_"
        found = self.names.get(value)
        if found is None:
            hint = value.hint
            if hint and not hint.isalpha():
                hint = stem(_UNPRINTABLE.sub("_", hint))
            count = self.counts.get(hint, 0)
            self.counts[hint] = count + 1
            found = f"%{hint}_{count}" if hint and count else f"%{hint or count}"
            self.names[value] = found
        return found

    def type(self, type: Type) -> str:
        if type not in self.types:
            self.types[type] = str(type)
        return self.types[type]

    def graph(self, graph: Graph, indent: str, kind: str) -> None:
        named = (
            graph.input_names
            if len(graph.input_names) == len(graph.inputs)
            else [""] * len(graph.inputs)
        )
        given = [f" as {_string(n)}" if n else "" for n in named]
        inputs = [
            f"{self.name(v)}: {self.type(v.type)}{n}"
            for v, n in zip(graph.inputs, given, strict=True)
        ]
        head = f"{indent}{kind} {_at(graph.name)}({', '.join(inputs)})"
        if graph.output_names:
            head += f" -> ({', '.join(map(_string, graph.output_names))})"
        place = len(self.lines)
        self.lines.append("")
        for node in graph:
            self.node(node, indent + "  ")
        self.lines.append(indent + "}")
        self.lines[place] = (
            head + (self.scope(graph) if kind == "graph" and not indent else "") + " {"
        )

    def scope(self, graph: Graph) -> str:
        """Symbols in the order in which types mention them, and the constraints."""
        if graph._dims is None:
            return ""
        sizes = [d for t in self.types for d in t.shape if type(d) is not int]
        symbols = dict.fromkeys(s for d in sizes for s in dim_ops.symbols(d))
        text = f"\n    dims ({', '.join(symbols)})" if symbols else ""
        if graph._dims.constraints:
            text += (
                "" if text else "\n   "
            ) + f" where ({', '.join(map(_string, graph._dims.constraints))})"
        return text

    def node(self, node: Node, indent: str) -> None:
        operands = ", ".join(map(self.name, node.inputs))
        if node.op == "return":
            self.lines.append(f"{indent}return {operands}".rstrip())
            return
        results = ", ".join(map(self.name, node.outputs))
        attrs = dict(node.attrs)
        if node.op == "const":
            body = f"const {literal(attrs.pop('value'))}"  # type: ignore[arg-type]
        elif node.op == "dims":
            body = f"dims {attr_text(attrs.pop('dims'))}"
        elif node.op == "call":
            body = f"call {_at(str(attrs.pop('function')))}({operands})"
        else:
            body = f"{node.op}({operands})"
        parts = [indent, results, " = " if results else "", body]
        if attrs:
            parts += [
                " {",
                ", ".join(f"{k} = {attr_text(attrs[k])}" for k in sorted(attrs)),
                "}",
            ]
        if node.outputs:
            parts += [" : ", ", ".join([self.type(v.type) for v in node.outputs])]
        if self.loc and node.loc is not None:
            file, function, stack = map(
                _string, (node.loc.file, node.loc.function, node.loc.stack)
            )
            parts.append(f" loc({file}, {node.loc.line}, {function}, {stack})")
        if node.graphs:
            parts.append(" {")
            self.lines.append("".join(parts))
            for graph in node.graphs:
                self.graph(graph, indent + "  ", "graph")
            self.lines.append(indent + "}")
        else:
            self.lines.append("".join(parts))


def stem(name: str) -> str:
    """A name without the numbers behind it: `x` for `x_1_2`, nothing for `7`."""
    end = len(name)
    while True:
        start = end
        while start and name[start - 1].isdecimal():
            start -= 1
        if start == 0:
            return name[:end] if end != len(name) or not name.isdecimal() else ""
        if start == end or name[start - 1] != "_":
            return name[:end]
        end = start - 1


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _at(name: str) -> str:
    return f"@{name}" if _PLAIN.fullmatch(name) else f"@{_string(name)}"


def attr_text(value: Attr) -> str:
    """One attribute as text."""
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return _string(value)
        case DType():
            return value.value
        case tuple():
            return f"[{', '.join(map(attr_text, value))}]"
        case Struct():
            return f"{value.name}({', '.join(f'{k} = {attr_text(v)}' for k, v in value.fields.items())})"
        case Tensor():
            return f"tensor({literal(value)} : {value.type})"
    if dim_ops.is_symbolic(value):
        text = str(value)
        return f"dim({text})" if text in _RESERVED else text
    raise TypeError(
        f"{value!r} of type {type(value).__name__} is not a plain attribute"
    )


def literal(tensor: Tensor) -> str:
    """A constant without its type: `1.5`, `[1, 2]`, `0x…` (bytes) where text would lose bits, or `@"key"`."""
    key = "" if _CONTENT_KEY.fullmatch(tensor.key) else f"@{_string(tensor.key)}"
    if tensor.size > INLINE or not isinstance(tensor, ArrayTensor):
        return key or f"@{_string(tensor.key)}"
    return f"{key} {_elements(tensor)}" if key else _elements(tensor)


def _elements(tensor: ArrayTensor) -> str:
    array, dtype = tensor.array, tensor.dtype
    if dtype is DType.STRING:
        items = [_string(v if isinstance(v, str) else v.decode()) for v in array.flat]
    elif dtype is DType.BOOL:
        items = ["true" if v else "false" for v in array.flat]
    elif dtype is DType.F32:
        items = [str(v) for v in array.flat]
    elif dtype is DType.F64:
        items = [repr(v) for v in array.ravel().tolist()]
    elif dtype.is_int:
        items = [str(int(v)) for v in array.flat]
    elif dtype.is_float:
        items = [repr(float(v)) for v in array.flat]
    else:
        return _bytes_text(array)
    if (
        "nan" in items
        and _array(items, tensor.type).tobytes()
        != np.ascontiguousarray(array).tobytes()
    ):
        return _bytes_text(array)  # NaN has many patterns of bits
    return items[0] if not tensor.shape else f"[{', '.join(items)}]"


def _bytes_text(array: np.ndarray) -> str:
    return f"0x{np.ascontiguousarray(array).tobytes().hex()}"


def _array(items: list[str], type: Type) -> np.ndarray:
    """The array that elements in text stand for; ValueError where one does not fit."""
    shape, dtype = type.shape, type.dtype.numpy
    values: list[Any]
    if type.dtype is DType.STRING:
        values = [json.loads(i) for i in items]
        if not all(isinstance(v, str) for v in values):
            raise ValueError("a string in double quotes is needed")
    elif type.dtype is DType.BOOL:
        values = [{"true": True, "false": False}[i] for i in items]
    elif type.dtype.is_int:
        values = [int(i) for i in items]
        if type.dtype.bits >= 8:
            return np.array(values, dtype).reshape(shape)  # type: ignore[arg-type]
    else:
        values = [float(i) for i in items]
    with np.errstate(over="ignore"):
        return (
            np.array(values, object if type.dtype is DType.STRING else None)
            .astype(dtype)
            .reshape(shape)
        )  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------- reading

# the quantifiers with a second + do not try again with less: else a text that does not fit takes time without end
_SPACE = r"(?:\s++|//[^\n]*+)*+"


def _token(pattern: str) -> re.Pattern[str]:
    """A token and the space and comments behind it; the token is group 1."""
    return re.compile(f"({pattern}){_SPACE}")


_STRING = r'"(?:[^"\\]|\\.)*+"'
_IDENT = r"[A-Za-z_]\w*+"
_NUMBER = r"[-+]?(?:inf\b|nan\b|(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+)"
START = re.compile(_SPACE)
VALUE = _token(r"%[\w./$]+")
AT = _token(rf"@(?:{_PLAIN.pattern}|{_STRING})")
OP = _token(r"[A-Za-z_][\w.\-]*")
NAME = _token(_IDENT)
QUOTED = _token(_STRING)
TYPE = _token(r"[a-z]\w*+(?:<[a-z]+>)?+\s*+\[[^\[\]]*+\]")
ELEMENT = _token(rf"0x[0-9a-f]*|true\b|false\b|{_NUMBER}|{_STRING}")
ATOM = _token(rf"(?:{_STRING}|{_NUMBER}|{_IDENT}(?:<[a-z]+>)?)(?=\s*+(?:[,}})\]]|//))")
STRUCT = _token(rf"{_IDENT}\((?=\s*+(?:\)|{_IDENT}\s*+=))")
REGION = re.compile(rf"\{{{_SPACE}(?=graph\s*@)")
PUNCTUATION = {
    c: _token(re.escape(c))
    for c in ("(", ")", "{", "}", "[", "]", ",", ":", "=", "->", "_", "tensor(", "dim(")
}
WORDS = {
    w: _token(rf"{w}\b")
    for w in (
        "graph",
        "function",
        "dims",
        "where",
        "as",
        "loc",
        "const",
        "call",
        "return",
    )
}
_CONSTANTS: dict[str, Attr] = {
    "none": None,
    "true": True,
    "false": False,
    **{d.value: d for d in DType},
}


def parse(text: str, tensors: Mapping[str, Tensor | np.ndarray] | None = None) -> Graph:
    """The graph that a text stands for. `tensors` has the data of constants that stand in the text by key only.

    A constant without data keeps its key and type; reading it raises SpecError. Takes time linear in the text. Raises
    ParseError, with line and column where it is the text that does not fit.
    """
    if not isinstance(text, str):
        raise ParseError(f"text: given a {type(text).__name__}, a str is needed")
    if tensors is not None and not isinstance(tensors, Mapping):
        raise ParseError(
            f"tensors: given a {type(tensors).__name__}, a mapping from keys to arrays is needed"
        )
    return _Parser(text, tensors or {}).root()


class _Parser:
    def __init__(self, text: str, tensors: Mapping[str, Tensor | np.ndarray]) -> None:
        self.text, self.tensors = text, tensors
        self.pos = 0
        self.depth = 0  # of lists, structs and regions in each other
        self.scope = DimScope()
        self.types: dict[str, Type] = {}
        self.values: dict[str, Value | None] = {}
        self.hints: dict[str, str] = {}

    # ------------------------------------------------------------------ tokens

    def fail(self, expected: str, pos: int | None = None) -> NoReturn:
        pos = self.pos if pos is None else pos
        line = self.text.count("\n", 0, pos) + 1
        column = pos - self.text.rfind("\n", 0, pos)
        found = self.text[pos : pos + 20].split("\n")[0] or "the end"
        raise ParseError(
            f"line {line}, column {column}: expected {expected}, found {found!r}"
        )

    def take(self, pattern: re.Pattern[str], what: str) -> str:
        found = self.accept(pattern)
        if found is None:
            self.fail(what)
        return found

    def accept(self, pattern: re.Pattern[str]) -> str | None:
        match = pattern.match(self.text, self.pos)
        if match is None:
            return None
        self.pos = match.end()
        return match[1]

    def expect(self, mark: str) -> None:
        self.take(PUNCTUATION[mark], f"'{mark}'")

    def has(self, mark: str) -> bool:
        """Whether `mark` comes next; takes it."""
        return self.accept(PUNCTUATION[mark]) is not None

    def word(self, word: str) -> bool:
        return self.accept(WORDS[word]) is not None

    def many(self, close: str) -> Iterable[None]:
        """Iterates once for each of a list's items, which the caller takes, and takes `close`."""
        if self.has(close):
            return
        while True:
            yield
            if self.has(close):
                return
            self.take(PUNCTUATION[","], f"',' or '{close}'")

    def strings(self) -> list[str]:
        self.expect("(")
        return [self.string() for _ in self.many(")")]

    def listed(self, item: Callable[[], T]) -> list[T]:
        """One item, and more after commas."""
        items = [item()]
        while self.has(","):
            items.append(item())
        return items

    def string(self) -> str:
        start = self.pos
        return self.unquoted(self.take(QUOTED, "a string in double quotes"), start)

    def at(self) -> str:
        start = self.pos
        name = self.take(AT, "a name such as @main")[1:]
        return self.unquoted(name, start) if name.startswith('"') else name

    def unquoted(self, text: str, start: int) -> str:
        try:
            return json.loads(text, strict=False)
        except json.JSONDecodeError:
            self.fail("a string with JSON's escapes", start)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """One level deeper."""
        self.depth += 1
        if self.depth > NESTED:
            self.fail(f"at most {NESTED} levels of lists and regions in each other")
        yield
        self.depth -= 1

    # ------------------------------------------------------------------ graphs

    def root(self) -> Graph:
        self.pos = START.match(self.text).end()  # type: ignore[union-attr]
        root = self.graph("graph", outermost=True)
        root._dims = self.scope
        while self.word("function"):
            self.values = {}
            start = self.pos
            function = self.graph(None)
            try:
                root.add_function(function)
            except ValueError:
                self.fail("a name that no other function has", start)
        if self.pos < len(self.text):
            self.fail("'function' or the end of the text")
        return root

    def graph(self, word: str | None, *, outermost: bool = False) -> Graph:
        if word is not None and not self.word(word):
            self.fail(f"'{word}'")
        graph = Graph(self.at())
        shadowed: dict[str, Value | None] = {}
        self.head(graph, shadowed, outermost)
        while not self.has("}"):
            if self.pos >= len(self.text):
                self.fail("'}'")
            if graph.last is not None and graph.last.op == "return":
                self.fail("'}' after return")
            self.node(graph, shadowed)
        if graph.last is None or graph.last.op != "return":
            self.fail("a 'return' before '}'")
        self.values.update(shadowed)
        return graph

    def head(
        self, graph: Graph, shadowed: dict[str, Value | None], outermost: bool
    ) -> None:
        """Inputs, output names and dimensions, up to and with the opening brace."""
        self.expect("(")
        pending: list[tuple[str, str, str, int]] = []
        for _ in self.many(")"):
            start = self.pos
            name = self.take(VALUE, "an input such as %x: f32[2]")
            self.expect(":")
            text = self.take(TYPE, "a type such as f32[B,8]")
            pending.append(
                (name, text, self.string() if self.word("as") else "", start)
            )
        if self.has("->"):
            graph.output_names = self.strings()
        if outermost:
            self.dimensions()
        for name, type_text, given, start in pending:
            value = graph.add_input(self.type_of(type_text, start), self.hint(name))
            self.define(name, value, shadowed, start)
            if given:
                graph.input_names.append(given)
        self.expect("{")

    def dimensions(self) -> None:
        start = self.pos
        names: list[str] = []
        if self.word("dims"):
            self.expect("(")
            names = [self.take(NAME, "the name of a dimension") for _ in self.many(")")]
        constraints = self.strings() if self.word("where") else []
        try:
            self.scope = DimScope(constraints)
            for name in names:
                self.scope.symbol(name)
        except DimensionError as error:
            self.fail(f"dimensions and constraints ({error})", start)

    def define(
        self, name: str, value: Value, shadowed: dict[str, Value | None], start: int
    ) -> None:
        if name in shadowed:
            self.fail(f"a new name ({name} is defined already)", start)
        shadowed[name] = self.values.get(name)
        self.values[name] = value

    def hint(self, name: str) -> str:
        if name not in self.hints:
            self.hints[name] = stem(name[1:])
        return self.hints[name]

    # ------------------------------------------------------------------- nodes

    def node(self, graph: Graph, shadowed: dict[str, Value | None]) -> None:
        start = self.pos
        results: list[str] = []
        if VALUE.match(self.text, self.pos):
            results = self.listed(lambda: self.take(VALUE, "a value such as %x"))
            self.expect("=")
        op = self.take(OP, "an operation such as onnx.Add")
        attrs: dict[str, Attr] = {}
        inputs: list[Value | None] = []
        literal_at = self.pos
        if op == "return":
            empty = PUNCTUATION["}"].match(self.text, self.pos)
            graph.set_outputs([] if empty else self.listed(self.operand))  # type: ignore[arg-type]
            return
        if op == "const":
            elements = self.elements()
        elif op == "dims":
            attrs["dims"] = self.attr()
        else:
            if op == "call":
                attrs["function"] = self.at()
            self.expect("(")
            inputs = [self.operand() for _ in self.many(")")]
        if not REGION.match(self.text, self.pos) and self.has("{"):
            for _ in self.many("}"):
                name = self.take(NAME, "an attribute")
                self.expect("=")
                attrs[name] = self.attr()
        if op in ("const", "dims") and len(results) != 1:
            self.fail(f"one result of {op}", start)
        types = self.node_types(len(results))
        if op == "const":
            attrs["value"] = self.tensor(elements, types[0], literal_at)
        loc = self.location() if self.word("loc") else None
        graphs: list[Graph] = []
        if (region := REGION.match(self.text, self.pos)) is not None:
            self.pos = region.end()
            with self.inside():
                while not self.has("}"):
                    graphs.append(self.graph("graph"))
        node = graph.insert(
            Node(op, inputs, types, attrs, graphs, loc, [self.hint(r) for r in results])
        )
        for name, value in zip(results, node.outputs, strict=True):
            self.define(name, value, shadowed, start)

    def node_types(self, count: int) -> list[Type]:
        types = self.listed(self.type) if self.has(":") else []
        if len(types) != count:
            self.fail(
                f"{count} type{'s' if count != 1 else ''} after ':', one for each result"
            )
        return types

    def operand(self) -> Value | None:
        start = self.pos
        name = self.accept(VALUE)
        if name is None:
            self.take(PUNCTUATION["_"], "a value such as %x, or _")
            return None
        value = self.values.get(name)
        if value is None:
            self.fail("a value defined before its use", start)
        return value

    def location(self) -> Loc:
        start = self.pos
        self.expect("(")
        parts: list[Any] = [self.attr() for _ in self.many(")")]
        if [type(p) for p in parts] != [str, int, str, str]:
            self.fail(
                'a location such as ("model.py", 12, "function", "name stack")', start
            )
        return Loc(*parts)

    # ------------------------------------------------------------ types, attributes

    def type(self) -> Type:
        start = self.pos
        return self.type_of(self.take(TYPE, "a type such as f32[B,8]"), start)

    def type_of(self, text: str, start: int) -> Type:
        found = self.types.get(text)
        if found is None:
            name, _, shape = text.removesuffix("]").partition("[")
            try:
                dtype = DType(name.strip())
            except ValueError:
                self.fail("an element type such as f32, i64, bool", start)
            try:
                sizes = self.scope.shape(shape)
            except DimensionError as error:
                self.fail(f"a type ({error})", start)
            if any(type(d) is int and d < 0 for d in sizes):
                self.fail("a type whose sizes are 0 or more", start)
            found = self.types[text] = Type(dtype, sizes)
        return found

    def dim(self, text: str, start: int) -> Dim:
        try:
            return self.scope.dim(text.strip())
        except (DimensionError, IndexError) as error:
            self.fail(f"an attribute ({error})", start)

    def attr(self) -> Attr:
        if self.has("["):
            with self.inside():
                return tuple([self.attr() for _ in self.many("]")])
        if self.has("tensor("):
            start = self.pos
            elements = self.elements()
            self.expect(":")
            value = self.tensor(elements, self.type(), start)
            self.expect(")")
            return value
        if (name := self.accept(STRUCT)) is not None:
            with self.inside():
                return self.struct(name[:-1])
        start = self.pos
        atom = self.accept(ATOM)
        if atom is not None:
            return self.atom(atom, start)
        text = self.expression()
        return self.dim(
            text[4:-1] if text.startswith("dim(") and text.endswith(")") else text,
            start,
        )

    def atom(self, text: str, start: int) -> Attr:
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if text[0] == '"':
            return self.unquoted(text, start)
        if (text[0].isalpha() or text[0] == "_") and text not in ("inf", "nan"):
            return self.dim(text, start)
        if not text.lstrip("+-").isdecimal():
            return float(text)
        if len(text) > DIGITS:
            self.fail(f"a number of at most {DIGITS} digits", start)
        return int(text)

    def struct(self, name: str) -> Struct:
        fields: dict[str, Attr] = {}
        for _ in self.many(")"):
            key = self.take(NAME, "a field")
            self.expect("=")
            fields[key] = self.attr()
        return Struct(name, **fields)

    def expression(self) -> str:
        """The text of a dimension, up to what closes it."""
        start, depth = self.pos, 0
        for end in range(start, len(self.text)):
            c = self.text[end]
            if c == "(":
                depth += 1
            elif depth and c == ")":
                depth -= 1
            elif not depth and c in ",)]}\n:":
                break
        else:
            self.fail("an attribute")
        text = self.text[start:end].strip()
        if not text:
            self.fail("an attribute")
        self.pos = START.match(self.text, end).end()  # type: ignore[union-attr]
        return text

    # --------------------------------------------------------------- constants

    def elements(self) -> tuple[str | None, list[str] | None]:
        """The key and the elements of a literal; either may be missing."""
        key = self.at() if self.text.startswith("@", self.pos) else None
        if self.has("["):
            return key, [self.take(ELEMENT, "an element") for _ in self.many("]")]
        one = self.accept(ELEMENT)
        if one is None and key is None:
            self.fail('a number, a list of numbers or @"key"')
        return key, None if one is None else [one]

    def tensor(
        self, literal: tuple[str | None, list[str] | None], type: Type, start: int
    ) -> Tensor:
        key, items = literal
        if not type.is_static:
            self.fail("a constant of known size", start)
        if items is None:
            return self.outside(str(key), type)
        try:
            if len(items) == 1 and items[0].startswith("0x"):
                array = np.frombuffer(
                    bytes.fromhex(items[0][2:]), type.dtype.numpy
                ).reshape(type.shape)  # type: ignore[arg-type]
            else:
                array = _array(items, type)
        except (ValueError, KeyError, OverflowError, TypeError) as error:
            self.fail(f"elements of {type} ({_line(error)})", start)
        return ArrayTensor(array, key)

    def outside(self, key: str, type: Type) -> Tensor:
        """A constant by key: the data that the caller gave, or a tensor that says on reading that there is none."""
        found = self.tensors.get(key)
        if found is None:

            def missing() -> Any:
                raise SpecError(
                    "it stands in the text by key alone; give its data with parse(text, tensors=…)"
                )

            return LazyTensor(type, key, missing)
        try:
            made = (
                found
                if isinstance(found, Tensor)
                else ArrayTensor(np.asarray(found), key)
            )
        except (TypeError, ValueError, KeyError) as error:
            raise ParseError(
                f"tensors: {key!r} is no array of numbers ({_line(error)})"
            ) from None
        if made.type != type:
            self.fail(f'@"{key}" of type {type}; the tensor given is {made.type}')
        return made


def _line(error: Exception) -> str:
    """What an error says, in one line that is not endless."""
    return " ".join(str(error).split())[:200]


def tensors_of(graph: Graph) -> dict[str, Tensor]:
    """All constants of a graph by key, functions included: what `parse` needs to restore it wholly."""
    tops = (graph, *graph._functions.values())
    found = (
        a
        for top in tops
        for n in top.walk()
        for a in n.attrs.values()
        if isinstance(a, Tensor)
    )
    return {t.key: t for t in found}
