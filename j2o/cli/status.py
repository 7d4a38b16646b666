"""What goes on, shown on a terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any


class Status:
    """What goes on, on a terminal: a spinner, and for bytes a bar with their number and rate.

    Of several models it also says which one it is. Nothing is shown elsewhere, nor where `quiet` is said.
    """

    def __init__(self, text: str, quiet: bool = False, models: int = 1) -> None:
        self.text = text
        self.quiet = quiet
        self.models = models
        self.number = 0
        self.bar: Any = None

    def __enter__(self) -> Status:
        if sys.stderr.isatty() and not self.quiet:
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn

            self.bar = Progress(
                SpinnerColumn(),
                "{task.description}",
                console=Console(stderr=True),
                transient=True,
            )
            self.plain_columns = self.bar.columns
            self.task = self.bar.add_task(self.text, total=None)
            self.bar.start()
        return self

    def next(self, text: str) -> None:
        """The next of several models is begun."""
        self.number += 1
        self.say(text)

    def say(self, text: str) -> None:
        """What goes on now."""
        if self.bar is None:
            return
        from rich.markup import escape

        if self.models > 1:
            text = f"{self.number} of {self.models}, {text}"
        self.bar.columns = self.plain_columns
        self.bar.reset(self.task, total=None, description=escape(text))

    def progress(self, done: int, total: int) -> None:
        """How many bytes are done."""
        if self.bar is None:
            return
        if self.bar.columns is self.plain_columns:
            self.bar.columns = (*self.plain_columns, *_byte_columns())
            self.bar.reset(self.task)
        self.bar.update(self.task, completed=done, total=total)

    @contextlib.contextmanager
    def hidden(self) -> Iterator[None]:
        """Meanwhile something is printed."""
        if self.bar is None:
            yield
            return
        self.bar.stop()
        try:
            yield
        finally:
            self.bar.start()

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()


def _byte_columns() -> tuple[Any, ...]:
    """A bar, the bytes and their rate."""
    from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

    return (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
