"""The `onnx` and `ort` dialects: specs read from ONNX's operator schemas, so that no operator needs a class here.

`onnx` is imported for its schemas alone (`onnx.defs`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.defs

from j2o.ir import infer
from j2o.ir.graph import Node
from j2o.ir.ops import LABEL, OpSpec, no_inference, register_dialect
from j2o.ir.types import Type

TRAITS = {
    "commutative": frozenset(
        "Add Mul And Or Xor Equal BitwiseAnd BitwiseOr BitwiseXor Max Min Sum Mean".split()
    ),
    "random": frozenset(
        "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial".split()
    ),
    "elementwise": frozenset(
        "Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Celu Clip "
        "Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity IsInf IsNaN LeakyRelu "
        "Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or Pow PRelu Reciprocal Relu Round Selu Sigmoid Sign Sin Sinh "
        "Softplus Softsign Sqrt Sub Sum Swish Tan Tanh ThresholdedRelu Where Xor".split()
    ),
}
GRAPH_ATTRIBUTES = {
    "If": ("then_branch", "else_branch"),
    "Loop": ("body",),
    "Scan": ("body",),
    "SequenceMap": ("body",),
}
CONTRIB = "com.microsoft"


@dataclass(frozen=True, slots=True)
class Schema:
    """What is used of an ONNX operator schema: names of attributes, operand counts, type constraints by position."""

    attributes: frozenset[str]
    min_inputs: int
    max_inputs: int
    min_outputs: int
    inputs: tuple[
        str, ...
    ]  # the type constraint (or concrete type) of each operand, the last one repeated if variadic
    outputs: tuple[str, ...]
    variadic: bool
    since: int
    has_function: bool
    defaults: dict[str, Any]  # of the attributes that have one

    @property
    def operand_counts(self) -> str:
        """How many operands there may be, in words: `2`, `1 to 3`."""
        least, most = self.min_inputs, self.max_inputs
        return str(least) if least == most else f"{least} to {most}"


@functools.cache
def schema(kind: str, opset: int | None = None) -> Schema:
    """The schema of an ONNX operator, the newest or that of an opset; KeyError where there is none."""
    newest = onnx.defs.onnx_opset_version()
    try:
        s: Any = onnx.defs.get_schema(kind, opset or newest, "")
    except onnx.defs.SchemaError:
        raise KeyError(kind) from None
    variadic = (
        bool(s.inputs)
        and s.inputs[-1].option == onnx.defs.OpSchema.FormalParameterOption.Variadic
    )
    return Schema(
        frozenset(s.attributes), s.min_input, s.max_input, s.min_output, tuple(i.type_str for i in s.inputs),
        tuple(o.type_str for o in s.outputs), variadic, s.since_version, s.has_function or s.has_context_dependent_function,
        {n: _default(a.default_value) for n, a in s.attributes.items() if not a.required and a.default_value.name},
    )  # fmt: skip


@functools.cache
def operators() -> frozenset[str]:
    """The names of all ONNX operators, for messages."""
    return frozenset(s.name for s in onnx.defs.get_all_schemas() if not s.domain)


def _default(attribute: Any) -> Any:
    """The default of an attribute as plain data."""
    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
    return {
        "FLOAT": attribute.f,
        "INT": attribute.i,
        "STRING": attribute.s.decode(),
    }.get(kind, tuple(attribute.floats or attribute.ints or attribute.strings))


def constraint_of(
    kind: str, index: int, output: bool = False, opset: int | None = None
) -> str:
    """The type constraint of an operand or result: `T`, or a concrete type such as `tensor(int64)`."""
    s = schema(kind, opset)
    names = s.outputs if output else s.inputs
    return names[min(index, len(names) - 1)]


def _tuple(types: Type | tuple[Type, ...]) -> tuple[Type, ...]:
    return (types,) if isinstance(types, Type) else types


def misuse(node: Node) -> str | None:
    """What an ONNX operator's schema says against a node: an attribute that it has not, too many operands, too few."""
    known = schema(node.kind)
    for name in node.attrs:
        if name not in known.attributes and name != LABEL:
            return f"{node.op} has no attribute {name!r}; it has {', '.join(sorted(known.attributes)) or 'none'}"
    given = len(node.inputs)
    if known.min_inputs <= given <= known.max_inputs:
        return None
    return f"{node.op} takes {known.operand_counts} operands, given {given}"


def _checked(rule: infer.Rule) -> Callable[[Node], tuple[Type, ...]]:
    def check(node: Node) -> tuple[Type, ...]:
        if problem := misuse(node):
            raise TypeError(problem)
        return _tuple(rule(node))

    return check


def _find(kind: str) -> OpSpec:
    schema(kind)  # KeyError where there is none
    traits = {trait: kind in kinds for trait, kinds in TRAITS.items()}
    return OpSpec(_checked(infer.RULES.get(kind, no_inference)), **traits)


def _find_contrib(kind: str) -> OpSpec:
    rule = infer.CONTRIB.get(kind, no_inference)
    return OpSpec(lambda node: _tuple(rule(node)))


register_dialect("onnx", _find)
register_dialect("ort", _find_contrib)
