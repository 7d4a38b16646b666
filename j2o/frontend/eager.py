"""Running one equation of a jaxpr by JAX itself, at sizes that are numbers. Uses of private JAX: none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from j2o.ir import dims


def run_equation(
    eqn: Any, operands: Sequence[Any], sizes: Mapping[str, int]
) -> list[Any]:
    """The results of an equation for these operands, as JAX arrays.

    Symbolic sizes in its parameters become numbers; those in jaxprs inside of it stay. Raises whatever JAX
    raises.
    """
    if eqn.primitive.name == "dim_as_value":  # JAX has no code that runs it
        size = dims.evaluate(dims.normal(eqn.params["dim"]), sizes)
        return [np.asarray(size, eqn.outvars[0].aval.dtype)]
    params = {name: at_sizes(value, sizes) for name, value in eqn.params.items()}
    found = eqn.primitive.get_bind_params(params)
    # before JAX 0.10 the functions that a primitive calls stand beside its parameters
    functions, rest = found if isinstance(found, tuple) else ((), found)
    results = eqn.primitive.bind(*functions, *operands, **rest)
    return list(results) if eqn.primitive.multiple_results else [results]


def at_sizes(value: Any, sizes: Mapping[str, int]) -> Any:
    """A parameter with numbers in place of symbolic sizes, in tuples and lists too."""
    if dims.is_symbolic(value):
        return dims.evaluate(dims.normal(value), sizes)
    if type(value) in (tuple, list):
        return type(value)(at_sizes(one, sizes) for one in value)
    return value
