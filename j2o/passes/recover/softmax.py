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


# Where a row is masked in whole, all of the following are NaN: the mask is of -∞, and so is the maximum.


@rewrite("softmax_where")
def softmax_where(op, mask, x, axes):
    """`softmax(x, where=mask)`, but for the zeros that stand where the mask hides."""
    shown = op.Where(mask, x, -np.inf)
    e = op.Exp(_shifted(op, shown, axes))
    return op.Div(e, op.ReduceSum(op.Where(mask, e, 0.0), axes, keepdims=1))


@softmax_where.becomes
def _(op, mask, x, axes):
    shown = op.Where(mask, x, op.const(-np.inf, x.type.dtype))
    axis = _axis(shown, axes)
    return None if axis is None else op.Softmax(shown, axis=axis)


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


@rewrite("log_softmax_where")
def log_softmax_where(op, mask, x, axes):
    """`log_softmax(x, where=mask)`, but for the infinities that stand where the mask hides."""
    shifted = _shifted(op, op.Where(mask, x, -np.inf), axes)
    e = op.Where(mask, op.Exp(shifted), 0.0)
    return op.Sub(shifted, op.Log(op.ReduceSum(e, axes, keepdims=1)))


@log_softmax_where.becomes
def _(op, mask, x, axes):
    shown = op.Where(mask, x, op.const(-np.inf, x.type.dtype))
    axis = _axis(shown, axes)
    if axis is None or x.type.dtype == DType.F64:  # onnxruntime's overlooks NaN
        return None
    return op.LogSoftmax(shown, axis=axis)


SOFTMAXES = (softmax, softmax_where, log_softmax, log_softmax_where)
