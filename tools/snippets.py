"""Runs the code of a page, block after block, and puts into the page what the code prints.

    python -m tools.snippets docs/guides/first-export.md …

The blocks of a page are one program: they run in order, in one namespace, in a new folder. `docs/testing.md`
has the rules for authors: which languages run, and what the comments in front of a block mean.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import types
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools import needs

ROOT = Path(__file__).parents[1]
PYTHON = ("python",)
SHELL = ("bash", "sh")
OUTPUT = "text"
SHOWN = ("", OUTPUT, "json", "toml", "yaml")  # not code: they may stand alone
MARK = re.compile(
    r"<!--\s*(file|needs|no-run|raises|warns|exit|run):(.*?)-->", re.DOTALL
)
ANYTHING = "…"  # in an output that a page shows
SECONDS = 300  # for one block of the shell


class Output(NamedTuple):
    """The lines of a page that show what a block prints, fences included."""

    first: int
    end: int
    text: str


class Snippet(NamedTuple):
    """One block of code: where it stands, what the comments in front of it say, what follows it."""

    language: str
    code: str
    line: int  # of the page, from 1 on
    marks: dict[str, str]
    output: Output | None


class SnippetError(Exception):
    """A block of a page does not do what the page says; the message begins with page and line."""


# ---------------------------------------------------------------------------------- reading


def snippets(text: str) -> list[Snippet]:
    """The blocks of code of a page, and the pieces of Python that stand in `run` comments."""
    tokens = [token for token in MarkdownIt().parse(text) if token.map]
    found: list[Snippet] = []
    marks: dict[str, str] = {}
    for token, following in zip(tokens, [*tokens[1:], None], strict=True):
        if token.type == "html_block":
            marks |= {name: said.strip() for name, said in MARK.findall(token.content)}
            hidden = marks.pop("run", None)
            if hidden is not None:
                found.append(Snippet("python", hidden + "\n", _line(token), {}, None))
        elif token.type == "fence" and not _is_output(token, found):
            output = _output(token, following)
            language = token.info.strip()
            found.append(Snippet(language, token.content, _line(token), marks, output))
            marks = {}
        elif marks and token.type != "fence":
            raise SnippetError(
                f"line {_line(token)}: no code follows a comment: {marks}"
            )
    return found


def _line(token: Token) -> int:
    """The line of the page where a part begins; that of its code where it is a fence."""
    first, _ = token.map or (0, 0)
    return first + 2 if token.type == "fence" else first + 1


def _is_output(token: Token, found: Sequence[Snippet]) -> bool:
    """Whether this block is the output of the one before it."""
    if not found or found[-1].output is None or token.map is None:
        return False
    return found[-1].output.first == token.map[0]


def _output(code: Token, following: Token | None) -> Output | None:
    """The text block that follows code at once, one empty line between."""
    runs = code.info.strip() in PYTHON + SHELL
    if not runs or following is None or following.type != "fence":
        return None
    if following.info.strip() != OUTPUT or following.map is None:
        return None
    return Output(*following.map, following.content)


# ---------------------------------------------------------------------------------- running


def with_outputs(text: str, page: str = "page") -> str:
    """Run the code of a page in a new folder, and put what it prints into the blocks that show it.

    Raises `SnippetError` where a block fails, or does not fail as its comment says.
    """
    blocks = snippets(text)
    lines = text.splitlines(keepends=True)
    printed: list[tuple[Output, str]] = []
    with tempfile.TemporaryDirectory() as folder, _place(Path(folder)) as names:
        for block in blocks:
            try:
                said = _ran(block, names, Path(folder))
            except Exception as error:
                where = f"{page}:{block.line}"
                raise SnippetError(
                    f"{where}: {type(error).__name__}: {error}"
                ) from error
            if block.output is not None:
                printed.append((block.output, said))
    for output, said in reversed(printed):
        if not _agrees(output.text, said):
            body = said + "\n" if said else ""
            lines[output.first + 1 : output.end - 1] = [body]
    return "".join(lines)


def _agrees(shown: str, printed: str) -> bool:
    """Whether a page shows what was printed; `…` stands for anything."""
    parts = [re.escape(part) for part in _trimmed(shown).split(ANYTHING)]
    return re.fullmatch(".*?".join(parts), printed, re.DOTALL) is not None


def _trimmed(text: str) -> str:
    """Text without empty lines around it, and without spaces at the ends of lines."""
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())


@contextlib.contextmanager
def _place(folder: Path) -> Iterator[dict[str, object]]:
    """The folder that code runs in and its namespace, a `__main__` of its own; all is put back after it."""
    main = types.ModuleType("__main__")
    if needs.is_here("onnxruntime-node"):
        (folder / "node_modules").symlink_to(needs.MODULES)
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ),
        mock.patch.object(sys, "path", [str(folder), *sys.path]),
        _modules_put_back(folder),
    ):
        sys.modules["__main__"] = main
        yield main.__dict__


@contextlib.contextmanager
def _modules_put_back(folder: Path) -> Iterator[None]:
    """Afterwards `__main__` is what it was, and modules of the folder are forgotten; others stay loaded."""
    main = sys.modules["__main__"]
    try:
        yield
    finally:
        sys.modules["__main__"] = main
        own = [name for name, module in sys.modules.items() if _is_in(module, folder)]
        for name in own:
            del sys.modules[name]


def _is_in(module: types.ModuleType, folder: Path) -> bool:
    """Whether a module was loaded from a folder."""
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).is_relative_to(folder)


def _ran(block: Snippet, names: dict[str, object], folder: Path) -> str:
    """Do what a block is for, and give what it prints."""
    if "no-run" in block.marks:
        if not block.marks["no-run"]:
            raise SnippetError("a reason must follow `no-run:`")
        return ""
    if not needs.is_here(block.marks.get("needs")):
        return _trimmed(block.output.text) if block.output else ""
    if "file" in block.marks:
        _write(folder / block.marks["file"], block.code)
        return ""
    if block.language in PYTHON:
        return _trimmed(_python(block, names))
    if block.language in SHELL:
        return _trimmed(_shell(block, folder))
    is_directive = block.language.startswith("{")  # of Sphinx
    if block.language not in SHOWN and not is_directive:
        language = block.language
        raise SnippetError(f"{language} does not run: `file: NAME` or `no-run: REASON`")
    return ""


def _write(path: Path, code: str) -> None:
    """Write a file that a page shows; a script that is not even read by its language is an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(code, encoding="utf-8")
    if path.suffix == ".py":
        compile(code, path.name, "exec")
    if path.suffix in (".js", ".mjs") and needs.is_here("node"):
        subprocess.run(["node", "--check", path], check=True)


