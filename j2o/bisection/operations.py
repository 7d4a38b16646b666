"""Single operations on arrays: by JAX, by onnxruntime, or as an operation is lowered."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from j2o.backend.single import SingleOperators
from j2o.errors import LoadError
from j2o.frontend.eager import run_equation
from j2o.ir.copies import clone_node
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import Tensor
from j2o.ir.types import exact_attrs
from j2o.passes.clean.dce import dce
from j2o.passes.components.split import components
from j2o.passes.context import Context
from j2o.passes.lower import lower_graph
from j2o.passes.pipeline import PassPipeline
from j2o.passes.runner import run
from j2o.passes.structure.functions import functions
from j2o.passes.structure.inline import inline
from j2o.passes.target.legalize import legalize
from j2o.values import to_graph, to_jax

RunGraph: TypeAlias = "Callable[[Operations, Graph, Sequence[Any]], list[np.ndarray]]"
LOWER = PassPipeline((inline, components, functions, lower_graph, dce))
LEGALIZE = PassPipeline((legalize,))


class Operations:
    """Runs nodes without regions, and nodes that JAX or a lowering makes something of as a whole.

    `context` is what nodes are lowered with. `unknown` has the operations that JAX could not run by
    themselves, with the reason: they are run as they are lowered, so what their rules do wrong stays
    hidden.
    """

    def __init__(
        self, sizes: Mapping[str, int], context: Context, run_graph: RunGraph
    ) -> None:
        self.sizes = sizes
        self.run_graph = run_graph
        self.context = context
        assert context.target is not None
        self.single = SingleOperators(context.target.opset)
        self.forms: dict[Hashable, Graph] = {}
        self.constants: dict[Tensor, np.ndarray] = {}
        self.unknown: dict[str, str] = {}

    def run(self, node: Node, operands: Sequence[Any], equation: Any) -> list[Any]:
        """The results of a node. `equation` is JAX's, where it stands for one; J2OError where it fails."""
        if node.dialect == "lax":
            return self.of_jax(node, operands, equation)
        plain: list[Any] = list(operands)
        try:
            return self.single.run(node, plain)
        except LoadError:
            return self.legalized(node, plain)

    # ------------------------------------------------------------------------ JAX

    def of_jax(self, node: Node, operands: Sequence[Any], equation: Any) -> list[Any]:
        """The results of a `lax` node."""
        if not node.outputs:
            return []
        if equation is not None:
            try:
                results = run_equation(equation, operands, self.sizes)
                return [_as_kept(y) for y in results]
            except Exception as error:
                self.unknown[node.described] = one_line(error)
        results = self.lowered(node, operands)
        values = zip(results, node.outputs, strict=True)
        return [_as_kept(to_jax(y, value.type)) for y, value in values]

    def stacked_keys(self, keys: Sequence[Any]) -> Any:
        """Typed keys as one array."""
        return jnp.stack(list(keys))

    def constant(self, node: Node, cached: bool) -> np.ndarray:
        """The array of a constant; `cached` where it is needed again and again."""
        tensor: Any = node.attrs["value"]
        if not cached:
            return tensor.load()
        if tensor not in self.constants:
            self.constants[tensor] = tensor.load()
        return self.constants[tensor]

    # ------------------------------------------------------------------------ lowered

    def lowered(self, node: Node, operands: Sequence[Any]) -> list[np.ndarray]:
        """The results of a `lax` node as it is lowered by itself, as the graph has them."""
        form = self.form(LOWER, node)
        return self.evaluated(form, node, [to_graph(x) for x in operands])

    def legalized(self, node: Node, operands: Sequence[Any]) -> list[np.ndarray]:
        """The results of an operator that needs casts to run; LoadError where casts are no help."""
        form = self.form(LEGALIZE, node)
        if any(inner.op == node.op and _runs_alike(inner, node) for inner in form):
            raise LoadError("onnxruntime has no such kernel")
        return self.evaluated(form, node, operands)

    def form(self, pipeline: PassPipeline, node: Node) -> Graph:
        """What a pipeline makes of a node by itself; made once for nodes that are alike."""
        key: Hashable = (pipeline.names()[0], *_likeness(node))
        if node.graphs or key not in self.forms:
            form = alone(node)
            run(pipeline, form, self.context)
            self.forms[key] = form
        return self.forms[key]

    def evaluated(
        self, form: Graph, node: Node, operands: Sequence[Any]
    ) -> list[np.ndarray]:
        """The results of what a node became, for operands as the graph has them."""
        arrays = dict(zip(node.inputs, operands, strict=True))
        taken = [arrays[value] for value in inputs_of(node)]
        return self.run_graph(self, form, taken)


def _runs_alike(one: Node, other: Node) -> bool:
    """Return True for nodes with operands and results of the same dtypes."""
    ours = [value.type.dtype for value in (*one.operands, *one.outputs)]
    theirs = [value.type.dtype for value in (*other.operands, *other.outputs)]
    return ours == theirs


def _as_kept(array: Any) -> Any:
    """An array of JAX's as numpy has it; typed keys stay as they are."""
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        return array
    return np.asarray(array)


def _likeness(node: Node) -> tuple[Hashable, ...]:
    """What two nodes have in common that become the same."""
    operands = [_operand_likeness(value) for value in node.inputs]
    first = [node.inputs.index(value) for value in node.inputs]
    results = tuple([value.type for value in node.outputs])
    return (node.op, exact_attrs(node.attrs), tuple(operands), tuple(first), results)


def _operand_likeness(value: Value | None) -> Hashable:
    if value is None:
        return None
    known = value.producer.attrs if is_known(value) else {}
    return (value.type, exact_attrs(known))


def is_known(value: Value) -> bool:
    """Return True for a constant or a vector of sizes, which rules look into."""
    return value.op in ("const", "dims")


def inputs_of(node: Node) -> list[Value]:
    """The operands of a node that are inputs of the graph that has nothing else, each once."""
    return [value for value in dict.fromkeys(node.operands) if not is_known(value)]


def alone(node: Node) -> Graph:
    """A root graph of a copy of one node, whose operands are its inputs, or constants as they were."""
    graph = Graph("alone", node.home.dims)
    values: dict[Value, Value] = {}
    for value in dict.fromkeys(node.operands):
        if is_known(value):
            graph.insert(clone_node(value.producer, values))
        else:
            values[value] = graph.add_input(value.type, value.hint)
    copy = graph.insert(clone_node(node, values))
    graph.set_outputs(copy.outputs)
    graph.input_names = [f"input_{i}" for i in range(len(graph.inputs))]
    graph.output_names = [f"output_{i}" for i in range(len(graph.outputs))]
    return graph


def one_line(error: BaseException) -> str:
    """The message of an error, not too long."""
    return " ".join(str(error).split())[:200]
