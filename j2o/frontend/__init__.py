"""JAX's side: tracing, and jaxprs as graphs.

The range of JAX versions whose jaxprs are understood is checked here.
"""

import jax

from j2o.errors import J2OError

OLDEST = (0, 10, 0)
BEFORE = (0, 11)


def check_version(found: tuple[int, ...]) -> None:
    """Raise J2OError where a JAX version lies outside the supported range."""
    if not OLDEST <= found < BEFORE:
        raise J2OError(
            f"JAX {_dotted(found)} is installed; j2o supports "
            f"{_dotted(OLDEST)} up to, not including, {_dotted(BEFORE)}"
        )


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


check_version(jax.__version_info__)
