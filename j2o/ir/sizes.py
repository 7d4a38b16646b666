"""The symbols' sizes from the sizes of axes: where each symbol is read, and what must hold of the sizes.

The axes are those of a model's inputs, in one list. The declared sizes `[B, 2*T + 1, T]` and the actual ones
`[5, 9, 4]` give `B = 5, T = 4`: B from axis 0, T from axis 2, and axis 1 must have 2*T + 1 elements.

`fit` does it in Python for numbers. The checks in the ONNX graph (`passes/target/checks.py`) follow the same
`sources` and `requirements`.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from j2o.errors import DimensionError
from j2o.ir.dims import (
    DimScope,
    SymDim,
    add,
    compare,
    evaluate,
    evaluate_tree,
    known_ge,
    mul,
    parse_constraint,
    parse_expression,
    scope_of,
    sub,
    substitute,
    symbols,
)
from j2o.ir.types import Dim

# -------------------------------------------------------------------------------------- reading the symbols


@dataclass(frozen=True)
class SymbolSource:
    """Where a symbol is read: the size of axis number `axis` is `factor * symbol + offset`."""

    axis: int
    factor: Dim
    offset: Dim


def sources(axes: Sequence[Dim]) -> dict[str, SymbolSource]:
    """Return how to read symbols from the sizes of these axes.

    They come in an order in which each needs only those before it. An expression serves where it is linear in
    one symbol and the others in it are known.
    """
    found: dict[str, SymbolSource] = {}
    symbolic = [i for i, size in enumerate(axes) if type(size) is not int]
    symbolic.sort(key=lambda i: _effort(axes[i]))
    is_progress = True
    while is_progress:
        is_progress = False
        for i in symbolic:
            unknown = [name for name in symbols(axes[i]) if name not in found]
            line = affine(axes[i], unknown[0]) if len(unknown) == 1 else None
            if line is not None:
                found[unknown[0]] = SymbolSource(i, *line)
                is_progress = True
    return found


def _effort(size: SymDim) -> tuple[bool, int]:
    """Return what orders expressions: symbols alone come first, then those of few symbols."""
    return not str(size).isidentifier(), len(symbols(size))


def affine(dim: SymDim, name: str) -> tuple[Dim, Dim] | None:
    """Return slope and offset of an expression that is a line in one symbol, the slope known not to be 0.

    `2*B + T - 3` in B is (2, T - 3), `B*T` in B is (T, 0). None for other expressions.
    """
    scope = DimScope.of_jax(scope_of(dim))
    same: dict[str, Dim] = {symbol: scope.symbol(symbol) for symbol in symbols(dim)}
    try:
        offset = substitute(dim, {**same, name: 0})
        slope = sub(substitute(dim, {**same, name: 1}), offset)
    except ArithmeticError:
        return None
    is_sloped = slope != 0 if type(slope) is int else known_ge(slope, 1)
    is_line = is_sloped and add(mul(slope, same[name]), offset) == dim
    return (slope, offset) if is_line else None


def solve(axes: Sequence[Dim], actual: Sequence[int]) -> dict[str, int]:
    """Return the symbols' sizes as far as those of axes tell them; rounded where no integer fits."""
    sizes: dict[str, int] = {}
    for name, source in sources(axes).items():
        slope = evaluate(source.factor, sizes)
        rise = actual[source.axis] - evaluate(source.offset, sizes)
        sizes[name] = rise // slope if slope else 0
    return sizes


# -------------------------------------------------------------------------------------- what must hold


@dataclass(frozen=True)
class Requirement:
    """`left sign right` must hold of sizes.

    `axis` is the number of the axis that tells them, `text` what to show. `left` is None where it is the size
    of that axis, `right` where it is the size of axis number `other`. `advice` says what would work where
    it does not hold.
    """

    axis: int
    text: str
    left: ast.expr | None
    sign: str
    right: ast.expr | None
    other: int = -1
    advice: str = ""


def requirements(
    axes: Sequence[Dim], constraints: Iterable[str] = ()
) -> list[Requirement]:
    """Return what the sizes of these axes must fulfil.

    Symbols are 1 or more, expressions agree, constraints hold. What no axis tells is left out.
    """
    known = sources(axes)
    return [
        *[_is_positive(name, source) for name, source in known.items()],
        *_agreements(axes, known),
        *_told(constraints, known),
    ]


