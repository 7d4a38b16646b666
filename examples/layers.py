"""Building blocks of flax nnx users: an autoencoder, a CNN, attention, embeddings, transformer
blocks, vision transformers.

Everything is an ordinary nnx module; nothing here knows of j2o.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class AutoEncoder(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, size: int = 64, code: int = 8):
        self.encoder = nnx.Linear(size, code, rngs=rngs)
        self.decoder = nnx.Linear(code, size, rngs=rngs)

    def __call__(self, x):
        return nnx.sigmoid(self.decoder(nnx.relu(self.encoder(x))))


class CNN(nnx.Module):
    def __init__(self, rngs: nnx.Rngs):
        self.conv1 = nnx.Conv(1, 16, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(16, rngs=rngs)
        self.conv2 = nnx.Conv(16, 32, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(32 * 7 * 7, 10, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv1(x)))
        x = nnx.avg_pool(x, (2, 2), strides=(2, 2))
        x = nnx.relu(self.conv2(x))
        return self.head(x.reshape(x.shape[0], -1))


class PatchEmbedding(nnx.Module):
    """Cuts an image into patches and projects each: reshape, transpose, linear."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int = 32,
        patch: int = 8,
        channels: int = 3,
        width: int = 64,
    ):
        self.patch = patch
        self.count = (size // patch) ** 2
        self.width = width
        self.project = nnx.Linear(patch * patch * channels, width, rngs=rngs)

    def __call__(self, x):
        b, h, w, c = x.shape
        p = self.patch
        x = x.reshape(b, h // p, p, w // p, p, c).transpose(0, 1, 3, 2, 4, 5)
        return self.project(x.reshape(b, self.count, p * p * c))


class ConvEmbedding(nnx.Module):
    """The same embedding as one strided convolution."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        size: int = 32,
        patch: int = 8,
        channels: int = 3,
        width: int = 64,
    ):
        self.count = (size // patch) ** 2
        self.width = width
        self.conv = nnx.Conv(
            channels, width, (patch, patch), strides=patch, padding="VALID", rngs=rngs
        )

    def __call__(self, x):
        x = self.conv(x)
        return x.reshape(x.shape[0], self.count, self.width)


class Attention(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int, heads: int):
        self.attn = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)

    def __call__(self, x):
        return self.attn(x)


class FeedForward(nnx.Module):
    def __init__(self, rngs: nnx.Rngs, width: int):
        self.up = nnx.Linear(width, 4 * width, rngs=rngs)
        self.down = nnx.Linear(4 * width, width, rngs=rngs)
        self.dropout = nnx.Dropout(0.1, rngs=rngs)

    def __call__(self, x):
        return self.down(self.dropout(nnx.gelu(self.up(x))))


class TransformerBlock(nnx.Module):
    attention_type = Attention
    mlp_type = FeedForward

    def __init__(self, rngs: nnx.Rngs, width: int = 64, heads: int = 4):
        self.norm1 = nnx.LayerNorm(width, rngs=rngs)
        self.norm2 = nnx.LayerNorm(width, rngs=rngs)
        self.attention = self.attention_type(rngs, width, heads)
        self.mlp = self.mlp_type(rngs, width)

    def __call__(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class TransformerStack(nnx.Module):
    def __init__(
        self,
        rngs: nnx.Rngs,
        depth: int = 3,
        width: int = 64,
        heads: int = 4,
        block: type = TransformerBlock,
    ):
        self.blocks = nnx.List([block(rngs, width, heads) for _ in range(depth)])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class VisionTransformer(nnx.Module):
    def __init__(
        self,
        rngs: nnx.Rngs,
        embedding: type = PatchEmbedding,
        size: int = 32,
        patch: int = 8,
        width: int = 64,
        depth: int = 3,
        heads: int = 4,
        classes: int = 10,
        block: type = TransformerBlock,
    ):
        self.embedding = embedding(rngs, size, patch, 3, width)
        self.token = self._parameter(rngs, 1, width)
        self.position = self._parameter(rngs, self.embedding.count + 1, width)
        self.stack = TransformerStack(rngs, depth, width, heads, block)
        self.norm = nnx.LayerNorm(width, rngs=rngs)
        self.head = nnx.Linear(width, classes, rngs=rngs)

    @staticmethod
    def _parameter(rngs: nnx.Rngs, count: int, width: int) -> nnx.Param:
        """Small random vectors that are the same for every image."""
        return nnx.Param(jax.random.normal(rngs.params(), (1, count, width)) * 0.02)

    def __call__(self, x):
        x = self.embedding(x)
        token = jnp.broadcast_to(self.token[...], (x.shape[0], 1, x.shape[-1]))
        x = jnp.concatenate([token, x], axis=1) + self.position[...]
        return self.head(self.norm(self.stack(x))[:, 0])


class Decoder(nnx.Module):
    """A GPT-2-like decoder: learned positions, causal mask, tied output embedding."""

    def __init__(
        self,
        rngs: nnx.Rngs,
        vocabulary: int = 101,
        context: int = 64,
        width: int = 64,
        depth: int = 2,
        heads: int = 4,
    ):
        self.tokens = nnx.Embed(vocabulary, width, rngs=rngs)
        self.positions = nnx.Embed(context, width, rngs=rngs)
        self.norms = nnx.List()
        self.attentions = nnx.List()
        self.mlps = nnx.List()
        for _ in range(depth):
            attention = nnx.MultiHeadAttention(heads, width, decode=False, rngs=rngs)
            self.attentions.append(attention)
            self.mlps.append(FeedForward(rngs, width))
        for _ in range(2 * depth + 1):
            self.norms.append(nnx.LayerNorm(width, rngs=rngs))

    def __call__(self, ids):
        t = ids.shape[1]
        x = self.tokens(ids) + self.positions(jnp.arange(t))[None]
        mask = jnp.tril(jnp.ones((1, 1, t, t), bool))
        blocks = zip(self.attentions, self.mlps, strict=True)
        for i, (attention, mlp) in enumerate(blocks):
            x = x + attention(self.norms[2 * i](x), mask=mask)
            x = x + mlp(self.norms[2 * i + 1](x))
        return self.tokens.attend(self.norms[-1](x))
