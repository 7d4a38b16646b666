"""Reads from JAX's messages about symbolic sizes which constraints would let it go on.

JAX stops where it can not decide something about sizes, and its message is all that it tells. Nothing here is
certain: whoever has constraints from here tries them (`frontend/settle.py`), or shows them as a proposal.
"""

from __future__ import annotations

import ast
import itertools
import re
from typing import TypeAlias

from j2o.ir.dims import evaluate_tree, symbols_in

_COMPARISON = re.compile(r"comparison '(.*?)' (>=|<=|<|>|==) '(.*?)' is inconclusive")
_REST = re.compile(r"(?:remainder|rest is) (mod\(.*\))")
_NEGATIVE_DIVISOR = re.compile(r", - (\d+)\)$")
_IN_BRACKETS = re.compile(r"\((?:[^()]|\([^()]*\))*\)")

Option: TypeAlias = tuple[str, ...]  # constraints that belong together


def settling(message: str) -> list[Option]:
    """Return the lists of constraints of which each might let JAX go on after an error with that message.

    There is none where the message tells none.
    """
    comparison = _COMPARISON.search(message)
    if comparison is not None:
        return _settling_comparison(*comparison.groups())
    rest = _REST.search(message)
    if rest is not None:
        positive = _NEGATIVE_DIVISOR.sub(r", \1)", rest[1])
        return [(f"{positive} == 0",)]
    return _settling_shapes(message)


def _settling_comparison(a: str, sign: str, b: str) -> list[Option]:
    """Return what decides a comparison: that it is true, or that it is false."""
    if sign == "==":
        return [(f"{a} == {b}",)]
    # asked is `more > less`, or `more >= less`
    more, less = (a, b) if ">" in sign else (b, a)
    is_strict = sign in ("<", ">")
    if_true = _at_least(more, less, 1 if is_strict else 0)
    if_false = _at_least(less, more, 0 if is_strict else 1)
    return [(if_true,), (if_false,)]


def _settling_shapes(message: str) -> list[Option]:
    """Return that the sizes are equal in which two shapes differ that stand next to each other."""
    found = [_sizes(text) for text in _IN_BRACKETS.findall(message)]
    shapes = [sizes for sizes in found if sizes]
    for one, other in itertools.pairwise(shapes):
        if len(one) != len(other):
            continue
        pairs = zip(one, other, strict=True)
        option = tuple([_equal(a, b) for a, b in pairs if _may_be_equal(a, b)])
        if option:
            return [option]
    return []


def _sizes(text: str) -> list[str] | None:
    """Return the sizes in a shape as JAX prints it; None for other text in brackets."""
    try:
        tree = ast.parse(text.replace("^", "**"), mode="eval").body
    except SyntaxError:
        return None
    if not isinstance(tree, ast.Tuple):
        return None
    return [ast.unparse(size) for size in tree.elts]


def _may_be_equal(a: str, b: str) -> bool:
    """Return True for two sizes that differ as text, and are not two numbers."""
    is_symbolic = not (a.isdigit() and b.isdigit())
    return a != b and is_symbolic


def _equal(a: str, b: str) -> str:
    """Return that two sizes are equal, a number on the right."""
    return f"{b} == {a}" if a.isdigit() else f"{a} == {b}"


def _at_least(more: str, less: str, by: int) -> str:
    """Return `more >= less + by`, numbers on the right: `T >= 6` for T, 5 and 1; `T <= 5` for 5, T and 0."""
    solved = _solved(f"({more}) - ({less}) - {by}")
    if solved is not None:
        return solved
    if more.isdigit():
        return f"{less} <= {int(more) - by}"
    if less.isdigit():
        return f"{more} >= {int(less) + by}"
    right = f"{less} + {by}" if by else less
    return f"{more} >= {right}"


def _solved(text: str) -> str | None:
    """Return `a*S + b >= 0` as `S >= k` or `S <= k`; None for another form or more than one symbol."""
    tree = ast.parse(text.replace("^", "**"), mode="eval").body
    names = symbols_in(tree)
    has_calls = any(isinstance(node, ast.Call) for node in ast.walk(tree))
    if len(names) != 1 or has_calls:
        return None
    (name,) = names
    at_0 = evaluate_tree(tree, {name: 0})
    at_1 = evaluate_tree(tree, {name: 1})
    at_2 = evaluate_tree(tree, {name: 2})
    slope = at_1 - at_0
    is_line = at_2 - at_1 == slope
    if not slope or not is_line:
        return None
    if slope > 0:
        return f"{name} >= {-(at_0 // slope)}"
    return f"{name} <= {at_0 // -slope}"
