"""Any callable → ClosedJaxpr, with the structure of its result and names for the arrays that it captures.

Nothing of the caller's is changed: see `frontend/modules.py`. Uses of private JAX: none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import core as jcore

from j2o.errors import J2OError, TraceError
from j2o.frontend.failures import explained
from j2o.frontend.held import Held, held_by
from j2o.frontend.modules import copied, holders_of_nnx
from j2o.ir.marks import marking


@dataclass(frozen=True)
class Traced:
    """`jaxpr` is closed; `out_paths` are the pytree paths of its results; `held` is what the function holds."""

    jaxpr: Any
    out_tree: Any
    out_paths: tuple[Any, ...]
    held: Held


def trace(fn: Callable[..., Any], avals: Sequence[Any], tree: Any) -> Traced:
    """Trace `fn` at flat `avals` that `tree` (the structure of its tuple of arguments) puts together.

    Raises TraceError where the function does not come to its end, in JAX's code or in the user's own, with that exception
    as its cause; DimensionError where it asks for a decision about a symbolic size that cannot be taken. What stops a
    program from outside (KeyboardInterrupt, SystemExit) comes through.
    """
    held = held_by(fn)
    try:
        closed, shapes = _jaxpr(fn, avals, tree, holders_of_nnx(held))
    except J2OError:
        raise
    except Exception as error:
        raise explained(error) from error
    if any(isinstance(const, jcore.Tracer) for const in closed.consts):
        raise TraceError("the function uses a value that has leaked from an earlier trace; pass it as an argument")
    paths, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    return Traced(closed, out_tree, tuple(p for p, _ in paths), held)


def _jaxpr(fn: Callable[..., Any], avals: Sequence[Any], tree: Any, holders: set[int]) -> tuple[Any, Any]:
    """The jaxpr and the shapes of the results; `holders` is what has to be copied inside the trace."""

    # a new function: JAX keeps the jaxprs of those it knows, with the weights of then
    def flat(*leaves: Any) -> Any:
        return copied(fn, holders, {})(*jax.tree.unflatten(tree, leaves))

    with marking():
        return jax.make_jaxpr(flat, return_shape=True)(*avals)
