"""How Sphinx builds the site from the pages of this folder: `tools/site` runs it."""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import j2o  # noqa: E402 the package of this checkout, not an installed one

project = "j2o"
author = "the authors of j2o"
release = version = j2o.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "index"
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"j2o {version}"
html_static_path: list[str] = []

myst_heading_anchors = (
    4  # the anchors of headings that other pages link to, as GitHub makes them
)
myst_enable_extensions = ["fieldlist"]
copybutton_exclude = ".linenos, .gp"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_type_aliases: dict[str, str] = {}
maximum_signature_line_length = 88

SECTION = re.compile(r"^(\s*)(\w+): ")
SINGLE = re.compile(r"(?<![`:\\])`([^`]+)`(?!`)")


def as_code(
    app: object,
    what: str,
    name: str,
    obj: object,
    options: object,
    lines: list[str],
) -> None:
    """Docstrings are plain sentences with code in single backticks: what Sphinx reads has two."""
    lines[:] = [SINGLE.sub(r"``\1``", line) for line in lines]


def setup(app: object) -> None:
    """Sphinx calls this when it starts."""
    app.connect("autodoc-process-docstring", as_code)  # type: ignore[attr-defined]
