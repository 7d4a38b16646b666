"""Symbolic sizes become values: late, once each, and only where nothing else says them.

`dims [B, 2*T, 8]` has no operands until here. Every symbol is read once, from the axis of a graph input that
it is (or solves to). Every expression is computed once. A Reshape says `0` or `-1` instead where that is
certain to be right.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.sizes import sources
from j2o.ir.types import Dim, DType, Type, same_dim
from j2o.passes.pipeline import graph_pass
from j2o.passes.target.shape_runs import Axes, Runs


@graph_pass("materialize", at="target", level=0, scope="root")
def materialize(graph: Graph) -> int:
    """Turn every `dims` node into nodes that read the sizes of inputs."""
    wanted = _hand_in_functions(graph)
    return sum(
        Sizes(top, wanted.get(name)).run()
        for name, top in [*graph.functions.items(), ("", graph)]
    )


# beside elementwise operators, what sizes are brought to
FORMS = frozenset(("Cast", "Reshape", "Squeeze", "Unsqueeze"))

# ---------------------------------------------------------------------------- functions

# the symbols that each function needs beside those that its inputs tell
Needs: TypeAlias = "dict[str, set[str]]"


def _hand_in_functions(root: Graph) -> dict[str, dict[str, Value]]:
    """Give functions further inputs for the sizes that their own inputs do not tell.

    Returns these inputs by their symbols, for each function by its name.
    """
    needs: Needs = {}
    handed: dict[str, dict[str, Value]] = {}
    if not root.functions:
        return handed
    for name, function in root.functions.items():
        symbols = sorted(_needed(root, name, needs))
        size = Type(DType.I64, (1,))
        handed[name] = {s: function.add_input(size, s) for s in symbols}
    for top in (root, *root.functions.values()):
        for node in top.walk():
            if node.op == "call":
                _hand_to_call(root, node, sorted(needs[node.str_attr("function")]))
    return handed


def _hand_to_call(root: Graph, call: Node, symbols: Sequence[str]) -> None:
    """Give a call the sizes of these symbols as further operands."""
    if not symbols:
        return
    op = Builder(call.home, call, call.loc)
    sizes: list[Value] = []
    for symbol in symbols:
        sizes.append(op.node("dims", (), {"dims": (root.dims.dim(symbol),)}).out)
    call.set_inputs([*call.inputs, *sizes])


def _needed(root: Graph, name: str, needs: Needs) -> set[str]:
    """The symbols that a function uses and its own inputs do not tell; `needs` keeps what was found."""
    if name not in needs:
        needs[name] = set()
        function = root.functions[name]
        declared = declared_dims(function)
        used = _used(root, function, set(declared), needs)
        needs[name] = used - set(sources(declared))
    return needs[name]


def _used(root: Graph, graph: Graph, told: set[Dim], needs: Needs) -> set[str]:
    """The symbols in the sizes that are used, but for those that inputs have as they are."""
    found: set[str] = set()
    for node in graph.walk():
        sizes: list[Dim] = []
        if node.op == "dims":
            sizes += _entries(node)
        elif node.op == "call":
            found |= _needed(root, node.str_attr("function"), needs)
        for out in _unsure(node):
            sizes += out.type.shape
        for size in sizes:
            if size not in told:
                found.update(dims.symbols(size))
    return found


def _entries(node: Node) -> tuple[Dim, ...]:
    """The sizes that a `dims` node puts into a vector."""
    entries: Any = node.attrs["dims"]
    return entries


def _unsure(node: Node) -> list[Value]:
    """The stacked rows of a Loop that may run no rounds and does not know their sizes.

    The runtime then has 0 for these sizes.
    """
    if node.op != "onnx.Loop":
        return []
    unsure: list[Value] = []
    for stacked in node.outputs[len(node.inputs) - 2 :]:
        rounds, *row = stacked.type.shape
        if not stacked.uses or dims.known_ge(rounds, 1) or dims.is_static(tuple(row)):
            continue
        unsure.append(stacked)
    return unsure


# ------------------------------------------------------------------------------- scopes


def _is_of_sizes(node: Node) -> bool:
    """Return True for an operator that sizes are computed or brought to another form with."""
    if not node.op.startswith("onnx."):
        return False
    return node.spec.elementwise or node.kind in FORMS


def axes_of(graph: Graph) -> list[tuple[Value, int]]:
    """Every axis of every input."""
    return [(value, axis) for value in graph.inputs for axis in range(value.type.rank)]


def declared_dims(graph: Graph) -> list[Dim]:
    """The sizes of those axes."""
    return [value.type.shape[axis] for value, axis in axes_of(graph)]


class Sizes:
    """The sizes of one function or of the root, made at its top so that regions can use them; each once."""

    def __init__(self, graph: Graph, handed: Mapping[str, Value] | None = None) -> None:
        self.graph = graph
        self.axes = axes_of(graph)
        declared = declared_dims(graph)
        self.sources = sources(declared)
        # an expression that an input has as a size is read there, whatever its symbols are
        self.read: dict[str, int] = {}
        for i, d in enumerate(declared):
            if type(d) is not int:
                self.read.setdefault(ast.unparse(dims.parse_expression(d)), i)
        self.made: dict[str, Value] = dict(handed or {})
        self.runs = Runs(graph.inputs)
        self.chosen: set[Axes] = set()
        # what is made here stands before everything else, whatever becomes of the first node
        self.anchor = graph.insert(Node("anchor", (), ()), before=graph.start)
        self.op = Builder(graph, self.anchor)

    def run(self) -> int:
        """Turn all `dims` nodes into nodes that read sizes; returns how many there were."""
        found = [n for n in self.graph.walk() if n.op == "dims"]
        for node in found:
            self.reshapes(node)
        vectors = [_entries(node) for node in found if node.used]
        self.chosen = self.runs.worthwhile(vectors)
        for node in found:
            if node.used:
                node.replace_by(self.vector(_entries(node)))
            else:
                node.erase()
        self.raise_sizes()
        for stacked in [v for n in self.graph.walk() for v in _unsure(n)]:
            self.give_sizes(stacked)
        self.anchor.erase()
        return len(found)

    def give_sizes(self, stacked: Value) -> None:
        """Let the users of a Loop's stacked rows take them in the shape that they have without rows, too."""
        loop = stacked.producer
        op = Builder(loop.home, loop.next, loop.loc, stacked.hint)
        shape = self.vector(stacked.type.shape)
        attrs = {"allowzero": 1}
        sized = op.node("onnx.Reshape", [stacked, shape], attrs, [stacked.type])
        stacked.replace_by(sized.out, where=functools.partial(operator.is_not, sized))

    def vector(self, entries: tuple[Dim, ...]) -> Value:
        """The sizes one after the other, numbers in a row as one constant."""
        key = "vector " + ", ".join(map(str, entries))
        if key in self.made:
            return self.made[key]
        parts: list[Value] = []
        at = 0
        for run in self.runs.within(entries):
            if run.axes in self.chosen:
                parts += self.parts(entries[at : run.start])
                parts.append(self.at_once(run.axes))
                at = run.end
        parts += self.parts(entries[at:])
        self.op.hint = "shape"
        made = parts[0] if len(parts) == 1 else self.op.Concat(*parts, axis=0)
        self.made[key] = made
        return made

    def parts(self, entries: tuple[Dim, ...]) -> list[Value]:
        """Sizes one by one, numbers in a row as one constant."""
        parts: list[Value] = []
        for are_numbers, run in itertools.groupby(entries, lambda d: type(d) is int):
            if are_numbers:
                parts.append(self.op.const(np.asarray([*run], np.int64)))
            else:
                parts += map(self.size, run)
        return parts

    def at_once(self, axes: Axes) -> Value:
        """The sizes of several axes of an input as one vector."""
        key = f"axes {axes.input} {axes.start} {axes.end}"
        if key not in self.made:
            value = self.graph.inputs[axes.input]
            self.op.hint = "shape"
            whole = (axes.start, axes.end) == (0, value.type.rank)
            bounds = {} if whole else {"start": axes.start, "end": axes.end}
            self.made[key] = self.op.Shape(value, **bounds)
        return self.made[key]

    def reshapes(self, node: Node) -> None:
        """Let Reshapes do without this vector where `0` and `-1` are certain to say the same."""
        for user in list(node.out.users()):
            if user.op != "onnx.Reshape" or user.operand(1) is not node.out:
                continue
            x = user.operand(0)
            short = short_shape(x.type.shape, _entries(node))
            if short is None:
                continue
            op = Builder(user.home, user, user.loc)
            attrs = {k: v for k, v in user.attrs.items() if k != "allowzero"}
            operands = [x, op.const(np.asarray(short, np.int64))]
            new = op.node("onnx.Reshape", operands, attrs, [user.out.type])
            new.out.hint = user.out.hint
            user.replace_by(new.out)

    def raise_sizes(self) -> None:
        """Move what is computed of sizes alone to the top, out of loops and branches."""
        sizes = set(self.made.values())
        if not sizes:
            return
        is_behind = False
        for node in self.graph.walk():
            is_behind = is_behind or node is self.anchor
            if not is_behind or not _is_of_sizes(node):
                continue
            inputs = [v for v in node.operands if v.const is None]
            if inputs and sizes.issuperset(inputs):
                moved = self.raised(node)
                node.replace_by(moved)
                sizes.add(moved)

    def raised(self, node: Node) -> Value:
        """The same node at the top, with constants of its own."""
        self.op.hint = node.out.hint
        self.op.loc = node.loc
        operands: list[Value | None] = []
        for value in node.inputs:
            tensor = None if value is None else value.const
            operands.append(value if tensor is None else self.op.const(tensor))
        return self.op.node(node.op, operands, node.attrs, [node.out.type]).out

    # ------------------------------------------------------------------ sizes

    def size(self, dim: Dim) -> Value:
        """The value of an expression, `i64[1]`."""
        if type(dim) is int:
            return self.term(ast.Constant(dim))
        return self.term(dims.parse_expression(dim))

    def term(self, node: ast.expr) -> Value:
        """The value of an expression that is written as a syntax tree, `i64[1]`."""
        key = ast.unparse(node)
        if key not in self.made:
            self.op.hint = key if key.isidentifier() else "size"
            if key in self.read:
                self.made[key] = self.axis(self.read[key])
            else:
                self.made[key] = self.expression(node)
        return self.made[key]

    def axis(self, number: int) -> Value:
        """The size of an axis of an input, by its number among all of them."""
        value, axis = self.axes[number]
        return self.op.Shape(value, start=axis, end=axis + 1)

    def symbol(self, name: str) -> Value:
        """The value of a symbol, solved from the axis that it is read from.

        DimensionError where no axis has it.
        """
        if name not in self.sources:
            raise DimensionError(
                f"the size {name} cannot be read from any input of @{self.graph.name}: "
                f"give {name} as a dimension of one"
            )
        source = self.sources[name]
        out = self.axis(source.axis)
        if source.offset != 0:
            out = self.op.Sub(out, self.size(source.offset))
        if source.factor == 1:
            return out
        factor = self.size(source.factor)
        if type(source.factor) is not int:
            # the runtime stops the process at a division by 0
            factor = self.op.Max(factor, 1)
        return self.op.Div(out, factor)

    def expression(self, node: ast.expr) -> Value:
        """The value of an expression that nothing else has made yet."""
        op = self.op
        match node:
            case ast.Constant(value=int(number)):
                return op.const(np.asarray([number], np.int64))
            case ast.Name(id=name):
                return self.symbol(name)
            case ast.UnaryOp(operand=operand):
                return op.Neg(self.term(operand))
            case ast.BinOp(
                left=left, op=ast.Pow(), right=ast.Constant(value=int(power))
            ):
                base = out = self.term(left)
                for _ in range(power - 1):
                    out = op.Mul(out, base)
                return out
            case ast.BinOp(left=left, op=operator, right=right):
                kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}[type(operator)]
                return op.apply(f"onnx.{kind}", self.term(left), self.term(right))
            case ast.Call(func=ast.Name(id="floordiv"), args=args) if self.rounds_down(
                args
            ):
                return op.Div(*(self.term(a) for a in args))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.function(name, [self.term(a) for a in args])
        raise DimensionError(
            f"the expression {ast.unparse(node)!r} has no form in nodes"
        )

    def rounds_down(self, args: list[ast.expr]) -> bool:
        """Return True where Div, which rounds to zero, divides as Python does: nothing is below 0."""
        dividend, divisor = (self.graph.dims.dim(ast.unparse(a)) for a in args)
        return dims.known_ge(dividend, 0) and dims.known_ge(divisor, 1)

    def function(self, name: str, args: list[Value]) -> Value:
        """The value of a function of sizes: max, min, non_negative, mod or floordiv."""
        op = self.op
        if name in ("max", "min"):
            return (op.Max if name == "max" else op.Min)(*args)
        if name == "non_negative":
            return op.Max(args[0], 0)
        dividend, divisor = args
        rest = op.Mod(dividend, divisor)  # of the divisor's sign, as Python's
        if name == "mod":
            return rest
        return op.Div(op.Sub(dividend, rest), divisor)


def short_shape(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[int] | None:
    """The shape vector of a Reshape as numbers, with 0 (this axis as it was) and at most one -1.

    None where that is not enough, or not certain to be right.
    """
    if any(type(d) is int and d == 0 for d in new):
        return None  # a 0 would be read as "as it was"
    out: list[int] = []
    for i, size in enumerate(new):
        if type(size) is int:
            out.append(size)
        else:
            is_kept = i < len(old) and same_dim(old[i], size)
            out.append(0 if is_kept else -1)
    if -1 not in out:
        return out
    if out.count(-1) > 1:
        return None
    # with an axis of size 0 around, -1 is ambiguous
    others = [size for size, entry in zip(new, out, strict=True) if entry != -1]
    is_certain = all(type(size) is int or dims.known_ge(size, 1) for size in others)
    return out if is_certain else None