def _python(block: Snippet, names: dict[str, object]) -> str:
    """What Python code prints; behind it the warnings and the error, where the page tells of them."""
    printed = io.StringIO()
    wanted = block.marks.get("raises")
    with contextlib.redirect_stdout(printed), _told(block, printed):
        try:
            exec(compile(block.code, "<string>", "exec"), names)
        except Exception as error:
            if type(error).__name__ != wanted:
                raise
            print(f"{wanted}: {error}")
            return printed.getvalue()
    if wanted is not None:
        raise SnippetError(f"it should raise {wanted}")
    return printed.getvalue()


@contextlib.contextmanager
def _told(block: Snippet, printed: io.StringIO) -> Iterator[None]:
    """Warnings of the class that a page names are printed, and there must be some; others go their way."""
    wanted = block.marks.get("warns")
    if wanted is None:
        yield
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = [w.message for w in caught if w.category.__name__ == wanted]
    if not said:
        raise SnippetError(f"it should warn of {wanted}")
    printed.writelines(f"{wanted}: {message}\n" for message in said)


def _shell(block: Snippet, folder: Path) -> str:
    """What a block of the shell prints on both outputs; its exit status must be 0, or what the page says."""
    command = ["bash", "-euo", "pipefail", "-c", block.code]
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=SECONDS,
    )
    wanted = int(block.marks.get("exit", "0"))
    if done.returncode != wanted:
        raise SnippetError(
            f"exit status {done.returncode}, not {wanted}: {done.stdout}"
        )
    return done.stdout


def _environment() -> dict[str, str]:
    """What commands see: `j2o` and `python` are those that run this, in plain text, 100 columns wide."""
    commands = os.pathsep.join([os.path.dirname(sys.executable), os.environ["PATH"]])
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PATH": commands,
        "PYTHONPATH": os.pathsep.join(paths),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "TERM": "dumb",
    }


def main(pages: Sequence[str]) -> None:
    """Bring the outputs in pages up to date."""
    for page in pages:
        path = Path(page)
        path.write_text(with_outputs(path.read_text(), page))


if __name__ == "__main__":
    main(sys.argv[1:])
