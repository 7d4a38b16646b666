"""What goes on, shown on a terminal."""

from __future__ import annotations

import sys
from typing import Any


class Status:
    """What goes on, on a terminal: a spinner, and for bytes a bar with their number and rate.

    Nothing is shown elsewhere, nor where `quiet` is said.
    """

    def __init__(self, text: str, quiet: bool = False) -> None:
        self.text = text
        self.quiet = quiet
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
            self.task = self.bar.add_task(self.text, total=None)
            self.bar.start()
        return self

    def say(self, text: str) -> None:
        if self.bar is not None:
            self.bar.update(self.task, description=text)

    def progress(self, done: int, total: int) -> None:
        if self.bar is not None:
            if len(self.bar.columns) == 2:
                from rich.progress import BarColumn, DownloadColumn, TransferSpeedColumn

                self.bar.reset(self.task)
                self.bar.columns += (
                    BarColumn(),
                    DownloadColumn(binary_units=True),
                    TransferSpeedColumn(),
                )
            self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()
