"""From the record of a model to the text of the page."""

from __future__ import annotations

import html
import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

FOLDER = resources.files("j2o.page")
PLACE = re.compile(r"\{\{(\w+)\}\}")


def page(title: str, body: str, embedded: dict[str, Any]) -> str:
    """Return the whole page: `body` with styles, scripts and data, so that it needs nothing else."""
    parts = {
        "title": html.escape(title),
        "style": template("page.css") + template("picture.css"),
        "body": body,
        "data": "\n".join([script_data(name, data) for name, data in embedded.items()]),
        "script": "\n".join(scripts()),
    }
    return PLACE.sub(lambda place: parts[place[1]], template("page.html"))


def template(name: str) -> str:
    """The text of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def scripts() -> list[str]:
    """The scripts of the page, in the order in which they run: first those of others."""
    names = sorted(file.name for file in (FOLDER / "vendor").iterdir())
    others = [vendored(name) for name in names if Path(name).suffix == ".js"]
    texts = [*others, template("picture.js"), template("page.js")]
    return [in_script(text) for text in texts]


def vendored(name: str) -> str:
    """A script of others behind its licence, which has to come along."""
    licence = template(f"vendor/{name.partition('.')[0]}.LICENSE")
    return f"/*!\n{licence}*/\n{template(f'vendor/{name}')}"


def in_script(text: str) -> str:
    """Return a script as it may stand in HTML: nothing in it ends the element, or begins a comment."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def script_data(name: str, data: Any) -> str:
    """Return an element that holds data, in which nothing can be taken for HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'
