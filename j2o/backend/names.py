"""Names in a written model: of values by their hints, of nodes by what they compute; each once."""

from __future__ import annotations

import re
from collections.abc import Iterable

from j2o.ir.graph import Node

# operators that stand for several primitives of JAX: nodes of them bear no primitive's name
COMPOUND = frozenset(
    {
        # activations
        "Celu",
        "Clip",
        "Elu",
        "Gelu",
        "HardSigmoid",
        "HardSwish",
        "LeakyRelu",
        "LogSoftmax",
        "Mish",
        "Relu",
        "Selu",
        "Softmax",
        "Softplus",
        "Softsign",
        "Swish",
        # normalisations and means
        "BatchNormalization",
        "GroupNormalization",
        "InstanceNormalization",
        "LayerNormalization",
        "LpNormalization",
        "RMSNormalization",
        "ReduceL2",
        "ReduceLogSumExp",
        "ReduceMean",
        # parts of models
        "Attention",
        "GRU",
        "Gemm",
        "LSTM",
        "RNN",
        "RotaryEmbedding",
        "TensorScatter",
    }
)


def own_name(node: Node) -> str:
    """Return what a node is called in its module: after the primitive that it comes from, or its operator."""
    if node.op == "call" or node.dialect != "onnx" or node.kind in COMPOUND:
        return operator_name(node)
    hint = clean(node.outputs[0].hint) if node.outputs else ""
    # a hint may be the path of a weight
    return hint.rpartition("/")[2] or node.kind


def operator_name(node: Node) -> str:
    """Return the operator of a node, or the function that it calls."""
    return node.str_attr("function") if node.op == "call" else node.kind


class Names:
    """Unique names: one counter a stem, so that giving a name costs O(1)."""

    def __init__(self, taken: Iterable[str] = ()) -> None:
        self.counters: dict[str, int] = {}
        self.taken = set(taken)

    def fresh(self, stem: str) -> str:
        """A name that is not taken, with a number behind it where the stem is; it is taken from then on."""
        stem = stem or "v"
        n = self.counters.get(stem, 0)
        name = stem if n == 0 else f"{stem}_{n}"
        while name in self.taken:
            n += 1
            name = f"{stem}_{n}"
        self.counters[stem] = n + 1
        self.taken.add(name)
        return name


def clean(hint: str) -> str:
    """A hint without the number that an earlier naming gave it."""
    return re.sub(r"_\d+$", "", hint)
