"""The spec of every operation: traits and type inference, looked up by name in its dialect's table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from j2o.ir.types import DType, Type

if TYPE_CHECKING:
    from j2o.ir.graph import Node


# an attribute that any ONNX node may have: its name in the exported file
LABEL = "label"
# these hand the elements of their first operand on, in another shape
RESHAPES = frozenset(["onnx.Reshape", "onnx.Squeeze", "onnx.Unsqueeze"])
# these may also repeat them
VIEWS = RESHAPES | {"onnx.Expand"}
# and these give elements of their first operand alone, in other places
MOVES = VIEWS | {
    "onnx.Compress",
    "onnx.DepthToSpace",
    "onnx.Flatten",
    "onnx.Gather",
    "onnx.GatherElements",
    "onnx.GatherND",
    "onnx.Identity",
    "onnx.ReverseSequence",
    "onnx.Slice",
    "onnx.SpaceToDepth",
    "onnx.Split",
    "onnx.Tile",
    "onnx.Transpose",
}
# these reduce the axes that their second operand lists
REDUCTIONS = frozenset(
    [
        "onnx.ReduceL1",
        "onnx.ReduceL2",
        "onnx.ReduceLogSum",
        "onnx.ReduceLogSumExp",
        "onnx.ReduceMax",
        "onnx.ReduceMean",
        "onnx.ReduceMin",
        "onnx.ReduceProd",
        "onnx.ReduceSum",
        "onnx.ReduceSumSquare",
    ]
)
# where Slice ends that takes all there is from its start on, forwards or backwards
TO_THE_END = 2**63 - 1
TO_THE_FRONT = -TO_THE_END

Infer: TypeAlias = "Callable[[Node], tuple[Type, ...]]"


class UnknownTypesError(TypeError):
    """Operands and attributes do not tell the types of the outputs: whoever makes the node gives them."""


def no_inference(node: Node) -> tuple[Type, ...]:
    """Raise UnknownTypesError: the inference of what has none."""
    why = "has no type inference: give the types of its outputs"
    raise UnknownTypesError(f"{node.op} {why}")


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operation: inference of its output types, and the properties that passes may rely on."""

    infer: Infer = no_inference
    pure: bool = True  # no effect beyond its outputs: may be removed, merged, moved
    # each element of the one result depends on those at its (broadcast) place alone, and there are no regions
    elementwise: bool = False
    commutative: bool = False  # the two operands may be exchanged
    random: bool = False  # equal operands do not mean equal results


# ------------------------------------------------------------- operations of no dialect


def _infer_const(node: Node) -> tuple[Type, ...]:
    """The tensor in `value`."""
    value: Any = node.attrs["value"]
    return (value.type,)


def _infer_dims(node: Node) -> tuple[Type, ...]:
    """A shape vector: the sizes in `dims`, one after the other."""
    sizes: Any = node.attrs["dims"]
    return (Type(DType.I64, (len(sizes),)),)


def _infer_call(node: Node) -> tuple[Type, ...]:
    """The results of the function that `function` names."""
    if node.graph is None:
        why = "a call is inferred inside a graph: give the types of its outputs"
        raise UnknownTypesError(why)
    function = node.graph.functions[node.str_attr("function")]
    return tuple(value.type for value in function.outputs)


def _infer_check(node: Node) -> tuple[Type, ...]:
    """The operands behind the first, which is a bool: they stay what they are where it is false."""
    return tuple(node.operand(i).type for i in range(1, len(node.inputs)))


def _infer_return(node: Node) -> tuple[Type, ...]:
    return ()


CORE: dict[str, OpSpec] = {
    "const": OpSpec(_infer_const),
    "dims": OpSpec(_infer_dims),
    "call": OpSpec(_infer_call),
    "check": OpSpec(_infer_check),
    "return": OpSpec(_infer_return, pure=False),
}
# the files that register the built-in dialects when they are imported
_MODULES = {
    "onnx": "onnx_ops",
    "ort": "onnx_ops",
    "lax": "lax_ops",
}
_DIALECTS: dict[str, Callable[[str], OpSpec]] = {}
_CACHE: dict[str, OpSpec] = dict(CORE)


def register_dialect(prefix: str, find: Callable[[str], OpSpec]) -> None:
    """`find(kind)` gives the spec of `prefix.kind`; KeyError where there is no such operation."""
    _DIALECTS[prefix] = find


def spec(name: str) -> OpSpec:
    """The spec of an operation by its full name. Operations of unknown (custom) domains are taken as pure."""
    found = _CACHE.get(name)
    if found is None:
        prefix, _, kind = name.rpartition(".")
        if prefix in _MODULES:
            importlib.import_module(f"j2o.ir.{_MODULES[prefix]}")
        find = _DIALECTS.get(prefix)
        try:
            found = find(kind) if find else OpSpec()
        except KeyError:
            raise KeyError(f"there is no operation {name!r}") from None
        _CACHE[name] = found
    return found
