"""Symbolic dimensions: jax.export's expressions, and nothing of JAX beyond this file (in `ir`).

An expression is canonical (equal expressions compare equal), carries the constraints of its scope, and prints
in the syntax that specs use: `B`, `2*B*T + 3`, `floordiv(T, 2)`, `mod(T, 16)`, `max(B, 4)`.

Here are scopes and arithmetic. `dims_agree.py` compares expressions at samples, `dims_settle.py` reads what
JAX asks about them, `sizes.py` tells the symbols' sizes from those of axes.

Uses of private JAX: `InconclusiveDimensionOperation`, and the constraints of a `SymbolicScope`.
"""

# typeshed has no types for operator.floordiv and operator.pow:
# pyright: reportUnknownMemberType=false, reportUnknownArgumentType=false
# pyright: reportUnknownVariableType=false

from __future__ import annotations

import ast
import functools
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax.core
from jax import export

# public in jax.errors from JAX 0.10.1 on
from jax._src.core import InconclusiveDimensionOperation as Inconclusive

from j2o.errors import DimensionError, shortened, shown
from j2o.ir.expressions import read_constraint, read_shape
from j2o.ir.types import Dim, Shape, are_integers

SymDim: TypeAlias = Any  # jax.export gives its expression class no public name
Functions: TypeAlias = Mapping[str, Callable[..., Any]]  # of expressions, by name


def is_symbolic(dim: object) -> bool:
    """Return True for a size that is an expression."""
    return type(dim) is not int and export.is_symbolic_dim(dim)  # pyright: ignore[reportArgumentType]


def is_static(shape: Shape) -> bool:
    """Return True for a shape of numbers alone."""
    return are_integers(shape)


# -------------------------------------------------------------------------------------- scopes


class DimScope:
    """The symbols of one graph and the constraints on them. Expressions of two scopes are never equal."""

    def __init__(self, constraints: Iterable[str] = ()) -> None:
        self.constraints = tuple(constraints)
        self._symbols: dict[str, SymDim] = {}
        try:
            self.jax = export.SymbolicScope(tuple(_for_jax(self.constraints)))
        except Exception as error:
            given = shortened(repr(list(self.constraints)), 80)
            message = f"constraints={given}: {_first_line(error)}"
            raise DimensionError(message) from None

    @classmethod
    def of_jax(
        cls, scope: export.SymbolicScope, constraints: Iterable[str] = ()
    ) -> DimScope:
        """Return the scope around JAX's own, when the caller made the expressions."""
        self = cls.__new__(cls)
        self.jax = scope
        self.constraints = tuple(constraints)
        self._symbols = {}
        return self

    @property
    def names(self) -> set[str]:
        """The symbols that were asked for."""
        return set(self._symbols)

    def symbol(self, name: str) -> SymDim:
        """Return the symbol of that name."""
        if name not in self._symbols:
            self._symbols[name] = export.symbolic_shape(f"{name},", scope=self.jax)[0]
        return self._symbols[name]

    def shape(self, text: str) -> Shape:
        """Return the dimensions of a comma-separated text: `"B, 2*T, T//2, 8"`.

        Python's and jax.export's syntax both work. DimensionError where the text is no shape.
        """
        if not text.strip():
            return ()
        try:
            return tuple([self._dim(tree) for tree in read_shape(text)])
        except DimensionError as error:
            raise DimensionError(f"dimensions {error}") from None
        except ZeroDivisionError:
            message = f"dimensions {shown(text)}: a size is divided by zero"
            raise DimensionError(message) from None
        except Exception as error:
            message = f"dimensions {shown(text)}: {_first_line(error)}"
            raise DimensionError(message) from None

    def _dim(self, tree: ast.expr) -> Dim:
        """The size that a syntax tree is, in this scope."""
        symbols = {name: self.symbol(name) for name in symbols_in(tree)}
        return normal(evaluate_tree(tree, symbols, ON_EXPRESSIONS))

    def dim(self, text: str) -> Dim:
        """Return one dimension of its text."""
        return _parse_dim(self, text)


