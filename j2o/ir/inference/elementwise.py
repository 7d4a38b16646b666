"""Inference of operators whose result has the shape of an operand, or that to which operands broadcast."""

from __future__ import annotations

from j2o.ir.graph import Node
from j2o.ir.inference.table import (
    CONTRIB_INFERENCES,
    broadcast,
    dtype_attr,
    fail,
    infers,
    type_of,
    types_of,
)
from j2o.ir.types import DType, Type

# -------------------------------------------------------------------------- elementwise


ONE_OPERAND = (  # functions of each element, whose type stays
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "BitwiseNot",
    "Ceil",
    "Celu",
    "Clip",
    "Cos",
    "Cosh",
    "Elu",
    "Erf",
    "Exp",
    "Floor",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "Identity",
    "LeakyRelu",
    "Log",
    "Mish",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Round",
    "Selu",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Swish",
    "Tan",
    "Tanh",
    "ThresholdedRelu",
)
SAME_TYPE = (  # other operators whose result has the type of their first operand
    # along axes, where every size stays
    "CumProd",
    "CumSum",
    "Hardmax",
    "LogSoftmax",
    "LpNormalization",
    "ReverseSequence",
    "RotaryEmbedding",
    "Softmax",
    "Trilu",
    # normalisations
    "BatchNormalization",
    "GroupNormalization",
    "InstanceNormalization",
    "LayerNormalization",
    "MeanVarianceNormalization",
    "RMSNormalization",
    # writes into the first operand
    "ScatterElements",
    "ScatterND",
    "TensorScatter",
)


@infers(*ONE_OPERAND, *SAME_TYPE)
def same_as_first(node: Node) -> Type:
    return type_of(node, 0)


ARITHMETIC = (  # of operands that are broadcast
    "Add",
    "And",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "Div",
    "Max",
    "Mean",
    "Min",
    "Mod",
    "Mul",
    "Or",
    "PRelu",
    "Pow",
    "Sub",
    "Sum",
    "Xor",
)


@infers(*ARITHMETIC)
def arithmetic(node: Node) -> Type:
    types = types_of(node)
    first = types[0]
    if types.count(first) == len(types):
        return first
    for other in types:
        if other.dtype is not first.dtype and node.kind != "Pow":
            raise fail(node, "operands of different dtypes")
    shape = broadcast(node, [one.shape for one in types])
    # the same object where the shape stays: it is compared at once
    return first if shape is first.shape else Type(first.dtype, shape)


COMPARISONS = ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


@infers(*COMPARISONS)
def comparison(node: Node) -> Type:
    a = type_of(node, 0)
    b = type_of(node, 1)
    if a.dtype != b.dtype:
        raise fail(node, "operands of different dtypes")
    return Type(DType.BOOL, broadcast(node, [a.shape, b.shape]))


@infers("Where")
def where(node: Node) -> Type:
    condition = type_of(node, 0)
    a = type_of(node, 1)
    b = type_of(node, 2)
    if a.dtype != b.dtype or condition.dtype != DType.BOOL:
        raise fail(node, "the condition must be bool and the operands of one dtype")
    return Type(a.dtype, broadcast(node, [condition.shape, a.shape, b.shape]))


# ------------------------------------------------------------------------- other dtypes


@infers("Cast")
def cast(node: Node) -> Type:
    return type_of(node, 0).with_dtype(dtype_attr(node, "to"))


@infers("CastLike")
def cast_like(node: Node) -> Type:
    return type_of(node, 0).with_dtype(type_of(node, 1).dtype)


@infers("BitCast")
def bitcast(node: Node) -> Type:
    to = dtype_attr(node, "to")
    x = type_of(node, 0)
    if to.bits != x.dtype.bits:
        raise fail(node, "the widths must be equal")
    return Type(to, x.shape)


@infers("EyeLike")
def eye_like(node: Node) -> Type:
    x = type_of(node, 0)
    return x.with_dtype(dtype_attr(node, "dtype", x.dtype))


@infers("IsInf", "IsNaN")
def predicate(node: Node) -> Type:
    return type_of(node, 0).with_dtype(DType.BOOL)


@infers("QuantizeLinear")
def quantize(node: Node) -> Type:
    """The dtype is that of the zero point."""
    zero_point = node.optional(2)
    dtype = DType.U8 if zero_point is None else zero_point.type.dtype
    return type_of(node, 0).with_dtype(dtype)


@infers("DequantizeLinear")
def dequantize(node: Node) -> Type:
    """The dtype is that of the scale."""
    return type_of(node, 0).with_dtype(type_of(node, 1).dtype)


@infers("Dropout")
def dropout(node: Node) -> tuple[Type, ...]:
    """The values, and the mask of those that were kept."""
    x = type_of(node, 0)
    return x, x.with_dtype(DType.BOOL)


# ---------------------------------------------------------- onnxruntime's own operators

CONTRIB_SAME_TYPE = ("BiasGelu", "FastGelu", "Gelu", "QuickGelu", "RotaryEmbedding")
infers(*CONTRIB_SAME_TYPE, table=CONTRIB_INFERENCES)(same_as_first)
