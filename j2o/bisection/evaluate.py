"""The values of a graph at any stage: every node is run by itself, in regions and functions too.

A `lax` node that stands for an equation of JAX is run by JAX, another one as it is lowered. An ONNX
operator is run in onnxruntime, in a model of one node, without its optimisations. Control flow is
walked here. So each value of each round of a loop is known, and none of the compiler's passes has a
say in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from j2o.bisection.operations import Operations
from j2o.errors import J2OError
from j2o.ir import dims
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.marks import MARK
from j2o.ir.places import portable
from j2o.ir.types import Dim
from j2o.passes.context import Context
from j2o.passes.structure.inline import CALLS, is_marked, our_platform

PROBE = "probe.value"  # a node that has an operand, and does nothing
# an array as numpy has it; of typed keys as JAX has it
Array: TypeAlias = Any


class Entered(NamedTuple):
    """One step into a region or function: the node that holds or calls it, and in words what runs."""

    holder: Node
    part: str

    def __str__(self) -> str:
        name = self.holder.kind
        loc = self.holder.loc
        line = f" at {portable(loc.file)}:{loc.line}" if loc else ""
        return f"{self.part} of {name}{line}"


Path: TypeAlias = tuple[Entered, ...]
Watch: TypeAlias = Callable[[Value, Path, Array], Array]


class NodeError(J2OError):
    """A node cannot be run with its operands."""

    def __init__(self, node: Node, path: Path, message: str) -> None:
        super().__init__(f"{node.described}: {message}")
        self.node = node
        self.path = path
        self.message = message


def keep(value: Value, path: Path, array: Array) -> Array:
    """Watch nothing."""
    return array


class Evaluator:
    """Runs graphs at given sizes.

    `watch(value, path, array)` is called for every value once it is known, and gives the array that
    goes on in its place. A value is forgotten after its last use.
    """

    def __init__(
        self,
        operations: Operations,
        equations: Mapping[Node, Any],
        watch: Watch = keep,
    ) -> None:
        self.operations = operations
        self.sizes = operations.sizes
        self.equations = equations
        self.watch = watch
        self.path: Path = ()
        self.known: dict[Value, Array] = {}
        self.last_uses: dict[Graph, dict[Node, list[Value]]] = {}
        self.root: Graph | None = None

    def run(self, graph: Graph, operands: Sequence[Array]) -> list[Array]:
        """The outputs of a root graph; NodeError where a node cannot be run."""
        self.root = graph
        return self.graph(graph, operands)

    def inside(
        self, region: Graph, operands: Sequence[Array], holder: Node, part: str
    ) -> list[Array]:
        """The results of a region or function."""
        before = self.path
        self.path = (*before, Entered(holder, part))
        results = self.graph(region, operands)
        self.path = before
        return results

    def graph(self, graph: Graph, operands: Sequence[Array]) -> list[Array]:
        """The results of a graph, the values around it being known."""
        for value, array in zip(graph.inputs, operands, strict=True):
            self.known[value] = self.watch(value, self.path, array)
        if graph not in self.last_uses:
            self.last_uses[graph] = last_uses(graph)
        dying = self.last_uses[graph]
        results: list[Array] = []
        for node in graph:
            arrays = [None if v is None else self.known[v] for v in node.inputs]
            if node.op == "return":
                results = arrays
            else:
                self.take(node, self.node(node, arrays))
            for value in dying.get(node, ()):
                del self.known[value]
        return results

    def take(self, node: Node, results: Sequence[Array]) -> None:
        """Keep the results of a node."""
        for value, array in zip(node.outputs, results, strict=True):
            self.known[value] = self.watch(value, self.path, array)

    def node(self, node: Node, operands: list[Array]) -> Sequence[Array]:
        """The results of a node."""
        walk = WALKS.get(node.op)
        if walk is None and node.op in CALLS and node.graphs:
            walk = _call_of_jax
        if walk is not None:
            return walk(self, node, operands)
        if node.graphs and node.op.startswith("onnx."):
            raise NodeError(node, self.path, "its regions cannot be walked")
        try:
            return self.operations.run(node, operands, self.equations.get(node))
        except NodeError as error:
            # of a node that this one is lowered to
            raise NodeError(node, self.path, str(error)) from error
        except J2OError as error:
            raise NodeError(node, self.path, str(error)) from error


def last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For the nodes of a graph the values that nobody uses after them, regions included."""
    last: dict[Value, Node] = {}
    for node in graph:
        for value in node.outputs:
            last[value] = node
        for value in node.used_values():
            if value.graph is graph:
                last[value] = node
    dying: dict[Node, list[Value]] = {}
    for value, node in last.items():
        dying.setdefault(node, []).append(value)
    return dying


