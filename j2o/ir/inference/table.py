"""The table of inferences, and how these read a node.

An inference reads operand types, attributes and known shape vectors, and returns the types of the results.
`UnknownTypesError` names the operator, the types of its operands and the reason where these do not tell it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias, TypeVar

from j2o.ir.graph import Node, Value
from j2o.ir.ops import UnknownTypesError
from j2o.ir.types import Dim, DType, Shape, Type, is_one, same_dim, same_shape

Inference: TypeAlias = Callable[[Node], "Type | tuple[Type, ...]"]
F = TypeVar("F", bound=Inference)
INFERENCES: dict[str, Inference] = {}
CONTRIB_INFERENCES: dict[str, Inference] = {}  # of onnxruntime's own operators


def infers(*kinds: str, table: dict[str, Inference] = INFERENCES) -> Callable[[F], F]:
    """A decorator: registers the inference of one or several operators.

    An inference returns the type of the only result, or a tuple of types.
    """

    def register(fn: F) -> F:
        table.update(dict.fromkeys(kinds, fn))
        return fn

    return register


# ------------------------------------- operands and attributes, as inferences read them


def fail(node: Node, why: str) -> UnknownTypesError:
    """The error that an inference raises: operator, types of the operands, attributes, and the reason."""
    operands = ", ".join("_" if v is None else str(v.type) for v in node.inputs)
    attrs = ", ".join(f"{k}={v!r}" for k, v in node.attrs.items())
    return UnknownTypesError(f"{node.op}({operands}){{{attrs}}}: {why}")


def operand(node: Node, index: int) -> Value:
    """An operand; UnknownTypesError where it is left out."""
    inputs = node.inputs
    value = inputs[index] if index < len(inputs) else None
    if value is None:
        raise fail(node, f"operand {index} is missing")
    return value


def type_of(node: Node, index: int) -> Type:
    """The type of an operand; UnknownTypesError where it is left out."""
    return operand(node, index).type


def types_of(node: Node) -> list[Type]:
    """The types of all operands, none of which may be left out."""
    types = [value.type for value in node.inputs if value is not None]
    if len(types) < len(node.inputs):
        raise fail(node, f"operand {node.inputs.index(None)} is missing")
    return types


def entries(
    node: Node, index: int, default: Sequence[Dim] | None = None
) -> Sequence[Dim]:
    """The entries of a shape vector; `default` where the operand is left out."""
    if default is not None and node.optional(index) is None:
        return default
    known = operand(node, index).known
    if known is None:
        why = f"operand {index} is not a known shape vector"
        raise fail(node, f"{why}: give the types of the outputs")
    return known


def axis_attr(node: Node, rank: int, default: int | None = None) -> int:
    """The attribute `axis`, counted from the front; UnknownTypesError where the operand has no such axis."""
    axis = node.attrs.get("axis", default)
    if type(axis) is not int or not -rank <= axis < max(rank, 1):
        raise fail(node, f"axis {axis} of rank {rank}")
    return axis % rank if rank else 0


def axes_of(
    node: Node, index: int, rank: int, default: Sequence[Dim] | None = None
) -> list[int]:
    """The axes that an operand lists, counted from the front."""
    return [int(axis) % max(rank, 1) for axis in entries(node, index, default)]


def dtype_attr(node: Node, name: str, default: DType | None = None) -> DType:
    """An attribute that is a dtype; an error of inference where it is none."""
    dtype = node.attrs.get(name, default)
    if not isinstance(dtype, DType):
        raise fail(node, f"attribute {name} must be a DType")
    return dtype


def with_sizes(shape: Shape, axis: int, *sizes: Dim) -> Shape:
    """The shape with other sizes in the place of one axis."""
    return (*shape[:axis], *sizes, *shape[axis + 1 :])


# ------------------------------------------------------------------------- broadcasting


def broadcast(node: Node, shapes: Sequence[Shape]) -> Shape:
    """numpy's broadcasting; two sizes go together when they are equal or one is 1."""
    shape = broadcast_shape(shapes)
    if shape is None:
        raise fail(node, f"shapes {' and '.join(map(str, shapes))} do not go together")
    return shape


def broadcast_shape(shapes: Sequence[Shape]) -> Shape | None:
    """The shape that these broadcast to; None where they do not, or that is not certain."""
    found: Shape | None = shapes[0]
    for shape in shapes[1:]:
        if found is None:
            return None
        if not same_shape(found, shape):
            found = _broadcast_two(found, shape)
    return found


def _broadcast_two(a: Shape, b: Shape) -> Shape | None:
    """`broadcast_shape` of two shapes."""
    if not a or not b:
        return a or b
    lacking = len(a) - len(b)
    if lacking < 0:
        a = (1,) * -lacking + a
    elif lacking > 0:
        b = (1,) * lacking + b
    out: list[Dim] = []
    for x, y in zip(a, b, strict=True):
        if is_one(y) or same_dim(x, y):
            out.append(x)
        elif is_one(x):
            out.append(y)
        else:
            return None
    return tuple(out)
