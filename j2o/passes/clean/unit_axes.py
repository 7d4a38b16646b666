"""`unit_axes`: Squeeze and Unsqueeze move behind what is computed from their results, where they cancel.

The invariant, at every moment of the walk: a value in `views` has been retyped in place. A user that stands in the view's
`done` takes the value as it is; every other user still means what the value was, `kind(value, axes)`. At the end each such
user gets a Squeeze or Unsqueeze of its own kind, so that the graph is right again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value, erase_dead
from j2o.ir.types import Type, from_zero, is_one
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

REDUCTIONS = frozenset(
    f"onnx.Reduce{k}"
    for k in ("Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2", "LogSumExp")
)


@graph_pass("unit_axes", at="onnx", level=2)
def unit_axes(graph: Graph, context: Context) -> int:
    """Move Squeeze and Unsqueeze behind what is computed from their results; reduce with axes kept and squeeze afterwards.

    So patterns that were written with and without kept axes look the same, and the two cancel where they meet.
    """
    views: Views = {}
    count = 0
    for node in context.fresh(graph, unit_axes, 1):
        if (
            not node.op.startswith("onnx.")
            or len(node.outputs) != 1
            or node.graph is not graph
        ):
            continue
        rule = _UNIT_AXES.get(node.op, _elementwise if node.spec.elementwise else None)
        if rule is not None and rule(node, views):
            graph.journal.append(node)
            count += 1
    for value in views:
        _settle_view(value, views)
    return count


@dataclass(slots=True)
class View:
    """A value whose type has been changed: users that do not stand in `done` still take it for `kind(value, axes)`."""

    kind: str
    axes: tuple[int, ...]
    type: Type  # what it was
    done: set[tuple[Node, int]] = field(default_factory=set)


Views: TypeAlias = dict[Value, View]


def _settle_view(value: Value, views: Views) -> None:
    """Give the users that still take a value for what it was a Squeeze or Unsqueeze of it."""
    view, node = views[value], value.node
    assert node is not None
    rest = [use for use in value.uses if use not in view.done]
    if rest and node.graph is not None:
        op = Builder(node.graph, node.next, node.loc, value.hint)
        old = op.node(
            f"onnx.{view.kind}", [value, op.dims(view.axes)], types=[view.type]
        ).out
        for user, index in rest:
            user.set_input(index, old)


def _seen(
    node: Node, index: int, kind: str, views: Views
) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) where an operand is `Squeeze(x, axes)` or `Unsqueeze(x, axes)`; axes count in the longer shape, from 0."""
    value = node.inputs[index]
    assert value is not None
    view = _view(node, index, views)
    if view is not None:
        return (value, view.axes) if view.kind == kind else None
    maker = value.node
    if (
        maker is None
        or maker.op != f"onnx.{kind}"
        or len(maker.inputs) < 2
        or maker.inputs[1] is None
    ):
        return None
    x, known = maker.inputs[0], maker.inputs[1].known
    if known is None or x is None or _view(maker, 0, views) is not None:
        return None
    return x, from_zero(known, (x if kind == "Squeeze" else value).type.rank)


def _view(node: Node, index: int, views: Views) -> View | None:
    """What a node still takes an operand for."""
    view = views.get(node.inputs[index])  # type: ignore[arg-type]
    return view if view is not None and (node, index) not in view.done else None


def _type_seen(node: Node, index: int, views: Views) -> Type:
    return (_view(node, index, views) or node.inputs[index]).type  # type: ignore[union-attr]


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
    """The node now computes what `kind` over `axes` must be applied to for its old users."""
    old, shape = node.out.type, list(node.out.type.shape)
    if kind == "Squeeze":
        for a in axes:
            shape.insert(a, 1)
    else:
        shape = [d for a, d in enumerate(shape) if a not in axes]
    node.out.type = old.with_shape(tuple(shape))
    views[node.out] = View(kind, axes, old)
    return True


def _cancels(kind: str, inverse: str) -> Callable[[Node, Views], bool]:
    def rule(node: Node, views: Views) -> bool:
        """Unsqueeze(Squeeze(x)) is x, and the other way round."""
        x = node.inputs[0]
        if (
            x is None
            or x not in views
            or len(node.inputs) < 2
            or node.inputs[1] is None
            or not node.inputs[1].known
        ):
            return False
        seen = _seen(node, 0, inverse, views)
        rank = max(node.out.type.rank, _type_seen(node, 0, views).rank)
        if seen is None or seen[1] != from_zero(node.inputs[1].known, rank):
            return False
        views[x].done.update(node.out.uses)
        node.replace_by(x)
        return True

    return rule


