"""Elements of HTML: what is text is escaped, only what was made here stands as it is."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from typing import TypeAlias

VOID = frozenset(["br", "col", "input", "meta"])  # elements that have no end


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


Part: TypeAlias = "str | Iterable[Part]"


def element(name: str, *parts: Part, **attributes: str | int | bool) -> Html:
    """Return an element.

    Parts that are plain text are escaped; lists of parts are put one after the other. `class_` stands
    for `class`, `_` in a name for `-`; True is an attribute without a value, False leaves it out.
    """
    head = name
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            head += f" {attribute}"
        elif value is not False:
            head += f' {attribute}="{html.escape(str(value))}"'
    if name in VOID:
        return Html(f"<{head}>")
    return Html(f"<{head}>{joined(parts)}</{name}>")


def joined(parts: Part) -> Html:
    """Return parts as one, plain text escaped."""
    if isinstance(parts, Html):
        return parts
    if isinstance(parts, str):
        return Html(html.escape(parts))
    return Html("".join([joined(part) for part in parts]))


def table(
    caption: str, heads: Sequence[str], rows: Iterable[Sequence[Part]], class_: str = ""
) -> Html:
    """Return a table; the first cell of a row is its head. A caption says what it is of."""
    head = element("tr", [element("th", text, scope="col") for text in heads])
    body = [_row(row) for row in rows]
    return element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", body),
        class_=class_ or "plain",
    )


def _row(cells: Sequence[Part]) -> Html:
    first, *others = cells
    rest = [element("td", cell) for cell in others]
    return element("tr", element("th", first, scope="row"), rest)


def code(text: str) -> Html:
    """Return text as code."""
    return element("code", text)


def listed(items: Iterable[Part]) -> Html:
    """Return a list."""
    return element("ul", [element("li", item) for item in items])


def paragraph(*parts: Part) -> Html:
    """Return a paragraph."""
    return element("p", parts)


def alert(*parts: Part) -> Html:
    """Return a paragraph that stands out."""
    return element("p", parts, class_="alert")


def span(class_: str, *parts: Part) -> Html:
    """Return parts of a line that look alike."""
    return element("span", parts, class_=class_)


def opening(summary: Part, *parts: Part, class_: str = "opens") -> Html:
    """Return a line that opens to what is in it."""
    line = element("summary", summary)
    return element("details", line, parts, class_=class_)
