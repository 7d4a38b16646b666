"""What a notebook shows of a graph: its text, with operations, strings and types told apart, up to a length.

Weight, slant and paleness tell them apart, not colours, as these would have to fit to dark and light pages.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from j2o.ir.graph import Graph, Node
from j2o.ir.printer import Printer

LINES = 200  # of a graph that are shown
WIDTH = 400  # characters of a line that are shown
STYLE = "max-height:30em;overflow:auto;line-height:1.4"
TOKEN = re.compile(
    r'(?P<string>"(?:[^"\\]|\\.)*")'
    r"|(?P<value>%[\w./]+)"
    r"|(?P<operation>\b(?:lax|onnx|ort)\.[\w.]+|\b(?:const|dims|call|return|graph|function)\b)"
    r"|(?P<type>\b[a-z]+\d\w*\[[^\]]*\])"
)
TAGS = {"string": "em", "operation": "strong", "type": "small"}


def graph_html(graph: Graph) -> str:
    """Return a summary of a graph and the first lines of its text, as HTML in which all names are escaped."""
    printer = _FirstLines()
    printer.root(graph)
    summary = html.escape(repr(graph).strip("<>"))
    lines = [_colored(line[:WIDTH]) for line in printer.lines]
    if printer.left_out:
        lines.append(f"… {printer.left_out:,} more nodes")
    text = "\n".join(lines)
    return f'<div><p>{summary}</p><pre style="{STYLE}">{text}</pre></div>'


class _FirstLines(Printer):
    """Prints what has room, and counts the other nodes."""

    def __init__(self) -> None:
        super().__init__(with_locations=False)
        self.left_out = 0

    def node(self, node: Node, indent: str) -> None:
        if len(self.lines) < LINES:
            super().node(node, indent)
        else:
            self.left_out += 1


def _colored(line: str) -> str:
    return "".join(_parts(line))


def _parts(line: str) -> Iterator[str]:
    """The parts of a line, each escaped and in the element of its kind."""
    place = 0
    for token in TOKEN.finditer(line):
        yield html.escape(line[place : token.start()])
        text = html.escape(token[0])
        tag = TAGS.get(token.lastgroup or "")
        yield f"<{tag}>{text}</{tag}>" if tag else text
        place = token.end()
    yield html.escape(line[place:])
