"""Symbolic sizes become values: late, once each, and only where nothing else says them.

`dims [B, 2*T, 8]` has no operands until here. Every symbol is read once, from the axis of a graph input that it is (or
solves to); every expression is computed once; a Reshape says `0` or `-1` instead where that is certain to be right.
"""

from __future__ import annotations

import ast
from collections.abc import Callable

import numpy as np

from j2o.errors import DimensionError
from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Dim, DType, Type, same_dim
from j2o.passes.pipeline import graph_pass


@graph_pass("materialize", at="target", level=0, scope="root")
def materialize(graph: Graph) -> int:
    """Turn every `dims` node into nodes that read the sizes of inputs."""
    wanted = _hand_in_functions(graph)
    count = sum(_Scope(top, wanted.get(name, {})).run() for name, top in [*graph.functions.items(), ("", graph)])
    return count


# ---------------------------------------------------------------------------------------------- functions


def _hand_in_functions(root: Graph) -> dict[str, dict[str, Value]]:
    """Give functions the sizes that their own inputs do not tell as further inputs; symbol → input, for each function."""
    needs: dict[str, set[str]] = {}
    handed: dict[str, dict[str, Value]] = {}

    def need(name: str) -> set[str]:
        if name not in needs:
            needs[name] = set()
            function = root.functions[name]
            found = _used(function, need)
            told = set(_sources(function))
            needs[name] = {s for s in found if s not in told}
        return needs[name]

    for name, function in root.functions.items():
        handed[name] = {s: function.add_input(Type(DType.I64, (1,)), s) for s in sorted(need(name))}
    for top in (root, *root.functions.values()):
        for node in top.walk():
            if node.op == "call":
                extra = sorted(needs[str(node.attrs["function"])])
                if extra:
                    assert node.graph is not None
                    op = Builder(node.graph, node, node.loc)
                    scope = root.dims
                    sizes = [op.node("dims", (), {"dims": (scope.dim(s),)}).out for s in extra]
                    node.set_inputs([*node.inputs, *sizes])
    return handed


def _used(graph: Graph, need: Callable[[str], set[str]]) -> set[str]:
    found: set[str] = set()
    for node in graph.walk():
        if node.op == "dims":
            for d in node.attrs["dims"]:  # type: ignore[union-attr]
                found.update(dims.symbols(d))  # type: ignore[arg-type]
        elif node.op == "call":
            found |= need(str(node.attrs["function"]))
    return found


# ------------------------------------------------------------------------------------------------- scopes


def _sources(graph: Graph) -> dict[str, tuple[Value, int, int, int, dict[str, int]]]:
    """Where each symbol can be read: (input, axis, factor, offset, other terms), the size being factor*symbol + offset + …"""
    found: dict[str, tuple[Value, int, int, int, dict[str, int]]] = {}
    forms = []
    for value in graph.inputs:
        for axis, d in enumerate(value.type.shape):
            form = dims.linear(d) if type(d) is not int else None
            if form is not None:
                forms.append((value, axis, *form))
    forms.sort(key=lambda f: (len(f[2]), [abs(c) for c in f[2].values()] != [1], f[3] != 0))
    progress = True
    while progress:
        progress = False
        for value, axis, factors, offset in forms:
            unknown = [s for s in factors if s not in found]
            if len(unknown) == 1:
                rest = {s: c for s, c in factors.items() if s != unknown[0]}
                found[unknown[0]] = (value, axis, factors[unknown[0]], offset, rest)
                progress = True
    return found


