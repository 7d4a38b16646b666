"""How Sphinx builds the site from the pages of this folder; `tools/site` runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import j2o  # noqa: E402 the package of this checkout, not an installed one

project = "j2o"
version = j2o.__version__
release = version

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "index"

html_theme = "furo"
html_title = f"j2o {version}"
html_show_copyright = False
html_copy_source = False

myst_heading_anchors = 4  # as GitHub names them
highlight_language = "none"

autodoc_member_order = "bysource"
maximum_signature_line_length = 88

# the classes that users make themselves: of others the parameters are nobody's matter
MADE_BY_USERS = frozenset(
    [
        "j2o.ir.Builder",
        "j2o.ir.Graph",
        "j2o.ir.Loc",
        "j2o.ir.Node",
        "j2o.ir.Type",
        "j2o.passes.Fixpoint",
        "j2o.passes.RuleSet",
    ]
)
PARAMETERS = "Parameters:"
PARAMETER = re.compile(r"^    (\w+): ")
CODE = re.compile(r"`([^`]+)`")
SPECIAL = re.compile(r"([*|\\]|_\b)")  # what would be markup outside of code


def as_rst(lines: list[str]) -> list[str]:
    """A docstring as Sphinx reads it: code has two backticks, parameters are fields, the rest is plain."""
    parts = CODE.split("\n".join(lines))
    plain = [SPECIAL.sub(r"\\\1", part) for part in parts[0::2]]
    code = ["``" + " ".join(part.split()) + "``" for part in parts[1::2]]
    text = "".join(one + other for one, other in zip(plain, [*code, ""], strict=True))
    return [_field(line) for line in text.split("\n")]


def _field(line: str) -> str:
    """A parameter's line as a field; the heading of parameters is an empty line."""
    if line == PARAMETERS:
        return ""
    return PARAMETER.sub(r":param \1: ", line)


def process(
    app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]
) -> None:
    """Change a docstring in place, as autodoc wants it."""
    lines[:] = as_rst(lines)


def signature(
    app: Sphinx,
    what: str,
    name: str,
    obj: object,
    options: object,
    given: str | None,
    result: str | None,
) -> tuple[str | None, str | None]:
    """The parameters and the result that a class or a function is shown with."""
    is_class = what in ("class", "exception")
    if is_class and given is not None and name not in MADE_BY_USERS:
        return "", None
    return given, result


def setup(app: Sphinx) -> None:
    """Sphinx calls this when it starts."""
    app.connect("autodoc-process-docstring", process)
    app.connect("autodoc-process-signature", signature)
