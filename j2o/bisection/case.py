"""What is compared: a program, its model, and what JAX gives for certain inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from j2o.api import TracedProgram, lifted, optimise
from j2o.backend.session import Session
from j2o.bisection.evaluate import Array, Evaluator, Watch, keep, operations_at
from j2o.bisection.measure import Tolerance, measured
from j2o.bisection.operations import Operations
from j2o.bisection.result import OutputGap
from j2o.frontend.retrace import Retracer
from j2o.ir.graph import Graph, Node
from j2o.model import Model
from j2o.nchw import to_nchw
from j2o.passes.context import Context
from j2o.passes.lower import has_rule
from j2o.passes.pipeline import PassPipeline
from j2o.report import Report
from j2o.request import Request, installed_target
from j2o.values import to_graph, to_jax


@dataclass(frozen=True)
class Lifted:
    """A fresh lifted graph, and the equation that each of its nodes stands for."""

    graph: Graph
    equations: Mapping[Node, Any]
    run: Callable[[PassPipeline], None]  # runs a pipeline on the graph, in place


@dataclass(frozen=True)
class Case:
    """A program compiled for inputs: `feeds` in their order, as the model takes them.

    `wanted` is what the function gives in JAX, as the model should give it. `rounding` is how far that
    alone may move each output, where it is known. The program can be lifted and compiled again, as
    often as is needed.
    """

    request: Request
    program: TracedProgram
    model: Model
    feeds: Sequence[np.ndarray]
    wanted: Sequence[np.ndarray]
    tolerance: Tolerance
    operations: Operations
    rounding: tuple[float, ...] = ()

    def lift(self) -> Lifted:
        """The lifted graph once more."""
        report = Report()
        equations: dict[Node, Any] = {}
        graph, boundary = lifted(self.program, self.request, report, equations)

        def run(pipeline: PassPipeline) -> None:
            request = replace(self.request, pipeline=pipeline, verify=False)
            optimise(graph, boundary, request, report)

        return Lifted(graph, equations, run)

    def outputs(
        self, graph: Graph, equations: Mapping[Node, Any], watch: Watch = keep
    ) -> list[np.ndarray]:
        """What a graph of any stage gives for the inputs, each node run by itself; NodeError."""
        evaluator = Evaluator(self.operations, equations, watch)
        return list(map(to_graph, evaluator.run(graph, self.operands(graph))))

    def operands(self, graph: Graph) -> list[Array]:
        """The inputs as a graph takes them: before `components` as JAX has them."""
        made: list[Array] = []
        for value, array in zip(graph.inputs, self.feeds, strict=True):
            dtype = value.type.dtype
            is_split = not dtype.is_key and not dtype.is_complex
            found = array if is_split else to_jax(array, value.type)
            made.append(np.asarray(found) if dtype.is_complex else found)
        return made

    def gaps(self, outputs: Sequence[np.ndarray]) -> list[OutputGap]:
        """How far outputs are from JAX's."""
        rows = zip(self.model.output_names, outputs, self.wanted, strict=True)
        found = []
        for name, actual, expected in rows:
            close, difference = measured(actual, expected, self.tolerance)
            found.append(OutputGap(name, close, difference))
        return found

    def agrees(self, outputs: Sequence[np.ndarray]) -> bool:
        """Return True where no output differs from JAX's by more than rounding does."""
        allowed = self.rounding or (0.0,) * len(outputs)
        rtol, atol = self.tolerance
        rows = zip(outputs, self.wanted, allowed, strict=True)
        for actual, expected, moves in rows:
            tolerance = Tolerance(rtol, atol + moves)
            if not measured(actual, expected, tolerance).close:
                return False
        return True

    def run(self, session: Session) -> list[np.ndarray]:
        """What a session of the model gives for the inputs."""
        feeds = dict(zip(self.model.input_names, self.feeds, strict=True))
        return list(session.run(feeds))


def case_of(
    request: Request,
    program: TracedProgram,
    model: Model,
    leaves: Sequence[Any],
    sizes: Mapping[str, int],
    tolerance: Tolerance,
) -> Case:
    """Everything that is compared at these inputs, which are as JAX has them."""
    boundary = model._boundary
    arrays = [to_graph(leaf) for leaf in leaves]
    for i in boundary.inputs_as_nchw:
        arrays[i] = to_nchw(arrays[i])
    wanted = [to_graph(y) for y in model._in_jax(leaves)]
    jax.effects_barrier()  # what the function prints comes before what is told
    for i in boundary.outputs_as_nchw:
        wanted[i] = to_nchw(wanted[i])
    target = installed_target(request.target)
    context = Context(target, Retracer(has_rule), 0)
    operations = operations_at(sizes, context)
    return Case(request, program, model, arrays, wanted, tolerance, operations)
