"""Checks of what users hand to j2o's functions.

Each takes the argument's name and its value, and gives the value as j2o uses it.

A value that does not fit is a SpecError in one line: the argument, what was given, what would work.
Values of other libraries that mean the same pass: numpy's integers and bools, any `os.PathLike`,
generators in the place of lists.
"""

from __future__ import annotations

import importlib.util
import operator
import os
import re
import types
from collections.abc import Collection, Iterable, Mapping, Set
from pathlib import Path
from typing import Any

import numpy as np

from j2o.errors import SpecError, shown


def whole_number(
    argument: str, value: Any, allowed: Collection[int] | None, would_work: str
) -> int:
    """An integer, Python's or numpy's; True is none."""
    try:
        number = None if isinstance(value, bool | np.bool_) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (allowed is not None and number not in allowed):
        raise SpecError(f"{argument}={shown(value)}: {would_work}")
    return number


def flag(argument: str, value: Any) -> bool:
    """True or False, Python's or numpy's."""
    if not isinstance(value, bool | np.bool_):
        raise SpecError(f"{argument}={shown(value)}: True or False is needed")
    return bool(value)


def choice(argument: str, value: Any, choices: Collection[str]) -> str | None:
    """One of some strings, or None."""
    if value is None or (isinstance(value, str) and value in choices):
        return value
    needed = f"{', '.join(map(repr, choices))}, or None, is needed"
    raise SpecError(f"{argument}={shown(value)}: {needed}")


def sequence(argument: str, value: Any, example: str) -> tuple[Any, ...]:
    """Several things in an order: a list, a tuple, a generator; no string, mapping or set."""
    has_no_order = isinstance(value, str | bytes | Mapping | Set)
    if has_no_order or not isinstance(value, Iterable):
        needed = f"a sequence such as {example} is needed"
        raise SpecError(f"{argument}={shown(value)}: {needed}")
    return tuple(value)


def strings(argument: str, value: Any, example: str) -> tuple[str, ...]:
    """Several strings in an order."""
    found = sequence(argument, value, example)
    for i, entry in enumerate(found):
        if not isinstance(entry, str):
            needed = f"a string is needed, as in {example}"
            raise SpecError(f"{argument}: entry {i} is {shown(entry)}, {needed}")
    return found


def tensor_names(argument: str, value: Any) -> tuple[str, ...] | None:
    """Names for tensors, each once, or None."""
    if value is None:
        return None
    found = strings(argument, value, "['image', 'mask']")
    seen: set[str] = set()
    for i, name in enumerate(found):
        _check_name(f"{argument}: entry {i}", name)
        if name in seen:
            what = "stands twice; names must be unique"
            raise SpecError(f"{argument}: {shown(name)} {what}")
        seen.add(name)
    return found


def graph_name(argument: str, value: Any) -> str | None:
    """A name for a graph or a function, as an identifier: `my_net` for `my net`; or None."""
    if value is None:
        return None
    if not isinstance(value, str):
        needed = "a string is needed, or None for the function's own name"
        raise SpecError(f"{argument}={shown(value)}: {needed}")
    _check_name(argument, value)
    return identifier(value)


def _check_name(what: str, text: str) -> None:
    """SpecError for a name that is empty, or has a character that cannot be printed."""
    if not text:
        raise SpecError(f"{what} is empty; a name has one character at least")
    if not text.isprintable():
        bad = next(c for c in text if not c.isprintable())
        advice = "letters, digits and other visible ones would do"
        raise SpecError(f"{what}, {shown(text)}, has the character {bad!a}; {advice}")


def identifier(text: str) -> str:
    """`text` with what cannot stand in an identifier as `_`: `lambda` for `<lambda>`.

    `main` where nothing is left.
    """
    return re.sub(r"\W", "_", text).strip("_") or "main"


def existing_path(argument: str, value: Any) -> Path:
    """The path of a file or folder that is there: a string, or any `os.PathLike` of one."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text or "\0" in text:
        needed = "a path is needed, a string or an os.PathLike"
        raise SpecError(f"{argument}={shown(value)}: {needed}")
    try:
        os.stat(text)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise SpecError(f"{argument}={shown(value)}: {why}") from None
    return Path(text)


def check_installed(function: str, package: str, extra: str) -> None:
    """Refuse a call of a function whose package, one of j2o's extras, is not installed."""
    if importlib.util.find_spec(package) is None:
        advice = f"pip install 'j2o[{extra}]' installs it"
        raise SpecError(f"{function}: needs {package}, which is not there; {advice}")


def name_of(fn: Any) -> str:
    """The name of a function, a class or an object's class.

    Of what is wrapped, where `fn` wraps another callable.
    """
    inner = _unwrapped(fn)
    name = getattr(inner, "__name__", None)
    return name if isinstance(name, str) else type(inner).__name__


def _unwrapped(fn: Any) -> Any:
    """What is called in the end: wrappers taken off, each once."""
    seen: set[int] = set()
    while id(fn) not in seen:
        seen.add(id(fn))
        fn = _inner(fn)
    return fn


def _inner(fn: Any) -> Any:
    """What `fn` wraps.

    Itself where it wraps nothing. No other attributes than those of known wrappers are followed.
    """
    if isinstance(fn, type):
        return fn
    if isinstance(fn, types.MethodType):
        return fn.__self__ if fn.__name__ == "__call__" else fn
    # functools.partial, and what is like it
    if all(hasattr(fn, part) for part in ("func", "args", "keywords")):
        return fn.func
    return getattr(fn, "__wrapped__", fn)
