"""A place in the text form of a graph, and what is read there: tokens, lists and strings.

    cursor = Cursor("%x, %y) rest")
    cursor.take(VALUE, "a value")      # "%x"; a ParseError that expects "a value" where none comes next
    cursor.has(",")                    # True, and the comma is taken
    cursor.sees(VALUE)                 # True, and nothing is taken

The space and the comments behind a token are taken with it. `parser.py` has the grammar.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Generator, Iterable
from typing import NoReturn, TypeVar

from j2o.errors import ParseError
from j2o.ir.notation import BYTES, PLAIN

T = TypeVar("T")
NESTED = 100  # lists, structs and regions in each other

# A second + behind a quantifier: the matcher does not try again with less, so that a text that does not fit
# takes no time without end.
_SPACE = r"(?:\s++|//[^\n]*+)*+"


def _token(pattern: str) -> re.Pattern[str]:
    """Return the pattern of a token and the space and comments behind it; the token is group 1."""
    return re.compile(f"({pattern}){_SPACE}")


def _words(*words: str) -> dict[str, re.Pattern[str]]:
    return {word: _token(rf"{word}\b") for word in words}


def _marks(*marks: str) -> dict[str, re.Pattern[str]]:
    return {mark: _token(re.escape(mark)) for mark in marks}


_STRING = r'"(?:[^"\\]|\\.)*+"'
_IDENT = r"[A-Za-z_]\w*+"
_NUMBER = r"[-+]?(?:inf\b|nan\b|(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?\d++)?+)"
START = re.compile(_SPACE)
VALUE = _token(r"%[\w./$]+")  # %x
AT = _token(rf"@(?:{PLAIN.pattern}|{_STRING})")  # @main, @"a name"
OP = _token(r"[A-Za-z_][\w.\-]*")  # onnx.Add
NAME = _token(_IDENT)  # axis
QUOTED = _token(_STRING)
TYPE = _token(r"[a-z]\w*+(?:<[a-z]+>)?+\s*+\[[^\[\]]*+\]")  # f32[B,8]
ELEMENT = _token(rf"{BYTES}[0-9a-f]*|true\b|false\b|{_NUMBER}|{_STRING}")
# a string, a number or a word that is a whole attribute: what closes it comes next
ATOM = _token(rf"(?:{_STRING}|{_NUMBER}|{_IDENT}(?:<[a-z]+>)?)(?=\s*+(?:[,}})\]]|//))")
# Name( where `)` or the first field comes next; mod( of a size is none
STRUCT = _token(rf"{_IDENT}\((?=\s*+(?:\)|{_IDENT}\s*+=))")
REGION = re.compile(rf"\{{{_SPACE}(?=graph\s*@)")  # { in front of a graph
MARKS = _marks("(", ")", "{", "}", "[", "]", ",", ":", "=", "->", "_", "tensor(")
WORDS = _words("graph", "function", "dims", "where", "as", "loc")


class Cursor:
    """A place in a text, and what is read there: tokens, and lists of what the caller reads."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.pos = 0
        self.depth = 0  # of lists, structs and regions in each other

    def fail(self, expected: str, pos: int | None = None) -> NoReturn:
        """Raise the ParseError that something else was expected here, or at a place before."""
        pos = self.pos if pos is None else pos
        line = self.text.count("\n", 0, pos) + 1
        column = pos - self.text.rfind("\n", 0, pos)
        found = self.text[pos : pos + 20].split("\n")[0] or "the end"
        raise ParseError(
            f"line {line}, column {column}: expected {expected}, found {found!r}"
        )

    def at_end(self) -> bool:
        return self.pos >= len(self.text)

    def sees(self, pattern: re.Pattern[str]) -> bool:
        """Return True where the pattern comes next; nothing is taken."""
        return pattern.match(self.text, self.pos) is not None

    def accept(self, pattern: re.Pattern[str]) -> str | None:
        """Take the token and the space behind it; None where another comes next."""
        match = pattern.match(self.text, self.pos)
        if match is None:
            return None
        self.pos = match.end()
        return match[1]

    def take(self, pattern: re.Pattern[str], what: str) -> str:
        """Take the token; ParseError, which expects `what`, where another comes next."""
        found = self.accept(pattern)
        if found is None:
            self.fail(what)
        return found

    def has(self, mark: str) -> bool:
        """Take the mark; False where something else comes next."""
        return self.accept(MARKS[mark]) is not None

    def expect(self, mark: str) -> None:
        """Take the mark; ParseError where something else comes next."""
        self.take(MARKS[mark], f"'{mark}'")

    def has_word(self, word: str) -> bool:
        """Take the word; False where something else comes next."""
        return self.accept(WORDS[word]) is not None

    def skip(self, pattern: re.Pattern[str]) -> bool:
        """Go behind what has no token of its own; False where it does not come next."""
        match = pattern.match(self.text, self.pos)
        if match is not None:
            self.pos = match.end()
        return match is not None

    # ------------------------------------------------------------------- lists

    def many(self, close: str) -> Iterable[None]:
        """Iterate once for each item of a list, which the caller takes, and take `close`."""
        if self.has(close):
            return
        while True:
            yield
            if self.has(close):
                return
            self.take(MARKS[","], f"',' or '{close}'")

    def listed(self, item: Callable[[], T]) -> list[T]:
        """Take one item, and more after commas."""
        items = [item()]
        while self.has(","):
            items.append(item())
        return items

    @contextlib.contextmanager
    def inside(self) -> Generator[None]:
        """Read one level deeper."""
        self.depth += 1
        if self.depth > NESTED:
            self.fail(f"at most {NESTED} levels of lists and regions in each other")
        yield
        self.depth -= 1

    # ----------------------------------------------------------------- strings

    def string(self) -> str:
        """Take a string in double quotes."""
        start = self.pos
        return self.unquoted(self.take(QUOTED, "a string in double quotes"), start)

    def strings(self) -> list[str]:
        """Take strings in round brackets."""
        self.expect("(")
        return [self.string() for _ in self.many(")")]

    def at(self) -> str:
        """Take a name behind an `@`."""
        start = self.pos
        name = self.take(AT, "a name such as @main")[1:]
        return self.unquoted(name, start) if name.startswith('"') else name

    def unquoted(self, text: str, start: int) -> str:
        """Return what a string in double quotes stands for."""
        try:
            return json.loads(text, strict=False)
        except json.JSONDecodeError:
            self.fail("a string with JSON's escapes", start)