def _is_positive(name: str, source: SymbolSource) -> Requirement:
    """The requirement that the size of a symbol is at least 1."""
    one = ast.Constant(1)
    text = f"{name} >= 1"
    advice = "; a symbolic size is at least 1, a spec for no elements has a 0"
    return Requirement(source.axis, text, ast.Name(name), ">=", one, advice=advice)


def _agreements(
    axes: Sequence[Dim], known: Mapping[str, SymbolSource]
) -> list[Requirement]:
    """Return that each axis from which no symbol is read has the size of its expression.

    Where a symbol in the expression is unknown, the axis agrees with the first of the same expression.
    """
    found: list[Requirement] = []
    first_of: dict[str, int] = {}
    for i, size in enumerate(axes):
        text = str(size)
        is_source = text in known and known[text].axis == i
        if type(size) is int or is_source:
            continue
        first = first_of.setdefault(text, i)
        if all(name in known for name in symbols(size)):
            expected = parse_expression(size)
            found.append(Requirement(i, f"size == {text}", None, "==", expected))
        elif first != i:
            found.append(Requirement(i, f"size == {text}", None, "==", None, first))
    return found


def _told(
    constraints: Iterable[str], known: Mapping[str, SymbolSource]
) -> list[Requirement]:
    """Return the constraints whose symbols are all known, at the last axis that is read for them."""
    found: list[Requirement] = []
    for text in constraints:
        constraint = parse_constraint(text)
        names = constraint.symbols
        if names and names <= set(known):
            axis = max(known[name].axis for name in names)
            found.append(Requirement(axis, text, *constraint))
    return found


# -------------------------------------------------------------------------------------- checking sizes


def fit(
    where: Sequence[str],
    axes: Sequence[Dim],
    actual: Sequence[int],
    constraints: Iterable[str],
) -> dict[str, int]:
    """Return the symbols' sizes.

    DimensionError names the axis by `where`, the requirement and the values that break it.
    """
    for place, declared, size in zip(where, axes, actual, strict=True):
        if type(declared) is int and declared != size:
            raise DimensionError(
                f"{place}: the size is {size}, the model takes {declared}"
            )
    sizes = solve(axes, actual)
    for needed in requirements(axes, constraints):
        left = _side(needed.left, needed.axis, actual, sizes)
        right = _side(needed.right, needed.other, actual, sizes)
        if compare(left, needed.sign, right):
            continue
        given = ", ".join([f"{name} = {size}" for name, size in sizes.items()])
        place = where[needed.axis]
        if needed.left is not None:
            broken = f"{left} {needed.sign} {right} is false ({given})"
            what = f"{needed.text!r} does not hold, {broken}{needed.advice}"
            raise DimensionError(f"{place}: {what}")
        if needed.right is not None:
            source = f" ({given})"
        else:
            source = f", which is {right} in {where[needed.other]}"
        reason = _reason(axes, needed.axis)
        raise DimensionError(f"{place}: the size is {left}, {reason}{source}")
    return sizes


def _side(
    tree: ast.expr | None, axis: int, actual: Sequence[int], sizes: Mapping[str, int]
) -> int:
    """The number on one side of a requirement: a size of the array, or what an expression gives."""
    return actual[axis] if tree is None else evaluate_tree(tree, sizes)


def _reason(axes: Sequence[Dim], axis: int) -> str:
    """Return why an axis cannot have a size that does not agree with its expression."""
    read = {source.axis: name for name, source in sources(axes).items()}
    if axis in read:
        return f"which no {read[axis]} makes {axes[axis]}"
    return f"the model takes {axes[axis]}"


def check_constraints(constraints: Iterable[str], sizes: Mapping[str, int]) -> None:
    """Check constraints of sizes that are given; those with symbols that have no size are left out.

    DimensionError names the first that the sizes break.
    """
    for text in constraints:
        constraint = parse_constraint(text)
        if not constraint.symbols <= set(sizes):
            continue
        left, right = constraint.values(sizes)
        if not compare(left, constraint.sign, right):
            broken = f"{left} {constraint.sign} {right} is false"
            raise DimensionError(f"constraint {text!r} does not hold: {broken}")
