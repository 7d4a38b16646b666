"""The two tables of lowering rules, the decorators that fill them, and the builder that a rule is handed.

`LOWERINGS` has rules that build `onnx.*` nodes. A rule has JAX's own signature, operands positional and
parameters keyword-only, with the builder in front. It returns the value or values that stand for the results:

    @lower("integer_pow")
    def integer_pow(op: Lowering, x: Value, *, y: int) -> Value: ...

`DECOMPOSITIONS` has plain JAX code, traced again at the operation's own types and lowered in turn:

    @lower_with("erf_inv")
    def erf_inv(x: jax.Array) -> jax.Array: ...

A primitive has one rule: what is registered last takes the place of what was there, in whichever table. A
primitive that only calls (`jit`, `composite`, `custom_jvp_call`) is inlined, but where a rule is registered
for it: that one gets the call. `docs/writing-a-lowering.md` explains it all from the start.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from j2o.errors import PassError, shown
from j2o.ir.build import Builder
from j2o.ir.copies import splice
from j2o.ir.graph import Node, Value
from j2o.ir.types import Attr, DType, Shape, Type
from j2o.passes.structure.inline import KEPT, keep

Rule: TypeAlias = "Callable[..., Value | Sequence[Value]]"
JaxCode: TypeAlias = Callable[..., Any]
F = TypeVar("F", bound=Callable[..., Any])

LOWERINGS: dict[str, Rule] = {}  # by the name of the primitive, without "lax."
DECOMPOSITIONS: dict[str, JaxCode] = {}


# -------------------------------------------------------------------------------------- decorators


def lower(*primitives: str) -> Callable[[F], F]:
    """Register a rule that lowers these primitives to ONNX nodes, in place of any other rule for them.

    Raises PassError for what can be no primitive's name, and for a rule that cannot be called.
    """
    return _registrar("lower", LOWERINGS, DECOMPOSITIONS, primitives)


def lower_with(*primitives: str) -> Callable[[F], F]:
    """Register plain JAX code, `fn(*operands, **params)`, that computes these primitives from others.

    It takes the place of any other rule for them. Parameters come as the `lax` node holds them: dtypes as
    `DType`, enumerations as lower-case strings. Raises PassError as `lower` does.
    """
    return _registrar("lower_with", DECOMPOSITIONS, LOWERINGS, primitives)


@contextlib.contextmanager
def temporary_rules() -> Iterator[None]:
    """Undo at the end what was registered inside: rules that were there before are back. For tests."""
    tables: tuple[Any, ...] = (LOWERINGS, DECOMPOSITIONS, KEPT)
    before = [table.copy() for table in tables]
    try:
        yield
    finally:
        for table, old in zip(tables, before, strict=True):
            table.clear()
            table.update(old)


def lower_formula(*primitives: str) -> Callable[[F], F]:
    """Register a formula of floats, plain JAX code: its operands are broadcast to one shape.

    Floats narrower than f32 are computed in f32 and rounded once, as XLA does it: a formula of several steps
    that each round to 16 bits would lose digits, and overflow where its result does not.
    """

    def register(formula: F) -> F:
        @functools.wraps(formula)
        def in_wide_floats(*operands: jax.Array, **params: Any) -> jax.Array:
            dtype = operands[0].dtype
            wide = dtype if dtype.itemsize >= 4 else jnp.float32
            arrays = jnp.broadcast_arrays(*(x.astype(wide) for x in operands))
            return formula(*arrays, **params).astype(dtype)

        lower_with(*primitives)(in_wide_floats)
        return formula

    return register


def lower_elementwise(rows: dict[str, str]) -> None:
    """Register primitives that are one ONNX operator on the same operands: `{"exp": "Exp"}`."""
    for primitive, operator in rows.items():
        LOWERINGS[primitive] = OneOperator(operator)


@dataclass(frozen=True)
class OneOperator:
    """The rule of a primitive that is one ONNX operator; its parameters say nothing that ONNX needs."""

    operator: str

    def __call__(self, op: Lowering, *operands: Value, **_: Any) -> Value:
        return op.result(self.operator, *operands)


def _registrar(
    decorator: str,
    table: dict[str, Any],
    other: dict[str, Any],
    primitives: tuple[str, ...],
) -> Callable[[F], F]:
    """A decorator that enters a rule into `table`, and takes older ones out of `other`."""
    if not primitives:
        raise PassError(
            f"{decorator}: name the primitives that the rule is for, {decorator}('my_primitive')"
        )
    for name in primitives:
        _check_name(decorator, name)

    def register(rule: F) -> F:
        if not callable(rule):
            names = ", ".join(map(repr, primitives))
            raise PassError(
                f"{decorator}({names}): a function is needed, given {shown(rule)}"
            )
        for name in primitives:
            table[name] = rule
            other.pop(name, None)
            keep(name)
        return rule

    return register


def _check_name(decorator: str, name: Any) -> None:
    """Raise PassError for what can be no primitive's name."""
    if callable(name):
        raise PassError(
            f"{decorator}: it takes the names of primitives: "
            f"@{decorator}('my_primitive'), not @{decorator} alone"
        )
    if not isinstance(name, str):
        raise PassError(
            f"{decorator}({shown(name)}): the name of a primitive is needed, a string"
        )
    parts = name.split()
    if len(parts) > 1:
        several = ", ".join(map(repr, parts))
        raise PassError(
            f"{decorator}({name!r}): one string a primitive, {decorator}({several})"
        )
    if parts != [name] or not name.isprintable():
        raise PassError(f"{decorator}({name!r}): no primitive has such a name")


