"""`check="numeric"`: after every pass a copy of the graph is finished in the shortest way, run, and compared.

The copy also gives every value of the root graph, so that the message can name the first one that
has changed.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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
        outputs, values, places = self.evaluate(graph)
        if self.outputs and name != INEXACT:
            pairs = zip(graph.output_names, self.outputs, outputs, strict=True)
            changed = [n for n, before, after in pairs if not _close(before, after)]
            if changed:
                culprit = self.first_changed(values)
                where = f", first in {places[culprit]}" if culprit else ""
                what = f"output {changed[0]!r}{where}"
                raise InvalidGraphError(
                    f"pass {name} changes what the model computes: {what}"
                )
        self.outputs = outputs
        self.values = values

    def first_changed(self, values: dict[str, np.ndarray]) -> str | None:
        """The name of the first value that is another than before the pass; None where all are the same."""
        for name, value in values.items():
            if name in self.values and not _close(self.values[name], value):
                return name
        return None

    def evaluate(
        self, graph: Graph
    ) -> tuple[list[np.ndarray], dict[str, np.ndarray], dict[str, str]]:
        """The outputs.

        The values of the root graph by name and type, where these tell them apart; where these come
        from.
        """
        copy = graph.clone()
        made: list[Value] = []
        for node in copy:
            if node.op not in ("const", "dims", "return"):
                made += [v for v in node.outputs if v.type.dtype != DType.STRING]
        count = len(copy.outputs)
        copy.set_outputs([*copy.outputs, *made])
        copy.output_names = [f"output_{i}" for i in range(count + len(made))]
        keys = [f"%{v.hint}: {v.type}" for v in made]
        places = [_place(v) for v in made]
        run(FINISH, copy, self.context)
        for name, value in zip(copy.input_names, copy.inputs, strict=True):
            if name not in self.feeds:
                self.feeds[name] = random_array(value.type, self.sizes, len(self.feeds))
        assert self.context.target is not None
        proto = to_proto(copy, self.context.target.opset)
        arrays = Session(proto, optimise=False).run(self.feeds)
        values: dict[str, np.ndarray] = {}
        place_of: dict[str, str] = {}
        occurrences = Counter(keys)
        for key, array, place in zip(keys, arrays[count:], places, strict=True):
            if occurrences[key] == 1:
                values[key] = array
                place_of[key] = place
        return arrays[:count], values, place_of


def _place(value: Value) -> str:
    line = f" at {value.node.loc}" if value.node is not None and value.node.loc else ""
    return f"%{value.hint} of {value.op}{line}"


def symbols_of(graph: Graph) -> list[str]:
    """The symbolic sizes of the inputs, sorted."""
    shapes = [value.type.shape for value in graph.inputs]
    return sorted({s for shape in shapes for d in shape for s in dims.symbols(d)})


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
            if all(
                dims.evaluate(d, sizes) >= 0 for v in graph.inputs for d in v.type.shape
            ):
                return sizes
    raise DimensionError("check: found no sizes that fit the constraints")


def random_array(type: Type, sizes: Mapping[str, int], seed: int) -> np.ndarray:
    """Normal floats and integers from 0 to 2, the same for the same seed."""
    rng = np.random.default_rng(seed)
    shape = tuple(dims.evaluate(d, sizes) for d in type.shape)
    array: Any = (
        rng.normal(size=shape) if type.dtype.is_float else rng.integers(0, 3, shape)
    )
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
