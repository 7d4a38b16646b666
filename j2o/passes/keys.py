"""PRNG keys as arrays of 32-bit words, `u32[..., 2]` (threefry) or `u32[..., 4]` (rbg): the formulas are JAX's own.

A rule takes key words for keys and gives key words, as a tuple of one array a word, where the primitive gives keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from j2o.ir.types import DType

KEYS: dict[str, Callable[..., Any]] = {}


def _rule(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(fn: Callable[..., Any]) -> Callable[..., Any]:
        KEYS[name] = fn
        return fn

    return register


def implementation(dtype: DType) -> Any:
    """JAX's functions on raw keys for a key dtype: `seed`, `split`, `random_bits`, `fold_in`."""
    from jax.extend import random

    return {
        DType.KEY_FRY: random.threefry_prng_impl,
        DType.KEY_RBG: random.rbg_prng_impl,
        DType.KEY_UNSAFE_RBG: random.unsafe_rbg_prng_impl,
    }[dtype]


def _over(fn: Callable[..., Any], rank: int) -> Callable[..., Any]:
    """`fn`, mapped over as many leading axes."""
    import jax

    for _ in range(rank):
        fn = jax.vmap(fn)
    return fn


_NAMES = {DType.KEY_FRY: "threefry2x32", DType.KEY_RBG: "rbg", DType.KEY_UNSAFE_RBG: "unsafe_rbg"}


@functools.cache
def on_words(fn: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's code for a primitive whose first operand is an array of typed keys, as a rule that takes their words."""

    def rule(keys: Any, *operands: Any, impl: DType, **params: Any) -> Any:
        import jax

        return fn(jax.random.wrap_key_data(keys, impl=_NAMES[impl]), *operands, **params)

    return rule


def _words(keys: Any) -> tuple[Any, ...]:
    return tuple(keys[..., i] for i in range(keys.shape[-1]))


@_rule("random_seed")
def random_seed(seeds: Any, *, impl: DType) -> Any:
    return _words(_over(implementation(impl).seed, seeds.ndim)(seeds))


@_rule("random_split")
def random_split(keys: Any, *, shape: Sequence[Any], impl: DType) -> Any:
    rule = implementation(impl)
    return _words(_over(lambda k: rule.split(k, tuple(shape)), keys.ndim - 1)(keys))


@_rule("random_fold_in")
def random_fold_in(keys: Any, messages: Any, *, impl: DType) -> Any:
    import jax.numpy as jnp

    shape = jnp.broadcast_shapes(keys.shape[:-1], messages.shape)
    keys = jnp.broadcast_to(keys, (*shape, keys.shape[-1]))
    return _words(_over(implementation(impl).fold_in, len(shape))(keys, jnp.broadcast_to(messages, shape)))


@_rule("random_bits")
def random_bits(keys: Any, *, bit_width: int, shape: Sequence[Any], impl: DType) -> Any:
    rule = implementation(impl)
    return _over(lambda k: rule.random_bits(k, bit_width, tuple(shape)), keys.ndim - 1)(keys)


@_rule("random_wrap")
def random_wrap(data: Any, *, impl: DType) -> Any:
    return _words(data)


@_rule("random_unwrap")
def random_unwrap(keys: Any, *, impl: DType) -> Any:
    return keys


@_rule("eq")
def eq(a: Any, b: Any, *, impl: DType) -> Any:
    return (a == b).all(-1)


@_rule("ne")
def ne(a: Any, b: Any, *, impl: DType) -> Any:
    return (a != b).any(-1)
