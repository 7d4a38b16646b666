"""Plain JAX code → graph of `lax.*` nodes, for decompositions and for tests."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax

from j2o.frontend.lift import always, lift
from j2o.frontend.versions import enable_x64
from j2o.ir.graph import Graph
from j2o.ir.types import KEY_NAMES, DType, Type


class Retracer:
    """Traces `fn(*operands, **params)` at the given types, in 64-bit mode; equal requests are traced once.

    `has_rule` says which primitives stay what they are though JAX has code for them.
    """

    def __init__(self, has_rule: Callable[[str], bool] = always) -> None:
        self.has_rule = has_rule
        self.cache: dict[Any, Graph] = {}

    def __call__(
        self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]
    ) -> Graph:
        key = (fn, tuple(types), tuple(sorted(params.items())))
        if key not in self.cache:
            self.cache[key] = self.trace(fn, types, params)
        return self.cache[key].clone()

    def forget(self) -> None:
        """Let go of all that was traced, with no cycle left for the collector."""
        for graph in self.cache.values():
            graph.drop()
        self.cache.clear()

    def trace(
        self, fn: Callable[..., Any], types: Sequence[Type], params: dict[str, Any]
    ) -> Graph:
        """`fn` at operands of these types, as a graph of its own."""
        with contextlib.ExitStack() as settings:
            for setting in _settings():
                settings.enter_context(setting)
            operands = [
                jax.ShapeDtypeStruct(type.shape, _jax_dtype(type.dtype))
                for type in types
            ]
            closed = jax.make_jaxpr(functools.partial(fn, **params))(*operands)
            return lift(
                closed,
                name=getattr(fn, "__name__", "fn"),
                located=False,
                has_rule=self.has_rule,
            )


def _settings() -> list[Any]:
    """JAX's own defaults, whatever those of the caller are: decompositions say their dtypes."""
    return [
        enable_x64(True),
        jax.numpy_rank_promotion("allow"),
        jax.numpy_dtype_promotion("standard"),
        jax.disable_jit(False),
        jax.debug_nans(False),
        jax.debug_infs(False),
    ]


def _jax_dtype(dtype: DType) -> Any:
    """The dtype as JAX has it, of typed keys too."""
    if dtype.is_key:
        return jax.random.key(0, impl=KEY_NAMES[dtype]).dtype
    return dtype.numpy
