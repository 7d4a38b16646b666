"""Expressions of sizes as text, read into Python's syntax trees: `B`, `2*B*T + 3`, `max(B, 4)`, `T <= 512`.

Python's own parser is not used: text may come from anywhere, and deep nesting breaks it. An
expression that would take long to evaluate, or fits no size, is refused while it is read. So a text
takes time linear in its length.

    sum     = product {("+" | "-") product}
    product = sign {("*" | "//" | "%") sign}
    sign    = "-" sign | power
    power   = atom [("**" | "^") number]
    atom    = number | name | function "(" sum {"," sum} ")" | "(" sum ")"
"""

from __future__ import annotations

import ast
import keyword
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from j2o.errors import DimensionError, shown

LARGEST = 2**63 - 1  # of a size, and of the sum of an expression's coefficients
TERMS = 1000  # in an expression when it is multiplied out
DEPTH = 50  # of brackets and signs
TOKENS = 4000  # in one expression
CONSTRAINT_TOKENS = 200  # in a constraint, which JAX reads too
# the functions, and how many operands they take
FUNCTIONS = {
    "floordiv": 2,
    "mod": 2,
    "max": 2,
    "min": 2,
    "non_negative": 1,
}
COMPARISONS = ("==", "<=", ">=")
SUMS: dict[str, type[ast.operator]] = {"+": ast.Add, "-": ast.Sub}
PRODUCTS: dict[str, type[ast.operator]] = {
    "*": ast.Mult,
    "//": ast.FloorDiv,
    "%": ast.Mod,
}

NO_COMPARISON = "not one comparison by '<=', '>=' or '==' such as 'T <= 512'"
NO_EXPONENT = "the exponent of a power must be a number from 0 to 63"

_TOKEN = re.compile(
    r"""\s*+(?:
        (\d++)                                # a number
      | ([^\W\d]\w*+)                        # a name
      | (//|\*\*|[<>=]=?|[-+*%^(),])          # a sign
      | (\Z)                                 # the end
    )""",
    re.VERBOSE,
)


def read_shape(text: str) -> list[ast.expr]:
    """The sizes of a comma-separated text, one comma more allowed; DimensionError where it is none."""
    reader = _ExpressionReader(text)
    sizes: list[ast.expr] = []
    while not reader.at_end():
        reader.begin()
        sizes.append(reader.sum().tree)
        if not reader.at_end():
            reader.expect(",")
    return sizes


def read_constraint(text: str) -> tuple[ast.expr, str, ast.expr]:
    """`T <= 512` as its sides and its sign; DimensionError where it is none."""
    reader = _ExpressionReader(text, CONSTRAINT_TOKENS)
    left = reader.sum().tree
    sign = reader.take(COMPARISONS)
    if sign is None:
        reader.fail(NO_COMPARISON)
    right = reader.sum().tree
    if not reader.at_end():
        reader.fail(NO_COMPARISON)
    return left, sign, right


@dataclass
class _Bounded:
    """An expression, and bounds on what it becomes when it is multiplied out."""

    tree: ast.expr
    terms: int  # how many there are at most
    size: int  # the sum of their coefficients is at most this


