"""What compiling did, as data and as text."""

from __future__ import annotations

import collections
import os
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from j2o.errors import J2OWarning
from j2o.ir.graph import Graph
from j2o.passes.runner import PassRecord

if TYPE_CHECKING:
    from j2o.compiled import Compiled


def count_ops(graph: Graph) -> dict[str, int]:
    """How often each operation occurs, regions and functions included.

    Constants and `return` are left out.
    """
    counts: collections.Counter[str] = collections.Counter()
    for top in (graph, *graph.functions.values()):
        counts.update([node.op for node in top.walk()])
    del counts["const"], counts["return"]
    return dict(counts.most_common())


@dataclass
class Report:
    """What compiling did.

    `passes` has the passes in the order in which they ran, `seconds` the time of each stage,
    `ops_before` and `ops_after` the number of each operation, `not_portable` what onnxruntime alone
    runs, `opset_reasons` what the opset before the model's own lacks, where it was chosen. `warnings`
    has what may not be as the user meant it, a line each. `widened` has how often an operator runs in
    another dtype than the program has, as the target has no kernel: `Tanh of bf16 in f32`. `notes` has
    a line for each thing of the program that the model leaves out. `quantisation` has the error of each
    weight stored in another dtype, known once it has been written or run; see `Comparison`. `compiled`
    is what the report is of.
    """

    passes: list[PassRecord] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    ops_before: dict[str, int] = field(default_factory=dict)
    ops_after: dict[str, int] = field(default_factory=dict)
    not_portable: list[str] = field(default_factory=list)
    opset: int = 0
    opset_reasons: list[str] = field(default_factory=list)
    weights_bytes: int = 0
    quantisation: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    widened: dict[str, int] = field(default_factory=dict)
    compiled: Compiled | None = field(default=None, repr=False, compare=False)

    def warn(self, text: str) -> None:
        """A J2OWarning at the user's call of `compile`, in one line, that the report keeps."""
        self.warnings.append(text)
        warnings.warn(text, J2OWarning, stacklevel=_frames_of_j2o())

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        sources: bool = True,
        model_file: str | None = None,
    ) -> None:
        """Write the report to `path` as one HTML file that needs nothing else.

        The function is traced and compiled a second time, to show what each pass has changed; until
        then no texts are kept. What stands at `path` is at every instant the complete old file or the
        complete new one. SaveError where it cannot be written.

        `sources` shows for each node the line of the program that it comes from, and what stands
        there; paths start at the package or the project. False leaves both out. `model_file` is the
        name of the model's file in the lines that run it, by default the graph's with `.onnx` behind.
        """
        from j2o.page import save

        save(self, path, sources=sources, model_file=model_file)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from j2o.page.notebook import report_html

        return report_html(self)

    def __str__(self) -> str:
        stages = [f"{name} {1e3 * s:.1f} ms" for name, s in self.seconds.items()]
        before = sum(self.ops_before.values())
        after = sum(self.ops_after.values())
        lines = [", ".join(stages), f"{before} operations before, {after} after"]
        width = max((len(p.name) for p in self.passes), default=4)
        for p in self.passes:
            if p.changes or p.declined:
                time = f"{1e3 * p.seconds:8.2f} ms"
                lines.append(f"  {p.name:{width}}  {p.changes:6d} changes  {time}")
            lines += [f"  {'':{width}}    {row}" for row in _rules(p)]
            if p.left_out:
                lines.append(f"  {p.name}: left out, {p.left_out}")
        lines += _opset(self)
        if self.not_portable:
            lines.append("not portable ONNX: " + ", ".join(self.not_portable))
        if self.widened:
            lines.append("in another dtype: " + ", ".join(self.widened))
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"note: {note}" for note in dict.fromkeys(self.notes)]
        return "\n".join(lines)


def _opset(report: Report) -> Iterator[str]:
    """A line for the opset that was chosen, where it is not the lowest."""
    reasons = report.opset_reasons
    if not reasons:
        return
    shown = ", ".join(reasons[:3])
    more = f" and {len(reasons) - 3} more" if len(reasons) > 3 else ""
    yield f"opset {report.opset}: before it, {shown}{more}"


def _rules(record: PassRecord) -> Iterator[str]:
    """A line for each rewrite rule that matched: how often, and how often and why that led to nothing."""
    for name in sorted({*record.rules, *record.declined}):
        reasons = record.declined.get(name, {})
        declined = sum(reasons.values())
        row = f"{name}: {record.rules.get(name, 0) + declined} matched"
        if declined:
            why = list(reasons)
            if len(reasons) > 1:
                why = [f"{reason} ({count})" for reason, count in reasons.items()]
            row += f", {declined} declined: {'; '.join(why)}"
        yield row


def _frames_of_j2o() -> int:
    """The `stacklevel` at which a warning of the caller shows the line that called j2o."""
    package = os.path.dirname(__file__) + os.sep
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(package):
        level += 1
        frame = frame.f_back
    return level
