"""Random bits, bit for bit as JAX makes them: the threefry hash and the counters that it is applied to."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import DType, Shape
from j2o.passes.lower.shape import arange
from j2o.passes.lower.table import Lowering, lower, lower_with

ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))


@lower_with("threefry2x32")
def threefry2x32(key0: Any, key1: Any, x0: Any, x1: Any) -> Any:
    """Threefry-2x32 with 20 rounds (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011)."""
    parity = key0 ^ key1 ^ np.uint32(0x1BD11BDA)
    keys = (key0, key1, parity)
    x0 = x0 + key0
    x1 = x1 + key1
    for group in range(5):
        for distance in ROTATIONS[group % 2]:
            x0 = x0 + x1
            x1 = x0 ^ _rotated_left(x1, distance)
        number = group + 1
        x0 = x0 + keys[number % 3]
        x1 = x1 + keys[(number + 1) % 3] + np.uint32(number)
    return x0, x1


def _rotated_left(x: Any, distance: int) -> Any:
    """The bits of a 32-bit word, moved towards the high end and in again at the low end."""
    high = x << np.uint32(distance)
    low = lax.shift_right_logical(x, np.uint32(32 - distance))
    return high | low


@lower("iota_2x32_shape")
def iota_2x32_shape(op: Lowering, *, shape: Shape) -> tuple[Value, Value]:
    """The flat index of every element, as its upper and lower 32 bits."""
    index = op.reshape(arange(op, dims.prod(shape), DType.I64), shape)
    upper = op.cast(op.Div(index, 2**32), DType.U32)
    lower = op.cast(op.Mod(index, 2**32), DType.U32)
    return upper, lower


@lower_with("rng_uniform")
def rng_uniform(low: Any, high: Any, *, shape: Sequence[Any]) -> Any:
    """Uniform values of no promised stream: threefry with a fixed key."""
    return jax.random.uniform(jax.random.key(0), tuple(shape), low.dtype, low, high)


# --------------------------------------- XLA's generators (xla/hlo/builder/lib/prng.cc)


@lower_with("rng_bit_generator")
def rng_bit_generator(
    key: Any, *, shape: Sequence[Any], dtype: DType, algorithm: str
) -> tuple[Any, Any]:
    """The next state and random bits.

    The default algorithm is XLA's on CPU, Philox. The state is u64[2], a key and a counter, or the words of
    32 bits that make these up.
    """
    is_in_words = key.shape != (2,)
    state = _u64(key[0::2], key[1::2]) if is_in_words else key
    wide = dtype.bits == 64
    generate = _threefry_bits if algorithm == "rng_three_fry" else _philox_bits
    count, bits = generate(state, tuple(shape), wide)
    following = state[1:] + lax.convert_element_type(count, np.uint64)
    state = lax.concatenate([state[:1], following], 0)
    if is_in_words:
        columns = [words[:, None] for words in _u32s(state)]
        state = lax.reshape(lax.concatenate(columns, 1), (4,))
    return state, lax.convert_element_type(bits, dtype.numpy)


def _u32s(x: Any) -> tuple[Any, Any]:
    """The lower and the upper halves of u64."""
    low = x & np.uint64(0xFFFFFFFF)
    high = lax.shift_right_logical(x, np.uint64(32))
    return (
        lax.convert_element_type(low, np.uint32),
        lax.convert_element_type(high, np.uint32),
    )


def _u64(low: Any, high: Any) -> Any:
    """Words of 64 bits of their halves."""
    return low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))


def _threefry_bits(state: Any, shape: tuple[Any, ...], wide: bool) -> tuple[Any, Any]:
    """How many counters are used, and the bits. A counter gives two words.

    An element of 64 bits takes both. Those of 32 bits take one each: two elements that are next to each other
    along one axis share a counter. This axis is the first of even size, or the longest where none is.
    """
    if wide:
        count, words = _threefry_words(state, shape)
        return count, _u64(*words)
    if not shape:
        count, words = _threefry_words(state, shape)
        return count, words[0]
    if dims.is_static(shape):
        even = [axis for axis, size in enumerate(shape) if size % 2 == 0]
        longest = max(range(len(shape)), key=shape.__getitem__)
        return _threefry_pairs(state, shape, even[0] if even else longest)
    # which axis it is turns out at run time
    sizes = jnp.asarray(shape, np.int64)
    is_even = sizes % 2 == 0
    axis = jnp.where(is_even.any(), is_even.argmax(), sizes.argmax())
    along = functools.partial(_threefry_pairs, state, shape)
    branches = [functools.partial(along, one) for one in range(len(shape))]
    return lax.switch(axis, branches)


def _threefry_pairs(state: Any, shape: tuple[Any, ...], axis: int) -> tuple[Any, Any]:
    """How many counters are used, and words of which each two along an axis are of one counter."""
    before, size, behind = shape[:axis], shape[axis], shape[axis + 1 :]
    half = -(-size // 2)
    count, words = _threefry_words(state, (*before, half, *behind))
    pairs = jnp.stack(words, axis + 1).reshape((*before, 2 * half, *behind))
    return count, lax.slice_in_dim(pairs, 0, size, axis=axis)


def _threefry_words(state: Any, shape: tuple[Any, ...]) -> tuple[Any, tuple[Any, Any]]:
    """How many counters a shape has, and the two words that each gives."""
    count = math.prod(shape)
    numbers = state[1] + jnp.arange(count, dtype=np.uint64)
    key = _u32s(state[0])
    words = threefry2x32(*key, *_u32s(numbers.reshape(shape)))
    return jnp.asarray(count, np.uint64), words


class PhiloxBlock(NamedTuple):
    """The 128 bits of a Philox-4x32 counter, the lowest word first. Each word may be an array."""

    word0: Any
    word1: Any
    word2: Any
    word3: Any


# the multipliers of words 0 and 2, and what is added to the two keys in each round (Weyl sequences)
PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)


def _philox_bits(state: Any, shape: tuple[Any, ...], wide: bool) -> tuple[Any, Any]:
    """How many counters are used, and the bits by Philox-4x32 with 10 rounds (Salmon et al. 2011).

    A counter of 128 bits gives four words. The key is its upper half, too.
    """
    key, low = state
    size = math.prod(shape)
    in_a_block = 2 if wide else 4
    count = -(-size // in_a_block)
    steps = jnp.arange(count, dtype=np.uint64)
    lower = low + steps
    carry = lower < steps
    block = PhiloxBlock(*_u32s(lower), *_u32s(key + carry))
    keys = _u32s(key)
    for number in range(10):
        block = _philox_round(block, keys, number)
    elements = block
    if wide:
        first = _u64(block.word0, block.word1)
        second = _u64(block.word2, block.word3)
        elements = (first, second)
    bits = jnp.stack(elements, 1).reshape(-1)
    return count, bits[:size].reshape(shape)


def _philox_round(
    block: PhiloxBlock, keys: tuple[Any, Any], number: int
) -> PhiloxBlock:
    """One round: words 0 and 2 are multiplied, the halves of the products are mixed with words 1 and 3."""
    low0, high0 = _wide_product(block.word0, PHILOX_MULTIPLIERS[0])
    low2, high2 = _wide_product(block.word2, PHILOX_MULTIPLIERS[1])
    weyl0, weyl1 = (np.uint32(number * weyl % 2**32) for weyl in PHILOX_WEYL)
    key0 = keys[0] + weyl0
    key1 = keys[1] + weyl1
    return PhiloxBlock(
        word0=high2 ^ block.word1 ^ key0,
        word1=low2,
        word2=high0 ^ block.word3 ^ key1,
        word3=low0,
    )


def _wide_product(word: Any, multiplier: int) -> tuple[Any, Any]:
    """The lower and the upper halves of a product of two words."""
    product = word.astype(np.uint64) * np.uint64(multiplier)
    return _u32s(product)
