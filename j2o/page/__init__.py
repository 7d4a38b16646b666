"""The report as one HTML file: from a model to a record, and from the record to a page."""

from __future__ import annotations

import os
from pathlib import Path

from j2o.page import html
from j2o.page.picture import document
from j2o.report import Report


def save(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the report of a compile to a file, as `Report.save` says."""
    compiled = report.compiled
    assert compiled is not None
    body = '<main><section id="graph"><div id="picture"></div></section></main>'
    data = {"graph-data": document(compiled.graph)}
    Path(path).write_text(html.page(compiled.graph.name, body, data), encoding="utf-8")
