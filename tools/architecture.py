"""Writes the outputs of the code in docs/architecture.md, and docs/files.md from the heads of files.

python -m tools.architecture
"""

from __future__ import annotations

import ast
import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PATH = ROOT / "docs" / "architecture.md"
FILES = ROOT / "docs" / "files.md"
HEAD = """# Every file

Written by `python -m tools.architecture`. A folder is a stage of the pipeline. A file bears the name of its
pass, or of what it is about. The sentences are those at the head of the files.
[architecture.md](architecture.md) tells how the parts work together.

"""
CODE = re.compile(r"```python\n(?P<code>.*?)```\n", re.DOTALL)
OUTPUT = re.compile(r"\n```text\n.*?```\n", re.DOTALL)


def text() -> str:
    """The page of the architecture, with outputs as they are today."""
    return with_outputs(PATH.read_text())


def files() -> str:
    """The page of files: a table of the package's files and folders, as they are today."""
    rows = ["| where | what |", "| --- | --- |"]
    rows += [f"| `{where}` | {what} |" for where, what in _files(ROOT / "j2o")]
    return HEAD + "\n".join(rows) + "\n"


def with_outputs(page: str) -> str:
    """Run the Python blocks of a page, and put into each text block what the code in front of it prints."""
    names: dict[str, object] = {}
    parts = []
    end = 0
    for block in CODE.finditer(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(block["code"], names)
        parts.append(page[end : block.end()])
        end = block.end()
        output = OUTPUT.match(page, end)
        if output is not None:
            lines = [line.rstrip() for line in printed.getvalue().strip().splitlines()]
            parts.append("\n```text\n" + "\n".join(lines) + "\n```\n")
            end = output.end()
    parts.append(page[end:])
    return "".join(parts)


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
    PATH.write_text(text())
    FILES.write_text(files())
