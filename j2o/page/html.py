"""From the record of a compile to the text of the page: a function for each part."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from j2o.page.data import (
    Interface,
    Page,
    PassRow,
    RuleRow,
    RuntimeRow,
    Runtimes,
    TensorRow,
)
from j2o.page.markup import Html, Part, code, element, joined, listed, table
from j2o.page.steps import Texts
from j2o.page.weights import SHOWN, Branch, tree

FOLDER = resources.files("j2o.page")
PLACE = re.compile(r"\{\{(\w+)\}\}")
OPERATIONS = 12  # kinds of operations that are shown at once
REASONS = 4  # reasons of a runtime that are shown at once
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def page_text(page: Page, graph: Mapping[str, Any] | None) -> str:
    """Return the whole page, which needs nothing else. `graph` is what the picture is drawn from."""
    parts = {
        "title": joined(f"{page.name}: report of j2o"),
        "style": template("page.css") + template("picture.css"),
        "header": _header(page),
        "nav": _nav(page),
        "main": _main(page),
        "footer": _footer(page),
        "data": _data(page, graph),
        "script": "\n".join(scripts()),
    }
    return PLACE.sub(lambda place: parts[place[1]], template("page.html"))


# ------------------------------------------------------------------------- files and data


def template(name: str) -> str:
    """Return the text of a file of this folder."""
    return (FOLDER / name).read_text(encoding="utf-8")


def scripts() -> list[str]:
    """Return the scripts of the page in the order in which they run: first those of others."""
    names = sorted(file.name for file in (FOLDER / "vendor").iterdir())
    others = [_vendored(name) for name in names if Path(name).suffix == ".js"]
    texts = [*others, template("picture.js"), template("page.js")]
    return [_in_script(text) for text in texts]


def _vendored(name: str) -> str:
    """A script of others behind its licence, which has to come along."""
    licence = template(f"vendor/{name.partition('.')[0]}.LICENSE")
    return f"/*!\n{licence}*/\n{template(f'vendor/{name}')}"


def _in_script(text: str) -> str:
    """A script as it may stand in HTML: nothing in it ends the element, or begins a comment."""
    return text.replace("</script", r"<\/script").replace("<!--", r"<\!--")


def _data(page: Page, graph: Mapping[str, Any] | None) -> Html:
    """The data that the scripts read."""
    found: list[Html] = []
    if graph is not None:
        found.append(_json(graph, "graph-data"))
    if page.passes.texts is not None:
        found.append(_packed(page.passes.texts, "passes-data"))
    return Html("\n".join(found))


def _json(data: Any, name: str) -> Html:
    """An element that holds data, in which nothing can be taken for HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Html(f'<script type="application/json" id="{name}">{text}</script>')


def _packed(texts: Texts, name: str) -> Html:
    """An element that holds data in gzip and base64, as it is large and repeats itself."""
    data = json.dumps(dataclasses.asdict(texts), separators=(",", ":"))
    packed = gzip.compress(data.encode(), mtime=0)
    text = base64.b64encode(packed).decode("ascii")
    return Html(f'<script type="text/plain" id="{name}">{text}</script>')


# ------------------------------------------------------------------------- the frame


def _header(page: Page) -> Html:
    """The name, what it takes and gives, and the figures that matter most."""
    before = sum(page.ops_before.values())
    after = sum(page.ops_after.values())
    tiles = {
        "Operations": f"{before:,} → {after:,}",
        "Weights": size_text(page.weights_bytes),
        "Opset": str(page.opset),
        "Compiled in": seconds_text(sum(page.seconds.values())),
    }
    if page.target:
        tiles["Made for"] = page.target
    entries = [
        element("div", element("dt", label), element("dd", value))
        for label, value in tiles.items()
    ]
    return joined(
        [
            element("h1", page.name),
            element("p", _signature(page.interface), class_="signature"),
            element("dl", entries, class_="tiles"),
            _alert(page),
        ]
    )


def _signature(interface: Interface) -> str:
    takes = ", ".join(map(_argument, interface.inputs))
    gives = ", ".join(map(_argument, interface.outputs))
    return f"({takes}) → ({gives})" if gives else ""


def _argument(row: TensorRow) -> str:
    return f"{row.name}: {row.dtype}[{', '.join(row.shape)}]"


