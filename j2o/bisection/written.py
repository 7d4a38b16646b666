"""The written model: whether onnxruntime computes of it what its graph says."""

from __future__ import annotations

from j2o.backend.proto import to_proto
from j2o.backend.session import Session
from j2o.bisection.case import Case
from j2o.bisection.measure import measured
from j2o.bisection.result import Fault, made, place_of
from j2o.errors import J2OError
from j2o.ir.graph import Graph, Value
from j2o.ir.types import DType

# of onnxruntime's optimiser, each with the former
LEVELS = ("basic", "extended", "all")


def optimiser_fault(case: Case) -> Fault:
    """The level of onnxruntime's optimiser from which on the model is wrong."""
    hint = "without its optimiser the model gives what JAX gives"
    for level in LEVELS:
        if not _agrees_at(case, level):
            hint += f"; it goes wrong from the level {level!r} on"
            break
    return Fault(
        "onnxruntime", hint=f"{hint} (SessionOptions.graph_optimization_level)"
    )


def _agrees_at(case: Case, level: str) -> bool:
    proto = to_proto(case.model.graph, case.model.opset)
    try:
        return case.agrees(case.run(Session(proto, level=level)))
    except J2OError:
        return False


def writing_fault(case: Case) -> Fault:
    """The first node of the written model that gives something else than its operator does."""
    graph = case.model.graph.clone()
    shown = [value for value in _values(graph) if value.type.dtype != DType.STRING]
    names = [f"value_{i}" for i in range(len(shown))]
    graph.set_outputs(shown)
    graph.output_names = names
    told = [made(value) for value in shown]
    try:
        proto = to_proto(graph, case.model.opset)
        given = case.run(Session(proto, optimise=False))
    except J2OError as error:
        return Fault("writing", error=str(error))
    expected = case.outputs(graph, {})
    for one, actual, wanted in zip(told, given, expected, strict=True):
        close, difference = measured(actual, wanted, case.tolerance, inside=True)
        if not close:
            return Fault("writing", one, difference=difference, place=place_of(one))
    return Fault("writing", hint="no value outside of regions differs")


def _values(graph: Graph) -> list[Value]:
    """The values of the nodes of a graph, in order."""
    found: list[Value] = []
    for node in graph:
        if node.op not in ("const", "return"):
            found += node.outputs
    return found
