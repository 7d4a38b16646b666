"""The tables of lowering rules, and what a rule is handed.

A rule has JAX's own signature, operands positional and parameters keyword-only, with the builder in front:

    @lower("integer_pow")
    def integer_pow(op: Lowering, x: Value, *, y: int) -> Value: ...

It builds `onnx.*` nodes and returns the value or values that stand for the primitive's results. `op.out_types` has the
types they must get, `op.source` the `lax` node itself (its regions are lowered already), `op.target` what must be able
to run the result. A decomposition is plain JAX code instead, re-traced at the node's own types:

    @lower_with("erf_inv")
    def erf_inv(x: jax.Array) -> jax.Array: ...

A primitive has one rule: what is registered last takes the place of what was there, of whichever kind. A primitive that
only calls (`jit`, `composite`, `custom_jvp_call`) is inlined, but where a rule is registered for it: that one gets the call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from j2o.errors import PassError, shown
from j2o.ir.build import Builder
from j2o.ir.graph import Node, Value, splice
from j2o.ir.types import DType, Shape, Type
from j2o.passes.structure.inline import keep

Rule: TypeAlias = "Callable[..., Value | Sequence[Value]]"
F = TypeVar("F", bound=Callable[..., Any])

RULES: dict[str, Rule] = {}
DECOMPOSITIONS: dict[str, Callable[..., Any]] = {}


def _registrar(
    what: str, table: dict[str, Any], other: dict[str, Any], primitives: tuple[str, ...]
) -> Callable[[F], F]:
    """A decorator that enters a rule into `table` and takes what there is for its primitives out of `other`."""
    if not primitives:
        raise PassError(
            f"{what}: name the primitives that the rule is for, {what}('my_primitive')"
        )
    for name in primitives:
        _check_primitive(what, name)

    def register(rule: F) -> F:
        if not callable(rule):
            raise PassError(
                f"{what}({', '.join(map(repr, primitives))}): a function is needed, given {shown(rule)}"
            )
        for name in primitives:
            table[name] = rule
            other.pop(name, None)
            keep(name)
        return rule

    return register


def _check_primitive(what: str, name: Any) -> None:
    if callable(name):
        raise PassError(
            f"{what}: it takes the names of primitives: @{what}('my_primitive'), not @{what} alone"
        )
    if not isinstance(name, str):
        raise PassError(
            f"{what}({shown(name)}): the name of a primitive is needed, a string"
        )
    parts = name.split()
    if len(parts) > 1:
        several = ", ".join(map(repr, parts))
        raise PassError(f"{what}({name!r}): one string a primitive, {what}({several})")
    if parts != [name] or not name.isprintable():
        raise PassError(f"{what}({name!r}): no primitive has such a name")


def lower(*primitives: str) -> Callable[[F], F]:
    """Register a rule that lowers these primitives to ONNX nodes, in place of any other rule for them.

    Raises PassError for what can be no primitive's name, and for a rule that cannot be called.
    """
    return _registrar("lower", RULES, DECOMPOSITIONS, primitives)


def lower_with(*primitives: str) -> Callable[[F], F]:
    """Register plain JAX code, `fn(*operands, **params)`, that computes these primitives from others.

    It takes the place of any other rule for them. Parameters come as the `lax` node holds them: dtypes as `DType`,
    enumerations as lower-case strings. Raises PassError as `lower` does.
    """
    return _registrar("lower_with", DECOMPOSITIONS, RULES, primitives)


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
            return formula(
                *jnp.broadcast_arrays(*(x.astype(wide) for x in operands)), **params
            ).astype(dtype)

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
    checks: bool  # whether the model itself is to refuse values for which the program raises
    notes: list[str]  # what is left out, for the report
    expand_with: Callable[
        [Lowering, Callable[..., Any], Sequence[Value], dict[str, Any]],
        tuple[Value, ...],
    ]

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

    def body(self, index: int = 0) -> tuple[Value, ...]:
        """What a primitive that calls gives when it is inlined: the results of a region of the node, lowered, in its place."""
        region = self.source.graphs[index]
        operands = self.source.operands
        return splice(
            region, operands[len(operands) - len(region.inputs) :], self.source
        )

    def jax(
        self,
        fn: Callable[..., Any],
        *operands: Value | np.ndarray | float,
        **params: Any,
    ) -> Any:
        """`fn`, plain JAX code, traced at the operands' types and lowered here; a value, or a tuple where `fn` gives several."""
        values = [
            self.value(
                v, operands[0].type.dtype if isinstance(operands[0], Value) else None
            )
            for v in operands
        ]
        out = self.expand_with(self, fn, values, params)  # type: ignore[arg-type]
        return out[0] if len(out) == 1 else out
