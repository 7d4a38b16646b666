"""JAX's side: tracing, and jaxprs as graphs. The range of JAX versions whose jaxprs are understood is checked here."""

import jax

from j2o.errors import J2OError

OLDEST, BEFORE = (0, 10, 0), (0, 11)


def check_version(found: tuple[int, ...]) -> None:
    """J2OError where a JAX version lies outside the supported range."""
    if not OLDEST <= found < BEFORE:
        given, low, high = (".".join(map(str, v)) for v in (found, OLDEST, BEFORE))
        raise J2OError(
            f"JAX {given} is installed; j2o supports {low} up to, not including, {high}"
        )


check_version(jax.__version_info__)