# ------------------------------------------------------------------------------------ the builder


class Lowering(Builder):
    """The builder that a rule is handed: it inserts before the `lax` node that the rule replaces, `source`.

    The regions of `source` are lowered already.
    """

    source: Node
    checks: bool  # whether the model itself is to refuse values for which the program raises
    notes: list[str]  # what is left out, for the report
    expand_with: Expand

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
        """The shape of the only result."""
        return self.source.out.type.shape

    @property
    def out_dtype(self) -> DType:
        """The dtype of the only result."""
        return self.source.out.type.dtype

    def result(self, operator: str, *operands: Value, **attrs: Attr) -> Value:
        """The only result as that of one ONNX operator: JAX tells its type, so that nothing is inferred."""
        types = [self.source.outputs[0].type]
        node = self.node(f"onnx.{operator}", operands, attrs, types)
        return node.outputs[0]

    def is_asked_for(self, opset: int) -> bool:
        """Return True where the user asked for an opset, and for this one or a later.

        Else the model gets the lowest that it needs, which an operator from there on would raise.
        """
        return self.target is not None and self.target.is_asked_for(opset)

    def supports(self, operator: str, dtype: DType) -> bool:
        """Return True where the target runs `operator` (`"Erf"`) on `dtype` with no casts around it."""
        return self.target is None or self.target.supports(f"onnx.{operator}", dtype)

    def body(self, index: int = 0) -> tuple[Value, ...]:
        """Inline a call: the results of a region of the node, lowered, in its place."""
        region = self.source.graphs[index]
        operands = self.source.operands
        first = len(operands) - len(region.inputs)
        return splice(region, operands[first:], self.source)

    def jax(
        self, fn: JaxCode, *operands: Value | np.ndarray | float, **params: Any
    ) -> Any:
        """Trace `fn`, plain JAX code, at the operands' types and lower it here.

        Returns a value, or a tuple where `fn` gives several. Numbers take the dtype of the first operand.
        """
        first = operands[0]
        dtype = first.type.dtype if isinstance(first, Value) else None
        values = [self.value(v, dtype) for v in operands]
        out = self.expand_with(self, fn, values, params)
        return out[0] if len(out) == 1 else out


# JAX code, the values that it is applied to, its parameters: its results, lowered
Expand: TypeAlias = Callable[
    [Lowering, JaxCode, Sequence[Value | None], dict[str, Any]], tuple[Value, ...]
]
