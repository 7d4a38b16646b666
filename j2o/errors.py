"""The errors that users of j2o see.

Each message is one readable line that says what, where, and what would work.
"""

from __future__ import annotations

import difflib
import os
import re
import reprlib
import traceback
from collections.abc import Iterable

LONGEST = 300  # characters of another's message inside of one of ours
_PACKAGE = os.path.dirname(__file__) + os.sep


class J2OError(Exception):
    """Base of every error that j2o raises on purpose."""


class SpecError(J2OError):
    """A spec, a name or an option of `compile` does not fit; the message names the argument and the entry."""


class TraceError(J2OError):
    """JAX cannot trace the function: it leaks tracers, branches on values or calls the host."""


class UnsupportedError(J2OError):
    """Some operations of the program cannot be expressed; `operations` lists every one of them, each once.

    The message has a line for each, and is one line where there is one alone.
    """

    def __init__(self, operations: list[str]) -> None:
        short = [shortened(text, LONGEST) for text in operations]
        self.operations = list(dict.fromkeys(short))
        count = len(self.operations)
        if count == 1:
            message = f"1 unsupported operation: {self.operations[0]}"
        else:
            rows = ";\n  ".join(self.operations)
            message = f"{count} unsupported operations:\n  {rows}"
        super().__init__(message)


class DimensionError(J2OError):
    """Symbolic dimensions are in conflict, or a decision about them cannot be taken."""


class InvalidGraphError(J2OError):
    """A graph breaks a rule of the IR; the message names the node and its source line."""


class VerificationError(J2OError):
    """The exported model and JAX disagree."""


class PassError(J2OError):
    """A pass, a rule, an observer or a pipeline is not as it must be, or raised.

    `__cause__` has what it raised.
    """


class CheckError(J2OError):
    """A model compiled with `checks=True` was given what the program refuses: values or sizes."""


class NotConvergingError(J2OError):
    """Rewriting does not come to an end; the message names the rules that fire in a loop."""


class ParseError(J2OError):
    """Text is not a graph in the text form; the message gives line and column."""


class SaveError(J2OError):
    """A model cannot be written where it was asked for."""


class LoadError(J2OError):
    """A file is not a model that j2o can read, or it is damaged."""


class J2OWarning(UserWarning):
    """The model is what was asked for, though perhaps not what was meant; the report lists these too."""


def shown(value: object) -> str:
    """A value that does not fit, as it stands in a message.

    That is what it looks like in one short line, with its type where that does not show it.
    """
    text = " ".join(reprlib.repr(value).split())
    kind = type(value).__name__
    is_builtin = value is None or type(value).__module__ == "builtins"
    if is_builtin or text.startswith((kind, f"<{kind}")):
        return text
    return f"{kind} {text}"


def meant(name: object, names: Iterable[str]) -> str:
    """`; did you mean 'Tanh'?` for `Thanh`, "" where nothing is similar."""
    if not isinstance(name, str):
        return ""
    by_lower = {n.lower(): n for n in sorted(names)}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.7)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""


def raised(error: BaseException) -> str:
    """What an exception says and the user's line that led to it: `KeyError: 'x' at mine.py:12`."""
    text = shortened(str(error), LONGEST)
    said = f": {text}" if text else ""
    return f"{type(error).__name__}{said}{_line_of(error)}"


def _line_of(error: BaseException) -> str:
    """The innermost line of the traceback outside of j2o and of installed packages, else the innermost."""
    innermost = ""
    innermost_own = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        file = frame.f_code.co_filename
        innermost = f" at {file}:{line}"
        if not file.startswith(_PACKAGE) and "site-packages" not in file:
            innermost_own = innermost
    return innermost_own or innermost


def shortened(text: str, longest: int) -> str:
    """`text` in one line, without addresses of objects, cut where it is long."""
    line = re.sub(r" at 0x[0-9a-fA-F]+", "", " ".join(text[: 10 * longest].split()))
    return line if len(line) <= longest else line[: longest - 1] + "…"