def stacked(
    rows: Sequence[Array], value: Value, sizes: Mapping[str, int], axis: int = 0
) -> Array:
    """Rows as one array; of no rows an empty one of the value's type."""
    if rows:
        return np.stack(rows, axis)
    shape = list(at(value.type.shape, sizes))
    shape[axis] = 0
    return np.zeros(shape, value.type.dtype.numpy)


def at(shape: Sequence[Dim], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """A shape with numbers for its symbols."""
    return tuple([dims.evaluate(size, sizes) for size in shape])


# ------------------------------------------------------------------------- the core's own


def _const(run: Evaluator, node: Node, _: list[Array]) -> list[Array]:
    """The data of a constant."""
    return [run.operations.constant(node, cached=bool(run.path))]


def _dims(run: Evaluator, node: Node, _: list[Array]) -> list[Array]:
    """The sizes, as numbers."""
    entries: Any = node.attrs["dims"]
    return [np.array(at(entries, run.sizes), np.int64)]


def _call(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """The results of the function, which is walked through."""
    name = node.str_attr("function")
    assert run.root is not None
    return run.inside(run.root.functions[name], operands, node, f"function @{name}")


def _check(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """The values behind the flag, as they are."""
    return operands[1:] if node.outputs else []


# ------------------------------------------------------------------------ JAX's control flow


def _call_of_jax(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """The results of the body; a call that users marked is told as a function."""
    body = node.graphs[0]
    taken = operands[len(operands) - len(body.inputs) :]
    if is_marked(node):
        name = node.str_attr("name").removeprefix(MARK)
        return run.inside(body, taken, node, f"function @{name}")
    return run.graph(body, taken)  # it is put in place of the call


def _scan_of_jax(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """`body(consts, carry, x) -> (carry, y)`, round by round."""
    attrs: Any = node.attrs
    length = dims.evaluate(attrs["length"], run.sizes)
    first = attrs.get("num_consts", 0)
    last = first + attrs.get("num_carry", 0)
    consts, carry, xs = operands[:first], operands[first:last], operands[last:]
    rows: list[list[Array]] = [[] for _ in node.outputs[len(carry) :]]
    backwards = attrs.get("reverse", False)
    for i in range(length):
        place = length - 1 - i if backwards else i
        here = [x[place] for x in xs]
        results = run.inside(
            node.graphs[0], [*consts, *carry, *here], node, f"round {i}"
        )
        carry = results[: len(carry)]
        for row, y in zip(rows, results[len(carry) :], strict=True):
            row.append(y)
    return [*carry, *_stacks(run, node, rows, backwards)]


def _stacks(
    run: Evaluator, node: Node, rows: list[list[Array]], backwards: bool
) -> list[Array]:
    """What a scan stacks, its last results."""
    first = len(node.outputs) - len(rows)
    made = []
    for value, one in zip(node.outputs[first:], rows, strict=True):
        ordered = one[::-1] if backwards else one
        if value.type.dtype.is_key:
            made.append(run.operations.stacked_keys(ordered))
        else:
            made.append(stacked(ordered, value, run.sizes))
    return made


def _while_of_jax(run: Evaluator, node: Node, operands: list[Array]) -> Sequence[Array]:
    """`body` on the state as long as `cond` holds of it."""
    cond, body = node.graphs
    if cond.outputs[0].type.rank:  # a predicate for each row, as vmap makes it
        return run.operations.run(node, operands, run.equations.get(node))
    attrs: Any = node.attrs
    middle = attrs.get("cond_nconsts", 0)
    last = middle + attrs.get("body_nconsts", 0)
    of_cond, of_body = operands[:middle], operands[middle:last]
    state = operands[last:]
    for i in _rounds():
        (goes_on,) = run.inside(
            cond, [*of_cond, *state], node, f"the condition of round {i}"
        )
        if not goes_on:
            break
        state = run.inside(body, [*of_body, *state], node, f"round {i}")
    return state


def _rounds() -> Iterator[int]:
    """0, 1, 2, … without end."""
    i = 0
    while True:
        yield i
        i += 1


def _cond_of_jax(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """The branch at the index, which is clamped."""
    platforms: Any = node.attrs.get("branches_platforms")
    chosen = our_platform(platforms) if platforms else int(operands[0])
    chosen = min(max(chosen, 0), len(node.graphs) - 1)
    return run.inside(node.graphs[chosen], operands[1:], node, f"branch {chosen}")


# ----------------------------------------------------------------------- ONNX's control flow


def _if(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """The results of the branch that the condition chooses."""
    holds = bool(np.asarray(operands[0]).reshape(()))
    region = node.graphs[0 if holds else 1]
    part = "the then_branch" if holds else "the else_branch"
    return run.inside(region, (), node, part)


def _loop(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """`body(step, go_on, state) -> (go_on, state, row)`."""
    most, going, *state = operands
    limit = None if most is None else int(np.asarray(most).reshape(()))
    goes_on = going is None or bool(np.asarray(going).reshape(()))
    rows: list[list[Array]] = [[] for _ in node.outputs[len(state) :]]
    for i in _rounds():
        if not goes_on or (limit is not None and i >= limit):
            break
        step = np.array(i, np.int64)
        given = [step, np.array(goes_on), *state]
        flag, *results = run.inside(node.graphs[0], given, node, f"round {i}")
        goes_on = bool(np.asarray(flag).reshape(()))
        state = results[: len(state)]
        for row, y in zip(rows, results[len(state) :], strict=True):
            row.append(y)
    return [*state, *_stacks(run, node, rows, False)]


def _scan(run: Evaluator, node: Node, operands: list[Array]) -> list[Array]:
    """`body(state, x) -> (state, y)`, along the axes and directions that the attributes say."""
    count = node.int_attr("num_scan_inputs")
    state, xs = operands[:-count], operands[-count:]
    outputs = len(node.outputs) - len(state)
    in_axes = node.ints_attr("scan_input_axes", (0,) * count)
    out_axes = node.ints_attr("scan_output_axes", (0,) * outputs)
    backwards = node.ints_attr("scan_input_directions", (0,) * count)
    reversed_rows = node.ints_attr("scan_output_directions", (0,) * outputs)
    rows: list[list[Array]] = [[] for _ in range(outputs)]
    length = xs[0].shape[in_axes[0]]
    for i in range(length):
        here = []
        for x, axis, back in zip(xs, in_axes, backwards, strict=True):
            here.append(np.take(x, length - 1 - i if back else i, axis))
        results = run.inside(node.graphs[0], [*state, *here], node, f"round {i}")
        state = results[: len(state)]
        for row, y in zip(rows, results[len(state) :], strict=True):
            row.append(y)
    made = []
    for i, value in enumerate(node.outputs[len(state) :]):
        ordered = rows[i][::-1] if reversed_rows[i] else rows[i]
        made.append(stacked(ordered, value, run.sizes, out_axes[i]))
    return [*state, *made]


def _probe(run: Evaluator, node: Node, _: list[Array]) -> list[Array]:
    """Nothing: a probe has no results."""
    return []


Walk: TypeAlias = Callable[[Evaluator, Node, list[Array]], Sequence[Array]]
WALKS: dict[str, Walk] = {
    "const": _const,
    "dims": _dims,
    "call": _call,
    "check": _check,
    "lax.check": _check,
    PROBE: _probe,
    "lax.scan": _scan_of_jax,
    "lax.while": _while_of_jax,
    "lax.cond": _cond_of_jax,
    "onnx.If": _if,
    "onnx.Loop": _loop,
    "onnx.Scan": _scan,
}


def run_form(
    operations: Operations, graph: Graph, operands: Sequence[Array]
) -> list[Array]:
    """The outputs of a graph that an operation has become."""
    return Evaluator(operations, {}).run(graph, operands)


def operations_at(sizes: Mapping[str, int], context: Context) -> Operations:
    """What runs single operations at these sizes."""
    return Operations(sizes, context, run_form)
