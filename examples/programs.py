"""Programs in plain JAX: an LSTM by scan, greedy generation with a cache, training steps."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


def _normal(seed: int, *shape: int) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


# ------------------------------------------------------------------------------------------------ LSTM


def lstm(x, width: int = 16, w=None):
    """`x`: f32[B,T,8]; the hidden states of an LSTM, f32[B,T,16]."""
    w = (
        {
            "x": _normal(0, 8, 4 * width),
            "h": _normal(1, width, 4 * width),
            "b": np.zeros(4 * width, np.float32),
        }
        if w is None
        else w
    )

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

WIDTH, VOCABULARY, NEW = 16, 23, 6
TABLES = {k: _normal(i, *s) for i, (k, s) in enumerate({
    "embed": (VOCABULARY, WIDTH), "q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "out": (WIDTH, VOCABULARY),
}.items())}  # fmt: skip


def generate(prompt):
    """`prompt`: i32[B,T]; greedily extended by six tokens, or until every row has ended with token
    0. A `while_loop` with a key-value cache; gives the tokens i32[B,T+6] and how many were made."""
    batch, start = prompt.shape
    length = start + NEW
    embed = jnp.asarray(TABLES["embed"])

    def attend(x, keys, values, upto):
        scores = jnp.einsum("bd,btd->bt", x @ TABLES["q"], keys) / WIDTH**0.5
        scores = jnp.where(jnp.arange(length)[None] < upto, scores, -jnp.inf)
        return jnp.einsum("bt,btd->bd", jax.nn.softmax(scores), values)

    def body(state):
        i, tokens, keys, values, ended = state
        x = embed[lax.dynamic_index_in_dim(tokens, i - 1, 1, keepdims=False)]
        keys = lax.dynamic_update_index_in_dim(keys, x @ TABLES["k"], i - 1, 1)
        values = lax.dynamic_update_index_in_dim(values, x @ TABLES["v"], i - 1, 1)
        best = jnp.argmax((x + attend(x, keys, values, i)) @ TABLES["out"], -1).astype(
            jnp.int32
        )
        best = jnp.where(ended, 0, best)
        return (
            i + 1,
            lax.dynamic_update_index_in_dim(tokens, best, i, 1),
            keys,
            values,
            ended | (best == 0),
        )

    x = embed[prompt]
    pad = ((0, 0), (0, NEW), (0, 0))
    tokens = jnp.concatenate([prompt, jnp.zeros((batch, NEW), prompt.dtype)], 1)
    state = (
        start,
        tokens,
        jnp.pad(x @ TABLES["k"], pad),
        jnp.pad(x @ TABLES["v"], pad),
        jnp.zeros(batch, bool),
    )
    i, tokens, *_ = lax.while_loop(lambda s: (s[0] < length) & ~s[4].all(), body, state)
    return {"tokens": tokens, "made": i - start}


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
        return p - rate * (m / (1 - b1**step)) / (jnp.sqrt(s / (1 - b2**step)) + eps)

    new = jax.tree.map(update, params, mean, square)
    return {
        "params": new,
        "state": {"step": step, "mean": mean, "square": square},
        "loss": value,
    }
