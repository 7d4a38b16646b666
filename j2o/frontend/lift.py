"""jaxpr → graph of `lax.*` nodes: one equation, one node; nested jaxprs become its regions. Nothing is decided here.

What JAX itself replaces while lowering is replaced before: references by the values that they hold, primitives that
have no rule here by JAX code of their own. What only prints is left out, with a note.
Uses of private JAX: `discharge`, `internal_mutable_array_effect`.
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
from j2o.frontend.host import CALLING, PRINTING, called_function, error_of, name_of
from j2o.frontend.own_code import traced_code
from j2o.frontend.params import ParamError, dtype_from_jax, normalise
from j2o.frontend.sources import location
from j2o.ir.dims import DimScope, normal
from j2o.ir.graph import Graph, Loc, Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor, tensor
from j2o.ir.types import Attr, DType, Type

DEEPEST = 32
# why there is nothing to lift
COMPILED = {
    "call_exported": "a function of jax.export is compiled already; give the function that it was made of"
}


def type_of(aval: Any) -> Type:
    """The type of a JAX abstract value; the same object for equal ones."""
    return _type(aval.dtype, aval.shape)


@functools.lru_cache(maxsize=4096)
def _type(dtype: Any, shape: tuple[Any, ...]) -> Type:
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
) -> Graph:
    """A root graph for a ClosedJaxpr. `const` turns a captured array into a tensor (and so names it).

    `located` says whether nodes get the source line of their equation, `has_rule` which primitives stay what they are
    though JAX has code for them. `notes` takes a line for each thing that is left out.

    Raises UnsupportedError listing every equation whose parameters or dtypes cannot be kept.
    """
    if internal_mutable_array_effect in closed.effects:
        closed = getattr(discharge, "discharge_state2", discharge.discharge_state)(
            closed
        )  # 0.10.0 and 1 have both
    keep = const or (lambda array: ArrayTensor(np.asarray(array)))
    lifter = _Lifter(keep, located, has_rule, [] if notes is None else notes)
    graph = lifter.graph(closed.jaxpr, closed.consts, name, {}, hints)
    graph._dims = dims
    if lifter.problems:
        raise UnsupportedError(lifter.problems)
    return graph


class _Lifter:
    def __init__(
        self,
        const: Callable[[Any], Tensor],
        located: bool,
        has_rule: Callable[[str], bool],
        notes: list[str],
    ) -> None:
        self.const, self.located, self.has_rule, self.notes = (
            const,
            located,
            has_rule,
            notes,
        )
        self.problems: list[str] = []
        self.depth = 0  # how much code of primitives is around what is lifted

    def graph(
        self,
        jaxpr: Any,
        consts: Sequence[Any],
        name: str,
        env: dict[Any, Value],
        hints: Sequence[str] = (),
    ) -> Graph:
        """`env` has the values of the variables around an open jaxpr."""
        graph = Graph(name)
        env = dict(env) if env else {}
        for var, array in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.captured(graph, var.aval, array)
        for i, var in enumerate(jaxpr.invars):
            env[var] = graph.add_input(
                type_of(var.aval), hints[i] if i < len(hints) else ""
            )
        scalars: dict[tuple[Any, ...], Value] = {}

        def read(atom: Any) -> Value:
            if isinstance(atom, jcore.Literal):
                aval: Any = atom.aval
                array = np.asarray(atom.val, dtype=aval.dtype)
                key = (array.dtype, array.shape, array.tobytes())
                if key not in scalars:
                    scalars[key] = self.constant(graph, tensor(array))
                return scalars[key]
            return env[atom]

        for eqn in jaxpr.eqns:
            self.equation(graph, eqn, [read(a) for a in eqn.invars], env)
        graph.set_outputs([read(a) for a in jaxpr.outvars])
        return graph

    def constant(self, graph: Graph, value: Tensor) -> Value:
        return graph.insert(Node("const", (), (value.type,), {"value": value})).out

    def captured(self, graph: Graph, aval: Any, array: Any) -> Value:
        """An array that the program closes over; typed keys as their data, wrapped."""
        if not dtype_from_jax(aval.dtype).is_key:
            return self.constant(graph, self.const(array))
        words = self.constant(graph, self.const(jax.random.key_data(array)))
        return graph.insert(Node("lax.random_wrap", (words,), (type_of(aval),))).out

    def equation(
        self, graph: Graph, eqn: Any, inputs: list[Value], env: dict[Any, Value]
    ) -> None:
        loc = location(eqn) if self.located else None
        name = eqn.primitive.name
        if name in CALLING or name in PRINTING or name == "check":
            self.on_host(graph, eqn, inputs, env, loc)
            return
        try:
            if name in COMPILED and not self.has_rule(name):
                raise ParamError(COMPILED[name])
            code = None if self.has_rule(name) else self.own_code(eqn)
            if code is not None:
                outputs = self.in_place(graph, code, inputs, loc)
                env.update(zip(eqn.outvars, outputs, strict=True))
                return
            attrs, jaxprs = normalise(eqn.params)
            types = [type_of(v.aval) for v in eqn.outvars]
        except (ParamError, TypeError, TraceError) as error:
            self.problems.append(f"{name}{f' at {loc}' if loc else ''}: {error}")
            attrs, jaxprs, types = {}, [], [Type(DType.BOOL, ()) for _ in eqn.outvars]
        if (
            name == "pallas_call"
        ):  # its code writes to the memory of a device; what it is in ONNX, its author says
            jaxprs = []
        regions = [self.region(j, name, i) for i, j in enumerate(jaxprs)]
        node = graph.insert(
            Node(f"lax.{name}", inputs, types, attrs, regions, loc, [name] * len(types))
        )
        env.update(zip(eqn.outvars, node.outputs, strict=True))

    def on_host(
        self,
        graph: Graph,
        eqn: Any,
        inputs: list[Value],
        env: dict[Any, Value],
        loc: Loc | None,
    ) -> None:
        """A call of the host. What only prints is left out; what a function only raises is kept as words."""
        name = eqn.primitive.name
        attrs: dict[str, Attr] = {}
        if name == "check":
            if eqn.params["debug"]:  # JAX leaves them out, too
                return
            attrs["raises"] = _words_of_check(eqn)
            inputs = inputs[:1]
        elif name != "debug_print":
            function = called_function(eqn.params["callback"])
            attrs["function"] = name_of(function)
            attrs["raises"] = error_of(function)
        if name in PRINTING and not attrs.get("raises"):
            self.notes.append(
                f"{name}{f' at {loc}' if loc else ''} is left out: ONNX cannot call the host"
            )
            return
        types = [type_of(v.aval) for v in eqn.outvars]
        node = graph.insert(
            Node(f"lax.{name}", inputs, types, attrs, (), loc, [name] * len(types))
        )
        env.update(zip(eqn.outvars, node.outputs, strict=True))

    def own_code(self, eqn: Any) -> Any:
        """The jaxpr of JAX's or a library's code for a primitive; None where it has none, TraceError where it is no JAX code."""
        if self.depth == DEEPEST:
            raise TraceError("its own code calls itself without end")
        try:
            return traced_code(eqn)
        except Exception as error:  # whatever a library's code does
            raise TraceError(
                f"@j2o.lower registers a rule; its own code cannot be traced: {explained(error)}"
            ) from error

    def in_place(
        self, graph: Graph, code: Any, inputs: list[Value], loc: Loc | None
    ) -> Sequence[Value]:
        """The results of a call of code that is none of the user's lines."""
        located, self.located = self.located, False
        self.depth += 1
        region = self.region(code, "own_code", 0)
        self.depth -= 1
        self.located = located
        types = [v.type for v in region.outputs]
        return graph.insert(
            Node("lax.closed_call", inputs, types, {}, [region], loc)
        ).outputs

    def region(self, jaxpr: Any, name: str, index: int) -> Graph:
        if isinstance(jaxpr, jcore.ClosedJaxpr):
            return self.graph(jaxpr.jaxpr, jaxpr.consts, f"{name}_{index}", {})
        return self.graph(jaxpr, (), f"{name}_{index}", {})


def _words_of_check(eqn: Any) -> str:
    """What `checkify.check` says where it does not hold, its places for values as they were written."""
    (error,) = _of_kind(jax.tree.unflatten(eqn.params["err_tree"], eqn.invars))
    return str(getattr(error, "fmt_string", type(error).__name__))


def _of_kind(error: Any) -> Iterator[Any]:
    """The exceptions that an error of checkify stands for."""
    for tree in error._metadata.values():
        yield jax.tree.unflatten(tree, range(tree.num_leaves))
