"""Symbolic dimensions: jax.export's expressions, and nothing of JAX beyond this file (in `ir`).

An expression is canonical (equal expressions compare equal), carries the constraints of its scope, and prints in
the syntax that specs use: `B`, `2*B*T + 3`, `floordiv(T, 2)`, `mod(T, 16)`, `max(B, 4)`.
"""

from __future__ import annotations

import ast
import functools
import itertools
import operator
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import jax.core
from jax import export
from jax._src.core import (
    InconclusiveDimensionOperation as Inconclusive,
)  # public in jax.errors from JAX 0.10.1 on

from j2o.errors import DimensionError, shortened, shown
from j2o.ir.expressions import read_constraint, read_shape
from j2o.ir.types import Dim, Shape

SymDim: TypeAlias = Any  # jax.export gives its expression class no public name


def is_symbolic(dim: object) -> bool:
    return type(dim) is not int and export.is_symbolic_dim(dim)  # pyright: ignore[reportArgumentType]


def is_static(shape: Shape) -> bool:
    return all(type(d) is int for d in shape)


class DimScope:
    """The symbols of one graph and the constraints on them. Expressions of two scopes are never equal."""

    def __init__(self, constraints: Iterable[str] = ()) -> None:
        self.constraints = tuple(constraints)
        self._symbols: dict[str, SymDim] = {}
        try:
            self.jax = export.SymbolicScope(tuple(_for_jax(self.constraints)))
        except Exception as error:
            raise DimensionError(
                f"constraints={shortened(repr(list(self.constraints)), 80)}: {_first_line(error)}"
            ) from None

    @classmethod
    def of_jax(
        cls, scope: export.SymbolicScope, constraints: Iterable[str] = ()
    ) -> DimScope:
        """The scope around JAX's own, when the caller made the expressions."""
        self = cls.__new__(cls)
        self.jax, self.constraints, self._symbols = scope, tuple(constraints), {}
        return self

    @property
    def names(self) -> set[str]:
        """The symbols that were asked for."""
        return set(self._symbols)

    def symbol(self, name: str) -> SymDim:
        """The symbol of that name."""
        if name not in self._symbols:
            self._symbols[name] = export.symbolic_shape(f"{name},", scope=self.jax)[0]
        return self._symbols[name]

    def shape(self, text: str) -> Shape:
        """The dimensions of a comma-separated text: `"B, 2*T, T//2, 8"`; Python's and jax.export's syntax both work."""
        if not text.strip():
            return ()
        try:
            trees = read_shape(text)
            named = {
                name: self.symbol(name) for tree in trees for name in symbols_in(tree)
            }
            return tuple([normal(_evaluate(tree, named, _SYMBOLIC)) for tree in trees])
        except DimensionError as error:
            raise DimensionError(f"dimensions {error}") from None
        except Exception as error:
            raise DimensionError(
                f"dimensions {shown(text)}: {_first_line(error)}"
            ) from None

    def dim(self, text: str) -> Dim:
        """One dimension of its text."""
        return _parse_dim(self, text)


def _jax_syntax(constraint: str) -> str:
    """A constraint as jax.export writes it: `floordiv(a, b)`, `mod(a, b)`, `a^2`."""
    left, sign, right = read_constraint(constraint)
    rewritten = [
        ast.unparse(_JaxSyntax().visit(side)).replace("**", "^")
        for side in (left, right)
    ]
    return f" {sign} ".join(rewritten)


class _JaxSyntax(ast.NodeTransformer):
    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        name = {ast.FloorDiv: "floordiv", ast.Mod: "mod"}.get(type(node.op))
        return ast.Call(ast.Name(name), [node.left, node.right], []) if name else node


def _for_jax(constraints: Sequence[str]) -> Iterator[str]:
    """The constraints, and what divides evenly by n also by -n, which is what `reshape(n, -1)` asks."""
    found = [_jax_syntax(text) for text in constraints]
    yield from found
    for text in found:
        if (
            even := re.fullmatch(r"mod\((.*), (\d+)\) == 0", text)
        ) and f"mod({even[1]}, -{even[2]}) == 0" not in found:
            yield f"mod({even[1]}, -{even[2]}) == 0"