@functools.lru_cache(maxsize=65536)
def _parse_dim(scope: DimScope, text: str) -> Dim:
    """The one size that a text is; DimensionError for several."""
    sizes = scope.shape(text)
    if len(sizes) != 1:
        raise DimensionError(
            f"dimensions {shown(text)}: {len(sizes)} sizes where one is expected"
        )
    return sizes[0]


def scope_of(dim: SymDim) -> export.SymbolicScope:
    """Return JAX's scope of an expression."""
    return dim.scope


def constraints_of(scope: export.SymbolicScope) -> list[str]:
    """Return the constraints that a scope was made with, as text."""
    explicit = scope._explicit_constraints  # pyright: ignore[reportPrivateUsage]
    return [str(constraint.debug_str) for constraint in explicit]


def constrained(shapes: Sequence[Shape], constraint: Sequence[str]) -> list[Shape]:
    """Return the shapes in a scope of their own with further constraints.

    DimensionError where these contradict the others. One size at least must be symbolic.
    """
    scope = next(scope_of(d) for shape in shapes for d in shape if is_symbolic(d))
    new = DimScope([*constraints_of(scope), *constraint])
    return [tuple([_moved(d, new) for d in shape]) for shape in shapes]


def _moved(dim: Dim, scope: DimScope) -> Dim:
    """A size in another scope, whose expressions are never equal to those of its own."""
    return dim if type(dim) is int else scope.dim(str(dim))


# -------------------------------------------------------------------------------------- constraints


