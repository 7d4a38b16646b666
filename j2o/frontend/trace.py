"""Any callable → ClosedJaxpr, with the structure of its result and names for the arrays that it captures.

1. `held.py` walks what the function holds: its arrays, which give weights their names, and its modules. 2.
`modules.py` copies the modules that the program may write to; the copies are traced, not the caller's own. 3.
`jax.make_jaxpr` traces a fresh function around them; `writes.py` puts back what leaked into the caller's
objects. 4. Where a trace stops at a question about sizes, `settle.py` asks JAX which constraints would answer
it. 5. What stopped it becomes an error of j2o in one line, by `failures.py`, with the line of the program. 6.
`writes.py` says what the model will not do as the function does, for it has no memory: the warnings.

Nothing of the caller's is changed. Uses of private JAX: none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
from jax import core as jcore

from j2o.errors import J2OError, SpecError, TraceError
from j2o.frontend.failures import explained, question_of, told_constraints
from j2o.frontend.held import Held, Program, held_by, unbuilt_keras
from j2o.frontend.modules import Copies, copied, holders_of_state
from j2o.frontend.settle import Attempt, verified
from j2o.frontend.writes import lost_writes, put_back, snapshot, warnings_of
from j2o.ir.marks import marking

# the arguments of a call, by place and by keyword, of its leaves and of the values it hands over
Arguments: TypeAlias = Callable[
    [Sequence[Any], Mapping[str, Any]], tuple[tuple[Any, ...], dict[str, Any]]
]


@dataclass(frozen=True)
class Traced:
    """`jaxpr` is closed; `out_paths` are the pytree paths of its results; `held` is what the function holds.

    `holders` are the ids of what has to be copied of it before it runs, see `holders_of_state`. `warnings`
    says in a line each what the model will not do as the function does.
    """

    jaxpr: Any
    out_tree: Any
    out_paths: tuple[Any, ...]
    held: Held
    holders: set[int]
    warnings: tuple[str, ...]


def trace(program: Program, avals: Sequence[Any], arguments: Arguments) -> Traced:
    """Trace a program at flat `avals`, of which `arguments` makes a call.

    Raises TraceError where the function does not come to its end, in JAX's code or in the user's own, with
    that exception as its cause; DimensionError where it asks for a decision about a symbolic size that cannot
    be taken. What stops a program from outside (KeyboardInterrupt, SystemExit) comes through.
    """
    held = held_by(program)
    unbuilt = unbuilt_keras(held)
    if unbuilt is not None:
        advice = "call it once with an array, or its build(shape)"
        raise SpecError(f"fn: {unbuilt} of keras has no weights yet; {advice}")
    holders = holders_of_state(held)
    lost: list[int] = []

    # a new function: JAX keeps the jaxprs of those it knows, with the weights of then
    def flat(*leaves: Any) -> Any:
        """The program on a flat list of leaves, with copies of what it holds."""
        copies: Copies = {}
        inside = copied(program, holders, copies)
        args, kwargs = arguments(leaves, inside.static)
        results = inside.fn(*args, **kwargs)
        lost[:] = lost_writes(held, copies, results)
        return results

    def attempt(avals: Sequence[Any]) -> Any:
        """The jaxpr at these types; what the trace has written to the caller's objects is put back."""
        before = snapshot(held)
        try:
            with marking():
                return jax.make_jaxpr(flat, return_shape=True)(*avals)
        finally:
            put_back(before)

    closed, shapes = _explaining(attempt, avals)
    if any(isinstance(const, jcore.Tracer) for const in closed.consts):
        raise TraceError(
            "the function uses a value that has leaked from another trace; "
            "pass it as an argument, and compile outside of jit, grad and vmap"
        )
    paths, out_tree = jax.tree_util.tree_flatten_with_path(shapes)
    warnings = warnings_of(held, lost, closed, shapes)
    out_paths = tuple(path for path, _ in paths)
    return Traced(closed, out_tree, out_paths, held, holders, tuple(warnings))


def _explaining(attempt: Attempt, avals: Sequence[Any]) -> Any:
    """What `attempt(avals)` gives.

    What it raises as an error of j2o, with the constraints that would settle it.
    """
    started = time.perf_counter()
    try:
        return attempt(avals)
    except J2OError:
        raise
    except Exception as error:
        seconds = time.perf_counter() - started
        told = told_constraints(error)
        options: Sequence[tuple[str, ...]] = ()
        if told is not None:
            options = verified(attempt, avals, question_of, error, told, seconds)
        raise explained(error, options) from error
