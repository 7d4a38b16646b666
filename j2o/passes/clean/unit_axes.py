"""`unit_axes`, `unit_axes_of_layers`: Squeeze and Unsqueeze move behind what is computed, where they cancel.

The walk retypes results in place and repairs their users only at its end. The invariant, after each node:

- A value in `views` has a new type; `RetypedView.type` is its old one, that of `kind(value, axes)`.
- A use in `RetypedView.done` means the value as it is now.
- Every other use still means what the value was: `kind(value, axes)`, of type `RetypedView.type`.

At the end each use of the last sort gets a Squeeze or Unsqueeze of the value, and the graph is right again.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import erase_dead
from j2o.ir.ops import REDUCTIONS, spec
from j2o.ir.types import Type, from_zero, is_one
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

CHANGES = frozenset(["onnx.Squeeze", "onnx.Unsqueeze"])


@graph_pass("unit_axes", at="onnx", level=2)
def unit_axes(graph: Graph, context: Context) -> int:
    """Move Squeeze and Unsqueeze behind what is computed from their results; reduce with axes kept.

    So patterns that were written with and without kept axes look the same, and the two cancel where they
    meet.
    """
    return _move_all(graph, list(context.fresh(graph, unit_axes, 1)), Views())


@graph_pass("unit_axes_of_layers", at="onnx", level=2)
def unit_axes_of_layers(graph: Graph) -> int:
    """Move Squeeze and Unsqueeze as `unit_axes` does, a Squeeze also behind constants, as biases of layers.

    It runs when norms are recovered: their scales would get axes of which `recover` does not know.
    """
    return _move_all(graph, list(graph), Views(takes_constants=True))


def _move_all(graph: Graph, todo: list[Node], views: Views) -> int:
    """Move what stands in front of these nodes, and of those behind them; returns how often."""
    count = 0
    for node in todo:  # it grows meanwhile
        if _move(node, graph, views):
            count += 1
            todo.extend(node.out.users())
    for value in views:
        _settle_view(value, views)
    if views.again:
        again = Views(takes_constants=views.takes_constants)
        count += _move_all(graph, views.again, again)
    return count


def _move(node: Node, graph: Graph, views: Views) -> bool:
    """Move a Squeeze or Unsqueeze of an operand behind a node, once; returns whether there was one."""
    rule = _rule_of(node.op)
    if rule is None or node.graph is not graph:
        return False
    # most nodes end here; a reduction may have dropped its axes itself
    if rule is not _reduction and not _has_source(node, views):
        return False
    if len(node.outputs) != 1 or node.out in views:
        return False
    return rule(node, views)


def _has_source(node: Node, views: Views) -> bool:
    """Return True where an operand is a view, or a Squeeze or Unsqueeze makes it."""
    for value in node.inputs:
        if value is not None and (value.op in CHANGES or value in views):
            return True
    return False


# ---------------------------------------------------------------------------- the views


@dataclass(slots=True)
class RetypedView:
    """A value whose type has changed: uses that are not `done` still take it for `kind(value, axes)`."""

    kind: str
    axes: tuple[int, ...]
    type: Type  # what it was
    done: set[tuple[Node, int]] = field(default_factory=set)


class Views(dict[Value, RetypedView]):
    """What values were before; with `takes_constants` the constants beside a Squeeze get its axes.

    `again` are nodes that two changes are to move behind: a value can be a view of one kind at a time.
    """

    def __init__(self, *, takes_constants: bool = False) -> None:
        super().__init__()
        self.takes_constants = takes_constants
        self.again: list[Node] = []


class UnitAxesRule(Protocol):
    """Moves views through one node; returns whether it did."""

    def __call__(self, node: Node, views: Views) -> bool: ...


class ViewSource(NamedTuple):
    """What an operand is a Squeeze or Unsqueeze of; the axes count in the longer shape, from 0."""

    value: Value
    axes: tuple[int, ...]


def _settle_view(value: Value, views: Views) -> None:
    """Give the users that still take a value for what it was a Squeeze or Unsqueeze of it."""
    view, node = views[value], value.producer
    rest = [use for use in value.uses if use not in view.done]
    if rest and node.graph is not None:
        op = Builder(node.graph, node.next, node.loc, value.hint)
        operands, types = [value, op.dims(view.axes)], [view.type]
        old = op.node(f"onnx.{view.kind}", operands, types=types).out
        for user, index in rest:
            user.set_input(index, old)


def _source(node: Node, index: int, kind: str, views: Views) -> ViewSource | None:
    """The source of an operand that is a view or node of `kind` (Squeeze or Unsqueeze), else None."""
    value = node.operand(index)
    view = _view(node, index, views)
    if view is not None:
        return ViewSource(value, view.axes) if view.kind == kind else None
    maker = value.node
    if maker is None or maker.op != f"onnx.{kind}":
        return None
    axes = _known_axes(maker)
    if axes is None or _view(maker, 0, views) is not None:
        return None
    source = maker.operand(0)
    longer = source if kind == "Squeeze" else value
    return ViewSource(source, from_zero(axes, longer.type.rank))


def _known_axes(node: Node) -> tuple[int, ...] | None:
    """The axes that are the second operand of a node, where it has one and they are numbers."""
    axes = node.optional(1)
    return None if axes is None else axes.known_ints


def _view(node: Node, index: int, views: Views) -> RetypedView | None:
    """What a node still takes an operand for; None where it takes it as it is."""
    view = views.get(node.operand(index))
    if view is None or (node, index) in view.done:
        return None
    return view


def _type_seen(node: Node, index: int, views: Views) -> Type:
    """The type that a node takes an operand for."""
    view = _view(node, index, views)
    return node.operand(index).type if view is None else view.type


def _take(node: Node, index: int, value: Value, views: Views) -> None:
    """Let a node use `value` as it is, and drop what only its old operand needed."""
    old = node.inputs[index]
    if value in views:
        views[value].done.add((node, index))
    if old is not value:
        node.set_input(index, value)
        if old is not None and old.node is not None:
            erase_dead(old.node)


def _change(node: Node, kind: str, axes: tuple[int, ...], views: Views) -> bool:
    """Retype a result to what `kind` over `axes` makes the old one of; its users still mean the old one."""
    old, shape = node.out.type, list(node.out.type.shape)
    if kind == "Squeeze":
        for axis in axes:
            shape.insert(axis, 1)
    else:
        shape = [size for axis, size in enumerate(shape) if axis not in axes]
    node.out.retype(old.with_shape(tuple(shape)))
    views[node.out] = RetypedView(kind, axes, old)
    return True


# ------------------------------------------------------------------ moving and reducing


def _squeeze(node: Node, views: Views) -> bool:
    """Squeeze(Unsqueeze(x)) → x."""
    return _cancel(node, "Unsqueeze", views)


def _unsqueeze(node: Node, views: Views) -> bool:
    """Unsqueeze(Squeeze(x)) → x."""
    return _cancel(node, "Squeeze", views)


def _cancel(node: Node, inverse: str, views: Views) -> bool:
    """Let the users of a node take its operand as it is, where that is its inverse over the same axes."""
    x = node.operand(0)
    if x not in views:
        return False
    axes = _known_axes(node)
    if not axes:
        return False
    source = _source(node, 0, inverse, views)
    rank = max(node.out.type.rank, _type_seen(node, 0, views).rank)
    if source is None or source.axes != from_zero(axes, rank):
        return False
    views[x].done.update(node.out.uses)
    node.replace_by(x)
    return True


def _reduction(node: Node, views: Views) -> bool:
    """Reduce(x, keepdims=0) → Squeeze(Reduce(x)); Reduce(Unsqueeze(x)) → Unsqueeze(Reduce(x))."""
    over = _known_axes(node)
    if not over:
        return False
    axes = from_zero(over, _type_seen(node, 0, views).rank)
    source = _source(node, 0, "Unsqueeze", views)
    if node.int_attr("keepdims", 1) == 0:
        if source is not None:
            views.again.append(node)
        node.set_attr("keepdims", 1)
        return _change(node, "Squeeze", axes, views)
    if source is None or set(source.axes) & set(axes):
        return False
    op = Builder(node.home, node, node.loc)
    kept = op.dims([_position(source.axes, axis) for axis in axes])
    _take(node, 1, kept, views)
    _take(node, 0, source.value, views)
    return _change(node, "Unsqueeze", source.axes, views)


def _position(axes: Sequence[int], axis: int) -> int:
    """The number of an axis when `axes` are gone."""
    return axis - sum(gone < axis for gone in axes)


def _transpose(node: Node, views: Views) -> bool:
    """Transpose(Unsqueeze(x)) → Unsqueeze(Transpose(x)), and the same for Squeeze."""
    if "perm" not in node.attrs:
        return False
    perm = node.ints_attr("perm")
    if source := _source(node, 0, "Unsqueeze", views):
        kind, added = "Unsqueeze", source.axes
        inner = tuple(_position(added, p) for p in perm if p not in added)
        axes = tuple(i for i, p in enumerate(perm) if p in added)
    elif source := _source(node, 0, "Squeeze", views):
        kind, removed = "Squeeze", source.axes
        kept = [a for a in range(source.value.type.rank) if a not in removed]
        inner = (*removed, *(kept[p] for p in perm))
        axes = tuple(range(len(removed)))
    else:
        return False
    _take(node, 0, source.value, views)
    node.set_attr("perm", inner)
    return _change(node, kind, axes, views)


def _along(node: Node, views: Views) -> bool:
    """Softmax(Unsqueeze(x)) → Unsqueeze(Softmax(x)) along an axis of x, and the same for Squeeze."""
    axis = node.int_attr("axis", -1) % _type_seen(node, 0, views).rank
    if source := _source(node, 0, "Unsqueeze", views):
        if axis in source.axes:
            return False
        kind, inner = "Unsqueeze", _position(source.axes, axis)
    elif source := _source(node, 0, "Squeeze", views):
        longer = range(source.value.type.rank)
        kind, inner = "Squeeze", [a for a in longer if a not in source.axes][axis]
    else:
        return False
    _take(node, 0, source.value, views)
    node.set_attr("axis", inner)
    return _change(node, kind, source.axes, views)


# ---------------------------------------------------------------- elementwise operators


def _elementwise(node: Node, views: Views) -> bool:
    """Move a Squeeze or an Unsqueeze behind a function of each element."""
    return _sink_squeeze(node, views) or _sink_unsqueeze(node, views)


def _sink_squeeze(node: Node, views: Views) -> bool:
    """f(Squeeze(a), Squeeze(b), constant, scalar) → Squeeze(f(a, b, Unsqueeze(constant), scalar)).

    A scalar may be a Squeeze, too: it counts where the result is a scalar.
    """
    found = _squeezed_operands(node, views)
    if found is None or not _have_same_axes(found.sources.values()):
        return False
    rank = node.out.type.rank
    longest = max(found.sources.values(), key=lambda source: source.value.type.rank)
    if longest.value.type.rank - len(longest.axes) != rank:
        # a constant has more axes than what is squeezed
        return False
    op = Builder(node.home, node, node.loc, node.out.hint)
    for index in found.constants:
        constant = node.operand(index)
        added = _axes_to_add(longest.axes, rank - constant.type.rank)
        _take(node, index, op.unsqueeze(constant, added), views)
    for index, source in found.sources.items():
        _take(node, index, source.value, views)
    return _change(node, "Squeeze", longest.axes, views)


class SqueezedOperands(NamedTuple):
    """The operands of a node that are squeezed, and the constants beside them, by their places."""

    sources: dict[int, ViewSource]
    constants: list[int]


def _squeezed_operands(node: Node, views: Views) -> SqueezedOperands | None:
    """The operands that are squeezed, where all others are constants or scalars; else None."""
    sources: dict[int, ViewSource] = {}
    constants: list[int] = []
    for index in _operands(node):
        is_scalar = not _type_seen(node, index, views).rank
        if is_scalar and node.out.type.rank:
            continue
        source = _source(node, index, "Squeeze", views)
        if source is not None:
            sources[index] = source
        elif views.takes_constants and node.operand(index).const is not None:
            constants.append(index)
        elif not is_scalar:
            return None
    return SqueezedOperands(sources, constants)


def _have_same_axes(sources: Iterable[ViewSource]) -> bool:
    """Return True where the same axes are squeezed, counted from the last one, as broadcasting counts."""
    from_last: set[tuple[int, ...]] = set()
    for value, axes in sources:
        rank = value.type.rank
        from_last.add(tuple([axis - rank for axis in axes]))
    return len(from_last) == 1


def _axes_to_add(axes: Sequence[int], missing: int) -> list[int]:
    """Where a constant, which lacks some of the first axes of a result, gets those that the result gets.

    None is needed in front of all others: broadcasting adds it.
    """
    added: list[int] = []
    for number, axis in enumerate(axes):
        others_before = axis - number - missing
        if others_before > 0:
            added.append(others_before + len(added))
    return added


def _operands(node: Node) -> list[int]:
    """The places of the operands that are there."""
    return [i for i, value in enumerate(node.inputs) if value is not None]


def _sink_unsqueeze(node: Node, views: Views) -> bool:
    """f(Unsqueeze(a), Unsqueeze(b), c) → Unsqueeze(f(a, b, c)), where c has size 1 at the new axes.

    Of the axes of an Unsqueeze, those go along that have size 1 in the result as well.
    """
    axes, sources = _unsqueezed_operands(node, views)
    if not axes:
        return False
    for source in sources.values():
        if source.axes != axes and source.value in views:
            return False
    constants = _constants_to_squeeze(node, axes, sources, views)
    if constants is None:
        return False
    op = Builder(node.home, node, node.loc, node.out.hint)
    for index in _operands(node):
        if index in constants:
            squeezed = op.squeeze(node.operand(index), constants[index])
            _take(node, index, squeezed, views)
        elif index in sources:
            _take(node, index, _without_axes(op, sources[index], axes), views)
    return _change(node, "Unsqueeze", axes, views)


def _unsqueezed_operands(
    node: Node, views: Views
) -> tuple[tuple[int, ...], dict[int, ViewSource]]:
    """The new axes of the first operand that is unsqueezed, as far as they have size 1 in the result.

    With them come all operands, by their places, for which these are the same.
    """
    shape = node.out.type.shape
    common: tuple[int, ...] = ()
    sources: dict[int, ViewSource] = {}
    for index in _operands(node):
        if _type_seen(node, index, views).rank != len(shape):
            continue
        source = _source(node, index, "Unsqueeze", views)
        if source is None:
            continue
        axes = tuple([axis for axis in source.axes if is_one(shape[axis])])
        if not sources:
            common = axes
        if axes == common:
            sources[index] = source
    return common, sources


def _without_axes(op: Builder, source: ViewSource, axes: tuple[int, ...]) -> Value:
    """The Unsqueeze of a source that makes all of its axes but these."""
    rest = [_position(axes, axis) for axis in source.axes if axis not in axes]
    return op.unsqueeze(source.value, rest)


def _constants_to_squeeze(
    node: Node, axes: tuple[int, ...], sources: dict[int, ViewSource], views: Views
) -> dict[int, list[int]] | None:
    """The constant operands that have some of the new `axes`: for each, which, counted in its own shape.

    None where an operand is neither one of `sources` nor a constant of size 1 at those axes.
    """
    rank = node.out.type.rank
    constants: dict[int, list[int]] = {}
    for index in _operands(node):
        type = _type_seen(node, index, views)
        missing = rank - type.rank
        own = [axis - missing for axis in axes if axis >= missing]
        if not own or index in sources:
            continue
        if node.operand(index).const is None:
            return None
        if not all(is_one(type.shape[axis]) for axis in own):
            return None
        constants[index] = own
    return constants


@functools.cache
def _rule_of(op: str) -> UnitAxesRule | None:
    """How views move through nodes of an operation; None where they do not."""
    if op in RULE_OF:
        return RULE_OF[op]
    is_elementwise = op.startswith("onnx.") and spec(op).elementwise
    return _elementwise if is_elementwise else None


RULE_OF: dict[str, UnitAxesRule] = {
    "onnx.LogSoftmax": _along,
    "onnx.Softmax": _along,
    "onnx.Transpose": _transpose,
    "onnx.Squeeze": _squeeze,
    "onnx.Unsqueeze": _unsqueeze,
    **dict.fromkeys(REDUCTIONS, _reduction),
}
