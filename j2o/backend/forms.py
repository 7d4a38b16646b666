"""Operators next to their parts: how fast onnxruntime runs both, as `python -m tools.forms` measures it."""

from __future__ import annotations

# the time of the operator over that of its parts, in float32
# (onnxruntime 1.32.0, 2 cores)
RATIOS = {
    "onnx.Attention": 0.69,
    "onnx.Celu": 0.13,
    "onnx.Clip": 0.51,
    "onnx.Elu": 0.07,
    "onnx.GroupNormalization": 1.87,  # by way of InstanceNormalization
    "onnx.HardSigmoid": 0.33,
    "onnx.HardSwish": 0.46,
    "onnx.Mish": 1.08,
    "onnx.RMSNormalization": 0.64,
    "onnx.RotaryEmbedding": 0.38,
    "onnx.Selu": 0.75,
    "onnx.Softplus": 0.94,
    "onnx.Swish": 2.11,
    "onnx.TensorScatter": 0.61,
}
TOLERATED = 1.1  # two measurements of one thing differ by as much
SLOW = frozenset(op for op, ratio in RATIOS.items() if ratio > TOLERATED)
