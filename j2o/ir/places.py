"""Paths of source files as a model may carry them.

They are the same on every machine, and tell nothing of the author's.
"""

from __future__ import annotations

import functools
import os
import re
import sysconfig
from pathlib import Path

PACKAGES = ("site-packages", "dist-packages")
PROJECT_FILES = ("pyproject.toml", "setup.py", "setup.cfg", ".git", ".hg")
LIBRARY = sysconfig.get_path("stdlib")
# a line of a file in a message: at its start, or after a word or a colon
LINE = re.compile(r"(^|: | at )((?:/|[A-Za-z]:[\\/])[^:\n]*):(\d+)(: )?")
CELL = re.compile(r"<ipython-input-.*>|.*[/\\]ipykernel_\d+[/\\]\d+\.py")


@functools.lru_cache(maxsize=4096)
def portable(file: str) -> str:
    """A source file's path from where it belongs, with `/` between its steps.

    - A file of an installed package: from that package on (`flax/nnx/nn/linear.py`).
    - One of a package of the user's own: from the top package on.
    - Any other: from its project's folder on, where one is found, else its name alone.
    - A cell of a notebook: `<cell>`.
    """
    if CELL.fullmatch(file):
        return "<cell>"
    if file.startswith("<"):
        return file
    path = Path(os.path.abspath(file))
    installed = _package_folder(path)
    root = installed or _above_the_top_package(path) or _project(path) or path.parent
    return path.relative_to(root).as_posix()


def portable_lines(text: str, *, sources: bool = True) -> str:
    """A message as `portable` has the files in it; without `sources` it names no lines of files."""

    def told(found: re.Match[str]) -> str:
        before, file, line, after = found.groups(default="")
        if sources:
            return f"{before}{portable(file)}:{line}{after}"
        return "" if before == " at " else before

    return LINE.sub(told, text)


def is_installed(file: str) -> bool:
    """Return True where a file is one of an installed package."""
    steps = [f"{os.sep}{folder}{os.sep}" for folder in PACKAGES]
    return any(step in file for step in steps)


def _package_folder(path: Path) -> Path | None:
    """The folder of installed packages, or that of Python's own library, that a file lies in."""
    for folder in path.parents:
        is_library = folder == Path(LIBRARY)
        if is_library or folder.name in PACKAGES:
            return folder
    return None


def _above_the_top_package(path: Path) -> Path | None:
    """The folder that holds the outermost package that a file is in."""
    folder = path.parent
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return None if folder == path.parent else folder


def _project(path: Path) -> Path | None:
    """The nearest folder that a project begins in; a home folder, or the root of the disk, is none."""
    for folder in path.parents:
        if folder in (Path.home(), Path(path.anchor)):
            return None
        if any((folder / name).exists() for name in PROJECT_FILES):
            return folder
    return None