@functools.lru_cache(maxsize=65536)
def _parse_dim(scope: DimScope, text: str) -> Dim:
    sizes = scope.shape(text)
    if len(sizes) != 1:
        raise DimensionError(
            f"dimensions {shown(text)}: {len(sizes)} sizes where one is expected"
        )
    return sizes[0]


def constraints_of(scope: export.SymbolicScope) -> list[str]:
    """The constraints that a scope was made with, as text."""
    return [str(c.debug_str) for c in scope._explicit_constraints]


def constrained(shapes: Sequence[Shape], constraint: Sequence[str]) -> list[Shape]:
    """The shapes in a scope of their own with further constraints; DimensionError where these contradict the others."""
    scope = next(scope_of(d) for shape in shapes for d in shape if is_symbolic(d))
    new = DimScope([*constraints_of(scope), *constraint])
    return [
        tuple(d if type(d) is int else new.dim(str(d)) for d in shape)
        for shape in shapes
    ]


def scope_of(dim: SymDim) -> export.SymbolicScope:
    """JAX's scope of an expression."""
    return dim.scope


def normal(dim: Any) -> Dim:
    """`dim` as a Python int where it is a number (numpy's too), else the expression: the same object for equal ones."""
    return dim if type(dim) is int else _interned(dim) if is_symbolic(dim) else int(dim)


@functools.lru_cache(maxsize=65536)
def _interned(dim: SymDim) -> SymDim:
    return dim


def _memo(
    fn: Callable[..., Any], symbolic: Callable[..., Any] | None = None
) -> Callable[[Dim, Dim], Dim]:
    """`fn` of two numbers; of expressions `symbolic`, where that is another function, each once."""

    @functools.lru_cache(maxsize=65536)
    def cached(a: Dim, b: Dim) -> Dim:
        return normal((symbolic or fn)(a, b))

    return lambda a, b: fn(a, b) if type(a) is int and type(b) is int else cached(a, b)


add = _memo(operator.add)
sub = _memo(operator.sub)
mul = _memo(operator.mul)
floordiv = _memo(operator.floordiv)
mod = _memo(operator.mod)
maximum = _memo(max, jax.core.max_dim)
minimum = _memo(min, jax.core.min_dim)


def prod(shape: Iterable[Dim]) -> Dim:
    """The product; 1 for no dimensions."""
    return functools.reduce(mul, shape, 1)


def total(shape: Iterable[Dim]) -> Dim:
    """The sum; 0 for no dimensions."""
    return functools.reduce(add, shape, 0)


def ceildiv(a: Dim, b: Dim) -> Dim:
    return sub(0, floordiv(sub(0, a), b))


def divides(a: Dim, b: Dim) -> Dim | None:
    """`b / a` where `a` is known to divide `b`, else None."""
    if type(a) is int and type(b) is int:
        return b // a if a != 0 and b % a == 0 else None
    try:
        q = floordiv(b, a)
        return q if mul(q, a) == b else None
    except (ArithmeticError, ValueError, Inconclusive):
        return None


