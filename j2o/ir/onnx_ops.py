"""The `onnx` and `ort` dialects: specs read from ONNX's operator schemas, so that none needs a class here.

`onnx` is imported for its schemas alone (`onnx.defs`).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import onnx
import onnx.defs

from j2o.ir.graph import Node
from j2o.ir.inference import elementwise
from j2o.ir.inference.table import CONTRIB_INFERENCES, INFERENCES, Inference
from j2o.ir.ops import (
    LABEL,
    Infer,
    OpSpec,
    UnknownTypesError,
    no_inference,
    register_dialect,
)
from j2o.ir.types import DType, Type

COMMUTATIVE = frozenset(
    {
        # of numbers
        "Add",
        "Equal",
        "Max",
        "Mean",
        "Min",
        "Mul",
        "Sum",
        # of bits and truth values
        "And",
        "BitwiseAnd",
        "BitwiseOr",
        "BitwiseXor",
        "Or",
        "Xor",
    }
)
RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
ELEMENTWISE = frozenset(
    {
        *elementwise.ONE_OPERAND,
        *elementwise.ARITHMETIC,
        *elementwise.COMPARISONS,
        "Cast",
        "IsInf",
        "IsNaN",
        "Where",
    }
)
GRAPH_ATTRIBUTES = {
    "If": ("then_branch", "else_branch"),
    "Loop": ("body",),
    "Scan": ("body",),
    "SequenceMap": ("body",),
}
CONTRIB = "com.microsoft"
# what ONNX calls the element type of a tensor in the types of an operator
ONNX_NAMES = {
    "bool": DType.BOOL,
    "string": DType.STRING,
    "double": DType.F64,
    "float": DType.F32,
    "float16": DType.F16,
    "bfloat16": DType.BF16,
    "float8e4m3fn": DType.F8E4M3FN,
    "float8e4m3fnuz": DType.F8E4M3FNUZ,
    "float8e5m2": DType.F8E5M2,
    "float8e5m2fnuz": DType.F8E5M2FNUZ,
    "float8e8m0": DType.F8E8M0FNU,
    "float4e2m1": DType.F4E2M1FN,
    **{f"int{bits}": DType(f"i{bits}") for bits in (2, 4, 8, 16, 32, 64)},
    **{f"uint{bits}": DType(f"u{bits}") for bits in (2, 4, 8, 16, 32, 64)},
}


@dataclass(frozen=True, slots=True)
class Schema:
    """The part of an ONNX operator's schema that j2o uses."""

    attributes: frozenset[str]
    min_inputs: int
    max_inputs: int
    min_outputs: int
    # the type constraint (or concrete type) of each operand, the last one repeated if variadic
    inputs: tuple[str, ...]
    input_names: tuple[str, ...]
    outputs: tuple[str, ...]
    variadic: bool
    since: int
    has_function: bool
    defaults: dict[str, Any]  # of the attributes that have one
    types: dict[str, frozenset[str]]  # what a type constraint allows: `tensor(float)`

    @property
    def operand_counts(self) -> str:
        """How many operands there may be, in words: `2`, `1 to 3`."""
        least, most = self.min_inputs, self.max_inputs
        return str(least) if least == most else f"{least} to {most}"


def newest_schemas() -> int:
    """The newest opset whose operators the installed onnx has."""
    return onnx.defs.onnx_opset_version()


@functools.cache
def schema(kind: str, opset: int | None = None) -> Schema:
    """The schema of an ONNX operator, the newest or that of an opset; KeyError where there is none."""
    newest = onnx.defs.onnx_opset_version()
    try:
        found: Any = onnx.defs.get_schema(kind, opset or newest, "")
    except onnx.defs.SchemaError:
        raise KeyError(kind) from None
    defaults = {
        name: _default(attribute.default_value)
        for name, attribute in found.attributes.items()
        if not attribute.required and attribute.default_value.name
    }
    types = {
        one.type_param_str: frozenset(one.allowed_type_strs)
        for one in found.type_constraints
    }
    return Schema(
        attributes=frozenset(found.attributes),
        min_inputs=found.min_input,
        max_inputs=found.max_input,
        min_outputs=found.min_output,
        inputs=tuple(operand.type_str for operand in found.inputs),
        input_names=tuple(operand.name for operand in found.inputs),
        outputs=tuple(result.type_str for result in found.outputs),
        variadic=_is_variadic(found),
        since=found.since_version,
        has_function=found.has_function or found.has_context_dependent_function,
        defaults=defaults,
        types=types,
    )


