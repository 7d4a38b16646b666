"""jaxpr → graph of `lax.*` nodes: one equation, one node; nested jaxprs become its regions.

Nothing is decided here.

What JAX itself replaces while lowering is replaced before: references by the values that they hold,
primitives that have no rule here by JAX code of their own. What only prints is left out, with a note. Uses of
private JAX: `discharge`, `internal_mutable_array_effect`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.core import internal_mutable_array_effect
from jax._src.state import discharge
from jax.extend import core as jcore

from j2o.errors import TraceError, UnsupportedError
from j2o.frontend.failures import explained
from j2o.frontend.frames import Calls, EquationPlace, Frames
from j2o.frontend.host import CALLING, PRINTING, called_function, error_of, name_of
from j2o.frontend.own_code import traced_code
from j2o.frontend.params import ParamError, dtype_from_jax, normalise
from j2o.frontend.sources import jit_name, location
from j2o.frontend.versions import known_params, plain_array
from j2o.ir.dims import DimScope, normal
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import Loc
from j2o.ir.tensor import ArrayTensor, Tensor, tensor
from j2o.ir.types import Attr, DType, Type

DEEPEST = 32
ON_HOST = CALLING | PRINTING | {"check"}
# why there is nothing to lift
COMPILED = {
    "call_exported": (
        "a function of jax.export is compiled already; "
        "give the function that it was made of"
    )
}
# code that writes to the memory of a device; what it is in ONNX, its author says by a rule
OPAQUE = frozenset({"pallas_call"})


def type_of(aval: Any) -> Type:
    """The type of a JAX abstract value; the same object for equal ones."""
    return _type(aval.dtype, aval.shape)


@functools.lru_cache(maxsize=4096)
def _type(dtype: Any, shape: tuple[Any, ...]) -> Type:
    """The type of a value of JAX's dtype and shape."""
    return Type(dtype_from_jax(dtype), tuple(map(normal, shape)))


def always(primitive: str) -> bool:
    """For programs of which every primitive has a rule."""
    return True


def lift(
    closed: Any,
    *,
    dims: DimScope | None = None,
    name: str = "main",
    hints: Sequence[str] = (),
    const: Callable[[Any], Tensor] | None = None,
    located: bool = True,
    has_rule: Callable[[str], bool] = always,
    notes: list[str] | None = None,
    equations: dict[Node, Any] | None = None,
    calls: Calls | None = None,
) -> Graph:
    """Return a root graph for a ClosedJaxpr, with a `lax.*` node for each equation.

    `const` turns a captured array into a tensor (and so names it). `hints` name the inputs. With `located`,
    nodes get the source line of their equation. `has_rule` says which primitives stay what they are though
    JAX has code for them. `notes` takes a line for each thing that is left out, `equations` the equation that
    each node stands for, where it stands for one, `calls` the calls of Python functions that nodes were
    traced in.

    Raises UnsupportedError listing every equation whose parameters or dtypes cannot be kept.
    """
    if internal_mutable_array_effect in closed.effects:
        # JAX 0.10.0 and 0.10.1 have both
        discharged = getattr(discharge, "discharge_state2", discharge.discharge_state)
        closed = discharged(closed)
    keep = const or (lambda array: ArrayTensor(np.asarray(array)))
    lifter = _Lifter(
        keep,
        located,
        has_rule,
        notes=[] if notes is None else notes,
        calls=Calls() if calls is None else calls,
    )
    lifter.equations = equations
    graph = lifter.graph(closed.jaxpr, closed.consts, name, hints)
    graph.own_dims = dims
    if lifter.problems:
        raise UnsupportedError(lifter.problems)
    return graph