def settling(message: str) -> list[tuple[str, ...]]:
    """The lists of constraints of which each might let JAX go on after an error with that message; none where it tells none."""
    if found := re.search(
        r"comparison '(.*?)' (>=|<=|<|>|==) '(.*?)' is inconclusive", message
    ):
        a, sign, b = found.groups()
        if sign == "==":
            return [(f"{a} == {b}",)]
        more, less = (
            (a, b) if ">" in sign else (b, a)
        )  # asked is `more > less`, or `more >= less`
        strict = sign in "<>"
        return [
            (_at_least(more, less, 1 if strict else 0),),
            (_at_least(less, more, 0 if strict else 1),),
        ]
    if found := re.search(r"(?:remainder|rest is) (mod\(.*\))", message):
        positive = re.sub(r", - (\d+)\)$", r", \1)", found.group(1))
        return [(f"{positive} == 0",)]
    shapes = [
        s for s in map(_sizes, re.findall(r"\((?:[^()]|\([^()]*\))*\)", message)) if s
    ]
    for one, other in itertools.pairwise(shapes):
        different = [
            (a, b)
            for a, b in zip(one, other, strict=False)
            if a != b and not (a + b).isdigit()
        ]
        if len(one) == len(other) and different:
            return [
                tuple(
                    f"{b} == {a}" if a.isdigit() else f"{a} == {b}"
                    for a, b in different
                )
            ]
    return []


def _at_least(more: str, less: str, by: int) -> str:
    """`more >= less + by`, numbers on the right: `T >= 6` for T and 5 and 1, `T <= 5` for 5 and T and 0."""
    solved = _solved(f"({more}) - ({less}) - {by}")
    if solved is not None:
        return solved
    if more.isdigit():
        return f"{less} <= {int(more) - by}"
    return f"{more} >= {int(less) + by if less.isdigit() else f'{less} + {by}' if by else less}"


def _solved(text: str) -> str | None:
    """`a*S + b >= 0` as `S >= k` or `S <= k`; None for what has another form or more than one symbol."""
    tree = ast.parse(text.replace("^", "**"), mode="eval").body
    names = symbols_in(tree)
    if len(names) != 1 or any(isinstance(node, ast.Call) for node in ast.walk(tree)):
        return None
    (name,) = names
    at_0, at_1, at_2 = (_evaluate(tree, {name: size}, _INTEGER) for size in range(3))
    slope = at_1 - at_0
    if not slope or at_2 - at_1 != slope:
        return None
    return (
        f"{name} >= {-(at_0 // slope)}" if slope > 0 else f"{name} <= {at_0 // -slope}"
    )


def _sizes(text: str) -> list[str] | None:
    """The sizes in a shape as JAX prints it; None for other text in brackets."""
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except SyntaxError:
        return None
    return [ast.unparse(d) for d in tree.elts] if isinstance(tree, ast.Tuple) else None


@functools.lru_cache(maxsize=65536)
def known_ge(a: Dim, b: Dim) -> bool:
    """Whether `a >= b` is certain."""
    try:
        return bool(a >= b)
    except Inconclusive:
        return False


@functools.lru_cache(maxsize=4096)
def agree(a: Dim, b: Dim, divisible: bool = False) -> bool:
    """Whether two expressions, though JAX does not see that they are equal, give the same numbers at all of many sizes.

    `divisible` takes it that quotients have no rest: `2 * (T // 2)` agrees with `T`.
    """
    if a == b:
        return True
    names = sorted({*symbols(a), *symbols(b)})
    constraints = constraints_of(scope_of(b if type(a) is int else a))
    trees = [ast.Constant(d) if type(d) is int else parse_expression(d) for d in (a, b)]
    functions = {**_INTEGER, "floordiv": Fraction} if divisible else _INTEGER
    tried = 0
    for sizes in _samples(names, trees, constraints):
        try:
            left, right = (_evaluate(tree, sizes, functions) for tree in trees)
            if left != right:
                return False
            tried += 1
        except ArithmeticError:
            continue
    return tried > 0


def _numbers_in(tree: ast.AST) -> list[int]:
    """The integers that an expression is written with."""
    constants = [
        node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)
    ]
    return [number for number in constants if isinstance(number, int)]