def is_function(kind: str, opset: int) -> bool:
    """Return True for an operator of an opset that is defined by other operators."""
    try:
        return schema(kind, opset).has_function
    except KeyError:
        return False


def _is_variadic(found: Any) -> bool:
    """Return True where the last operand of a schema stands for any number of them."""
    variadic = onnx.defs.OpSchema.FormalParameterOption.Variadic
    return bool(found.inputs) and found.inputs[-1].option == variadic


@functools.cache
def operators() -> frozenset[str]:
    """The names of all ONNX operators, for messages."""
    every = onnx.defs.get_all_schemas()
    return frozenset(one.name for one in every if not one.domain)


def _default(attribute: Any) -> Any:
    """The default of an attribute as plain data."""
    kind = onnx.AttributeProto.AttributeType.Name(attribute.type)
    if kind == "FLOAT":
        return attribute.f
    if kind == "INT":
        return attribute.i
    if kind == "STRING":
        return attribute.s.decode()
    return tuple(attribute.floats or attribute.ints or attribute.strings)


def constraint_of(
    kind: str, index: int, output: bool = False, opset: int | None = None
) -> str:
    """The type constraint of an operand or result: `T`, or a concrete type such as `tensor(int64)`."""
    known = schema(kind, opset)
    names = known.outputs if output else known.inputs
    return names[min(index, len(names) - 1)]


def misuse(node: Node) -> str | None:
    """How a node breaks its operator's schema, in words; None where it does not.

    It has an attribute that the operator has not, too many operands or too few.
    """
    return _misuse(node.kind, tuple(node.attrs), len(node.inputs))


@functools.lru_cache(maxsize=4096)
def _misuse(kind: str, attributes: tuple[str, ...], operands: int) -> str | None:
    """`misuse` of all nodes with attributes of these names, and as many operands."""
    known = schema(kind)
    for name in attributes:
        if name not in known.attributes and name != LABEL:
            have = ", ".join(sorted(known.attributes)) or "none"
            return f"onnx.{kind} has no attribute {name!r}; it has {have}"
    if known.min_inputs <= operands <= known.max_inputs:
        return None
    return f"onnx.{kind} takes {known.operand_counts} operands, given {operands}"


def _of_operator(kind: str, inference: Inference) -> Infer:
    """The inference of an ONNX operator, which its schema checks first."""

    def checked(node: Node) -> tuple[Type, ...]:
        """The types of the results; UnknownTypesError for a node that the schema does not allow."""
        problem = _misuse(kind, tuple(node.attrs), len(node.inputs))
        if problem is not None:
            raise UnknownTypesError(problem)
        types = inference(node)
        return types if isinstance(types, tuple) else (types,)

    return checked


def _of_contrib(inference: Inference) -> Infer:
    """The inference of an operator of onnxruntime's own, which has no schema."""

    def unchecked(node: Node) -> tuple[Type, ...]:
        """The types of the results, always as a tuple."""
        types = inference(node)
        return types if isinstance(types, tuple) else (types,)

    return unchecked


def _find(kind: str) -> OpSpec:
    """The spec of an ONNX operator; KeyError where there is none."""
    schema(kind)  # which raises it
    return OpSpec(
        _of_operator(kind, INFERENCES.get(kind, no_inference)),
        elementwise=kind in ELEMENTWISE,
        commutative=kind in COMMUTATIVE,
        random=kind in RANDOM,
    )


def _find_contrib(kind: str) -> OpSpec:
    """What is known of an operator of onnxruntime's own."""
    return OpSpec(_of_contrib(CONTRIB_INFERENCES.get(kind, no_inference)))


register_dialect("onnx", _find)
register_dialect("ort", _find_contrib)
