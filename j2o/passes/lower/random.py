"""Random bits, bit for bit as JAX makes them: the threefry hash and the counters that it is applied to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from j2o.passes.lower.table import lower_with

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@lower_with("threefry2x32")
def threefry2x32(key0: Any, key1: Any, x0: Any, x1: Any) -> Any:
    """Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    from jax import lax

    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + key0, x1 + key1
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x0 = x0 + x1
            rotated = (x1 << np.uint32(r)) | lax.shift_right_logical(x1, np.uint32(32 - r))
            x1 = x0 ^ rotated
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


@lower_with("iota_2x32_shape")
def iota_2x32_shape(*, shape: Sequence[Any]) -> Any:
    """The flat index of every element, as its upper and lower 32 bits."""
    import math

    from jax import lax

    index = lax.reshape(lax.iota(np.uint64, math.prod(shape)), tuple(shape))
    low = lax.convert_element_type(index & np.uint64(0xFFFFFFFF), np.uint32)
    return lax.convert_element_type(lax.shift_right_logical(index, np.uint64(32)), np.uint32), low


@lower_with("rng_uniform")
def rng_uniform(low: Any, high: Any, *, shape: Sequence[Any]) -> Any:
    """Uniform values of no promised stream: threefry with a fixed key."""
    import jax

    return jax.random.uniform(jax.random.key(0), tuple(shape), low.dtype, low, high)