def _samples(
    names: Sequence[str], trees: list[ast.expr], constraints: Sequence[str]
) -> Iterator[dict[str, int]]:
    """Sizes that the constraints allow, each symbol's on its own: around the numbers in expressions and constraints, where
    `max`, quotients and the like change their course, and far from them."""
    rows = [parse_constraint(text) for text in constraints]
    sides = [side for left, _, right in rows for side in (left, right)]
    names = sorted({*names, *(s for side in sides for s in symbols_in(side))})
    written = [number for tree in trees + sides for number in _numbers_in(tree)]
    numbers = {abs(n - m) for n in (*written, 0) for m in (*written, 0)}
    near = sorted(
        {
            max(n * k + i, 1)
            for n in (*numbers, 1)
            for k in (1, 2, 3, 5)
            for i in (-1, 0, 1)
        }
    )
    choose = random.Random(0)
    for _ in range(300):
        sizes: dict[str, int] = {
            n: choose.choice(near)
            if choose.random() < 0.6
            else choose.randrange(1, 10**5)
            for n in names
        }
        for left, sign, right in rows:
            match left, right:
                case ast.Name(id=name), _:
                    bound = _evaluate(right, sizes, _INTEGER)
                    sizes[name] = {
                        "==": bound,
                        "<=": min(sizes[name], bound),
                        ">=": max(sizes[name], bound),
                    }[sign]
                case ast.Call(
                    func=ast.Name(id="mod"),
                    args=[ast.Name(id=name), ast.Constant(value=int(n))],
                ), _:
                    sizes[name] += (_evaluate(right, sizes, _INTEGER) - sizes[name]) % n
        if all(
            COMPARISONS[sign](*(_evaluate(side, sizes, _INTEGER) for side in (a, b)))
            for a, sign, b in rows
        ):
            yield sizes


def is_contradictory(scope: DimScope) -> bool:
    """Whether the constraints of a scope are known to hold for no sizes; a size is 1 or more."""
    try:
        return any(
            _is_never(scope, *parse_constraint(text)) for text in scope.constraints
        )
    except (
        ValueError
    ):  # JAX finds that some are "unsatisfiable" when it decides the first comparison
        return True


def _is_never(scope: DimScope, left: ast.expr, sign: str, right: ast.expr) -> bool:
    """Whether a constraint is false at all sizes that the scope allows."""
    sizes = {name: scope.symbol(name) for name in symbols_in(left) | symbols_in(right)}
    if any(known_ge(0, size) for size in sizes.values()):
        return True
    a, b = (_evaluate(side, sizes, _SYMBOLIC) for side in (left, right))
    is_more, is_less = known_ge(a, b + 1), known_ge(b, a + 1)
    return {">=": is_less, "<=": is_more, "==": is_more or is_less}[sign]


def largest_number(dim: SymDim) -> int:
    """The largest number that is written in an expression."""
    numbers = [
        node.value
        for node in ast.walk(parse_expression(dim))
        if isinstance(node, ast.Constant)
    ]
    return max((n for n in numbers if isinstance(n, int)), default=0)


def agree_shapes(a: Shape, b: Shape) -> bool:
    """`agree` axis by axis."""
    return len(a) == len(b) and all(agree(x, y) for x, y in zip(a, b, strict=True))


@functools.lru_cache(maxsize=65536)
def parse_expression(dim: SymDim) -> ast.expr:
    """The expression as a Python syntax tree, for those who evaluate it or write it as nodes."""
    return ast.parse(str(dim).replace("^", "**"), mode="eval").body


@functools.lru_cache(maxsize=65536)
def symbols(dim: Dim) -> tuple[str, ...]:
    """The names in an expression, sorted."""
    if type(dim) is int:
        return ()
    return tuple(sorted(symbols_in(parse_expression(dim))))


