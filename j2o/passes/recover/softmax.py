"""Softmax and LogSoftmax as `jax.nn` and hand-written code spell them."""

from __future__ import annotations

import numpy as np

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.rule import RuleBuilder, rewrite


def _along_one(op: RuleBuilder, operator: str, x: Value, axes: Value) -> Value | None:
    """Softmax or LogSoftmax of floats; None where the axes are not one that is known."""
    places = axes.known_ints
    if places is None or len(places) != 1 or not x.type.dtype.is_float:
        return None
    return op.apply(f"onnx.{operator}", x, axis=places[0] % x.type.rank)


def _log_softmax(op: RuleBuilder, x: Value, axes: Value) -> Value | None:
    """LogSoftmax, but of float64, where onnxruntime's overlooks NaN."""
    if x.type.dtype == DType.F64:
        return None
    return _along_one(op, "LogSoftmax", x, axes)


def _shown(op: RuleBuilder, mask: Value, x: Value) -> Value:
    """Scores, and -∞ where the mask hides them."""
    return op.Where(mask, x, op.const(-np.inf, x.type.dtype))


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
    return _along_one(op, "Softmax", x, axes)


# Of a row that is masked in whole, programs and replacements make NaN: the maximum is -∞, as are all scores.


@rewrite("softmax_where")
def softmax_where(op, mask, x, axes):
    """`softmax(x, where=mask)`, but for the zeros that stand where the mask hides."""
    shown = op.Where(mask, x, -np.inf)
    e = op.Exp(_shifted(op, shown, axes))
    return op.Div(e, op.ReduceSum(op.Where(mask, e, 0.0), axes, keepdims=1))


@softmax_where.becomes
def _(op, mask, x, axes):
    return _along_one(op, "Softmax", _shown(op, mask, x), axes)


@rewrite("log_softmax")
def log_softmax(op, x, axes):
    """x - max(x) - log Σ exp(x - max(x))."""
    shifted = _shifted(op, x, axes)
    total = op.ReduceSum(op.Exp(shifted), axes, keepdims=1)
    return op.Sub(shifted, op.Log(total))


@log_softmax.becomes
def _(op, x, axes):
    return _log_softmax(op, x, axes)


@rewrite("log_softmax_where")
def log_softmax_where(op, mask, x, axes):
    """`log_softmax(x, where=mask)`, but for the infinities that stand where the mask hides."""
    shifted = _shifted(op, op.Where(mask, x, -np.inf), axes)
    e = op.Where(mask, op.Exp(shifted), 0.0)
    return op.Sub(shifted, op.Log(op.ReduceSum(e, axes, keepdims=1)))


@log_softmax_where.becomes
def _(op, mask, x, axes):
    return _log_softmax(op, _shown(op, mask, x), axes)


SOFTMAXES = (softmax, softmax_where, log_softmax, log_softmax_where)