class Constraint(NamedTuple):
    """`left sign right`, such as `T <= 512`, in the syntax of `parse_expression`."""

    left: ast.expr
    sign: str
    right: ast.expr

    @property
    def symbols(self) -> set[str]:
        """The names of the symbols on both sides."""
        return symbols_in(self.left) | symbols_in(self.right)

    def values(self, sizes: Mapping[str, int]) -> tuple[int, int]:
        """Return the numbers that both sides stand for; every symbol needs a size."""
        return evaluate_tree(self.left, sizes), evaluate_tree(self.right, sizes)

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Return True where the constraint holds at these sizes."""
        left, right = self.values(sizes)
        return compare(left, self.sign, right)


def compare(left: int, sign: str, right: int) -> bool:
    """Return True where `left sign right` is true of two numbers; the signs are those of constraints."""
    if sign == "==":
        return left == right
    return left <= right if sign == "<=" else left >= right


def parse_constraint(text: str) -> Constraint:
    """Return the sides of a constraint and its sign; DimensionError where the text is none."""
    left, sign, right = read_constraint(text)
    return Constraint(_JaxSyntax().visit(left), sign, _JaxSyntax().visit(right))


_JAX_NAMES: dict[type[ast.operator], str] = {
    ast.FloorDiv: "floordiv",
    ast.Mod: "mod",
}


class _JaxSyntax(ast.NodeTransformer):
    """Writes `a//b` and `a%b` as jax.export does: `floordiv(a, b)` and `mod(a, b)`."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """An operation that JAX writes as a function, as a call of it."""
        self.generic_visit(node)
        name = _JAX_NAMES.get(type(node.op))
        return ast.Call(ast.Name(name), [node.left, node.right], []) if name else node


def _jax_syntax(text: str) -> str:
    """Return a constraint as jax.export writes it: `floordiv(a, b)`, `mod(a, b)`, `a^2`."""
    left, sign, right = parse_constraint(text)
    sides = [ast.unparse(side).replace("**", "^") for side in (left, right)]
    return f" {sign} ".join(sides)


def _for_jax(constraints: Sequence[str]) -> Iterator[str]:
    """Yield the constraints, and for what divides by n that it does by -n too: `reshape(n, -1)` asks that."""
    found = [_jax_syntax(text) for text in constraints]
    yield from found
    for text in found:
        even = re.fullmatch(r"mod\((.*), (\d+)\) == 0", text)
        if even is None:
            continue
        negative = f"mod({even[1]}, -{even[2]}) == 0"
        if negative not in found:
            yield negative


def is_contradictory(scope: DimScope) -> bool:
    """Return True where the constraints of a scope are known to hold for no sizes; a size is 1 or more."""
    try:
        return any(_is_never(scope, parse_constraint(c)) for c in scope.constraints)
    except ValueError:
        # JAX finds that some are "unsatisfiable" when it decides the first comparison
        return True


def is_idle_bound(text: str) -> bool:
    """Return True for a bound, `B >= 0`, that is known to hold at all sizes of 1 or more."""
    constraint = parse_constraint(text)
    scope = DimScope()
    sizes = {name: scope.symbol(name) for name in constraint.symbols}
    left = evaluate_tree(constraint.left, sizes, ON_EXPRESSIONS)
    right = evaluate_tree(constraint.right, sizes, ON_EXPRESSIONS)
    if constraint.sign == "==":
        return False
    return known_ge(right, left) if constraint.sign == "<=" else known_ge(left, right)


def _is_never(scope: DimScope, constraint: Constraint) -> bool:
    """Return True where a constraint is false at all sizes that the scope allows."""
    sizes = {name: scope.symbol(name) for name in constraint.symbols}
    if any(known_ge(0, size) for size in sizes.values()):
        return True
    left = evaluate_tree(constraint.left, sizes, ON_EXPRESSIONS)
    right = evaluate_tree(constraint.right, sizes, ON_EXPRESSIONS)
    is_more = known_ge(left, right + 1)
    is_less = known_ge(right, left + 1)
    if constraint.sign == "==":
        return is_more or is_less
    return is_more if constraint.sign == "<=" else is_less


# -------------------------------------------------------------------------------------- arithmetic


def normal(dim: Any) -> Dim:
    """Return an int for a number (numpy's too), else the expression: the same object for equal ones."""
    if type(dim) is int:
        return dim
    return _interned(dim) if is_symbolic(dim) else int(dim)


@functools.lru_cache(maxsize=65536)
def _interned(dim: SymDim) -> SymDim:
    """One object for all expressions that are equal: the cache gives the first of them."""
    return dim


def _arithmetic(
    on_numbers: Callable[..., Any], on_expressions: Callable[..., Any] | None = None
) -> Callable[[Dim, Dim], Dim]:
    """Return an operation on two sizes; JAX is slow, so that each pair of expressions is computed once.

    `on_expressions` is None where the operation on numbers works on JAX's expressions too.
    """
    make = on_expressions or on_numbers

    @functools.lru_cache(maxsize=65536)
    def once(a: Dim, b: Dim) -> Dim:
        return normal(make(a, b))

    def operation(a: Dim, b: Dim) -> Dim:
        if type(a) is int and type(b) is int:
            return on_numbers(a, b)
        return once(a, b)

    return operation


add = _arithmetic(operator.add)
sub = _arithmetic(operator.sub)
mul = _arithmetic(operator.mul)
floordiv = _arithmetic(operator.floordiv)
mod = _arithmetic(operator.mod)
maximum = _arithmetic(max, jax.core.max_dim)
minimum = _arithmetic(min, jax.core.min_dim)


def prod(shape: Iterable[Dim]) -> Dim:
    """Return the product; 1 for no dimensions."""
    sizes = tuple(shape)
    return math.prod(sizes) if are_integers(sizes) else _product(sizes)


@functools.lru_cache(maxsize=65536)
def _product(shape: Shape) -> Dim:
    return functools.reduce(mul, shape, 1)


def total(shape: Iterable[Dim]) -> Dim:
    """Return the sum; 0 for no dimensions."""
    return functools.reduce(add, shape, 0)


def ceildiv(a: Dim, b: Dim) -> Dim:
    """`a / b` rounded up."""
    return sub(0, floordiv(sub(0, a), b))


def divides(a: Dim, b: Dim) -> Dim | None:
    """Return `b / a` where `a` is known to divide `b`, else None."""
    if type(a) is int and type(b) is int:
        return b // a if a != 0 and b % a == 0 else None
    try:
        quotient = floordiv(b, a)
        return quotient if mul(quotient, a) == b else None
    except (ArithmeticError, ValueError, Inconclusive):
        return None


@functools.lru_cache(maxsize=65536)
def known_ge(a: Dim, b: Dim) -> bool:
    """Return True where `a >= b` is certain."""
    try:
        return bool(a >= b)
    except Inconclusive:
        return False


# -------------------------------------------------------------------------------------- what is written


@functools.lru_cache(maxsize=65536)
def parse_expression(dim: SymDim) -> ast.expr:
    """Return the expression as a Python syntax tree, for those who evaluate it or write it as nodes."""
    return ast.parse(str(dim).replace("^", "**"), mode="eval").body


@functools.lru_cache(maxsize=65536)
def symbols(dim: Dim) -> tuple[str, ...]:
    """Return the names in an expression, sorted."""
    if type(dim) is int:
        return ()
    return tuple(sorted(symbols_in(parse_expression(dim))))


def symbols_in(tree: ast.expr) -> set[str]:
    """Return the names of symbols in a syntax tree."""
    nodes = list(ast.walk(tree))
    functions = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    return {name.id for name in names if id(name) not in functions}


def numbers_in(tree: ast.expr) -> list[int]:
    """Return the integers that an expression is written with."""
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    return [node.value for node in nodes if isinstance(node.value, int)]


def largest_number(dim: SymDim) -> int:
    """Return the largest number that is written in an expression, 0 for none."""
    return max(numbers_in(parse_expression(dim)), default=0)


# -------------------------------------------------------------------------------------- evaluation


def _non_negative(number: int) -> int:
    return max(number, 0)


def _non_negative_size(size: Dim) -> Dim:
    return maximum(size, 0)


ON_NUMBERS: Functions = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
    "non_negative": _non_negative,
}
ON_EXPRESSIONS: Functions = {
    "floordiv": floordiv,
    "mod": mod,
    "max": maximum,
    "min": minimum,
    "non_negative": _non_negative_size,
}
_OPERATORS: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}


