"""Python functions that a program calls while it runs: their names, and which of them only raise.

Uses no private JAX.

A function that only raises computes nothing: it is how libraries say that a value is not as it should be.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Iterator
from typing import Any

# primitives that call a function of the host for its results
CALLING = frozenset({"pure_callback", "io_callback"})
# those that call one for its effect alone
PRINTING = frozenset({"debug_callback", "debug_print", "inspect_sharding"})
LONGEST = 160


def called_function(callback: Any) -> Any:
    """The user's function in the `callback` of an equation, which JAX wraps to take flat operands."""
    function = getattr(callback, "callback_func", callback)
    if inspect.isfunction(function) and function.__module__.startswith("jax."):
        function = inspect.getclosurevars(function).nonlocals.get("callback", function)
    return function


def name_of(function: Any) -> str:
    """The name by which a user knows a function."""
    function = _plain(function)
    return getattr(function, "__qualname__", type(function).__name__).replace(
        ".<locals>", ""
    )


def error_of(function: Any) -> str | None:
    """Return what a function raises, in words; None where it may return.

    It cannot return where its code has no instruction that returns, and none that hands out a generator or a
    coroutine.
    """
    function = _plain(function)
    if not isinstance(function, types.FunctionType):
        return None
    operations = {instruction.opname for instruction in dis.get_instructions(function)}
    may_return = any(
        name.startswith(("RETURN", "YIELD", "INSTRUMENTED_RETURN"))
        for name in operations
    )
    if may_return or "RAISE_VARARGS" not in operations:
        return None
    texts = [" ".join(text.split()) for text in _texts(function)]
    told = " or ".join(dict.fromkeys(text for text in texts if text))
    if len(told) > LONGEST:
        told = told[:LONGEST].rpartition(" ")[0] + " …"
    return told or f"an error of {name_of(function)}"


def _plain(function: Any) -> Any:
    """What a partial or a method calls."""
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__func__", function)


def _texts(function: types.FunctionType) -> Iterator[str]:
    """The texts that a function closes over; where there are none, those in its code."""
    closed_over = [
        text for cell in function.__closure__ or () for text in _texts_in(cell)
    ]
    if closed_over:
        return iter(closed_over)
    return (
        const
        for const in function.__code__.co_consts
        if isinstance(const, str) and const != function.__doc__
    )


def _texts_in(cell: types.CellType) -> list[str]:
    """The content of a cell, where that is a text or some texts."""
    try:
        content = cell.cell_contents
    except ValueError:  # an empty cell
        return []
    texts = list(content) if isinstance(content, list | tuple) else [content]
    return texts if all(isinstance(text, str) for text in texts) else []