class _Scope:
    """The sizes of one function or of the root, made at its top so that regions can use them."""

    def __init__(self, graph: Graph, handed: dict[str, Value]) -> None:
        self.graph = graph
        self.sources = _sources(graph)
        self.made: dict[str, Value] = dict(handed)
        # what is made here stands before everything else, whatever becomes of the first node
        self.anchor = graph.insert(Node("anchor", (), ()), before=graph.start)
        self.op = Builder(graph, self.anchor)

    def run(self) -> int:
        found = [n for n in self.graph.walk() if n.op == "dims"]
        for node in found:
            self.reshapes(node)
            if node.used:
                # a vector is put together where it is used, of sizes that stand at the top
                node.replace_by(self.vector(node))
            else:
                node.erase()
        self.anchor.erase()
        return len(found)

    def vector(self, node: Node) -> Value:
        parts: list[Value] = []
        pending: list[int] = []
        entries: tuple[Dim, ...] = node.attrs["dims"]  # type: ignore[assignment]
        key = "vector " + ", ".join(map(str, entries))
        if key in self.made:
            return self.made[key]
        for d in entries:
            if type(d) is int:
                pending.append(d)
                continue
            if pending:
                parts.append(self.op.const(np.asarray(pending, np.int64)))
                pending = []
            parts.append(self.size(d))
        if pending:
            parts.append(self.op.const(np.asarray(pending, np.int64)))
        self.op.hint = "shape"
        made = self.made[key] = parts[0] if len(parts) == 1 else self.op.Concat(*parts, axis=0)
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
                    "onnx.Reshape", [user.inputs[0], op.const(np.asarray(short, np.int64))], attrs, [user.out.type]
                )
                new.out.hint = user.out.hint
                user.replace_by(new.out)

    # ------------------------------------------------------------------ sizes

    def size(self, dim: Dim) -> Value:
        """The value of an expression, `i64[1]`."""
        key = str(dim)
        if key not in self.made:
            if isinstance(dim, int):
                return self.op.const(np.asarray([dim], np.int64))
            self.op.hint = key if key.isidentifier() else "size"
            self.made[key] = self.symbol(key) if key.isidentifier() else self.expression(dims.parse_expression(dim))
        return self.made[key]

    def symbol(self, name: str) -> Value:
        if name not in self.sources:
            raise DimensionError(
                f"the size {name} cannot be read from any input of @{self.graph.name}: give {name} as a dimension of one"
            )
        value, axis, factor, offset, rest = self.sources[name]
        op = self.op
        out = op.Shape(value, start=axis, end=axis + 1)
        for other, times in rest.items():
            term = self.size(self.graph.dims.dim(other))
            out = op.Sub(out, op.Mul(term, times) if times != 1 else term)
        if offset:
            out = op.Sub(out, offset)
        if factor != 1:
            out = op.Div(out, factor)
        return out

    def expression(self, node: ast.expr) -> Value:
        op = self.op
        match node:
            case ast.Constant(value=int(number)):
                return op.const(np.asarray([number], np.int64))
            case ast.Name(id=name):
                return self.size(self.graph.dims.dim(name))
            case ast.UnaryOp(operand=operand):
                return op.Neg(self.sub(operand))
            case ast.BinOp(left=left, op=ast.Pow(), right=ast.Constant(value=int(power))):
                base = out = self.sub(left)
                for _ in range(power - 1):
                    out = op.Mul(out, base)
                return out
            case ast.BinOp(left=left, op=operator, right=right):
                kind = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}[type(operator)]
                return op.apply(f"onnx.{kind}", self.sub(left), self.sub(right))
            case ast.Call(func=ast.Name(id=name), args=args):
                return self.function(name, [self.sub(a) for a in args])
        raise DimensionError(f"the expression {ast.unparse(node)!r} has no form in nodes")

    def sub(self, node: ast.expr) -> Value:
        key = "term " + ast.unparse(node)
        if key not in self.made:
            self.made[key] = self.expression(node)
        return self.made[key]

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
    out: list[int] = []
    free = 0
    for i, d in enumerate(new):
        if type(d) is int:
            if d == 0:
                return None  # a 0 would be read as "as it was"
            out.append(d)
        elif i < len(old) and same_dim(old[i], d):
            out.append(0)
        else:
            out.append(-1)
            free += 1
    if free > 1:
        return None
    # with an axis of size 0 around, -1 is ambiguous
    if free and not all(type(d) is int or dims.known_ge(d, 1) for i, d in enumerate(new) if out[i] != -1):
        return None
    return out
