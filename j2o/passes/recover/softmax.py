"""Softmax and LogSoftmax as `jax.nn` and hand-written code spell them."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


def _axis(op: RuleBuilder, x: Value, axes: Value) -> int | None:
    """The one axis, of floats."""
    if axes.known is None or len(axes.known) != 1 or not x.type.dtype.is_float:
        return None
    return int(axes.known[0]) % x.type.rank  # type: ignore[arg-type]


def _shifted(op, x, axes):
    top = op.ReduceMax(x, axes, keepdims=1)
    return op.Sub(x, op.either(top, op.Max(top, -np.inf)))


@rewrite("softmax")
def softmax(op, x, axes):
    e = op.Exp(_shifted(op, x, axes))
    return op.Div(e, op.ReduceSum(e, axes, keepdims=1))


@softmax.becomes
def _(op, x, axes):
    axis = _axis(op, x, axes)
    return None if axis is None else op.Softmax(x, axis=axis)


@rewrite("log_softmax")
def log_softmax(op, x, axes):
    shifted = _shifted(op, x, axes)
    return op.Sub(shifted, op.Log(op.ReduceSum(op.Exp(shifted), axes, keepdims=1)))


@log_softmax.becomes
def _(op, x, axes):
    axis = _axis(op, x, axes)
    overlooks_nan = x.type.dtype == DType.F64  # onnxruntime's kernel
    return None if axis is None or overlooks_nan else op.LogSoftmax(x, axis=axis)


RULES = (softmax, log_softmax)
