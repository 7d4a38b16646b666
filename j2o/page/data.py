"""What the page tells of a compile, as plain data: typed records that JSON can hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax

import j2o
from j2o.api import compile_again
from j2o.backend.proto import without_data
from j2o.backend.takers import groups, takers
from j2o.compiled import Compiled
from j2o.errors import J2OError, PassError, raised
from j2o.ir.graph import Graph
from j2o.ir.places import portable_lines
from j2o.ir.tensor import Tensor
from j2o.ir.types import Type
from j2o.model import Boundary
from j2o.numeric_check import symbols_of
from j2o.page.steps import Recorder, Texts
from j2o.page.usage import snippet
from j2o.passes.pipeline import Fixpoint, PassPipeline
from j2o.passes.runner import PassRecord
from j2o.report import Report

NO_PROGRAM = (
    "This report is of no compile, so there is no program that could be compiled again."
)
TOO_LONG = (
    "The text of the graph is too long to be kept after each pass; "
    "'j2o dump --after PASS' prints it after one."
)
OTHER_GRAPH = (
    "Compiling a second time, for this page, gave another graph: the function, or what it holds, has "
    "changed since. What follows is of the second time; all else is of the model."
)


@dataclass
class TensorRow:
    """An input or output of the model: the type it has there, and the function's where that differs."""

    name: str
    dtype: str
    shape: list[str]
    remark: str = ""


@dataclass
class Interface:
    """What goes in and out. `symbols` are the symbolic sizes, `constraints` what must hold of them."""

    inputs: list[TensorRow] = field(default_factory=list)
    outputs: list[TensorRow] = field(default_factory=list)
    symbols: list[str] = field(default_factory=list)
    constraints: list[str] = field(default_factory=list)


@dataclass
class WeightRow:
    """A weight as it stands in the file."""

    name: str
    dtype: str
    shape: list[int]
    nbytes: int


@dataclass
class RuleRow:
    """A rewrite rule: how often it fired, and how often and why it was declined."""

    name: str
    doc: str
    fired: int
    declined: list[tuple[str, int]]


@dataclass
class PassRow:
    """A pass. `steps` are the numbers of the steps in `Passes.texts` that its runs made."""

    name: str
    group: str
    doc: str
    changes: int
    seconds: float
    runs: int
    nodes_before: int
    nodes_after: int
    left_out: str
    rules: list[RuleRow]
    steps: list[int]


@dataclass
class Passes:
    """The passes in order. `why_no_texts` says why there are none, `warning` what to know of them."""

    rows: list[PassRow] = field(default_factory=list)
    texts: Texts | None = None
    why_no_texts: str = ""
    warning: str = ""


@dataclass
class RuntimeRow:
    """Runtimes of which the same is known, and what keeps them from the model: nothing where they take it."""

    names: str
    reasons: list[str]


@dataclass
class Runtimes:
    """Which of the known runtimes take the model. `why_unknown` says why nothing is known."""

    rows: list[RuntimeRow] = field(default_factory=list)
    not_portable: list[str] = field(default_factory=list)
    why_unknown: str = ""


@dataclass
class Page:
    """All that the page tells. `versions` are those of what made it."""

    name: str
    opset: int
    opset_reasons: list[str]
    ir_version: int
    target: str
    versions: dict[str, str]
    weights_bytes: int
    seconds: dict[str, float]
    ops_before: dict[str, int]
    ops_after: dict[str, int]
    warnings: list[str]
    notes: list[str]
    quantisation: dict[str, float]
    widened: dict[str, int]
    interface: Interface
    weights: list[WeightRow]
    passes: Passes
    runtimes: Runtimes
    usage: str


def page_of(
    report: Report, *, sources: bool = True, model_file: str | None = None
) -> Page:
    """Return the record of a report. The options are those of `Report.save`."""
    compiled = report.compiled
    page = Page(
        name="model",
        opset=report.opset,
        opset_reasons=list(report.opset_reasons),
        ir_version=0,
        target="",
        versions={"j2o": j2o.__version__, "JAX": jax.__version__},
        weights_bytes=report.weights_bytes,
        seconds=dict(report.seconds),
        ops_before=dict(report.ops_before),
        ops_after=dict(report.ops_after),
        warnings=_messages(report.warnings, sources),
        notes=_messages(report.notes, sources),
        quantisation=dict(report.quantisation),
        widened=dict(report.widened),
        interface=Interface(),
        weights=[],
        passes=Passes(why_no_texts=NO_PROGRAM),
        runtimes=Runtimes(not_portable=list(report.not_portable)),
        usage="",
    )
    if compiled is None:
        page.passes.rows = _pass_rows(report.passes, None, [])
        page.runtimes.why_unknown = NO_PROGRAM
        return page
    _add_model(page, compiled, model_file or f"{compiled.graph.name}.onnx")
    page.passes = _passes(report, compiled, sources)
    return page


def _messages(texts: Iterable[str], sources: bool) -> list[str]:
    """Messages, each once, that tell no more of the author's files than the page does."""
    return [portable_lines(text, sources=sources) for text in dict.fromkeys(texts)]


def _add_model(page: Page, compiled: Compiled, file: str) -> None:
    """Add what the graph tells."""
    page.name = compiled.graph.name
    page.target = compiled.recipe.request.target.name
    page.interface = interface_of(compiled.graph, compiled.boundary)
    try:
        model, weights = without_data(compiled.graph, compiled.opset)
    except PassError as error:  # of a pipeline that stops before the end
        page.runtimes.why_unknown = f"The graph is no ONNX: {error}."
        return
    page.ir_version = model.ir_version
    page.weights = _weight_rows(weights)
    page.runtimes.rows = [
        RuntimeRow(names, list(reasons)) for names, reasons in groups(takers(model))
    ]
    page.usage = snippet(compiled.graph, file)