class _Lifter:
    """Lifts the jaxprs of one program; `problems` has a line for each equation that cannot be kept."""

    def __init__(
        self,
        const: Callable[[Any], Tensor],
        located: bool,
        has_rule: Callable[[str], bool],
        notes: list[str],
        calls: Calls,
    ) -> None:
        self.const = const
        self.located = located
        self.has_rule = functools.cache(has_rule)  # asked for each equation
        self.notes = notes
        self.problems: list[str] = []
        self.equations: dict[Node, Any] | None = None
        self.calls = calls
        # of the equation that is being lifted
        self.place = EquationPlace("", calls.root, False)
        self.is_alone = False  # with no other in its jaxpr
        self.depth = 0  # how much code of primitives is around what is lifted

    def graph(
        self, jaxpr: Any, consts: Sequence[Any], name: str, hints: Sequence[str] = ()
    ) -> Graph:
        """A jaxpr, with arrays for its `constvars`, as a graph; `hints` name its first inputs."""
        graph = Graph(name)
        scope = _Scope(graph)
        for var, array in zip(jaxpr.constvars, consts, strict=True):
            scope.values[var] = self.captured(graph, var.aval, array)
        for i, var in enumerate(jaxpr.invars):
            hint = hints[i] if i < len(hints) else ""
            scope.values[var] = graph.add_input(type_of(var.aval), hint)
        around = self.place
        frames = Frames(self.calls, around)
        is_alone = len(jaxpr.eqns) == 1
        for eqn in jaxpr.eqns:
            if self.located:
                self.place = frames.place(eqn)
            self.is_alone = is_alone
            operands = [scope.read(atom) for atom in eqn.invars]
            results = self.equation(graph, eqn, operands)
            scope.values.update(zip(eqn.outvars, results, strict=True))
        self.place = around
        graph.set_outputs([scope.read(atom) for atom in jaxpr.outvars])
        return graph

    def captured(self, graph: Graph, aval: Any, array: Any) -> Value:
        """An array that the program closes over; typed keys as their data, wrapped."""
        if not dtype_from_jax(aval.dtype).is_key:
            return _constant(graph, self.const(plain_array(array)))
        words = _constant(graph, self.const(jax.random.key_data(array)))
        return graph.insert(Node("lax.random_wrap", (words,), (type_of(aval),))).out

    # --------------------------------------------------------------- equations

    def equation(self, graph: Graph, eqn: Any, inputs: list[Value]) -> Sequence[Value]:
        """The results of one equation.

        Of a node, of the code that stands for its primitive, or of the host.
        """
        loc = location(eqn, self.place.scope) if self.located else None
        name = eqn.primitive.name
        if name in ON_HOST:
            return self.on_host(graph, eqn, inputs, loc)
        try:
            code = self.own_code(eqn)
            if code is not None:
                return self.in_place(graph, code, inputs, loc)
            attrs, jaxprs = normalise(known_params(eqn.params))
            types = [type_of(var.aval) for var in eqn.outvars]
        except (ParamError, TypeError, TraceError) as error:
            self.problems.append(f"{name}{_at(loc)}: {error}")
            attrs, jaxprs = {}, []
            types = [Type(DType.BOOL, ()) for _ in eqn.outvars]
        if name in OPAQUE:
            jaxprs = []
        if jaxprs and not self.is_alone:
            self.place = self.place.inside(jit_name(eqn))
        regions = [self.region(jaxpr, f"{name}_{i}") for i, jaxpr in enumerate(jaxprs)]
        node = Node(f"lax.{name}", inputs, (), attrs, regions, loc)
        node.make_outputs(types, name)
        if self.equations is not None:
            self.equations[node] = eqn
        return self.inserted(graph, node)

    def inserted(self, graph: Graph, node: Node) -> Sequence[Value]:
        """The results of a node that an equation gives, once it stands in the graph."""
        self.calls.places[node] = self.place
        return graph.insert(node).outputs

    def region(self, jaxpr: Any, name: str) -> Graph:
        """A jaxpr in an equation, closed or open, as a graph."""
        if isinstance(jaxpr, jcore.ClosedJaxpr):
            return self.graph(jaxpr.jaxpr, jaxpr.consts, name)
        return self.graph(jaxpr, (), name)

    # ------------------------------------------------------ code of a primitive

    def own_code(self, eqn: Any) -> Any:
        """The jaxpr of JAX's or a library's code for a primitive.

        None where there is a rule, or no such code.

        ParamError for a primitive that is compiled already, TraceError for code that cannot be traced.
        """
        name = eqn.primitive.name
        if self.has_rule(name):
            return None
        if name in COMPILED:
            raise ParamError(COMPILED[name])
        if self.depth == DEEPEST:
            raise TraceError("its own code calls itself without end")
        try:
            return traced_code(eqn)
        except Exception as error:  # whatever a library's code does
            raise TraceError(
                "@j2o.lower registers a rule; "
                f"its own code cannot be traced: {explained(error)}"
            ) from error

    def in_place(
        self, graph: Graph, code: Any, inputs: list[Value], loc: Loc | None
    ) -> Sequence[Value]:
        """The results of a call of code that is none of the user's lines."""
        located = self.located
        self.located = False
        self.depth += 1
        region = self.region(code, "own_code_0")
        self.depth -= 1
        self.located = located
        types = [value.type for value in region.outputs]
        node = Node("lax.closed_call", inputs, types, {}, [region], loc)
        return self.inserted(graph, node)

    # ---------------------------------------------------------------- the host

    def on_host(
        self, graph: Graph, eqn: Any, inputs: list[Value], loc: Loc | None
    ) -> Sequence[Value]:
        """The results of a call of the host.

        What only prints is left out, with a note; what a function only raises is kept as words.
        """
        name = eqn.primitive.name
        if name == "check" and eqn.params["debug"]:  # JAX leaves them out, too
            return ()
        attrs = _words_of_host(eqn)
        if name in PRINTING and not attrs.get("raises"):
            self.notes.append(
                f"{name}{_at(loc)} is left out: ONNX cannot call the host"
            )
            return ()
        if name == "check":
            inputs = inputs[:1]  # the others are for its message
        types = [type_of(var.aval) for var in eqn.outvars]
        node = Node(f"lax.{name}", inputs, (), attrs, (), loc)
        node.make_outputs(types, name)
        return self.inserted(graph, node)


