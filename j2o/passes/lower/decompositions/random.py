"""Random bits, bit for bit as JAX makes them: the threefry hash and the counters that it is applied to."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

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
    keys = (key0, key1, key0 ^ key1 ^ np.uint32(0x1BD11BDA))
    x0, x1 = x0 + key0, x1 + key1
    for i in range(5):
        for r in ROTATIONS[i % 2]:
            x0 = x0 + x1
            rotated = (x1 << np.uint32(r)) | lax.shift_right_logical(
                x1, np.uint32(32 - r)
            )
            x1 = x0 ^ rotated
        x0, x1 = x0 + keys[(i + 1) % 3], x1 + keys[(i + 2) % 3] + np.uint32(i + 1)
    return x0, x1


@lower("iota_2x32_shape")
def iota_2x32_shape(op: Lowering, *, shape: Shape) -> tuple[Value, Value]:
    """The flat index of every element, as its upper and lower 32 bits."""
    index = op.reshape(arange(op, dims.prod(shape), DType.I64), shape)
    return op.cast(op.Div(index, 2**32), DType.U32), op.cast(
        op.Mod(index, 2**32), DType.U32
    )


@lower_with("rng_uniform")
def rng_uniform(low: Any, high: Any, *, shape: Sequence[Any]) -> Any:
    """Uniform values of no promised stream: threefry with a fixed key."""
    return jax.random.uniform(jax.random.key(0), tuple(shape), low.dtype, low, high)


# --------------------------------------------------------------------- XLA's generators (xla/hlo/builder/lib/prng.cc)


@lower_with("rng_bit_generator")
def rng_bit_generator(
    key: Any, *, shape: Sequence[Any], dtype: DType, algorithm: str
) -> tuple[Any, Any]:
    """The next state and random bits; the default algorithm is XLA's on CPU, Philox. The state is u64[2] or its words."""
    state = key if key.shape == (2,) else _u64(key[0::2], key[1::2])
    wide = dtype.bits == 64
    generate = _threefry_bits if algorithm == "rng_three_fry" else _philox_bits
    count, bits = generate(state, tuple(shape), wide)
    state = lax.concatenate(
        [state[:1], state[1:] + lax.convert_element_type(count, np.uint64)], 0
    )
    if key.shape != (2,):
        state = lax.reshape(
            lax.concatenate([w[:, None] for w in _u32s(state)], 1), (4,)
        )
    return state, lax.convert_element_type(bits, dtype.numpy)


def _u32s(x: Any) -> tuple[Any, Any]:
    """The lower and the upper halves of u64."""
    low, high = x & np.uint64(0xFFFFFFFF), lax.shift_right_logical(x, np.uint64(32))
    return lax.convert_element_type(low, np.uint32), lax.convert_element_type(
        high, np.uint32
    )


def _u64(low: Any, high: Any) -> Any:
    return low.astype(np.uint64) | (high.astype(np.uint64) << np.uint64(32))


def _threefry_bits(state: Any, shape: tuple[Any, ...], wide: bool) -> tuple[Any, Any]:
    """Two words an element, or one each for the halves of the first even dimension, else of the largest."""
    if dims.is_static(shape) or wide:
        even = [i for i, d in enumerate(shape) if d % 2 == 0]
        at = (
            even[0]
            if even
            else max(range(len(shape)), key=shape.__getitem__, default=0)
        )
        return _threefry_halves(state, shape, wide, at)
    sizes = jnp.asarray(shape, np.int64)
    at = jnp.where((sizes % 2 == 0).any(), (sizes % 2 == 0).argmax(), sizes.argmax())
    return lax.switch(
        at,
        [
            functools.partial(_threefry_halves, state, shape, wide, i)
            for i in range(len(shape))
        ],
    )


def _threefry_halves(
    state: Any, shape: tuple[Any, ...], wide: bool, at: int
) -> tuple[Any, Any]:
    """How many counters there are, and the bits, with dimension `at` made of two halves."""
    half = (
        shape
        if wide
        else tuple(-(-d // 2) if i == at else d for i, d in enumerate(shape))
    )
    n = math.prod(half)
    counters = (state[1] + jnp.arange(n, dtype=np.uint64)).reshape(half)
    words = threefry2x32(*_u32s(state[0]), *_u32s(counters))
    if wide or not shape:
        return jnp.asarray(n, np.uint64), _u64(*words) if wide else words[0]
    pairs = jnp.stack(words, at + 1).reshape(
        *shape[:at], 2 * half[at], *shape[at + 1 :]
    )
    return jnp.asarray(n, np.uint64), lax.slice_in_dim(pairs, 0, shape[at], axis=at)


def _philox_bits(state: Any, shape: tuple[Any, ...], wide: bool) -> tuple[Any, Any]:
    """Philox-4x32 with 10 rounds (Salmon et al.), four words a counter; the counter is 128 bits, the key its upper half."""
    size, (key, low) = math.prod(shape), state
    n = -(-size // (2 if wide else 4))
    steps = jnp.arange(n, dtype=np.uint64)
    (a, b), (k0, k1) = _u32s(low + steps), _u32s(key)
    c, d = _u32s(key + (low + steps < steps))
    for i in range(10):
        (b_, c_), (d_, a_) = (
            _u32s(x.astype(np.uint64) * np.uint64(m))
            for x, m in ((a, 0xD2511F53), (c, 0xCD9E8D57))
        )
        bump0, bump1 = (
            np.uint32(i * 0x9E3779B9 % 2**32),
            np.uint32(i * 0xBB67AE85 % 2**32),
        )
        a, b, c, d = a_ ^ b ^ (k0 + bump0), d_, c_ ^ d ^ (k1 + bump1), b_
    words = (_u64(a, b), _u64(c, d)) if wide else (a, b, c, d)
    return n, jnp.stack(words, 1).reshape(-1)[:size].reshape(shape)
