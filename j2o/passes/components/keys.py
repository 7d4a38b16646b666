"""PRNG keys as arrays of words of 32 bits, `u32[..., 2]` (threefry) or `u32[..., 4]` (rbg).

The formulas are JAX's own, on the raw words. A key of more than one dimension is mapped over.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend import random

from j2o.ir.types import DType, Shape
from j2o.passes.components.tables import on_words

Array: TypeAlias = jax.Array
Words: TypeAlias = "tuple[Array, ...]"  # one array for each word of a key

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


def words(keys: Array) -> Words:
    """The parts that are stacked on a last axis."""
    return tuple(keys[..., i] for i in range(keys.shape[-1]))


# ----------------------------------------------------------------------------- new keys


@on_words("random_seed")
def random_seed(seeds: Array, *, impl: DType) -> Words:
    seed = _over(IMPLEMENTATIONS[impl].seed, seeds.ndim)
    return words(seed(seeds))


@on_words("random_split")
def random_split(keys: Array, *, shape: Shape, impl: DType) -> Words:
    """`shape` new keys of each key: `u32[*keys, *shape, words]` before it is taken apart."""

    def split(key: Array) -> Array:
        return IMPLEMENTATIONS[impl].split(key, tuple(shape))

    return words(_over(split, keys.ndim - 1)(keys))


@on_words("random_fold_in")
def random_fold_in(keys: Array, messages: Array, *, impl: DType) -> Words:
    """One new key of each key and message, which are broadcast."""
    shape = jnp.broadcast_shapes(keys.shape[:-1], messages.shape)
    keys = jnp.broadcast_to(keys, (*shape, keys.shape[-1]))
    messages = jnp.broadcast_to(messages, shape)
    fold_in = _over(IMPLEMENTATIONS[impl].fold_in, len(shape))
    return words(fold_in(keys, messages))


@on_words("random_bits")
def random_bits(keys: Array, *, bit_width: int, shape: Shape, impl: DType) -> Array:
    """Unsigned integers of `bit_width` bits, `shape` of them for each key."""

    def bits(key: Array) -> Array:
        return IMPLEMENTATIONS[impl].random_bits(key, bit_width, tuple(shape))

    return _over(bits, keys.ndim - 1)(keys)


# ---------------------------------------------------------------- keys as what they are


@on_words("random_wrap")
def random_wrap(data: Array, *, impl: DType) -> Words:
    return words(data)


@on_words("random_unwrap")
def random_unwrap(keys: Array, *, impl: DType) -> Array:
    return keys


@on_words("eq")
def equal(a: Array, b: Array, *, impl: DType) -> Array:
    return (a == b).all(-1)


@on_words("ne")
def not_equal(a: Array, b: Array, *, impl: DType) -> Array:
    return (a != b).any(-1)
