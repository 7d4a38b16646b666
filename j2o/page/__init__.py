"""The report as one HTML file: from a compile to a record, and from the record to a page."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from j2o.arguments import flag
from j2o.backend.asked import check_folder, checked_path, guarded, in_a_line
from j2o.backend.files import Files
from j2o.errors import SaveError, shown
from j2o.page.data import page_of
from j2o.page.html import page_text
from j2o.page.picture import document
from j2o.report import Report


def save(
    report: Report,
    path: str | os.PathLike[str],
    *,
    sources: bool = True,
    model_file: str | None = None,
) -> None:
    """Write the report of a compile to a file, as `Report.save` says."""
    target = checked_path(path)
    check_folder(target)
    if not isinstance(model_file, str | None):
        needed = "the name of a file is needed, such as 'model.onnx'"
        raise SaveError(f"model_file={shown(model_file)}: {needed}")
    sources = flag("sources", sources)
    text = text_of(report, sources=sources, model_file=model_file)
    data = text.encode("utf-8", "replace")
    try:
        with ThreadPoolExecutor(3) as pool:
            files = Files(os, target, pool, guarded(None), len(data))
            with files:
                file = files.new()
                files.write(file, data, 0)
                files.switch({target.name: file}, [])
    except OSError as error:
        why = error.strerror or error
        raise SaveError(f"{in_a_line(target)}: cannot be written: {why}") from error


def text_of(
    report: Report, *, sources: bool = True, model_file: str | None = None
) -> str:
    """Return the page of a report. The options are those of `Report.save`."""
    compiled = report.compiled
    graph = None
    if compiled is not None:
        graph = document(compiled.graph, sources=sources)
    page = page_of(report, sources=sources, model_file=model_file)
    return page_text(page, graph)
