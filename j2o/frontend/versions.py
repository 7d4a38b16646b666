"""The versions of JAX that are understood, and what differs among them and those of Flax.

| version | what is different | where it is dealt with |
| --- | --- | --- |
| JAX before 0.8 | `jax.enable_x64` is `jax.experimental.enable_x64` | `enable_x64` |
| JAX before 0.10 | numpy arrays that a program captures may be wrapped | `plain_array` |
| JAX from 0.11 on | a scan tells by trees which operands are constants, carried, rows | `known_params` |
| Flax before 0.12.1 | a variable has no `get_raw_value` and `set_raw_value` | `raw_value`, `set_raw_value` |
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np

from j2o.errors import J2OError, J2OWarning

OLDEST = (0, 7, 2)
UNKNOWN = (0, 11)  # from here on nobody has tried


def check_version(found: tuple[int, ...]) -> None:
    """Raise J2OError for a JAX that is too old; warn of one that is newer than all that were tried."""
    if found < OLDEST:
        raise J2OError(
            f"JAX {_dotted(found)} is installed; j2o needs {_dotted(OLDEST)} or newer"
        )
    if found >= UNKNOWN:
        warnings.warn(
            f"JAX {_dotted(found)} is installed; j2o was tried with {_dotted(OLDEST)} "
            f"up to, not including, {_dotted(UNKNOWN)}",
            J2OWarning,
            stacklevel=2,
        )


def _dotted(version: tuple[int, ...]) -> str:
    """A version as text: 0.10.2."""
    return ".".join(map(str, version))


def enable_x64(on: bool) -> AbstractContextManager[Any]:
    """`with enable_x64(True):` arrays of 64 bits stay what they are."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax import experimental

    return experimental.enable_x64(on)  # type: ignore[attr-defined]  # before 0.8


def plain_array(array: Any) -> Any:
    """An array that a program captures, without the wrapper that JAX before 0.10 may put around it."""
    is_wrapped = type(array).__module__ == "jax._src.literals"
    return np.asarray(array) if is_wrapped else array


def known_params(params: Mapping[str, Any]) -> Mapping[str, Any]:
    """The parameters of an equation under the names that JAX 0.10 has for them."""
    if "ft_in" not in params:
        return params
    constants, carried, _ = params["ft_in"].unpack()
    others = {k: v for k, v in params.items() if k not in ("ft_in", "ft_out")}
    return {
        **others,
        "num_consts": len(list(constants)),
        "num_carry": len(list(carried)),
    }


def raw_value(variable: Any) -> Any:
    """What a variable of nnx holds, without what its class makes of it when it is read."""
    get = getattr(type(variable), "get_raw_value", None)
    return variable.raw_value if get is None else get(variable)


def set_raw_value(variable: Any, value: Any) -> None:
    """Let a variable of nnx hold a value as it is."""
    if hasattr(type(variable), "set_raw_value"):
        variable.set_raw_value(value)
    else:
        variable.raw_value = value
