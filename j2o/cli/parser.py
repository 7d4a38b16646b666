"""The parser of the command line, and what the texts in it stand for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn


class UsageError(Exception):
    """The command line cannot be read; the message is the line that says why."""


class Parser(argparse.ArgumentParser):
    """Tells what is wrong in one line, without the usage of all options before it.

    An option is written in full, so that a new one never changes what a command line means.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{self.prog}: {message} ('{self.prog} --help' tells more)")


PRINTED = Path("-")  # the file that stands for stdout


# The `type` of an option is what its text stands for. A file for --config then knows what to take for it:
# paths are relative to that file, and what is JSON on the command line is TOML there.


class Json(str):
    """JSON, or for a spec the text that stands for itself."""


class ObjectName(str):
    """`pkg.module:name` or `path/to/file.py:name`."""


class NameValue(str):
    """`NAME=VALUE`."""
