"""All examples: what to compile, its specs, and sizes to verify it at.

python -m examples.zoo            # verify every example, print a line for each
python -m examples.zoo vit gpt2   # those whose names contain a word
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

import j2o
from examples import functions, layers, programs, quickstart


@dataclass(frozen=True)
class Example:
    """`build()` gives the function; `specs` are API specs, or arrays where the argument is a parameter."""

    build: Callable[[], Any]
    specs: tuple[Any, ...]
    sizes: tuple[dict[str, int], ...] = ({"B": 1}, {"B": 3}, {"B": 8})
    high: int = 7  # integers are drawn below this


def _eval(make: Callable[..., nnx.Module], **options: Any) -> Callable[[], nnx.Module]:
    def build() -> nnx.Module:
        net = make(nnx.Rngs(0), **options)
        net.eval()
        return net

    return build


IMAGE = ("f32[B,32,32,3]",)
TEXT = ("i32[B,T]",)
BATCH = ("f32[B,8]", "i32[B]")
SEQUENCE = ({"B": 1, "T": 1}, {"B": 2, "T": 7}, {"B": 5, "T": 16})
FEW = ({"B": 1}, {"B": 2}, {"B": 3})
PARAMETERS = programs.PARAMETERS
ADAM_STATE = programs.adam_state(PARAMETERS)
BASE = {
    "embedding": layers.ConvEmbedding,
    "size": 224,
    "patch": 16,
    "width": 768,
    "depth": 12,
    "heads": 12,
    "classes": 1000,
}

EXAMPLES: dict[str, Example] = {
    "mlp": Example(quickstart.build, (("B", 30),)),
    "autoencoder": Example(_eval(layers.AutoEncoder), ("f32[B,64]",)),
    "cnn": Example(_eval(layers.CNN), ("f32[B,28,28,1]",)),
    "attention": Example(_eval(layers.Attention, width=32, heads=4), ("f32[B,T,32]",), SEQUENCE),
    "patch_embedding": Example(_eval(layers.PatchEmbedding), IMAGE),
    "conv_embedding": Example(_eval(layers.ConvEmbedding), IMAGE),
    "transformer_block": Example(_eval(layers.TransformerBlock), ("f32[B,T,64]",), SEQUENCE),
    "transformer_stack": Example(_eval(layers.TransformerStack), ("f32[B,T,64]",), SEQUENCE),
    "vit_patch": Example(_eval(layers.VisionTransformer), IMAGE),
    "vit_conv": Example(_eval(layers.VisionTransformer, embedding=layers.ConvEmbedding), IMAGE),
    "vit_functions": Example(_eval(layers.VisionTransformer, block=functions.TransformerBlock), IMAGE),
    "vit_b16": Example(_eval(layers.VisionTransformer, **BASE), ("f32[B,224,224,3]",), FEW),
    "gpt2": Example(_eval(layers.Decoder), TEXT, SEQUENCE),
    "lstm": Example(lambda: programs.lstm, ("f32[B,T,8]",), SEQUENCE),
    "generation": Example(lambda: programs.generate, TEXT, SEQUENCE),
    "sgd_step": Example(lambda: programs.sgd_step, (PARAMETERS, *BATCH), high=3),
    "adam_step": Example(lambda: programs.adam_step, (PARAMETERS, ADAM_STATE, *BATCH), high=3),
}  # fmt: skip


def arguments(example: Example) -> Iterator[tuple[Any, ...]]:
    """Concrete arguments for every size of an example."""
    rng = np.random.default_rng(0)

    def value(spec: Any, size: dict[str, int]) -> Any:
        if isinstance(spec, tuple):
            spec = f"f32[{','.join(map(str, spec))}]"
        if not isinstance(spec, str):
            return spec
        dtype, _, dims = spec.rstrip("]").partition("[")
        shape = tuple(size.get(d) or int(d) for d in dims.split(","))
        if dtype == "i32":
            return rng.integers(0, example.high, shape).astype(np.int32)
        return rng.standard_normal(shape).astype(np.float32)

    for size in example.sizes:
        yield tuple(value(s, size) for s in example.specs)


def run(name: str, **options: Any) -> j2o.Model:
    """Compile an example and verify it at all its sizes; VerificationError where it differs from JAX."""
    example = EXAMPLES[name]
    model = j2o.compile(example.build(), example.specs, **options)
    for args in arguments(example):
        model.verify(*jax.tree.map(jax.numpy.asarray, args), rtol=1e-5, atol=1e-5)
    return model


if __name__ == "__main__":
    for each in EXAMPLES:
        if not sys.argv[1:] or any(word in each for word in sys.argv[1:]):
            print(run(each))
