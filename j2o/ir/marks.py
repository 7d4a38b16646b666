"""Marks: how a call that is to stay a function is told from others, from the decorator to the passes."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Generator

MARK = "j2o.function:"  # starts the name of a jit that `@j2o.function` made
_marking = contextvars.ContextVar("marking", default=False)


def is_marking() -> bool:
    """Return True while marked calls are told apart: while j2o traces a program."""
    return _marking.get()


@contextlib.contextmanager
def marking() -> Generator[None]:
    """While this lasts, marked calls are told apart."""
    token = _marking.set(True)
    try:
        yield
    finally:
        _marking.reset(token)
