"""jaxpr → graph of `lax.*` nodes: one equation, one node; nested jaxprs become its regions. Nothing is decided here.

What JAX itself replaces while lowering is replaced before: references by the values that they hold, the primitives of
`jax.experimental.sparse` by its own code for them. What only prints is left out.
Uses of private JAX: `discharge`, `internal_mutable_array_effect`, `_<primitive>_impl` of the sparse modules.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax._src.core import internal_mutable_array_effect
from jax._src.state import discharge
from jax.extend import core as jcore

from j2o.errors import UnsupportedError
from j2o.frontend.params import ParamError, dtype_from_jax, normalise
from j2o.frontend.sources import location
from j2o.ir.dims import DimScope, normal
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.tensor import ArrayTensor, Tensor, tensor
from j2o.ir.types import DType, Type

PRINTING = frozenset({"debug_callback", "debug_print"})


def type_of(aval: Any) -> Type:
    """The type of a JAX abstract value; the same object for equal ones."""
    return _type(aval.dtype, aval.shape)


@functools.lru_cache(maxsize=4096)
def _type(dtype: Any, shape: tuple[Any, ...]) -> Type:
    return Type(dtype_from_jax(dtype), tuple(map(normal, shape)))


def lift(
    closed: Any,
    *,
    dims: DimScope | None = None,
    name: str = "main",
    hints: Sequence[str] = (),
    const: Callable[[Any], Tensor] | None = None,
    located: bool = True,
) -> Graph:
    """A root graph for a ClosedJaxpr. `const` turns a captured array into a tensor (and so names it).

    `located` says whether nodes get the source line of their equation.

    Raises UnsupportedError listing every equation whose parameters or dtypes cannot be kept.
    """
    if internal_mutable_array_effect in closed.effects:
        closed = getattr(discharge, "discharge_state2", discharge.discharge_state)(closed)  # 0.10.0 and 1 have both
    lifter = _Lifter(const or (lambda array: ArrayTensor(np.asarray(array))), located)
    graph = lifter.graph(closed.jaxpr, closed.consts, name, {}, hints)
    graph._dims = dims
    if lifter.problems:
        raise UnsupportedError(lifter.problems)
    return graph


class _Lifter:
    def __init__(self, const: Callable[[Any], Tensor], located: bool) -> None:
        self.const, self.located = const, located
        self.problems: list[str] = []

    def graph(
        self, jaxpr: Any, consts: Sequence[Any], name: str, env: dict[Any, Value], hints: Sequence[str] = ()
    ) -> Graph:
        """`env` has the values of the variables around an open jaxpr."""
        graph = Graph(name)
        env = dict(env) if env else {}
        for var, array in zip(jaxpr.constvars, consts, strict=True):
            env[var] = self.captured(graph, var.aval, array)
        for i, var in enumerate(jaxpr.invars):
            env[var] = graph.add_input(type_of(var.aval), hints[i] if i < len(hints) else "")
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

    def equation(self, graph: Graph, eqn: Any, inputs: list[Value], env: dict[Any, Value]) -> None:
        loc = location(eqn) if self.located else None
        name, params = eqn.primitive.name, eqn.params
        if name in PRINTING:
            return
        code = getattr(sys.modules.get(f"jax.experimental.sparse.{name[:4]}"), f"_{name}_impl", None)
        if code is not None:
            body = jax.make_jaxpr(functools.partial(code, **params))(*(v.aval for v in eqn.invars))
            name, params = "closed_call", {"call_jaxpr": body}
        try:
            attrs, jaxprs = normalise(params)
            types = [type_of(v.aval) for v in eqn.outvars]
        except (ParamError, TypeError) as error:
            self.problems.append(f"{name} at {loc}: {error}")
            attrs, jaxprs, types = {}, [], [Type(DType.BOOL, ()) for _ in eqn.outvars]
        if name == "pallas_call":  # its code writes to the memory of a device; what it is in ONNX, its author says
            jaxprs = []
        regions = [self.region(j, name, i) for i, j in enumerate(jaxprs)]
        node = graph.insert(Node(f"lax.{name}", inputs, types, attrs, regions, loc, [name] * len(types)))
        env.update(zip(eqn.outvars, node.outputs, strict=True))

    def region(self, jaxpr: Any, name: str, index: int) -> Graph:
        if isinstance(jaxpr, jcore.ClosedJaxpr):
            return self.graph(jaxpr.jaxpr, jaxpr.consts, f"{name}_{index}", {})
        return self.graph(jaxpr, (), f"{name}_{index}", {})
