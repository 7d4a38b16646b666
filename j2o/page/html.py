"""From the record of a compile to the text of the page: a function for each part."""

from __future__ import annotations

import base64
import dataclasses
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from j2o.page.data import (
    Interface,
    Page,
    Passes,
    PassRow,
    RuleRow,
    RuntimeRow,
    Runtimes,
    TensorRow,
)
from j2o.page.markup import (
    Html,
    Part,
    alert,
    code,
    element,
    joined,
    listed,
    opening,
    paragraph,
    span,
    table,
)
from j2o.page.picture import SCRIPTS
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
    texts = [*others, *map(template, (*SCRIPTS, "page.js"))]
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
    tiles = [_tile(label, value) for label, value in _figures(page).items()]
    signature = element("p", _signature(page.interface), class_="signature")
    figures = element("dl", tiles, class_="tiles")
    return joined([element("h1", page.name), signature, figures, _alert(page)])


def _figures(page: Page) -> dict[str, str]:
    before = sum(page.ops_before.values())
    after = sum(page.ops_after.values())
    found = {
        "Operations": f"{before:,} → {after:,}",
        "Weights": size_text(page.weights_bytes),
        "Opset": str(page.opset),
        "Compiled in": seconds_text(sum(page.seconds.values())),
    }
    if page.target:
        found["Made for"] = page.target
    return found


def _tile(label: str, value: str) -> Html:
    return element("div", element("dt", label), element("dd", value))


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
    return alert(link, " of what may not be as it was meant.")


def _nav(page: Page) -> Html:
    """Links to the parts."""
    items: list[Html] = []
    for name, title, _ in _sections(page):
        link = element("a", title, href=f"#{name}")
        items.append(element("li", link))
    return element("ol", items)


def _main(page: Page) -> Html:
    """All parts in order."""
    parts: list[str] = []
    for name, title, body in _sections(page):
        label = f"{name}-title"
        heading = element("h2", title, id=label)
        parts.append(element("section", heading, body, id=name, aria_labelledby=label))
    return Html("\n".join(parts))


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
    return paragraph(f"Made by {made}.")


# ------------------------------------------------------------------------- inputs and outputs


def _interface(interface: Interface) -> Part:
    if not interface.outputs:
        return paragraph("Nothing is known of them.")
    parts: list[Part] = [
        tensor_table("Inputs", interface.inputs),
        tensor_table("Outputs", interface.outputs),
    ]
    if interface.symbols:
        names = [code(name) for name in interface.symbols]
        parts.append(paragraph("Symbolic sizes: ", _with_commas(names), "."))
    if interface.constraints:
        constraints = [code(text) for text in interface.constraints]
        parts.append(paragraph("What must hold of them:"))
        parts.append(listed(constraints))
    return parts


def tensor_table(caption: str, rows: Sequence[TensorRow]) -> Part:
    """Return a table of inputs or outputs."""
    if not rows:
        return paragraph(f"{caption}: none.")
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
        return paragraph("Nothing is known of it.")
    told = "These lines run the model on zeros. It has to lie beside them, under the name that they give:"
    block = element("pre", code(page.usage), tabindex=0, class_="usage")
    return [paragraph(told), block]


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
    first = rows[:OPERATIONS]
    rest = rows[OPERATIONS:]
    parts: list[Part] = [_bars(total, first)]
    if rest:
        others = _bars("The others", rest)
        parts.append(opening(f"{len(rest)} more kinds", others))
    return element("div", parts)


def _kind(op: str, count: int, scale: int) -> list[Part]:
    dialect, dot, kind = op.partition(".")
    name = [span("dialect", dialect + dot), kind]
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
        return paragraph("There are none.")
    root = tree(page.weights)
    count = f"{root.count:,} arrays" if root.count > 1 else "1 array"
    told = f"{count}, {size_text(root.nbytes)} in the file; largest first."
    return [paragraph(told), _branches(root, root.nbytes or 1)]


def _branches(parent: Branch, total: int) -> Html:
    """The parts of a branch, largest first."""
    parts = list(parent.parts.values())
    items = [_branch(part, total) for part in parts[:SHOWN]]
    rest = parts[SHOWN:]
    if rest:
        nbytes = sum(part.nbytes for part in rest)
        items.append(_weight_line(f"{len(rest)} more", "", nbytes, total))
    lines = [element("li", item) for item in items]
    return element("ul", lines, class_="tree")


def _branch(branch: Branch, total: int) -> Part:
    """A weight as a line, several as something that opens."""
    row = branch.row
    if row is not None and not branch.parts:
        shape = ", ".join(map(str, row.shape))
        type = f"{row.dtype}[{shape}]"
        return _weight_line(branch.name, type, row.nbytes, total)
    told = f"{branch.count:,} arrays"
    line = _weight_line(branch.name, told, branch.nbytes, total)
    return opening(line, _branches(branch, total))


def _weight_line(name: str, told: str, nbytes: int, total: int) -> Html:
    share = nbytes / total
    return span(
        "weight",
        span("name", code(name)),
        span("told", told),
        span("figure", size_text(nbytes)),
        span("figure", percent_text(share)),
        bar(share),
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
        element("noscript", "The picture needs JavaScript."),
    ]