class _Scope:
    """The values of the variables of one jaxpr, and its literals, each once, as constants in front."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.values: dict[Any, Value] = {}
        self.scalars: dict[tuple[Any, ...], Value] = {}

    def read(self, atom: Any) -> Value:
        """The value of a variable or of a literal."""
        if not isinstance(atom, jcore.Literal):
            return self.values[atom]
        aval: Any = atom.aval
        array = np.asarray(atom.val, dtype=aval.dtype)
        key = (array.dtype, array.shape, array.tobytes())
        if key not in self.scalars:
            self.scalars[key] = _constant(self.graph, tensor(array))
        return self.scalars[key]


def _constant(graph: Graph, value: Tensor) -> Value:
    """A constant, as a node at the end of a graph."""
    return graph.insert(Node("const", (), (value.type,), {"value": value})).out


def _at(loc: Loc | None) -> str:
    """` at file:line` for a message, "" where there is no line."""
    return f" at {loc}" if loc else ""


def _words_of_host(eqn: Any) -> dict[str, Attr]:
    """The name of the function that a call of the host calls, and what it raises where it only raises."""
    name = eqn.primitive.name
    if name == "check":
        return {"raises": _words_of_check(eqn)}
    if name == "debug_print":
        return {}
    function = called_function(eqn.params["callback"])
    return {"function": name_of(function), "raises": error_of(function)}


def _words_of_check(eqn: Any) -> str:
    """The words of `checkify.check` where it does not hold, its places for values as they were written."""
    errors = jax.tree.unflatten(eqn.params["err_tree"], eqn.invars)
    (error,) = _of_kind(errors)
    return str(getattr(error, "fmt_string", type(error).__name__))


def _of_kind(error: Any) -> Iterator[Any]:
    """The exceptions that an error of checkify stands for."""
    for tree in error._metadata.values():
        yield jax.tree.unflatten(tree, range(tree.num_leaves))