def symbols_in(tree: ast.expr) -> set[str]:
    """The names of symbols in a syntax tree."""
    called = {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    return {
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and id(n) not in called
    }


_INTEGER: dict[str, Callable[..., Any]] = {
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "max": max,
    "min": min,
    "non_negative": lambda a: max(a, 0),
}
_SYMBOLIC: dict[str, Callable[..., Any]] = {
    "floordiv": floordiv,
    "mod": mod,
    "max": maximum,
    "min": minimum,
    "non_negative": lambda a: maximum(a, 0),
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
    """The number that an expression stands for; KeyError names a symbol without a size."""
    return (
        dim if type(dim) is int else _evaluate(parse_expression(dim), sizes, _INTEGER)
    )


def substitute(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """The expression with other expressions in place of its symbols."""
    return (
        dim
        if type(dim) is int
        else normal(_evaluate(parse_expression(dim), sizes, _SYMBOLIC))
    )


def _evaluate(
    node: ast.expr, sizes: Mapping[str, Any], functions: dict[str, Callable[..., Any]]
) -> Any:
    match node:
        case ast.Constant(value=int(number)):
            return number
        case ast.Name(id=name):
            return sizes[name]
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_evaluate(operand, sizes, functions)
        case ast.BinOp():
            return _evaluate_chain(node, sizes, functions)
        case ast.Call(func=ast.Name(id=name), args=args) if name in functions:
            return functions[name](*(_evaluate(a, sizes, functions) for a in args))
    raise DimensionError(
        f"{ast.unparse(node)!r} is not an expression of sizes such as 'B', '2*T + 1', 'T//2'"
    )


def _evaluate_chain(
    node: ast.expr, sizes: Mapping[str, Any], functions: dict[str, Callable[..., Any]]
) -> Any:
    """The value of `a + b + c + …`; a long one is a tree that is deep on its left, so it is gone down in a loop."""
    chain: list[ast.BinOp] = []
    while isinstance(node, ast.BinOp):
        chain.append(node)
        node = node.left
    value = _evaluate(node, sizes, functions)
    for step in reversed(chain):
        value = _OPERATORS[type(step.op)](
            value, _evaluate(step.right, sizes, functions)
        )
    return value


def _first_line(error: BaseException) -> str:
    return (
        str(error).strip().splitlines()[0]
        if str(error).strip()
        else type(error).__name__
    )


def affine(dim: SymDim, name: str) -> tuple[Dim, Dim] | None:
    """`2*B + T - 3` in B as (2, T - 3), `B*T` in B as (T, 0); None where it is not such a line with a known slope ≠ 0."""
    same: dict[str, Dim] = {
        n: DimScope.of_jax(scope_of(dim)).symbol(n) for n in symbols(dim)
    }
    try:
        offset = substitute(dim, {**same, name: 0})
        factor = sub(substitute(dim, {**same, name: 1}), offset)
    except ArithmeticError:
        return None
    sloped = factor != 0 if type(factor) is int else known_ge(factor, 1)
    return (
        (factor, offset)
        if sloped and add(mul(factor, same[name]), offset) == dim
        else None
    )


@dataclass(frozen=True)
class Source:
    """Where a symbol is read: the size of axis number `axis` in a list of axes is `factor * symbol + offset`."""

    axis: int
    factor: Dim
    offset: Dim


def sources(axes: Sequence[Dim]) -> dict[str, Source]:
    """How to read symbols from the sizes of these axes, in an order in which each needs only those before it.

    An expression serves where it is linear in one symbol and the others in it are known.
    """
    found: dict[str, Source] = {}
    todo = sorted(
        (not str(d).isidentifier(), len(symbols(d)), i)
        for i, d in enumerate(axes)
        if type(d) is not int
    )
    progress = True
    while progress:
        progress = False
        for *_, i in todo:
            unknown = [s for s in symbols(axes[i]) if s not in found]
            form = affine(axes[i], unknown[0]) if len(unknown) == 1 else None
            if form is not None:
                found[unknown[0]] = Source(i, *form)
                progress = True
    return found


COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": operator.eq,
    "<=": operator.le,
    ">=": operator.ge,
}


def parse_constraint(text: str) -> tuple[ast.expr, str, ast.expr]:
    """`T <= 512` as its sides and its sign, in the syntax of `parse_expression`."""
    left, sign, right = read_constraint(text)
    return _JaxSyntax().visit(left), sign, _JaxSyntax().visit(right)


@dataclass(frozen=True)
class Requirement:
    """`left sign right` must hold of sizes; `axis` is the number of the axis that tells them, `text` what to show.

    `left` is None where it is the size of that axis, `right` where it is the size of axis number `other`.
    """

    axis: int
    text: str
    left: ast.expr | None
    sign: str
    right: ast.expr | None
    other: int = -1


def requirements(
    axes: Sequence[Dim], constraints: Iterable[str] = ()
) -> list[Requirement]:
    """What the sizes of these axes must fulfil: symbols are 1 or more, expressions agree, constraints hold.

    What no axis tells is left out.
    """
    known = sources(axes)
    found = [
        Requirement(s.axis, f"{n} >= 1", ast.Name(n), ">=", ast.Constant(1))
        for n, s in known.items()
    ]
    seen: dict[str, int] = {}
    for i, d in enumerate(axes):
        if type(d) is int or (str(d) in known and known[str(d)].axis == i):
            continue
        first = seen.setdefault(str(d), i)
        if all(s in known for s in symbols(d)):
            found.append(
                Requirement(i, f"size == {d}", None, "==", parse_expression(d))
            )
        elif first != i:
            found.append(Requirement(i, f"size == {d}", None, "==", None, first))
    for text in constraints:
        left, sign, right = parse_constraint(text)
        names = symbols_in(left) | symbols_in(right)
        if names and names <= set(known):
            found.append(
                Requirement(max(known[n].axis for n in names), text, left, sign, right)
            )
    return found


def solve(axes: Sequence[Dim], actual: Sequence[int]) -> dict[str, int]:
    """The symbols' sizes from those of axes, as far as these tell them; rounded where no integer fits."""
    sizes: dict[str, int] = {}
    for name, s in sources(axes).items():
        slope = evaluate(s.factor, sizes)
        sizes[name] = (
            (actual[s.axis] - evaluate(s.offset, sizes)) // slope if slope else 0
        )
    return sizes


def fit(
    where: Sequence[str],
    axes: Sequence[Dim],
    actual: Sequence[int],
    constraints: Iterable[str],
) -> dict[str, int]:
    """The symbols' sizes; DimensionError names the axis by `where`, the requirement and the values that break it."""
    for place, declared, size in zip(where, axes, actual, strict=True):
        if type(declared) is int and declared != size:
            raise DimensionError(
                f"{place}: the size is {size}, the model takes {declared}"
            )
    sizes = solve(axes, actual)
    read = {s.axis: n for n, s in sources(axes).items()}
    for r in requirements(axes, constraints):
        left = actual[r.axis] if r.left is None else _evaluate(r.left, sizes, _INTEGER)
        right = (
            actual[r.other] if r.right is None else _evaluate(r.right, sizes, _INTEGER)
        )
        if COMPARISONS[r.sign](left, right):
            continue
        given = ", ".join(f"{k} = {v}" for k, v in sizes.items())
        if r.left is not None:
            raise DimensionError(
                f"{where[r.axis]}: {r.text!r} does not hold, {left} {r.sign} {right} is false ({given})"
            )
        why = f"which no {read[r.axis]} makes" if r.axis in read else "the model takes"
        told = (
            f" ({given})"
            if r.right is not None
            else f", which is {right} in {where[r.other]}"
        )
        raise DimensionError(
            f"{where[r.axis]}: the size is {left}, {why} {axes[r.axis]}{told}"
        )
    return sizes


def check_constraints(constraints: Iterable[str], sizes: Mapping[str, int]) -> None:
    """DimensionError names the first constraint that the sizes break; those with symbols that have no size are left out."""
    for text in constraints:
        left, sign, right = parse_constraint(text)
        if symbols_in(left) | symbols_in(right) <= set(sizes):
            a, b = _evaluate(left, sizes, _INTEGER), _evaluate(right, sizes, _INTEGER)
            if not COMPARISONS[sign](a, b):
                raise DimensionError(
                    f"constraint {text!r} does not hold: {a} {sign} {b} is false"
                )