def _alert(page: Page) -> Part:
    """A line that leads to the warnings, where there are any."""
    count = len(page.warnings)
    if not count:
        return ""
    text = "1 warning" if count == 1 else f"{count} warnings"
    link = element("a", text, href="#remarks")
    return element("p", link, " of what may not be as it was meant.", class_="alert")


def _nav(page: Page) -> Html:
    """Links to the parts."""
    links = [
        element("li", element("a", title, href=f"#{name}"))
        for name, title, _ in _sections(page)
    ]
    return element("ol", links)


def _main(page: Page) -> Html:
    """All parts in order."""
    return Html(
        "\n".join(_section(name, title, body) for name, title, body in _sections(page))
    )


def _section(name: str, title: str, body: Part) -> Html:
    heading = element("h2", title, id=f"{name}-title")
    return element("section", heading, body, id=name, aria_labelledby=f"{name}-title")


def _sections(page: Page) -> list[tuple[str, str, Part]]:
    """The parts of the page: the name, the title, what stands in it."""
    return [
        ("interface", "Inputs and outputs", _interface(page.interface)),
        ("usage", "How to run it", _usage(page)),
        ("operations", "Operations", _operations(page)),
        ("graph", "Graph", _picture()),
        ("weights", "Weights", _weights(page)),
        ("passes", "Passes", _passes(page)),
        ("runtimes", "Where it runs", _runtimes(page)),
        ("remarks", "Warnings and notes", _remarks(page)),
    ]


def _footer(page: Page) -> Html:
    made = ", ".join(f"{name} {version}" for name, version in page.versions.items())
    return element("p", f"Made by {made}.")


# ------------------------------------------------------------------------- inputs and outputs


def _interface(interface: Interface) -> Part:
    if not interface.outputs:
        return element("p", "Nothing is known of them.")
    parts: list[Part] = [
        _tensors("Inputs", interface.inputs),
        _tensors("Outputs", interface.outputs),
    ]
    if interface.symbols:
        names = [code(name) for name in interface.symbols]
        parts.append(element("p", "Symbolic sizes: ", _with_commas(names), "."))
    if interface.constraints:
        constraints = [code(text) for text in interface.constraints]
        parts.append(element("p", "What must hold of them:"))
        parts.append(listed(constraints))
    return parts


def _tensors(caption: str, rows: Sequence[TensorRow]) -> Part:
    if not rows:
        return element("p", f"{caption}: none.")
    cells: list[list[Part]] = []
    for row in rows:
        shape = f"[{', '.join(row.shape)}]"
        cells.append([code(row.name), code(row.dtype), code(shape), row.remark])
    return table(caption, ["Name", "Dtype", "Sizes", ""], cells)


def _with_commas(parts: Sequence[Part]) -> list[Part]:
    found: list[Part] = []
    for part in parts:
        found += [", ", part] if found else [part]
    return found


def _usage(page: Page) -> Part:
    if not page.usage:
        return element("p", "Nothing is known of it.")
    told = "These lines run the model, once it is saved beside them, at zeros:"
    block = element("pre", code(page.usage), tabindex=0, class_="usage")
    return [element("p", told), block]


# ------------------------------------------------------------------------- operations and weights


def _operations(page: Page) -> Part:
    """The kinds of operations before and after, as bars of one scale."""
    counts = [*page.ops_before.values(), *page.ops_after.values()]
    scale = max(counts, default=1)
    return element(
        "div",
        _kinds("Before: primitives of JAX", page.ops_before, scale),
        _kinds("After: operators of ONNX", page.ops_after, scale),
        class_="columns",
    )


def _kinds(title: str, counts: Mapping[str, int], scale: int) -> Html:
    rows = [_kind(op, count, scale) for op, count in counts.items()]
    total = f"{title}, {sum(counts.values()):,}"
    parts: list[Part] = [_bars(total, rows[:OPERATIONS])]
    rest = rows[OPERATIONS:]
    if rest:
        summary = element("summary", f"{len(rest)} more kinds")
        parts.append(element("details", summary, _bars("The others", rest)))
    return element("div", parts)


def _kind(op: str, count: int, scale: int) -> list[Part]:
    dialect, dot, kind = op.partition(".")
    name = [element("span", dialect + dot, class_="dialect"), kind]
    return [element("code", name), f"{count:,}", bar(count / scale)]


def _bars(caption: str, rows: Sequence[Sequence[Part]]) -> Html:
    return table(caption, ["Operation", "Nodes", ""], rows, class_="bars")


