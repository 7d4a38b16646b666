"""Symbolic sizes become values: late, once each, and only where nothing else says them.

`dims [B, 2*T, 8]` has no operands until here. Every symbol is read once, from the axis of a graph input that it is (or
solves to); every expression is computed once; a Reshape says `0` or `-1` instead where that is certain to be right.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
from collections.abc import Callable, Mapping

import numpy as np

from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.sizes import sources
from j2o.ir.types import Dim, DType, Type, same_dim
from j2o.passes.pipeline import graph_pass


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

# ---------------------------------------------------------------------------------------------- functions


def _hand_in_functions(root: Graph) -> dict[str, dict[str, Value]]:
    """Give functions the sizes that their own inputs do not tell as further inputs; symbol → input, for each function."""
    needs: dict[str, set[str]] = {}
    handed: dict[str, dict[str, Value]] = {}

    def need(name: str) -> set[str]:
        if name not in needs:
            needs[name] = set()
            function = root.functions[name]
            declared = declared_dims(function)
            needs[name] = _used(function, need, set(declared)) - set(sources(declared))
        return needs[name]

    for name, function in root.functions.items():
        handed[name] = {
            s: function.add_input(Type(DType.I64, (1,)), s) for s in sorted(need(name))
        }
    for top in (root, *root.functions.values()):
        for node in top.walk():
            if node.op == "call":
                extra = sorted(needs[str(node.attrs["function"])])
                if extra:
                    assert node.graph is not None
                    op = Builder(node.graph, node, node.loc)
                    sizes = [
                        op.node("dims", (), {"dims": (root.dims.dim(s),)}).out
                        for s in extra
                    ]
                    node.set_inputs([*node.inputs, *sizes])
    return handed


def _used(graph: Graph, need: Callable[[str], set[str]], told: set[Dim]) -> set[str]:
    """The symbols in the sizes that are used, but for those that inputs have as they are."""
    found: set[str] = set()
    for node in graph.walk():
        if node.op == "dims":
            for d in node.attrs["dims"]:  # type: ignore[union-attr]
                if d not in told:  # type: ignore[operator]
                    found.update(dims.symbols(d))  # type: ignore[arg-type]
        elif node.op == "call":
            found |= need(str(node.attrs["function"]))
        found.update(
            s
            for out in _unsure(node)
            for d in out.type.shape
            if d not in told
            for s in dims.symbols(d)
        )
    return found


def _unsure(node: Node) -> list[Value]:
    """The rows that a Loop puts together, where it may run no rounds and does not know their sizes: it then has 0 for them."""
    stacked = node.outputs[len(node.inputs) - 2 :] if node.op == "onnx.Loop" else ()
    sure = [
        dims.known_ge(v.type.shape[0], 1) or dims.is_static(v.type.shape[1:])
        for v in stacked
    ]
    return [v for v, known in zip(stacked, sure, strict=True) if v.uses and not known]


# ------------------------------------------------------------------------------------------------- scopes


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
        # what is made here stands before everything else, whatever becomes of the first node
        self.anchor = graph.insert(Node("anchor", (), ()), before=graph.start)
        self.op = Builder(graph, self.anchor)

    def run(self) -> int:
        found = [n for n in self.graph.walk() if n.op == "dims"]
        for node in found:
            self.reshapes(node)
            if node.used:
                # a vector is put together where it is used, of sizes that stand at the top
                node.replace_by(self.vector(node.attrs["dims"]))  # type: ignore[arg-type]
            else:
                node.erase()
        self.raise_sizes()
        for out in [v for n in self.graph.walk() for v in _unsure(n)]:
            op = Builder(out.node.graph, out.node.next, out.node.loc, out.hint)  # type: ignore[union-attr, arg-type]
            sized = op.node(
                "onnx.Reshape",
                [out, self.vector(out.type.shape)],
                {"allowzero": 1},
                [out.type],
            )
            out.replace_by(sized.out, where=functools.partial(operator.is_not, sized))
        self.anchor.erase()
        return len(found)

    def vector(self, entries: tuple[Dim, ...]) -> Value:
        """The sizes one after the other, numbers in a row as one constant."""
        key = "vector " + ", ".join(map(str, entries))
        if key in self.made:
            return self.made[key]
        parts: list[Value] = []
        for are_numbers, run in itertools.groupby(entries, lambda d: type(d) is int):
            if are_numbers:
                parts.append(self.op.const(np.asarray([*run], np.int64)))
            else:
                parts += map(self.size, run)
        self.op.hint = "shape"
        made = self.made[key] = (
            parts[0] if len(parts) == 1 else self.op.Concat(*parts, axis=0)
        )
        return made

    def reshapes(self, node: Node) -> None:
        """Let the Reshapes that use this vector do without it, where `0` and `-1` are certain to say the same."""
        for user in list(node.out.users()):
            if user.op != "onnx.Reshape" or user.inputs[1] is not node.out:
                continue
            short = short_shape(user.inputs[0].type.shape, node.attrs["dims"])  # type: ignore[union-attr, arg-type]
            if short is not None:
                assert user.graph is not None
                op = Builder(user.graph, user, user.loc)
                attrs = {k: v for k, v in user.attrs.items() if k != "allowzero"}
                new = op.node(
                    "onnx.Reshape",
                    [user.inputs[0], op.const(np.asarray(short, np.int64))],
                    attrs,
                    [user.out.type],
                )
                new.out.hint = user.out.hint
                user.replace_by(new.out)

    def raise_sizes(self) -> None:
        """Move what is computed of sizes alone to the top, out of loops and branches."""
        sizes, after = set(self.made.values()), False
        for node in self.graph.walk():
            after = after or node is self.anchor
            inputs = [v for v in node.inputs if v is not None and v.const is None]
            form = node.op.startswith("onnx.") and (
                node.spec.elementwise or node.kind in FORMS
            )
            if after and form and inputs and sizes.issuperset(inputs):
                self.op.hint, self.op.loc = node.out.hint, node.loc
                given = [
                    self.op.const(v.const)
                    if v is not None and v.const is not None
                    else v
                    for v in node.inputs
                ]
                moved = self.op.node(node.op, given, node.attrs, [node.out.type])
                node.replace_by(moved.out)
                sizes.add(moved.out)

    # ------------------------------------------------------------------ sizes

    def size(self, dim: Dim) -> Value:
        """The value of an expression, `i64[1]`."""
        return self.term(
            ast.Constant(dim) if type(dim) is int else dims.parse_expression(dim)
        )

    def term(self, node: ast.expr) -> Value:
        """The value of an expression that is written as a syntax tree, `i64[1]`."""
        key = ast.unparse(node)
        if key not in self.made:
            self.op.hint = key if key.isidentifier() else "size"
            self.made[key] = (
                self.axis(self.read[key]) if key in self.read else self.expression(node)
            )
        return self.made[key]

    def axis(self, number: int) -> Value:
        """The size of an axis of an input, by its number among all of them."""
        value, axis = self.axes[number]
        return self.op.Shape(value, start=axis, end=axis + 1)

    def symbol(self, name: str) -> Value:
        if name not in self.sources:
            raise DimensionError(
                f"the size {name} cannot be read from any input of @{self.graph.name}: give {name} as a dimension of one"
            )
        source = self.sources[name]
        out = self.axis(source.axis)
        if source.offset != 0:
            out = self.op.Sub(out, self.size(source.offset))
        if source.factor == 1:
            return out
        factor = self.size(
            source.factor
        )  # the runtime stops the process at a division by 0
        return self.op.Div(
            out, factor if type(source.factor) is int else self.op.Max(factor, 1)
        )

    def expression(self, node: ast.expr) -> Value:
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
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.function(name, [self.term(a) for a in args])
        raise DimensionError(
            f"the expression {ast.unparse(node)!r} has no form in nodes"
        )

    def function(self, name: str, args: list[Value]) -> Value:
        op = self.op
        if name in ("max", "min"):
            return (op.Max if name == "max" else op.Min)(*args)
        if name == "non_negative":
            return op.Max(args[0], 0)
        rest = op.Mod(*args)  # of the divisor's sign, as Python's
        return rest if name == "mod" else op.Div(op.Sub(args[0], rest), args[1])


def short_shape(old: tuple[Dim, ...], new: tuple[Dim, ...]) -> list[int] | None:
    """The shape vector of a Reshape as numbers, with 0 (this axis as it was) and at most one -1; None where it takes more."""
    if any(type(d) is int and d == 0 for d in new):
        return None  # a 0 would be read as "as it was"
    kept = [i < len(old) and same_dim(old[i], d) for i, d in enumerate(new)]
    out = [
        d if type(d) is int else 0 if as_it_was else -1
        for d, as_it_was in zip(new, kept, strict=True)
    ]
    if out.count(-1) > 1:
        return None
    # with an axis of size 0 around, -1 is ambiguous
    if -1 in out and not all(
        type(d) is int or dims.known_ge(d, 1) for i, d in enumerate(new) if out[i] != -1
    ):
        return None
    return out