class _ExpressionReader:
    """A text, and the place in it where the reading stands.

    The methods `sum`, `product`, … read the rule of the grammar that bears their name, and return
    what they read.
    """

    def __init__(self, text: str, limit: int = TOKENS) -> None:
        self.text = text
        self.limit = limit  # of tokens in one expression
        self.pos = 0
        self.depth = 0  # of brackets and signs
        self.tokens = 0
        self.token = ""
        self.is_number = False
        self.is_name = False
        self.step()

    def begin(self) -> None:
        """Begin an expression."""
        self.tokens = 0

    def fail(
        self, why: str = "not an expression of sizes such as 'B, 2*T, T//2'"
    ) -> NoReturn:
        """Raise the DimensionError that the text is no expression, or why it is refused."""
        raise DimensionError(f"{shown(self.text)}: {why}")

    def step(self) -> None:
        """Go to the next token; it is empty at the end."""
        match = _TOKEN.match(self.text, self.pos)
        if match is None:
            self.fail()
        self.pos = match.end()
        self.token = match[1] or match[2] or match[3] or ""
        self.is_number = match[1] is not None
        self.is_name = match[2] is not None
        self.tokens += 1
        if self.tokens > self.limit:
            self.fail(f"an expression of more than {self.limit} parts")

    def at_end(self) -> bool:
        return not self.token

    def take(
        self, tokens: tuple[str, ...] | dict[str, type[ast.operator]]
    ) -> str | None:
        """Step over the token and return it, if it is one of these; else None."""
        found = self.token
        if found not in tokens:
            return None
        self.step()
        return found

    def expect(self, token: str) -> None:
        """Take a token; DimensionError where another comes next."""
        if self.take((token,)) is None:
            self.fail()

    def bounded(self, tree: ast.expr, terms: int, size: int) -> _Bounded:
        """An expression whose bounds are no larger than they may be."""
        if size > LARGEST:
            self.fail("numbers above 2**63 - 1")
        if terms > TERMS:
            self.fail(f"more than {TERMS} terms")
        return _Bounded(tree, terms, size)

    def sum(self) -> _Bounded:
        """Products with + and - between them."""
        left = self.product()
        while (sign := self.take(SUMS)) is not None:
            right = self.product()
            tree = ast.BinOp(left.tree, SUMS[sign](), right.tree)
            left = self.added(tree, [left, right])
        return left

    def added(self, tree: ast.expr, parts: Sequence[_Bounded]) -> _Bounded:
        """An expression that has no more terms than its parts together."""
        terms = sum(part.terms for part in parts)
        size = sum(part.size for part in parts)
        return self.bounded(tree, terms, size)

    def product(self) -> _Bounded:
        """Factors with *, // and % between them."""
        left = self.sign()
        while (sign := self.take(PRODUCTS)) is not None:
            right = self.sign()
            tree = ast.BinOp(left.tree, PRODUCTS[sign](), right.tree)
            if sign == "*":
                terms = left.terms * right.terms
                left = self.bounded(tree, terms, left.size * right.size)
            else:
                left = self.added(tree, [left, right])
        return left

    def sign(self) -> _Bounded:
        """A power, with any number of minus signs in front."""
        if self.take(("-",)) is None:
            return self.power()
        self.deeper()
        operand = self.sign()
        self.depth -= 1
        tree = ast.UnaryOp(ast.USub(), operand.tree)
        return _Bounded(tree, operand.terms, operand.size)

    def power(self) -> _Bounded:
        """An atom, and a number as its exponent."""
        base = self.atom()
        if self.take(("**", "^")) is None:
            return base
        if not self.is_number or len(self.token) > 2 or int(self.token) > 63:
            self.fail(NO_EXPONENT)
        exponent = int(self.token)
        self.step()
        if self.token in ("**", "^"):
            self.fail(NO_EXPONENT)
        tree = ast.BinOp(base.tree, ast.Pow(), ast.Constant(exponent))
        return self.bounded(tree, base.terms**exponent, base.size**exponent)

    def atom(self) -> _Bounded:
        """A number, a name, a call, or a sum in brackets."""
        token = self.token
        if self.is_number:
            if len(token) > 19:
                self.fail("numbers above 2**63 - 1")
            self.step()
            return self.bounded(ast.Constant(int(token)), 1, int(token))
        if self.is_name:
            self.step()
            return self.call(token) if self.token == "(" else self.symbol(token)
        self.expect("(")
        self.deeper()
        inside = self.sum()
        self.expect(")")
        self.depth -= 1
        return inside

    def symbol(self, name: str) -> _Bounded:
        """The symbol of a name that has been read."""
        name = unicodedata.normalize("NFKC", name)  # as Python reads names
        if keyword.iskeyword(name) or not name.isidentifier():
            self.fail(f"{name!r} is no name for a size")
        return _Bounded(ast.Name(name), 1, 1)

    def call(self, name: str) -> _Bounded:
        """The call of a function whose name has been read."""
        count = FUNCTIONS.get(name)
        if count is None:
            known = ", ".join(FUNCTIONS)
            self.fail(f"{name[:40]!r} is no function of sizes; {known} are")
        self.expect("(")
        self.deeper()
        operands = [self.sum()]
        while self.take((",",)) is not None:
            operands.append(self.sum())
        self.expect(")")
        self.depth -= 1
        if len(operands) != count:
            self.fail(f"{name} takes {count} operands, given {len(operands)}")
        trees = [operand.tree for operand in operands]
        return self.added(ast.Call(ast.Name(name), trees, []), operands)

    def deeper(self) -> None:
        """Go into a bracket or behind a sign; DimensionError where there are too many."""
        self.depth += 1
        if self.depth > DEPTH:
            self.fail(f"nested deeper than {DEPTH}")
