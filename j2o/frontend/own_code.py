"""The plain JAX code that stands behind a primitive: what JAX compiles, or runs, in its place.

Libraries make primitives to give them derivatives or a batching rule of their own, and say what they compute
by JAX code: as their rule for the compiler, made by `mlir.lower_fun`, or as their implementation. What
dispatches to the compiled primitive itself is no such code. Uses of private JAX: `mlir.lower_fun`,
`mlir._lowerings`, `dispatch.apply_primitive`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
from jax._src import dispatch
from jax._src.interpreters import mlir
from jax.extend import core as jcore

from j2o.frontend.params import jaxprs_of

_LOWERED = mlir.lower_fun(abs).__code__


def own_code(primitive: jcore.Primitive) -> Callable[..., Any] | None:
    """The JAX code of a primitive, of its operands and parameters; None where it has none."""
    entry = mlir._lowerings.get(primitive)
    if entry is not None and getattr(entry.rule, "__code__", None) is _LOWERED:
        return inspect.getclosurevars(entry.rule).nonlocals["fun"]
    implementation = vars(primitive).get("impl")
    dispatches = getattr(implementation, "func", None) is dispatch.apply_primitive
    return None if dispatches else implementation


def traced_code(eqn: Any) -> Any:
    """The code of an equation's primitive as a jaxpr.

    None where it has none, or where the code is the primitive again.

    Raises whatever the code raises that cannot be traced.
    """
    code = own_code(eqn.primitive)
    if code is None:
        return None
    closed = jax.make_jaxpr(functools.partial(code, **eqn.params))(
        *(v.aval for v in eqn.invars)
    )
    return None if _holds(closed.jaxpr, eqn) else closed


def _holds(jaxpr: Any, wanted: Any) -> bool:
    """Return True where an equation occurs in a jaxpr or in one inside of it."""
    for eqn in jaxpr.eqns:
        found = [j for value in eqn.params.values() for j in jaxprs_of(value)]
        inner = [getattr(j, "jaxpr", j) for j in found]
        if _is_same(eqn, wanted) or any(_holds(j, wanted) for j in inner):
            return True
    return False


def _is_same(one: Any, other: Any) -> bool:
    """Return True where two equations compute the same of their operands.

    Code may well use its primitive with other parameters.
    """
    return (
        one.primitive is other.primitive
        and [v.aval for v in one.invars] == [v.aval for v in other.invars]
        and all(one.params.get(name) is value for name, value in other.params.items())
    )


def primitives_with_code() -> set[str]:
    """The names of all primitives, of JAX and of what is imported, that have code of their own."""
    return {
        primitive.name
        for primitive in mlir._lowerings
        if own_code(primitive) is not None
    }
