"""What a command replies: text for people as it goes, or with `--json` one document for programs."""

from __future__ import annotations

import contextlib
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from j2o import __version__
from j2o.errors import J2OError, VerificationError

# exit statuses: for `j2o --help`, and for docs/command-line.md
STATUSES = {
    0: "all went well",
    1: "it did not: a function cannot be compiled, a file is no good model, "
    "a table of a file for --config does not fit",
    2: "the command line cannot be read: an unknown option, a value that an option does not take, "
    "something that is missing",
    3: "a model gives other values than JAX: export --verify and bisect tell",
    130: "interrupted with Ctrl-C",
}
FAILED = 1
UNREADABLE = 2
DIFFERS = 3
INTERRUPTED = 130


class Reply:
    """What one command replies. Every command is handed one.

    `say` is for people, `put` for programs: with `--json` the parts put stand in the document that is
    printed in the end, and what is said, or printed by the user's program, is kept from stdout.
    Errors and warnings are lines on stderr, and stand in the document too.
    """

    def __init__(self, words: Sequence[str] = (), *, has_process: bool = False) -> None:
        """`words` is the command line, which may be one that cannot be read.

        `has_process` says that the process is there for this command alone.
        """
        self.has_process = has_process
        self._stdout: int | None = None  # where the document goes, once 1 is stderr
        self.is_json = "--json" in words
        self.with_traceback = "--traceback" in words
        self._command = words[0] if words and not words[0].startswith("-") else None
        self._errors: list[dict[str, Any]] = []
        self._warnings: list[str] = []
        self._parts: dict[str, Any] = {}

    def say(self, text: object) -> None:
        """Print for people."""
        if not self.is_json:
            print(text)

    def put(self, **parts: Any) -> None:
        """Set keys of the document: plain data, numpy's scalars and paths too."""
        self._parts.update(parts)

    def warn(self, text: str) -> None:
        """Keep a warning that was told."""
        self._warnings.append(text)

    def fail(self, error: BaseException, of: object = None, before: str = "") -> int:
        """Tell an error; the exit status of a failure.

        `of` is the file or the table that it is about, where there are several. `before` stands before
        the message.
        """
        kind = "" if isinstance(error, J2OError) else f"{type(error).__name__}: "
        message = f"{before}{kind}{' '.join(str(error).split())}"
        if self.with_traceback:
            traceback.print_exception(error)
        else:
            print(f"j2o: {message}", file=sys.stderr)
        self.add_error(type(error).__name__, message, of)
        return DIFFERS if isinstance(error, VerificationError) else FAILED

    def add_error(self, kind: str, message: str, of: object = None) -> None:
        """Enter an error in the document."""
        where = None if of is None else str(of)
        self._errors.append({"type": kind, "message": message, "of": where})

    @contextlib.contextmanager
    def keeping_stdout(self) -> Iterator[None]:
        """With `--json`, whatever is printed meanwhile goes to stderr.

        Where the command has the process, that holds to its end, and also for what other programs that
        it starts print, and what is written to the descriptor itself.
        """
        if not self.is_json:
            yield
            return
        if self.has_process:
            self._take_stdout()
        with contextlib.redirect_stdout(sys.stderr):
            yield

    def _take_stdout(self) -> None:
        """Keep stdout for the document, and let its descriptor be stderr."""
        try:
            stdout = os.dup(1)
            os.dup2(2, 1)
        except OSError:  # a process without stdout or without stderr
            return
        self._stdout = stdout

    def _print_document(self, text: str) -> None:
        """Write the document to what stdout was, all of it."""
        if self._stdout is None:
            print(text, flush=True)
            return
        rest = f"{text}\n".encode()
        while rest:
            rest = rest[os.write(self._stdout, rest) :]

    def finish(self, status: int) -> int:
        """Print the document where one is asked for; the exit status."""
        if self.is_json:
            document = {
                "version": __version__,
                "command": self._command,
                "status": status,
                "errors": self._errors,
                "warnings": self._warnings,
                **self._parts,
            }
            self._print_document(json.dumps(plain(document), indent=2))
        return status


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that JSON lacks are the texts "nan", "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def each(
    files: Sequence[Path], look: Callable[[Path], dict[str, Any]], reply: Reply
) -> int:
    """Look at every file, whatever is wrong with those before it; the worst exit status.

    What `look` gives of those that are good stands in the document as `models`.
    """
    worst = 0
    found = []
    for file in files:
        try:
            found.append(look(file))
        except J2OError as error:
            worst = max(worst, reply.fail(error, file))
    reply.put(models=found)
    return worst
