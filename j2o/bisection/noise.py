"""How far rounding alone moves the outputs of a program.

Sums in another order and other kernels differ in the last digits, and a program may make much of that:
a deep network, a long recurrence. So JAX runs the program again with the last digits of what it
computes moved at random. What differs by no more than a few times the effect is rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from j2o.bisection.case import Case
from j2o.bisection.evaluate import Array, Path
from j2o.bisection.measure import usual_size
from j2o.compare import comparable
from j2o.errors import J2OError
from j2o.ir.graph import Value

UNITS = 4  # by how many units in the last place a value is moved, at most
TIMES = 4  # what differs by so many times the effect is more than rounding
# operations whose results are rounded; others move, choose and compare values
ROUNDED = frozenset(
    [
        # arithmetic
        "lax.add",
        "lax.add_any",
        "lax.div",
        "lax.integer_pow",
        "lax.mul",
        "lax.pow",
        "lax.rsqrt",
        "lax.sqrt",
        "lax.square",
        "lax.sub",
        # elementary functions
        "lax.cos",
        "lax.erf",
        "lax.exp",
        "lax.exp2",
        "lax.expm1",
        "lax.log",
        "lax.log1p",
        "lax.logistic",
        "lax.sin",
        "lax.tanh",
        # sums
        "lax.conv_general_dilated",
        "lax.cumsum",
        "lax.dot_general",
        "lax.reduce_sum",
    ]
)


class _Shaking:
    """Moves the last digits of what is rounded, at random."""

    def __init__(self) -> None:
        self.random = np.random.default_rng(0)

    def watch(self, value: Value, path: Path, array: Array) -> Array:
        if value.op not in ROUNDED or not value.type.dtype.is_float:
            return array
        return self.shaken(array)

    def shaken(self, array: np.ndarray) -> np.ndarray:
        """Numbers a few units in the last place away, of the same sign.

        Whole numbers stay, as they may be exact; and so do the largest there are, which fill masks.
        """
        wide = comparable(array)
        is_number = np.isfinite(wide)
        if not is_number.all() or (wide == np.rint(wide)).all():
            return array
        size = np.maximum(np.abs(wide), usual_size(wide))
        limits = jnp.finfo(array.dtype)
        moves = self.random.uniform(-UNITS, UNITS, array.shape)
        moved = wide + moves * float(limits.eps) * size
        is_kept = np.sign(moved) != np.sign(wide)
        is_kept |= np.abs(wide) > float(limits.max) / 2
        return np.where(is_kept, wide, moved).astype(array.dtype)


def with_noise(case: Case, outputs: Sequence[np.ndarray]) -> Case:
    """The case with what rounding may do to its outputs; as it is where JAX cannot run it so.

    `outputs` are what JAX gives operation by operation.
    """
    program = case.lift()
    try:
        moved = case.outputs(program.graph, program.equations, _Shaking().watch)
    except J2OError:
        return case
    allowed = []
    for one, other in zip(moved, outputs, strict=True):
        allowed.append(TIMES * _largest_move(one, other))
    return replace(case, rounding=tuple(allowed))


def _largest_move(moved: np.ndarray, still: np.ndarray) -> float:
    """The largest difference of two arrays of floats, where both are numbers."""
    one = comparable(moved)
    other = comparable(still)
    if one.dtype.kind != "f" or one.shape != other.shape:
        return 0.0
    both = np.isfinite(one) & np.isfinite(other)
    return float(np.max(np.abs(one - other), initial=0.0, where=both))
