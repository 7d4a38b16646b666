"""What notebooks show of a model and of its report: a summary, short and escaped."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from j2o.page.data import interface_of
from j2o.page.html import seconds_text, size_text, stages_text, tensor_table
from j2o.page.markup import Part, code, element, listed, paragraph, table
from j2o.report import Report

if TYPE_CHECKING:
    from j2o.model import Model

SHOWN = 40  # rows of a table; of more, how many more


def model_html(model: Model) -> str:
    """Return what a model takes and gives, and its figures."""
    report = model.report
    nodes = sum(report.ops_after.values())
    weights = size_text(report.weights_bytes)
    figures = f": opset {model.opset}, {nodes:,} nodes, {weights} of weights"
    name = element("strong", model.name)
    parts: list[Part] = [paragraph(name, figures)]
    interface = interface_of(model.graph, model._boundary)
    for caption, rows in (("Inputs", interface.inputs), ("Outputs", interface.outputs)):
        parts.append(tensor_table(caption, rows[:SHOWN]))
        parts += _more(len(rows))
    return element("div", parts)


def report_html(report: Report) -> str:
    """Return the time of each stage, the passes that changed something, and the warnings."""
    before = sum(report.ops_before.values())
    after = sum(report.ops_after.values())
    parts: list[Part] = [
        paragraph(f"{before:,} operations before, {after:,} after."),
        paragraph("Time: ", stages_text(report.seconds), "."),
        *_passes(report),
    ]
    remarks = [*report.warnings, *dict.fromkeys(report.notes)]
    if remarks:
        parts.append(listed(remarks[:SHOWN]))
        parts += _more(len(remarks))
    saving = code('report.save("report.html")')
    parts.append(paragraph(saving, " writes all of it as a page."))
    return element("div", parts)


def _passes(report: Report) -> Iterator[Part]:
    """A table of the passes that changed something."""
    records = [record for record in report.passes if record.changes]
    rows: list[list[Part]] = []
    for record in records[:SHOWN]:
        time = seconds_text(record.seconds)
        rows.append([code(record.name), f"{record.changes:,}", time])
    yield table("Passes", ["Pass", "Changes", "Time"], rows)
    yield from _more(len(records))


def _more(count: int) -> list[Part]:
    """A line for the rows that are not shown."""
    rest = count - SHOWN
    return [paragraph(f"… {rest:,} more")] if rest > 0 else []
