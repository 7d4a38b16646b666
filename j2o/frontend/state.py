"""State that a function holds, as an argument and a result: variables of flax nnx that a program writes to.

A model has no memory. With `compile(…, state=nnx.Cache)` the variables of this kind come in by the keyword
`state`, by their paths, and come out beside what the function returns. Uses of private JAX: none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any

from j2o.errors import SpecError, shown
from j2o.frontend.held import Held, is_variable
from j2o.frontend.versions import raw_value, set_raw_value

KEYWORD = "state"


def state_in(held: Held, wanted: Any) -> dict[str, Any]:
    """Return the nnx variables that fit a filter of nnx, by their paths.

    SpecError where `wanted` is no filter, or none fits.
    """
    variables: dict[str, Any] = {}
    for path, x in held.objects:
        if is_variable(x):
            variables[_unlike(variables, path)] = x
    fits = _predicate(wanted)
    found = {path: x for path, x in variables.items() if fits(path.split("/"), x)}
    if found:
        return found
    kinds = dict.fromkeys(type(x).__name__ for x in variables.values())
    there = f"it holds {', '.join(kinds)}" if kinds else "it holds none at all"
    what = f"the function holds no such variables of nnx; {there}"
    raise SpecError(f"state={_told(wanted)}: {what}")


def _unlike(taken: Collection[str], path: str) -> str:
    """The path, numbered where it is taken."""
    name, count = path, 0
    while name in taken:
        count += 1
        name = f"{path}_{count}"
    return name


def _told(wanted: Any) -> str:
    """A filter in a message; a kind of variables by its name."""
    return wanted.__name__ if isinstance(wanted, type) else shown(wanted)


def _predicate(wanted: Any) -> Callable[[Any, Any], bool]:
    """The filter as a function of path and variable."""
    nnx = sys.modules.get("flax.nnx")
    needed = "a filter of flax.nnx is needed, as in state=nnx.Cache"
    if nnx is None:
        raise SpecError(f"state={_told(wanted)}: {needed}")
    try:
        return nnx.filterlib.to_predicate(wanted)
    except (TypeError, ValueError):
        raise SpecError(f"state={_told(wanted)}: {needed}") from None


def values_of(variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arrays in variables, by their paths."""
    return {path: raw_value(variable) for path, variable in variables.items()}


def with_state(
    fn: Callable[..., Any], variables: Mapping[str, Any]
) -> Callable[..., Any]:
    """Return `fn` with a keyword `state`, which the variables are set to.

    Their new values are a second result.
    """

    def call(*args: Any, state: Mapping[str, Any], **kwargs: Any) -> Any:
        """The function with its variables set to a state; gives their last state behind its results."""
        for path, variable in variables.items():
            set_raw_value(variable, state[path])
        result = fn(*args, **kwargs)
        return result, values_of(variables)

    return call