# ------------------------------------------------------------------------- inputs, outputs, weights


def interface_of(graph: Graph, boundary: Boundary) -> Interface:
    """Return what a model takes and gives."""
    inputs = [value.type for value in graph.inputs]
    outputs = [value.type for value in graph.outputs]
    return Interface(
        inputs=_tensor_rows(
            graph.input_names, inputs, boundary.types, boundary.inputs_as_nchw
        ),
        outputs=_tensor_rows(
            graph.output_names, outputs, boundary.out_types, boundary.outputs_as_nchw
        ),
        symbols=symbols_of(graph),
        constraints=list(graph.dims.constraints),
    )


def _tensor_rows(
    names: Sequence[str],
    types: Sequence[Type],
    of_function: Sequence[Type],
    as_nchw: Sequence[int],
) -> list[TensorRow]:
    rows: list[TensorRow] = []
    for i, (name, type) in enumerate(zip(names, types, strict=True)):
        is_same = i < len(of_function) and of_function[i] == type
        remark = "" if is_same else f"{of_function[i]} in JAX"
        if i in as_nchw:
            remark = f"NCHW, {remark} (NHWC)"
        shape = [str(size) for size in type.shape]
        rows.append(TensorRow(name, type.dtype.numpy.name, shape, remark))
    return rows


def _weight_rows(weights: Mapping[str, Tensor]) -> list[WeightRow]:
    """The weights, largest first."""
    rows: list[WeightRow] = []
    for name, tensor in weights.items():
        dtype = tensor.dtype.numpy.name
        rows.append(WeightRow(name, dtype, list(tensor.shape), tensor.nbytes))
    return sorted(rows, key=lambda row: -row.nbytes)


# ------------------------------------------------------------------------------------ passes


def _passes(report: Report, compiled: Compiled, sources: bool) -> Passes:
    """What each pass did, with the texts of a second compile."""
    pipeline = compiled.recipe.request.pipeline
    recorder = Recorder(sources)
    try:
        graph, records = compile_again(compiled.recipe, recorder)
    # of the function itself, whatever it raises
    except Exception as error:
        told = str(error) if isinstance(error, J2OError) else raised(error)
        why = f"The function could not be compiled a second time: {told.rstrip('.')}."
        why = portable_lines(why, sources=sources)
        rows = _pass_rows(report.passes, pipeline, [])
        return Passes(rows, why_no_texts=why)
    if not recorder.texts.is_whole:
        rows = _pass_rows(report.passes, pipeline, [])
        return Passes(rows, why_no_texts=TOO_LONG)
    steps = steps_of_records(pipeline, records, recorder.texts)
    rows = _pass_rows(report.passes, pipeline, steps)
    warning = "" if _is_same(graph, compiled.graph) else OTHER_GRAPH
    return Passes(rows, recorder.texts, warning=warning)


def _is_same(graph: Graph, other: Graph) -> bool:
    return str(graph) == str(other)


def steps_of_records(
    pipeline: PassPipeline, records: Sequence[PassRecord], texts: Texts
) -> list[list[int]]:
    """Return for each record the steps that its pass made.

    The runs of a group follow each other, so that their number tells where the next group begins.
    """
    found: list[list[int]] = []
    run = 0
    for step in pipeline.steps:
        names = _names_in(step)
        group = records[len(found) : len(found) + len(names)]
        steps: dict[str, list[int]] = {name: [] for name in names}
        for _ in range(sum(record.runs for record in group)):
            number = texts.step_of_run[run]
            if number >= 0:
                steps[texts.runs[run]].append(number)
            run += 1
        found += [steps[name] for name in names]
    return found


def _names_in(step: object) -> list[str]:
    """The names of the passes of a group, or of a pass alone."""
    passes = step.passes if isinstance(step, Fixpoint) else (step,)
    return [getattr(one, "name", "") for one in passes]


def _pass_rows(
    records: Sequence[PassRecord],
    pipeline: PassPipeline | None,
    steps: Sequence[Sequence[int]],
) -> list[PassRow]:
    """A row for each record; documentation and groups come from the pipeline where it is known."""
    docs: list[str] = []
    groups: list[str] = []
    rules: dict[str, str] = {}
    for step in () if pipeline is None else pipeline.steps:
        is_group = isinstance(step, Fixpoint)
        for one in step.passes if is_group else (step,):
            docs.append(one.doc)
            groups.append(step.name if is_group else "")
            rules |= {rule.name: rule.doc for rule in getattr(one, "rules", ())}
    rows: list[PassRow] = []
    for i, record in enumerate(records):
        rows.append(
            PassRow(
                name=record.name,
                group=groups[i] if groups else "",
                doc=docs[i] if docs else "",
                changes=record.changes,
                seconds=record.seconds,
                runs=record.runs,
                nodes_before=record.nodes_before,
                nodes_after=record.nodes_after,
                left_out=record.left_out,
                rules=_rule_rows(record, rules),
                steps=list(steps[i]) if steps else [],
            )
        )
    return rows


def _rule_rows(record: PassRecord, docs: Mapping[str, str]) -> list[RuleRow]:
    """A row for each rule that matched, those that fired most first."""
    rows: list[RuleRow] = []
    for name in sorted({*record.rules, *record.declined}):
        reasons = sorted(record.declined.get(name, {}).items())
        fired = record.rules.get(name, 0)
        rows.append(RuleRow(name, docs.get(name, ""), fired, reasons))
    return sorted(rows, key=lambda row: -row.fired)
