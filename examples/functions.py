"""The vision transformer with every block, attention and MLP marked `@j2o.function`: nested ONNX functions, one definition
each, called with different weights."""

from __future__ import annotations

from flax import nnx

import j2o
from examples import layers


@j2o.function
class Attention(layers.Attention):
    pass


@j2o.function
class FeedForward(layers.FeedForward):
    pass


@j2o.function
class Block(layers.TransformerBlock):
    attention_type, mlp_type = Attention, FeedForward


def vision_transformer(rngs: nnx.Rngs, **options) -> nnx.Module:
    return layers.VisionTransformer(rngs, block=Block, **options)
