"""`check="numeric"`: after every pass a copy of the graph is finished in the shortest way, run, and compared.

The copy also gives every value of the root graph, so that the message can name the first one that
has changed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from j2o.backend import kernels
from j2o.backend.proto import to_proto
from j2o.backend.session import Session
from j2o.errors import DimensionError, InvalidGraphError
from j2o.frontend.retrace import Retracer
from j2o.ir import dims
from j2o.ir.graph import Graph, Value
from j2o.ir.sizes import check_constraints
from j2o.ir.target import Target
from j2o.ir.types import DType, Type
from j2o.passes.clean.dce import dce
from j2o.passes.components.split import components
from j2o.passes.context import Context, Retrace
from j2o.passes.lower import lower_graph
from j2o.passes.pipeline import PassPipeline
from j2o.passes.runner import run
from j2o.passes.structure.functions import functions
from j2o.passes.structure.inline import inline
from j2o.passes.target.checks import checks
from j2o.passes.target.legalize import legalize
from j2o.passes.target.materialize import materialize

INEXACT = "weights_dtype"  # the pass that is asked to change values
FINISH = PassPipeline(
    (inline, components, functions, lower_graph, dce, materialize, checks, legalize)
)


def run_graph(graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """What a graph computes in onnxruntime, such as one that `parse` has read.

    A copy of it is finished in the shortest way, and run. `feeds` has an array for each input, by name; the
    result has the outputs in order.
    """
    copy = graph.clone()
    target = kernels.target()
    run(FINISH, copy, Context(target, Retracer(), 0))
    return Session(to_proto(copy, target.opset), optimise=False).run(feeds)


class Evaluation(NamedTuple):
    """What a graph gave for some inputs.

    `values` are those of the root graph by name and type, where these tell them apart; `places` says of each
    where it comes from.
    """

    outputs: list[np.ndarray]
    values: dict[str, np.ndarray]
    places: dict[str, str]


class NumericCheck:
    """An observer of passes that runs the graph after each of them.

    InvalidGraphError names the first pass whose graph computes something else, the value and its line.
    Inputs are random, with the smallest sizes from 3 up that the constraints allow. What differs by
    more than a few hundred units in the last place of its dtype, relative to the largest element,
    counts as something else.
    """

    def __init__(self, graph: Graph, target: Target, retrace: Retrace) -> None:
        self.context = Context(target, retrace, 0)
        self.sizes = sizes_that_fit(graph)
        self.feeds: dict[str, np.ndarray] = {}
        self.outputs: list[np.ndarray] = []
        self.values: dict[str, np.ndarray] = {}
        self("the program", graph)

    def __call__(self, name: str, graph: Graph) -> None:
        found = self.evaluate(graph)
        if self.outputs and name != INEXACT:
            self.compare(name, graph.output_names, found)
        self.outputs = found.outputs
        self.values = found.values

    def compare(
        self, name: str, output_names: Sequence[str], found: Evaluation
    ) -> None:
        """Raise InvalidGraphError where a pass has changed an output."""
        pairs = zip(output_names, self.outputs, found.outputs, strict=True)
        changed = [n for n, before, after in pairs if not _close(before, after)]
        if not changed:
            return
        culprit = self.first_changed(found.values)
        where = f", first in {found.places[culprit]}" if culprit else ""
        what = f"output {changed[0]!r}{where}"
        raise InvalidGraphError(f"pass {name} changes what the model computes: {what}")

    def first_changed(self, values: dict[str, np.ndarray]) -> str | None:
        """The name of the first value that is another than before the pass; None where all are the same."""
        for name, value in values.items():
            if name in self.values and not _close(self.values[name], value):
                return name
        return None

    def evaluate(self, graph: Graph) -> Evaluation:
        """Run a copy of a graph that gives every value of the root graph, too."""
        copy = graph.clone()
        inner = _inner_values(copy)
        count = len(copy.outputs)
        copy.set_outputs([*copy.outputs, *inner])
        copy.output_names = [f"output_{i}" for i in range(count + len(inner))]
        # before the passes that finish the copy rename and replace these values
        keys = [f"%{v.hint}: {v.type}" for v in inner]
        places = [_place(v) for v in inner]
        arrays = self._run(copy)
        evaluation = Evaluation(arrays[:count], {}, {})
        occurrences = Counter(keys)
        for key, array, place in zip(keys, arrays[count:], places, strict=True):
            if occurrences[key] == 1:
                evaluation.values[key] = array
                evaluation.places[key] = place
        return evaluation

    def _run(self, graph: Graph) -> list[np.ndarray]:
        """Finish a graph, and run it on random inputs: the same for each graph."""
        run(FINISH, graph, self.context)
        for name, value in zip(graph.input_names, graph.inputs, strict=True):
            if name not in self.feeds:
                self.feeds[name] = random_array(value.type, self.sizes, len(self.feeds))
        assert self.context.target is not None
        proto = to_proto(graph, self.context.target.opset)
        return Session(proto, optimise=False).run(self.feeds)


def _inner_values(graph: Graph) -> list[Value]:
    """What the nodes of a graph compute, but strings, which are not compared."""
    values: list[Value] = []
    for node in graph:
        if node.op not in ("const", "dims", "return"):
            values += [v for v in node.outputs if v.type.dtype != DType.STRING]
    return values


def _place(value: Value) -> str:
    line = f" at {value.node.loc}" if value.node is not None and value.node.loc else ""
    return f"%{value.hint} of {value.op}{line}"


def symbols_of(graph: Graph) -> list[str]:
    """The symbolic sizes of the inputs, sorted."""
    found: set[str] = set()
    for value in graph.inputs:
        for dim in value.type.shape:
            found.update(dims.symbols(dim))
    return sorted(found)


def sizes_that_fit(
    graph: Graph, given: Mapping[str, int] = MappingProxyType({})
) -> dict[str, int]:
    """Sizes for all symbols of the inputs, those given among them.

    DimensionError where none of those tried fits the constraints.
    """
    names = symbols_of(graph)
    for base in itertools.chain(range(3, 20), (24, 32, 48, 64, 96, 128, 256, 512)):
        for step in (1, 0):
            sizes = {name: base + step * i for i, name in enumerate(names)}
            sizes.update(given)
            try:
                check_constraints(graph.dims.constraints, sizes)
            except DimensionError:
                continue
            if _has_no_negative_size(graph, sizes):
                return sizes
    raise DimensionError("check: found no sizes that fit the constraints")


def _has_no_negative_size(graph: Graph, sizes: Mapping[str, int]) -> bool:
    """Return True where all axes of the inputs have 0 elements or more."""
    for value in graph.inputs:
        for dim in value.type.shape:
            if dims.evaluate(dim, sizes) < 0:
                return False
    return True


def random_array(type: Type, sizes: Mapping[str, int], seed: int) -> np.ndarray:
    """Normal floats and integers from 0 to 2, the same for the same seed."""
    rng = np.random.default_rng(seed)
    shape = tuple(dims.evaluate(d, sizes) for d in type.shape)
    array: Any
    if type.dtype.is_float:
        array = rng.normal(size=shape)
    else:
        array = rng.integers(0, 3, shape)
    return np.asarray(array).astype(type.dtype.numpy)


def _close(a: np.ndarray, b: np.ndarray) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    # integers of 2 and 4 bits are no kind of numpy's
    if a.dtype.kind in "biu" or "int" in a.dtype.name:
        return bool((a == b).all())
    eps = {2: 1e-3, 4: 1e-7, 8: 2e-16}.get(a.dtype.itemsize, 0.1)
    x = a.astype(np.float64)
    y = b.astype(np.float64)
    scale = np.max(np.abs(x), initial=1, where=np.isfinite(x))
    rtol = 1000 * eps
    atol = 300 * eps * scale
    return bool(np.allclose(x, y, rtol=rtol, atol=atol, equal_nan=True))