def bar(share: float) -> Html:
    """Return a bar that is a share of its cell; the figure stands beside it."""
    style = f"--share:{min(max(share, 0.0), 1.0):.4f}"
    return element("span", class_="bar", style=style, aria_hidden="true")


def _weights(page: Page) -> Part:
    """The tree of weights."""
    if not page.weights:
        return element("p", "There are none.")
    root = tree(page.weights)
    count = f"{root.count:,} arrays" if root.count > 1 else "1 array"
    told = f"{count}, {size_text(root.nbytes)} in the file; largest first."
    return [element("p", told), _branches(root, root.nbytes or 1)]


def _branches(parent: Branch, total: int) -> Html:
    parts = list(parent.parts.values())
    items = [_branch(part, total) for part in parts[:SHOWN]]
    rest = parts[SHOWN:]
    if rest:
        nbytes = sum(part.nbytes for part in rest)
        name = f"{len(rest)} more"
        items.append(_weight_line(name, "", nbytes, total))
    return element("ul", [element("li", item) for item in items], class_="tree")


def _branch(branch: Branch, total: int) -> Part:
    """A weight as a line, several as something that opens."""
    row = branch.row
    if row is not None and not branch.parts:
        shape = ", ".join(map(str, row.shape))
        return _weight_line(branch.name, f"{row.dtype}[{shape}]", row.nbytes, total)
    told = f"{branch.count:,} arrays"
    line = _weight_line(branch.name, told, branch.nbytes, total)
    return element("details", element("summary", line), _branches(branch, total))


def _weight_line(name: str, told: str, nbytes: int, total: int) -> Html:
    share = nbytes / total
    return element(
        "span",
        element("code", name, class_="name"),
        element("span", told, class_="told"),
        element("span", size_text(nbytes), class_="figure"),
        element("span", f"{100 * share:.1f} %", class_="figure"),
        bar(share),
        class_="weight",
    )


# ------------------------------------------------------------------------- graph and passes


GRAPH_HELP = (
    "A module opens and closes with a click, a node shows its types, attributes and source line. "
    "Drag to move and turn the wheel to zoom, once you have clicked into the picture; or use the arrows, "
    "+ and −, and 0 for all of it."
)


def _picture() -> Part:
    return [
        element("p", GRAPH_HELP),
        element("div", id="picture"),
        element("noscript", element("p", "The picture needs JavaScript.")),
    ]


def _passes(page: Page) -> Part:
    """The time of each stage, and each pass that did something, with the rest told in a line."""
    passes = page.passes
    active = [row for row in passes.rows if row.changes or row.steps or row.rules]
    idle = [row for row in passes.rows if row not in active]
    longest = max([row.seconds for row in passes.rows], default=0.0) or 1.0
    stages = [f"{name} {seconds_text(time)}" for name, time in page.seconds.items()]
    parts: list[Part] = [element("p", f"Time: {', '.join(stages)}.")] if stages else []
    for text in (passes.warning, passes.why_no_texts):
        if text:
            parts.append(element("p", text, class_="alert"))
    has_texts = passes.texts is not None
    if has_texts:
        parts.append(element("p", HOW_TO_READ))
    parts += [_pass(row, longest, passes.texts) for row in active]
    if idle:
        parts.append(_idle(idle))
    return parts


HOW_TO_READ = (
    "A pass opens with what it changed: on the left the text of the graph before it, on the right after "
    "it, with the line of the program that a node comes from. A value keeps its name throughout, so that "
    "the numbers behind names may be others than in the file."
)


def _pass(row: PassRow, longest: float, texts: Texts | None) -> Html:
    """A pass: a line that opens to its rules and to what it changed."""
    line = element(
        "span",
        element("span", row.name, class_="name"),
        element("span", _changes(row.changes), class_="figure"),
        element("span", _size_change(row, texts), class_="figure"),
        element("span", seconds_text(row.seconds), class_="figure"),
        bar(row.seconds / longest),
        class_="pass",
    )
    parts: list[Part] = [element("p", _described(row))]
    if row.rules:
        parts.append(_rules(row.rules))
    if row.steps:
        numbers = " ".join(map(str, row.steps))
        parts.append(element("div", class_="steps", data_steps=numbers))
    elif texts is not None:
        parts.append(element("p", "The text of the graph stayed the same."))
    return element("details", element("summary", line), parts, class_="pass-details")


