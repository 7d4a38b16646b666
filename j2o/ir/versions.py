"""Versions of ONNX's operators: whether a node means at an older opset what it means at a newer one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

from j2o.ir.graph import Node, Value
from j2o.ir.onnx_ops import ONNX_NAMES, Schema, constraint_of, schema
from j2o.ir.ops import LABEL

# the versions of operators up to this opset were read; a newer one is taken to change every node
REVIEWED = 28
Test: TypeAlias = "Callable[[Node], bool]"


def difference(node: Node, opset: int, newest: int) -> str | None:
    """What `opset` lacks for a node that is right at `newest`, in words; None where it means the same.

    An older version means the same where it has the node's attributes, operands and dtypes, where what the
    node leaves out has the same default, and where no change of meaning is known (`CHANGED`).
    """
    kind = node.kind
    try:
        old = schema(kind, opset)
    except KeyError:
        return f"there is no {kind}"
    new = schema(kind, newest)
    if old.since == new.since:
        return None
    if new.since > REVIEWED or _is_changed(node, old, new):
        return f"{kind} means something else"
    return _other_form(node, old, new) or _other_dtype(node, old)


def _other_form(node: Node, old: Schema, new: Schema) -> str | None:
    """What an older version lacks of the node's operands and attributes."""
    for name in node.attrs:
        if name not in old.attributes and name != LABEL:
            return f"{node.kind} has no attribute {name}"
    if len(node.inputs) > old.max_inputs:
        return f"{node.kind} takes {old.operand_counts} operands"
    for name, default in new.defaults.items():
        is_other = name in old.attributes and old.defaults.get(name) != default
        if is_other and name not in node.attrs:
            return f"{node.kind} has another default of {name}"
    return None


def _other_dtype(node: Node, old: Schema) -> str | None:
    """The dtype of a node that an older version does not take."""
    for value, constraint in _constrained(node, old.since):
        types = old.types.get(constraint, frozenset([constraint]))
        name = _TYPE_NAMES.get(value.type.dtype)
        if name is not None and name not in types:
            return f"{node.kind} takes no {value.type.dtype.value}"
    return None


def _constrained(node: Node, opset: int) -> Iterator[tuple[Value, str]]:
    """The operands and results of a node, each with its type constraint."""
    for i, value in enumerate(node.inputs):
        if value is not None:
            yield value, constraint_of(node.kind, i, opset=opset)
    for i, value in enumerate(node.outputs):
        yield value, constraint_of(node.kind, i, output=True, opset=opset)


_TYPE_NAMES = {dtype: f"tensor({name})" for name, dtype in ONNX_NAMES.items()}

# ------------------------------------------------------------------- changes that no schema shows


def _is_changed(node: Node, old: Schema, new: Schema) -> bool:
    """Return True where some version after the older one, up to the newer, changed the node's meaning."""
    for version, is_changed in CHANGED.get(node.kind, ()):
        if old.since < version <= new.since and is_changed(node):
            return True
    return False


def _always(_: Node) -> bool:
    """Return True for any node."""
    return True


def _rounds_up(node: Node) -> bool:
    """Pooling with sizes rounded up: a window may begin in the padding on the right."""
    return node.attrs.get("ceil_mode", 0) != 0


def _pads_by_itself(node: Node) -> bool:
    return node.attrs.get("auto_pad", "NOTSET") != "NOTSET"


def _is_causal(node: Node) -> bool:
    return node.attrs.get("is_causal", 0) != 0


def _wraps(node: Node) -> bool:
    return node.attrs.get("mode") == "wrap"


def _is_half_pixel_symmetric(node: Node) -> bool:
    mode = node.attrs.get("coordinate_transformation_mode")
    return mode == "half_pixel_symmetric"


def _is_floored_remainder(node: Node) -> bool:
    """Mod of floats without `fmod`, which the older version leaves undefined."""
    return node.out.type.dtype.is_float and node.attrs.get("fmod", 0) == 0


# operator → the versions that changed its meaning, each with the nodes for which it did
# (read in ONNX's changelog of operators, https://onnx.ai/onnx/operators/, from opset 18 on)
CHANGED: dict[str, tuple[tuple[int, Test], ...]] = {
    "Attention": ((24, _is_causal),),
    "AveragePool": (
        (19, _rounds_up),
        (19, _pads_by_itself),
        (22, _rounds_up),
    ),
    "DFT": ((20, _always),),  # the axis became an operand
    "GridSample": ((20, _always),),  # its modes have other names
    "GroupNormalization": ((21, _always),),  # a scale a channel, not a group
    "MaxPool": ((22, _rounds_up),),
    "Mod": ((28, _is_floored_remainder),),
    "Pad": ((19, _wraps),),
    "Resize": ((19, _is_half_pixel_symmetric),),
}
