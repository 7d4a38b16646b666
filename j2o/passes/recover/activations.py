"""Gelu and Relu."""

from __future__ import annotations

import math

import ml_dtypes

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, identities, rewrite

ROOT_HALF, ROOT_TWO = math.sqrt(0.5), math.sqrt(2)


def _gelu(op: RuleBuilder, x: Value, approximate: str) -> Value | None:
    if x.type.dtype != DType.F32:
        return None
    if op.opset >= 20:
        return op.Gelu(x, approximate=approximate)
    if approximate == "tanh":
        return None
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Mul(x, ROOT_HALF)), 1.0))


def _is_number(value: Value, number: float) -> bool:
    """Whether a constant is one element, and that is `number` up to the rounding of its dtype."""
    tensor = value.const
    if tensor is None or tensor.size != 1 or not tensor.dtype.is_float:
        return False
    rounding = float(
        ml_dtypes.finfo(tensor.dtype.numpy).eps
    )  # twice that of one rounding: 1 / √2 has two
    return math.isclose(float(tensor.scalar), number, rel_tol=rounding)


@rewrite("gelu_erfc", at="lax")
def gelu_erfc(op, x, c: Const):
    """`jax.nn.gelu(x, approximate=False)`: 0.5 x erfc(-x √½)."""
    rest = op.lax.erfc(
        op.either(op.lax.mul(op.lax.neg(x), c), op.lax.neg(op.lax.mul(x, c)))
    )
    return op.either(
        op.lax.mul(op.lax.mul(0.5, x), rest), op.lax.mul(op.lax.mul(x, 0.5), rest)
    )


@gelu_erfc.becomes
def _(op, x, c):
    return _gelu(op, x, "none") if _is_number(c, ROOT_HALF) else None


@rewrite("gelu_erf", at="lax")
def gelu_erf(op, x, factor: Const, divisor: Const):
    """½ x (1 + erf(x √½)), or x / √2."""
    inner = op.lax.erf(op.either(op.lax.mul(x, factor), op.lax.div(x, divisor)))
    one = op.either(op.lax.add(inner, 1.0), op.lax.add(1.0, inner))
    half = op.either(op.lax.mul(x, 0.5), op.lax.mul(0.5, x))
    scaled = op.either(op.lax.mul(one, 0.5), op.lax.mul(0.5, one))
    return op.either(
        op.lax.mul(half, one),
        op.lax.mul(one, half),
        op.lax.mul(x, scaled),
        op.lax.mul(scaled, x),
    )


@gelu_erf.becomes
def _(op, x, factor, divisor):
    fits = (
        _is_number(divisor, ROOT_TWO)
        if factor is None
        else _is_number(factor, ROOT_HALF)
    )
    return _gelu(op, x, "none") if fits else None


@rewrite("gelu_tanh")
def gelu_tanh(op, x, a: Const, b: Const):
    """x ½ (1 + tanh(√(2/π) (x + 0.044715 x³)))."""
    cube = op.either(op.Pow(x, 3), op.Mul(op.Mul(x, x), x))
    tanh = op.Tanh(op.Mul(op.Add(x, op.Mul(cube, b)), a))
    one = op.Add(tanh, 1.0)
    return op.either(
        op.Mul(x, op.Mul(one, 0.5)),
        op.Mul(op.Mul(x, 0.5), one),
        op.Mul(op.Mul(x, one), 0.5),
    )


@gelu_tanh.becomes
def _(op, x, a, b):
    fits = _is_number(a, math.sqrt(2 / math.pi)) and _is_number(b, 0.044715)
    return _gelu(op, x, "tanh") if fits else None


RELU = (
    lambda op, x: op.Max(x, 0.0),
    lambda op, x: op.Relu(x) if x.type.dtype.is_float else None,
)
RULES = (gelu_tanh, *identities({"relu": RELU}))
EARLY = (gelu_erfc, gelu_erf)
