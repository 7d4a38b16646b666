"""Softmax and LogSoftmax as `jax.nn` and hand-written code spell them."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.rule import rewrite


def _axis(x: Value, axes: Value) -> int | None:
    """The one axis of a reduction of floats; None where there are more, or others."""
    over = axes.known_ints
    if over is None or len(over) != 1 or not x.type.dtype.is_float:
        return None
    return over[0] % x.type.rank


def _shifted(op, x, axes):
    """x - max(x), which no exponential overflows on; `jax.nn` starts the maximum at -∞."""
    top = op.ReduceMax(x, axes, keepdims=1)
    return op.Sub(x, op.either(top, op.Max(top, -np.inf)))


@rewrite("softmax")
def softmax(op, x, axes):
    """exp(x - max(x)) / Σ exp(x - max(x))."""
    e = op.Exp(_shifted(op, x, axes))
    return op.Div(e, op.ReduceSum(e, axes, keepdims=1))


@softmax.becomes
def _(op, x, axes):
    axis = _axis(x, axes)
    return None if axis is None else op.Softmax(x, axis=axis)


@rewrite("log_softmax")
def log_softmax(op, x, axes):
    """x - max(x) - log Σ exp(x - max(x))."""
    shifted = _shifted(op, x, axes)
    total = op.ReduceSum(op.Exp(shifted), axes, keepdims=1)
    return op.Sub(shifted, op.Log(total))


@log_softmax.becomes
def _(op, x, axes):
    axis = _axis(x, axes)
    if axis is None or x.type.dtype == DType.F64:  # onnxruntime's overlooks NaN
        return None
    return op.LogSoftmax(x, axis=axis)


SOFTMAXES = (softmax, log_softmax)