def _size_change(row: PassRow, texts: Texts | None) -> str:
    """How many lines left and came; the nodes of the root graph where no texts are there."""
    if texts is None:
        return f"{row.nodes_before:,} → {row.nodes_after:,} nodes"
    steps = [texts.steps[number] for number in row.steps]
    removed = sum(step.removed for step in steps)
    added = sum(step.added for step in steps)
    return f"−{removed:,} +{added:,} lines"


def _changes(count: int) -> str:
    return "1 change" if count == 1 else f"{count:,} changes"


def _described(row: PassRow) -> str:
    """What a pass does, and how it ran."""
    parts = [row.doc] if row.doc else []
    if row.group:
        parts.append(f"It ran {_times(row.runs)}, in the group {row.group}.")
    return " ".join(parts)


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def _rules(rows: Sequence[RuleRow]) -> Html:
    """The rules that matched: how often they fired, and why they were declined."""
    cells: list[list[Part]] = []
    for row in rows:
        declined = sum(count for _, count in row.declined)
        reasons = [f"{count} × {reason}" for reason, count in row.declined]
        why = listed(reasons) if reasons else ""
        cells.append([code(row.name), row.doc, f"{row.fired:,}", f"{declined:,}", why])
    heads = ["Rule", "What it does", "Fired", "Declined", "Why"]
    return table("Rules that matched", heads, cells)


def _idle(rows: Sequence[PassRow]) -> Html:
    """The passes that changed nothing, or did not run."""
    names = {row.name: row.left_out or "it found nothing to change" for row in rows}
    items = [[code(name), f": {why}"] for name, why in names.items()]
    summary = element("summary", f"{len(names)} passes changed nothing")
    return element("details", summary, listed(items), class_="idle")


# ------------------------------------------------------------------------- runtimes and remarks


def _runtimes(page: Page) -> Part:
    runtimes = page.runtimes
    parts: list[Part] = [_opset(page), _not_portable(runtimes)]
    if runtimes.why_unknown:
        parts.append(element("p", runtimes.why_unknown))
    if runtimes.rows:
        rows = [_runtime(row) for row in runtimes.rows]
        heads = ["Runtime", "Takes it", "What keeps it from that"]
        parts.append(table("Known runtimes", heads, rows))
    return parts


def _opset(page: Page) -> Part:
    if not page.opset:
        return ""
    told = f"Opset {page.opset}"
    if page.ir_version:
        told += f", IR version {page.ir_version}"
    if page.opset_reasons:
        told += f": before it, {', '.join(page.opset_reasons)}"
    return element("p", f"{told}.")


def _not_portable(runtimes: Runtimes) -> Part:
    if not runtimes.not_portable:
        return element("p", "All operators are ONNX's own.")
    names = [code(op) for op in runtimes.not_portable]
    told = "Operators that onnxruntime alone has: "
    return element("p", told, _with_commas(names), ".", class_="alert")


def _runtime(row: RuntimeRow) -> list[Part]:
    if not row.reasons:
        return [row.names, element("span", "✓ yes", class_="yes"), ""]
    shown = listed(row.reasons[:REASONS])
    rest = row.reasons[REASONS:]
    more: Part = ""
    if rest:
        more = element("details", element("summary", f"{len(rest)} more"), listed(rest))
    return [row.names, element("span", "✗ no", class_="no"), [shown, more]]


def _remarks(page: Page) -> Part:
    parts: list[Part] = []
    for title, texts in (("Warnings", page.warnings), ("Notes", page.notes)):
        if texts:
            parts += [element("h3", title), listed(texts)]
    if page.quantisation:
        rows = [
            [code(name), f"{error:.3g}"] for name, error in page.quantisation.items()
        ]
        heads = ["Weight", "Error, relative to its root mean square"]
        parts.append(table("Weights stored in another dtype", heads, rows))
    return parts or element("p", "There are none.")


# ------------------------------------------------------------------------- figures


def size_text(nbytes: float) -> str:
    """Return a number of bytes as people read it: `330.2 MiB`."""
    for unit in UNITS:
        if nbytes < 1024 or unit == UNITS[-1]:
            return (
                f"{nbytes:,.0f} {unit}" if unit == "bytes" else f"{nbytes:.1f} {unit}"
            )
        nbytes /= 1024
    raise AssertionError


def seconds_text(seconds: float) -> str:
    """Return a time as people read it: `12.3 ms`, `2.05 s`."""
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