def _reduction(node: Node, views: Views) -> bool:
    """Reduce(x, keepdims=0) → Squeeze(Reduce(x)); Reduce(Unsqueeze(x)) → Unsqueeze(Reduce(x))."""
    over = node.inputs[1] if len(node.inputs) > 1 else None
    if over is None or not over.known:
        return False
    rank = _type_seen(node, 0, views).rank
    axes = from_zero(over.known, rank)
    if node.attrs.get("keepdims", 1) == 0:
        node.attrs["keepdims"] = 1
        return _change(node, "Squeeze", axes, views)
    seen = _seen(node, 0, "Unsqueeze", views)
    if seen is None or set(seen[1]) & set(axes):
        return False
    x, added = seen
    assert node.graph is not None
    _take(
        node,
        1,
        Builder(node.graph, node, node.loc).dims([_without(added, a) for a in axes]),
        views,
    )
    _take(node, 0, x, views)
    return _change(node, "Unsqueeze", added, views)


def _without(axes: Sequence[int], axis: int) -> int:
    """The number of an axis when `axes` are gone."""
    return axis - sum(a < axis for a in axes)


def _transpose(node: Node, views: Views) -> bool:
    """Transpose(Unsqueeze(x)) → Unsqueeze(Transpose(x)), and the same for Squeeze."""
    perm = cast("tuple[int, ...] | None", node.attrs.get("perm"))
    if perm is None:
        return False
    if seen := _seen(node, 0, "Unsqueeze", views):
        x, added = seen
        inner = tuple(_without(added, p) for p in perm if p not in added)
        kind, axes = "Unsqueeze", tuple(i for i, p in enumerate(perm) if p in added)
    elif seen := _seen(node, 0, "Squeeze", views):
        x, removed = seen
        kept = [a for a in range(x.type.rank) if a not in removed]
        inner = (*removed, *(kept[p] for p in perm))
        kind, axes = "Squeeze", tuple(range(len(removed)))
    else:
        return False
    _take(node, 0, x, views)
    node.attrs["perm"] = inner
    return _change(node, kind, axes, views)


def _elementwise(node: Node, views: Views) -> bool:
    return _sink_squeeze(node, views) or _sink_unsqueeze(node, views)


def _sink_squeeze(node: Node, views: Views) -> bool:
    """f(Squeeze(a), Squeeze(b), scalar) → Squeeze(f(a, b, scalar))."""
    wide = [
        i
        for i, v in enumerate(node.inputs)
        if v is not None and _type_seen(node, i, views).rank
    ]
    seen = [_seen(node, i, "Squeeze", views) for i in wide]
    if not seen or any(
        s is None or s[1] != seen[0][1] or s[0].type.rank != seen[0][0].type.rank
        for s in seen
    ):  # type: ignore[index]
        return False
    for i, s in zip(wide, seen, strict=True):
        _take(node, i, s[0], views)  # type: ignore[index]
    return _change(node, "Squeeze", seen[0][1], views)  # type: ignore[index]


def _sink_unsqueeze(node: Node, views: Views) -> bool:
    """f(Unsqueeze(a), Unsqueeze(b), c) → Unsqueeze(f(a, b, c)) where c has no other sizes at the new axes."""
    rank, shape = node.out.type.rank, node.out.type.shape
    operands = [i for i, v in enumerate(node.inputs) if v is not None]
    types = {i: _type_seen(node, i, views) for i in operands}
    found = {
        i: s
        for i in operands
        if types[i].rank == rank and (s := _seen(node, i, "Unsqueeze", views))
    }
    axes = next((s[1] for s in found.values()), None)
    if not axes or not all(is_one(shape[a]) for a in axes):
        return False
    squeezed: dict[int, list[int]] = {}  # constants, of which axes go
    for i in operands:
        own = [a - (rank - types[i].rank) for a in axes if a >= rank - types[i].rank]
        if not own or (i in found and found[i][1] == axes):
            continue
        if node.inputs[i].const is None or not all(
            is_one(types[i].shape[a]) for a in own
        ):  # type: ignore[union-attr]
            return False
        squeezed[i] = own
    op = Builder(node.graph, node, node.loc, node.out.hint)  # type: ignore[arg-type]
    for i in operands:
        if i in squeezed:
            _take(node, i, op.squeeze(node.inputs[i], squeezed[i]), views)  # type: ignore[arg-type]
        elif i in found and found[i][1] == axes:
            _take(node, i, found[i][0], views)
    return _change(node, "Unsqueeze", axes, views)


_UNIT_AXES: dict[str, Callable[[Node, Views], bool]] = {
    "onnx.Transpose": _transpose,
    "onnx.Squeeze": _cancels("Squeeze", "Unsqueeze"),
    "onnx.Unsqueeze": _cancels("Unsqueeze", "Squeeze"),
    **dict.fromkeys(REDUCTIONS, _reduction),
}
