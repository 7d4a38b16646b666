"""Any callable → ClosedJaxpr, with the structure of its result and names for the arrays that it captures.

Nothing of the caller's is changed: see `frontend/modules.py` and `frontend/writes.py`. Uses of private JAX: none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
from jax import core as jcore

from j2o.errors import J2OError, TraceError
from j2o.frontend.failures import explained, question_of, told_constraints
from j2o.frontend.held import Held, held_by
from j2o.frontend.modules import Copies, copied, holders_of_state
from j2o.frontend.settle import verified
from j2o.frontend.writes import lost_writes, put_back, snapshot, warnings_of
from j2o.ir.marks import marking


@dataclass(frozen=True)
class Traced:
    """`jaxpr` is closed; `out_paths` are the pytree paths of its results; `held` is what the function holds.

    `warnings` says in a line each what the model will not do as the function does.
    """

    jaxpr: Any
    out_tree: Any
    out_paths: tuple[Any, ...]
    held: Held
    warnings: tuple[str, ...]


def trace(fn: Callable[..., Any], avals: Sequence[Any], tree: Any) -> Traced:
    """Trace `fn` at flat `avals` that `tree` (the structure of its tuple of arguments) puts together.

    Raises TraceError where the function does not come to its end, in JAX's code or in the user's own, with that exception
    as its cause; DimensionError where it asks for a decision about a symbolic size that cannot be taken. What stops a
    program from outside (KeyboardInterrupt, SystemExit) comes through.
    """
    held = held_by(fn)
    holders = holders_of_state(held)
    lost: list[int] = []

    # a new function: JAX keeps the jaxprs of those it knows, with the weights of then
    def flat(*leaves: Any) -> Any:
        copies: Copies = {}
        results = copied(fn, holders, copies)(*jax.tree.unflatten(tree, leaves))
        lost[:] = lost_writes(held, copies, results)
        return results

    def attempt(avals: Sequence[Any]) -> Any:
        before = snapshot(held)
        try:
            with marking():
                return jax.make_jaxpr(flat, return_shape=True)(*avals)
        finally:
            put_back(before)

    started = time.perf_counter()
    try:
        closed, shapes = attempt(avals)
    except J2OError:
        raise
    except Exception as error:
        told = told_constraints(error)
        options = (
            []
            if told is None
            else verified(
                attempt, avals, question_of, error, told, time.perf_counter() - started
            )
        )
        raise explained(error, options) from error
    if any(isinstance(const, jcore.Tracer) for const in closed.consts):
        raise TraceError(
            "the function uses a value that has leaked from another trace; pass it as an argument, and compile outside of jit, grad and vmap"
        )
    paths, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    warnings = warnings_of(held, lost, closed, shapes)
    return Traced(closed, out_tree, tuple(p for p, _ in paths), held, tuple(warnings))
