"""Gelu and Relu.

Gelu is x Φ(x), Φ the distribution function of the normal distribution (Hendrycks and Gimpel,
arXiv:1606.08415): exactly ½ x (1 + erf(x / √2)) = ½ x erfc(-x / √2),
approximately ½ x (1 + tanh(√(2/π) (x + 0.044715 x³))).
"""

from __future__ import annotations

import math

from j2o.ir.graph import Value
from j2o.ir.types import DType
from j2o.passes.recover.constants import float_of, is_near
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

ROOT_HALF = math.sqrt(0.5)
ROOT_TWO = math.sqrt(2)
ROOT_TWO_OVER_PI = math.sqrt(2 / math.pi)


def _gelu(op: RuleBuilder, x: Value, approximate: str) -> Value | None:
    """Gelu of float32, an operator where the target has it (from opset 20 on); else the exact one by Erf."""
    if x.type.dtype != DType.F32:
        return None
    if op.prefers("Gelu", x):
        return op.Gelu(x, approximate=approximate)
    if approximate == "tanh":
        return None
    half = op.Mul(x, 0.5)
    erf = op.Erf(op.Mul(x, ROOT_HALF))
    return op.Mul(half, op.Add(erf, 1.0))


@rewrite("gelu_erfc", at="lax")
def gelu_erfc(op, x, c: Const):
    """½ x erfc(-x √½), as `jax.nn.gelu(x, approximate=False)` has it."""
    inner = op.either(
        op.lax.mul(op.lax.neg(x), c),
        op.lax.neg(op.lax.mul(x, c)),
    )
    rest = op.lax.erfc(inner)
    return op.either(
        op.lax.mul(op.lax.mul(0.5, x), rest),
        op.lax.mul(op.lax.mul(x, 0.5), rest),
    )


@gelu_erfc.becomes
def _(op, x, c):
    fits = is_near(float_of(c), ROOT_HALF, x.type.dtype)
    return _gelu(op, x, "none") if fits else None


@rewrite("gelu_erf", at="lax")
def gelu_erf(op, x, factor: Const, divisor: Const):
    """½ x (1 + erf(x √½)), in all orders, or with erf(x / √2)."""
    inner = op.either(op.lax.mul(x, factor), op.lax.div(x, divisor))
    erf = op.lax.erf(inner)
    plus_one = op.either(op.lax.add(erf, 1.0), op.lax.add(1.0, erf))
    half_of_x = op.either(op.lax.mul(x, 0.5), op.lax.mul(0.5, x))
    half_of_sum = op.either(op.lax.mul(plus_one, 0.5), op.lax.mul(0.5, plus_one))
    return op.either(
        op.lax.mul(half_of_x, plus_one),
        op.lax.mul(plus_one, half_of_x),
        op.lax.mul(x, half_of_sum),
        op.lax.mul(half_of_sum, x),
    )


@gelu_erf.becomes
def _(op, x, factor, divisor):
    if factor is None:
        fits = is_near(float_of(divisor), ROOT_TWO, x.type.dtype)
    else:
        fits = is_near(float_of(factor), ROOT_HALF, x.type.dtype)
    return _gelu(op, x, "none") if fits else None


@rewrite("gelu_tanh")
def gelu_tanh(op, x, a: Const, b: Const):
    """½ x (1 + tanh(a (x + b x³))) with a = √(2/π) and b = 0.044715, in all orders."""
    cube = op.either(op.Pow(x, 3), op.Mul(op.Mul(x, x), x))
    inner = op.Mul(op.Add(x, op.Mul(cube, b)), a)
    plus_one = op.Add(op.Tanh(inner), 1.0)
    return op.either(
        op.Mul(x, op.Mul(plus_one, 0.5)),
        op.Mul(op.Mul(x, 0.5), plus_one),
        op.Mul(op.Mul(x, plus_one), 0.5),
    )


@gelu_tanh.becomes
def _(op, x, a, b):
    dtype = x.type.dtype
    if not is_near(float_of(a), ROOT_TWO_OVER_PI, dtype):
        return None
    if not is_near(float_of(b), 0.044715, dtype):
        return None
    return _gelu(op, x, "tanh")


@rewrite("relu")
def relu(op, x):
    """max(x, 0)."""
    return op.Max(x, 0.0)


@relu.becomes
def _(op, x):
    return op.Relu(x) if x.type.dtype.is_float else None


ACTIVATIONS = (gelu_tanh, relu)
EARLY_ACTIVATIONS = (gelu_erfc, gelu_erf)
