"""Programs in plain JAX: an LSTM by scan, greedy generation with a cache, training steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _normal(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


# ------------------------------------------------------------------------------------------------ LSTM


def _lstm_weights(width: int):
    return {
        "x": _normal(0, 8, 4 * width),
        "h": _normal(1, width, 4 * width),
        "b": np.zeros(4 * width, np.float32),
    }


def lstm(x, width: int = 16, w=None):
    """`x`: f32[B,T,8]; the hidden states of an LSTM, f32[B,T,16]."""
    if w is None:
        w = _lstm_weights(width)

    def step(carry, xt):
        h, c = carry
        i, f, g, o = jnp.split(xt @ w["x"] + h @ w["h"] + w["b"], 4, axis=-1)
        c = jax.nn.sigmoid(f + 1) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zero = jnp.zeros((x.shape[0], width))
    _, hs = lax.scan(step, (zero, zero), x.swapaxes(0, 1))
    return hs.swapaxes(0, 1)


# ------------------------------------------------------------------------------------------ generation

WIDTH = 16
VOCABULARY = 23
NEW = 6  # tokens that are made
TABLES = {
    "embed": _normal(0, VOCABULARY, WIDTH),
    "q": _normal(1, WIDTH, WIDTH),
    "k": _normal(2, WIDTH, WIDTH),
    "v": _normal(3, WIDTH, WIDTH),
    "out": _normal(4, WIDTH, VOCABULARY),
}


class Generation(NamedTuple):
    """What one round of the loop hands to the next."""

    at: Any  # the place of the next token
    tokens: Any  # i32[B,T+6]
    keys: Any  # f32[B,T+6,16]
    values: Any  # f32[B,T+6,16]
    ended: Any  # bool[B]: the row has had token 0


def generate(prompt):
    """Extend `prompt`, i32[B,T], greedily by six tokens, or until every row has ended with token 0.

    A `while_loop` with a key-value cache; gives the tokens i32[B,T+6] and how many were made.
    """
    start = prompt.shape[1]
    length = start + NEW

    def goes_on(state):
        return (state.at < length) & ~state.ended.all()

    end = lax.while_loop(goes_on, _next_token, _prompted(prompt))
    return {"tokens": end.tokens, "made": end.at - start}


def _prompted(prompt):
    """The state in which the prompt has been read."""
    batch, start = prompt.shape
    x = jnp.asarray(TABLES["embed"])[prompt]
    room = ((0, 0), (0, NEW), (0, 0))
    return Generation(
        at=start,
        tokens=jnp.concatenate([prompt, jnp.zeros((batch, NEW), prompt.dtype)], 1),
        keys=jnp.pad(x @ TABLES["k"], room),
        values=jnp.pad(x @ TABLES["v"], room),
        ended=jnp.zeros(batch, bool),
    )


def _next_token(state):
    """The state with one token more."""
    at, tokens, keys, values, ended = state
    last = lax.dynamic_index_in_dim(tokens, at - 1, 1, keepdims=False)
    x = jnp.asarray(TABLES["embed"])[last]
    keys = lax.dynamic_update_index_in_dim(keys, x @ TABLES["k"], at - 1, 1)
    values = lax.dynamic_update_index_in_dim(values, x @ TABLES["v"], at - 1, 1)
    logits = (x + _attend(x, keys, values, at)) @ TABLES["out"]
    best = jnp.argmax(logits, -1).astype(jnp.int32)
    best = jnp.where(ended, 0, best)
    tokens = lax.dynamic_update_index_in_dim(tokens, best, at, 1)
    return Generation(at + 1, tokens, keys, values, ended | (best == 0))


def _attend(x, keys, values, upto):
    """Attention of the last token to those before `upto`."""
    scores = jnp.einsum("bd,btd->bt", x @ TABLES["q"], keys) / WIDTH**0.5
    is_there = jnp.arange(keys.shape[1])[None] < upto
    scores = jnp.where(is_there, scores, -jnp.inf)
    return jnp.einsum("bt,btd->bd", jax.nn.softmax(scores), values)


# -------------------------------------------------------------------------------------------- training

PARAMETERS = {
    "w1": _normal(5, 8, 32),
    "b1": np.zeros(32, np.float32),
    "w2": _normal(6, 32, 3),
}


def loss(params, x, y):
    logits = jax.nn.gelu(x @ params["w1"] + params["b1"]) @ params["w2"]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()


def sgd_step(params, x, y):
    """One step of gradient descent: parameters in, parameters and loss out."""
    value, grads = jax.value_and_grad(loss)(params, x, y)
    return {
        "params": jax.tree.map(lambda p, g: p - 0.1 * g, params, grads),
        "loss": value,
    }


def adam_state(params):
    zeros = jax.tree.map(np.zeros_like, params)
    return {"step": np.int32(0), "mean": zeros, "square": zeros}


def adam_step(params, state, x, y, rate=1e-2, b1=0.9, b2=0.999, eps=1e-8):
    """One step of Adam (Kingma and Ba, 2015): parameters and state in and out."""
    value, grads = jax.value_and_grad(loss)(params, x, y)
    step = state["step"] + 1
    mean = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state["mean"], grads)
    square = jax.tree.map(
        lambda s, g: b2 * s + (1 - b2) * g * g, state["square"], grads
    )

    def update(p, m, s):
        unbiased_mean = m / (1 - b1**step)
        unbiased_square = s / (1 - b2**step)
        return p - rate * unbiased_mean / (jnp.sqrt(unbiased_square) + eps)

    new = jax.tree.map(update, params, mean, square)
    return {
        "params": new,
        "state": {"step": step, "mean": mean, "square": square},
        "loss": value,
    }
