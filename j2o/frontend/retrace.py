"""Plain JAX code → graph of `lax.*` nodes, for decompositions and for tests. Uses `jax._src.random`."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax._src import random

from j2o.frontend.lift import lift
from j2o.ir.graph import Graph
from j2o.ir.types import KEY_NAMES, DType, Type


class Retracer:
    """Traces `fn(*operands, **params)` at the given types, in 64-bit mode; equal requests are traced once."""

    def __init__(self) -> None:
        self.cache: dict[Any, Graph] = {}

    def __call__(self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]) -> Graph:
        key = (fn, tuple(types), tuple(sorted(params.items())))
        if key not in self.cache:
            self.cache[key] = _trace(fn, types, params)
        return self.cache[key].clone()

    def implementation(self, primitive: str) -> Callable[..., Any] | None:
        """JAX's own code for a primitive that it computes by plain JAX code and does not export; None for others."""
        return _IMPLEMENTATIONS.get(primitive)


_IMPLEMENTATIONS = {"random_gamma": functools.partial(random.random_gamma_p.impl, use_vmap=True)}


def _trace(fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]) -> Graph:
    # decompositions say their dtypes, and mean JAX's own defaults whatever the caller's settings are
    strict = jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"), jax.disable_jit(False)
    with jax.enable_x64(True), strict[0], strict[1], strict[2], jax.debug_nans(False), jax.debug_infs(False):
        args = [jax.ShapeDtypeStruct(t.shape, _jax_dtype(t.dtype)) for t in types]
        closed = jax.make_jaxpr(functools.partial(fn, **params))(*args)
    return lift(closed, name=getattr(fn, "__name__", "fn"), located=False)


def _jax_dtype(dtype: DType) -> Any:
    return jax.random.key(0, impl=KEY_NAMES[dtype]).dtype if dtype.is_key else dtype.numpy
