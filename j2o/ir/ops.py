"""What is known of every operation: traits and type inference, looked up by name in its dialect's table."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from j2o.ir.types import DType, Type

if TYPE_CHECKING:
    from j2o.ir.graph import Node


LABEL = (
    "label"  # an attribute that any ONNX node may have: its name in the exported file
)


Infer: TypeAlias = "Callable[[Node], tuple[Type, ...]]"


def no_inference(node: Node) -> tuple[Type, ...]:
    raise TypeError(f"{node.op} has no type inference: give the types of its outputs")


@dataclass(frozen=True, slots=True)
class OpSpec:
    """One operation: inference of its output types, and the properties that passes may rely on."""

    infer: Infer = no_inference
    pure: bool = True  # no effect beyond its outputs: may be removed, merged, moved
    elementwise: bool = False  # every output element depends on the elements at its (broadcast) position alone
    commutative: bool = False  # the two operands may be exchanged
    random: bool = False  # equal operands do not mean equal results


def _infer_call(node: Node) -> tuple[Type, ...]:
    if node.graph is None:
        raise TypeError(
            "a call is inferred inside a graph: give the types of its outputs"
        )
    return tuple(
        v.type for v in node.graph.functions[str(node.attrs["function"])].outputs
    )


CORE: dict[str, OpSpec] = {
    "const": OpSpec(lambda node: (node.attrs["value"].type,)),  # type: ignore[union-attr]
    "dims": OpSpec(lambda node: (Type(DType.I64, (len(node.attrs["dims"]),)),)),  # type: ignore[arg-type]
    "call": OpSpec(_infer_call),
    "check": OpSpec(lambda node: tuple(v.type for v in node.inputs[1:])),  # type: ignore[union-attr]  # a bool, values
    "return": OpSpec(lambda node: (), pure=False),
}
_MODULES = {
    "onnx": "onnx_ops",
    "ort": "onnx_ops",
    "lax": "lax_ops",
}  # which register built-in dialects when imported
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