def _passes(page: Page) -> Part:
    """The time of each stage, and each pass that did something, with the rest told in a line."""
    passes = page.passes
    parts: list[Part] = []
    if page.seconds:
        parts.append(paragraph("Time: ", stages_text(page.seconds), "."))
    for text in (passes.warning, passes.why_no_texts):
        if text:
            parts.append(alert(text))
    if passes.texts is not None:
        parts.append(paragraph(HOW_TO_READ))
    return [*parts, *_pass_lines(passes)]


def _pass_lines(passes: Passes) -> Iterator[Html]:
    """A line for each pass that did something, and one for all others."""
    longest = max([row.seconds for row in passes.rows], default=0.0) or 1.0
    active = [row for row in passes.rows if row.changes or row.steps or row.rules]
    for row in active:
        yield _pass(row, longest, passes.texts)
    names = {row.name for row in active}
    idle = [row for row in passes.rows if row.name not in names]
    if idle:
        yield _idle(idle)


HOW_TO_READ = (
    "A pass opens with what it changed: on the left the text of the graph before it, on the right after "
    "it, with the line of the program that a node comes from. A value keeps its name throughout, so that "
    "the numbers behind names may be others than in the file."
)


def _pass(row: PassRow, longest: float, texts: Texts | None) -> Html:
    """A pass: a line that opens to its rules and to what it changed."""
    line = span(
        "pass",
        span("name", row.name),
        span("figure", _changes(row.changes)),
        span("figure", _size_change(row, texts)),
        span("figure", seconds_text(row.seconds)),
        bar(row.seconds / longest),
    )
    parts: list[Part] = [paragraph(_described(row))]
    if row.rules:
        parts.append(_rules(row.rules))
    if row.steps:
        numbers = " ".join(map(str, row.steps))
        parts.append(element("div", class_="steps", data_steps=numbers))
    elif texts is not None:
        parts.append(paragraph("The text of the graph stayed the same."))
    return opening(line, *parts, class_="pass-details")


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
        counts = [f"{row.fired:,}", f"{declined:,}"]
        cells.append([code(row.name), row.doc, *counts, why])
    heads = ["Rule", "What it does", "Fired", "Declined", "Why"]
    return table("Rules that matched", heads, cells)


def _idle(rows: Sequence[PassRow]) -> Html:
    """The passes that changed nothing, or did not run."""
    names = {row.name: row.left_out or "it found nothing to change" for row in rows}
    items = [[code(name), f": {why}"] for name, why in names.items()]
    summary = f"{len(names)} passes changed nothing"
    return opening(summary, listed(items), class_="idle")


# ------------------------------------------------------------------------- runtimes and remarks


def _runtimes(page: Page) -> Part:
    runtimes = page.runtimes
    parts: list[Part] = [_opset(page), _not_portable(runtimes)]
    if runtimes.why_unknown:
        parts.append(paragraph(runtimes.why_unknown))
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
    return paragraph(f"{told}.")


def _not_portable(runtimes: Runtimes) -> Part:
    if not runtimes.not_portable:
        return paragraph("All operators are ONNX's own.")
    names = [code(op) for op in runtimes.not_portable]
    told = "Operators that onnxruntime alone has: "
    return alert(told, _with_commas(names), ".")


def _runtime(row: RuntimeRow) -> list[Part]:
    """The cells of a runtime."""
    if not row.reasons:
        return [row.names, span("yes", "✓ yes"), ""]
    reasons: list[Part] = [listed(row.reasons[:REASONS])]
    rest = row.reasons[REASONS:]
    if rest:
        reasons.append(opening(f"{len(rest)} more", listed(rest)))
    return [row.names, span("no", "✗ no"), reasons]


def _remarks(page: Page) -> Part:
    parts: list[Part] = []
    for title, texts in (("Warnings", page.warnings), ("Notes", page.notes)):
        if texts:
            parts += [element("h3", title), listed(texts)]
    if page.quantisation:
        parts.append(_quantisation(page.quantisation))
    if page.widened:
        parts.append(_widened(page.widened))
    return parts or paragraph("There are none.")


def _widened(counts: Mapping[str, int]) -> Html:
    """What runs in another dtype, as the target has no kernel of that of the program."""
    rows = [[told, f"{count:,}"] for told, count in counts.items()]
    return table("Runs in another dtype, with casts", ["Operator", "Nodes"], rows)


def _quantisation(errors: Mapping[str, float]) -> Html:
    rows = [[code(name), f"{error:.3g}"] for name, error in errors.items()]
    heads = ["Weight", "Error, relative to its root mean square"]
    return table("Weights stored in another dtype", heads, rows)


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


def percent_text(share: float) -> str:
    """Return a share as people read it."""
    is_tiny = 0 < share < 0.0005
    return "< 0.1 %" if is_tiny else f"{100 * share:.1f} %"


def stages_text(seconds: Mapping[str, float]) -> str:
    """Return the time of each stage in a line."""
    stages = [f"{name} {seconds_text(time)}" for name, time in seconds.items()]
    return ", ".join(stages)
