"""Writes docs/files.md from the heads of files.

python -m tools.architecture
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FILES = ROOT / "docs" / "files.md"
HEAD = """# Every file

Written by `python -m tools.architecture`. A folder is a stage of the pipeline. A file bears the name of its
pass, or of what it is about. The sentences are those at the head of the files.
[architecture.md](architecture.md) tells how the parts work together.

"""


def files() -> str:
    """The page of files: a table of the package's files and folders, as they are today."""
    rows = ["| where | what |", "| --- | --- |"]
    rows += [f"| `{where}` | {what} |" for where, what in _files(ROOT / "j2o")]
    return HEAD + "\n".join(rows) + "\n"


def _files(folder: Path) -> Iterator[tuple[str, str]]:
    """The Python files of a folder and below, with the first sentence of each; folders come after files."""
    init = folder / "__init__.py"
    yield f"{folder.relative_to(ROOT).as_posix()}/", _first_sentence(init)
    for file in sorted(folder.glob("*.py")):
        if file != init:
            yield file.relative_to(ROOT).as_posix(), _first_sentence(file)
    for inner in sorted(folder.iterdir()):
        if (inner / "__init__.py").is_file():
            yield from _files(inner)


def _first_sentence(file: Path) -> str:
    """The first paragraph of a file's docstring, up to its first full stop."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraph = " ".join(docstring.partition("\n\n")[0].split())
    return re.split(r"(?<=\.) (?=[A-Z`])", paragraph)[0].replace("|", r"\|")


if __name__ == "__main__":
    FILES.write_text(files())
