"""PRNG keys as arrays of 32-bit words, `u32[..., 2]` (threefry) or `u32[..., 4]` (rbg): the formulas are JAX's own.

A rule takes key words for keys and gives key words, as a tuple of one array a word, where the primitive gives keys.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random

from j2o.ir.types import KEY_NAMES, DType

# JAX's functions on raw keys: `seed`, `split`, `random_bits`, `fold_in`
IMPLEMENTATIONS: dict[DType, Any] = {
    DType.KEY_FRY: random.threefry_prng_impl,
    DType.KEY_RBG: random.rbg_prng_impl,
    DType.KEY_UNSAFE_RBG: random.unsafe_rbg_prng_impl,
}


def _over(fn: Callable[..., Any], rank: int) -> Callable[..., Any]:
    """`fn`, mapped over as many leading axes."""
    for _ in range(rank):
        fn = jax.vmap(fn)
    return fn


@functools.cache
def on_words(fn: Callable[..., Any]) -> Callable[..., Any]:
    """JAX's code for a primitive whose first operand is an array of typed keys, as a rule that takes their words."""

    def rule(keys: Any, *operands: Any, impl: DType, **params: Any) -> Any:
        return fn(
            jax.random.wrap_key_data(keys, impl=KEY_NAMES[impl]), *operands, **params
        )

    return rule


def words(keys: Any) -> tuple[Any, ...]:
    """The parts that are stacked on a last axis."""
    return tuple(keys[..., i] for i in range(keys.shape[-1]))


def random_seed(seeds: Any, *, impl: DType) -> Any:
    return words(_over(IMPLEMENTATIONS[impl].seed, seeds.ndim)(seeds))


def random_split(keys: Any, *, shape: Sequence[Any], impl: DType) -> Any:
    return words(
        _over(lambda k: IMPLEMENTATIONS[impl].split(k, tuple(shape)), keys.ndim - 1)(
            keys
        )
    )


def random_fold_in(keys: Any, messages: Any, *, impl: DType) -> Any:
    shape = jnp.broadcast_shapes(keys.shape[:-1], messages.shape)
    keys = jnp.broadcast_to(keys, (*shape, keys.shape[-1]))
    return words(
        _over(IMPLEMENTATIONS[impl].fold_in, len(shape))(
            keys, jnp.broadcast_to(messages, shape)
        )
    )


def random_bits(keys: Any, *, bit_width: int, shape: Sequence[Any], impl: DType) -> Any:
    return _over(
        lambda k: IMPLEMENTATIONS[impl].random_bits(k, bit_width, tuple(shape)),
        keys.ndim - 1,
    )(keys)


KEYS: dict[str, Callable[..., Any]] = {
    "random_seed": random_seed,
    "random_split": random_split,
    "random_fold_in": random_fold_in,
    "random_bits": random_bits,
    "random_wrap": lambda data, impl: words(data),
    "random_unwrap": lambda keys, impl: keys,
    "eq": lambda a, b, impl: (a == b).all(-1),
    "ne": lambda a, b, impl: (a != b).any(-1),
}
