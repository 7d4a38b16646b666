"""The versions of JAX that are understood, and what differs among them.

| JAX | what is different | where it is dealt with |
| --- | --- | --- |
| before 0.8 | `jax.enable_x64` is `jax.experimental.enable_x64` | `enable_x64` |
"""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager
from typing import Any

import jax

from j2o.errors import J2OError, J2OWarning

OLDEST = (0, 7, 0)
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
    return ".".join(map(str, version))


def enable_x64(on: bool) -> AbstractContextManager[Any]:
    """`with enable_x64(True):` arrays of 64 bits stay what they are."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(on)
    from jax import experimental

    return experimental.enable_x64(on)  # type: ignore[attr-defined]  # before 0.8