def evaluate(dim: Dim, sizes: Mapping[str, int]) -> int:
    """Return the number that an expression stands for; KeyError names a symbol without a size."""
    return dim if type(dim) is int else evaluate_tree(parse_expression(dim), sizes)


def substitute(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """Return the expression with other expressions in place of its symbols."""
    if type(dim) is int:
        return dim
    return normal(evaluate_tree(parse_expression(dim), sizes, ON_EXPRESSIONS))


def evaluate_tree(
    tree: ast.expr, sizes: Mapping[str, Any], functions: Functions = ON_NUMBERS
) -> Any:
    """Return what a syntax tree stands for where its symbols have these sizes: numbers or expressions.

    KeyError names a symbol without a size. DimensionError for a tree that is no expression of sizes.
    """
    match tree:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -evaluate_tree(operand, sizes, functions)
        case ast.BinOp():
            return _evaluate_chain(tree, sizes, functions)
        case ast.Call(func=ast.Name(id=name), args=args) if name in functions:
            operands = [evaluate_tree(arg, sizes, functions) for arg in args]
            return functions[name](*operands)
        case _:
            text = repr(ast.unparse(tree))
            such_as = "such as 'B', '2*T + 1', 'T//2'"
            raise DimensionError(f"{text} is not an expression of sizes {such_as}")


def _evaluate_chain(
    tree: ast.expr, sizes: Mapping[str, Any], functions: Functions
) -> Any:
    """Return the value of `a + b + c + …`.

    A long one is a tree that is deep on its left, so it is gone down in a loop.
    """
    chain: list[ast.BinOp] = []
    while isinstance(tree, ast.BinOp):
        chain.append(tree)
        tree = tree.left
    value = evaluate_tree(tree, sizes, functions)
    for step in reversed(chain):
        operand = evaluate_tree(step.right, sizes, functions)
        value = _OPERATORS[type(step.op)](value, operand)
    return value


def _first_line(error: BaseException) -> str:
    """Return the first line of an error's message, its kind where it has no message."""
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
