"""The tables of lowering rules, and what a rule is handed.

A rule has JAX's own signature, operands positional and parameters keyword-only, with the builder in front:

    @lower("integer_pow")
    def integer_pow(op: Lowering, x: Value, *, y: int) -> Value: ...

It builds `onnx.*` nodes and returns the value or values that stand for the primitive's results. `op.out_types` has the
types they must get, `op.source` the `lax` node itself (its regions are lowered already), `op.target` what must be able
to run the result. A decomposition is plain JAX code instead, re-traced at the node's own types:

    @lower_with("erf_inv")
    def erf_inv(x: jax.Array) -> jax.Array: ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value
from j2o.ir.types import DType, Shape, Type

Rule: TypeAlias = "Callable[..., Value | Sequence[Value]]"
F = TypeVar("F", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}
DECOMPOSITIONS: dict[str, Callable[..., Any]] = {}


def _registrar(table: dict[str, Any], primitives: tuple[str, ...]) -> Callable[[F], F]:
    def register(rule: F) -> F:
        table.update(dict.fromkeys(primitives, rule))
        return rule

    return register


def lower(*primitives: str) -> Callable[[F], F]:
    """Register a rule that lowers these primitives to ONNX nodes."""
    return _registrar(RULES, primitives)


def lower_with(*primitives: str) -> Callable[[F], F]:
    """Register plain JAX code, `fn(*operands, **params)`, that computes these primitives from others.

    Parameters come as the `lax` node holds them: dtypes as `DType`, enumerations as lower-case strings.
    """
    return _registrar(DECOMPOSITIONS, primitives)


def lower_formula(*primitives: str) -> Callable[[F], F]:
    """Register a formula of floats, plain JAX code: its operands are broadcast to one shape.

    Floats narrower than f32 are computed in f32 and rounded once, as XLA does it: a formula of several steps that each
    round to 16 bits would lose digits, and overflow where its result does not.
    """

    def register(formula: F) -> F:
        @functools.wraps(formula)
        def fn(*operands: jax.Array, **params: Any) -> jax.Array:
            dtype = operands[0].dtype
            wide = dtype if dtype.itemsize >= 4 else jnp.float32
            return formula(*jnp.broadcast_arrays(*(x.astype(wide) for x in operands)), **params).astype(dtype)

        lower_with(*primitives)(fn)
        return formula

    return register


def lower_elementwise(table: dict[str, str]) -> None:
    """Register primitives that are one ONNX operator on the same operands: `{"exp": "Exp"}`."""

    def rule_for(operator: str) -> Rule:
        return lambda op, *operands, **_: op.apply(f"onnx.{operator}", *operands)

    for primitive, operator in table.items():
        RULES[primitive] = rule_for(operator)


class Lowering(Builder):
    """The builder that rules are handed."""

    source: Node
    expand_with: Callable[[Lowering, Callable[..., Any], Sequence[Value], dict[str, Any]], tuple[Value, ...]]

    @property
    def out_types(self) -> tuple[Type, ...]:
        """The types of the results that the rule must give."""
        return tuple(v.type for v in self.source.outputs)

    @property
    def out_type(self) -> Type:
        """The type of the only result."""
        return self.source.out.type

    @property
    def out_shape(self) -> Shape:
        return self.source.out.type.shape

    @property
    def out_dtype(self) -> DType:
        return self.source.out.type.dtype

    def supports(self, operator: str, dtype: DType) -> bool:
        """Whether the target runs `operator` (`"Erf"`) on `dtype` as it stands, with no casts around it."""
        return self.target is None or self.target.supports(f"onnx.{operator}", dtype)

    @property
    def opset(self) -> int:
        return 18 if self.target is None else self.target.opset

    def jax(self, fn: Callable[..., Any], *operands: Value | np.ndarray | float, **params: Any) -> Any:
        """`fn`, plain JAX code, traced at the operands' types and lowered here; a value, or a tuple where `fn` gives several."""
        values = [self.value(v, operands[0].type.dtype if isinstance(operands[0], Value) else None) for v in operands]
        out = self.expand_with(self, fn, values, params)  # type: ignore[arg-type]
        return out[0] if len(out) == 1 else out
