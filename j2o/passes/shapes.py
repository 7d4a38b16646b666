"""Reshapes, transposes, broadcasts and slices that need not be there.

`shapes` is a set of rules. `broadcasts` lets elementwise operators broadcast by themselves. `unit_axes` moves the
adding and removing of axes of size 1 behind what is computed from them, where they cancel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias, cast

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.infer import broadcast_shape
from j2o.ir.types import Dim, DType, Shape, Type, is_one, same_shape
from j2o.passes.patterns import Const, Rule, RuleSet, erase_dead, rewrite
from j2o.passes.pipeline import Context, graph_pass

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
ANY = {
    "Reshape": {"allowzero": ...},
    "Flatten": {"axis": ...},
    "Concat": {"axis": ...},
}  # attributes that do not matter to a rule


# ----------------------------------------------------------------------------------------------------- rules


def _nothing(kind: str) -> Rule:
    """An operator that gives its first operand back where the type is the same; its attributes do not matter."""

    @rewrite(f"{kind.lower()}_nothing", level=1)
    def nothing(op, x):
        return getattr(op, kind)(x, ..., **ANY.get(kind, {}))

    @nothing.becomes
    def _(op, x):
        return x if x.type == op.out_type else None

    return nothing


@rewrite("pad_nothing", level=1)
def pad_nothing(op, x, pads):
    return op.Pad(x, pads, ..., mode=...)


@pad_nothing.becomes
def _(op, x, pads):
    """The type is no sign of it: one more in front and one less behind leave it as it was."""
    return x if pads.known is not None and all(type(p) is int and p == 0 for p in pads.known) else None


@rewrite("slice_nothing", level=1)
def slice_nothing(op, x, start, end, axes, steps):
    return op.Slice(x, start, end, axes, steps)


@slice_nothing.becomes
def _(op, x, start, end, axes, steps):
    return x if steps.known and all(s == 1 for s in steps.known) else None  # of another type unless it is all of x


def _merged(outer: str, inner: str) -> Rule:
    """Two changes of shape in a row are one."""

    @rewrite(f"{outer.lower()}_{inner.lower()}", level=1, shared=True)
    def merged(op, x):
        first = getattr(op, inner)(x, ..., **ANY.get(inner, {}))
        return getattr(op, outer)(first, ..., **ANY.get(outer, {}))

    @merged.becomes
    def _(op, x):
        shape = op.out_type.shape
        cheap = "Reshape" in (outer, inner) or _needs_no_sizes(shape)
        return op.reshape(x, shape) if cheap else op.view(x, shape)

    return merged


@rewrite("transpose_transpose", level=1, shared=True)
def transpose_transpose(op, x, first, second):
    return op.Transpose(op.Transpose(x, perm=first), perm=second)


@transpose_transpose.becomes
def _(op, x, first, second):
    inner, outer = (_permutation(perm, x.type.rank) for perm in (first, second))
    return op.transpose(x, [inner[i] for i in outer])


def _permutation(perm: Sequence[int] | None, rank: int) -> Sequence[int]:
    """What the attribute `perm` of a Transpose says: the axes in reverse where it is left out."""
    return range(rank)[::-1] if perm is None else perm


@rewrite("transpose_ones", level=1)
def transpose_ones(op, x, perm):
    """A transpose that only moves axes of size 1 is a reshape."""
    return op.Transpose(x, perm=perm)


@transpose_ones.becomes
def _(op, x, perm):
    shape = x.type.shape
    moved = [p for p in _permutation(perm, x.type.rank) if not is_one(shape[p])]
    if moved != sorted(moved):
        return None
    if _needs_no_sizes(shape):
        return op.reshape(x, op.out_type.shape)
    flat = op.squeeze(x, [i for i, d in enumerate(shape) if is_one(d)])
    return op.unsqueeze(flat, [i for i, d in enumerate(op.out_type.shape) if is_one(d)])


def _needs_no_sizes(shape: Shape) -> bool:
    """Whether a Reshape to `shape` can leave its one unknown size to the runtime."""
    return sum(type(d) is not int for d in shape) <= 1


@rewrite("expand_expand", level=1)
def expand_expand(op, x, s, t):
    return op.Expand(op.Expand(x, s), t)


@expand_expand.becomes
def _(op, x, s, t):
    return op.expand(x, op.out_type.shape)


@rewrite("slice_slice", level=1)
def slice_slice(op, x, a, b, axes, steps, c, d, axes2, steps2):
    return op.Slice(op.Slice(x, a, b, axes, steps), c, d, axes2, steps2)


@slice_slice.becomes
def _(op, x, a, b, axes, steps, c, d, axes2, steps2):
    """One Slice over both sets of axes, where they differ."""
    pairs = [(p.known, q.known) for p, q in ((a, c), (b, d), (axes, axes2), (steps, steps2))]
    if any(None in pair for pair in pairs):
        return None
    inner, outer = (_from_zero(each.known, x.type.rank) for each in (axes, axes2))
    if set(inner) & set(outer):
        return None
    both = [(*p, *q) for p, q in pairs]
    return op.Slice(x, *map(op.dims, both)) if dims.is_static(both[3]) else None


@rewrite("mean", level=2)
def mean(op, x, axes, keep, n):
    """A sum divided by how many there are."""
    total = op.ReduceSum(x, axes, keepdims=keep)
    return op.either(op.Div(total, n), op.Mul(total, n))


@mean.becomes
def _(op, x, axes, keep, n):
    # a sum in float16 overflows where ReduceMean, which adds in float32, does not; no axes at all mean all of them
    if not axes.known or x.type.dtype not in (DType.F32, DType.F64):
        return None
    count = dims.prod(x.type.shape[a] for a in _from_zero(axes.known, x.type.rank))
    inverse = op.root.op == "onnx.Mul"
    if not dims.known_ge(count, 1):  # the mean of nothing is NaN, ReduceMean's is 0
        return None
    if type(count) is int:
        if n.const is None or n.type.size != 1:
            return None
        number = np.asarray(1 / count if inverse else count).astype(n.type.dtype.numpy)
        fits = n.const.load().reshape(()) == number
    else:
        fits = not inverse and size_of(n) == count
    return op.ReduceMean(x, axes, keepdims=keep) if fits else None


def size_of(value: Value) -> Dim | None:
    """The size that a scalar holds: `Cast(Reshape(dims [n]))`; None where a narrow dtype on the way may not hold it."""
    node = value.node
    while node is not None and node.op in ("onnx.Cast", "onnx.Reshape", "onnx.Squeeze", "onnx.Unsqueeze"):
        if node.out.type.dtype.bits < 32:
            return None
        known = node.inputs[0].known  # type: ignore[union-attr]
        if known is not None:
            return known[0] if len(known) == 1 else None
        node = node.inputs[0].node  # type: ignore[union-attr]
    return None


# ------------------------------------------------------------------------------------------------ broadcasts

BROADCASTING = frozenset(
    f"onnx.{kind}"
    for kind in (
        "Add Sub Mul Div Pow Mod Max Min And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where "
        "BitwiseAnd BitwiseOr BitwiseXor"
    ).split()
)


@graph_pass("broadcasts", at="onnx", level=1)
def broadcasts(graph: Graph, context: Context) -> int:
    """Elementwise operators and MatMul broadcast by themselves: take Expands, and leading axes of size 1, off operands."""
    count = 0
    for node in context.fresh(graph, broadcasts, 1):
        if node.op in BROADCASTING:
            for index in range(len(node.inputs)):
                count += _unexpand(node, index)
        elif node.op == "onnx.MatMul":
            for index in range(2):
                count += _unexpand_matmul(node, index)
    return count


def _unexpand(node: Node, index: int) -> int:
    value = node.inputs[index]
    others = [v.type.shape for i, v in enumerate(node.inputs) if i != index and v is not None]
    count = 0
    while value is not None and value.node is not None:
        source = value.node.inputs[0] if value.node.inputs else None
        if source is None or not (value.op == "onnx.Expand" or _adds_leading_ones(value.node)):
            break
        shape = broadcast_shape([source.type.shape, *others])
        if shape is None or not same_shape(shape, node.out.type.shape):
            break
        node.set_input(index, source)
        value, count = source, count + 1
    return count


def _adds_leading_ones(node: Node) -> bool:
    if node.op not in ("onnx.Unsqueeze", "onnx.Reshape") or node.inputs[0] is None:
        return False
    before, after = node.inputs[0].type.shape, node.out.type.shape
    extra = len(after) - len(before)
    return extra > 0 and all(map(is_one, after[:extra])) and same_shape(after[extra:], before)


def _unexpand_matmul(node: Node, index: int) -> int:
    value, other = node.inputs[index], node.inputs[1 - index]
    if value is None or other is None or value.op != "onnx.Expand" or value.type.rank < 3:
        return 0
    source = value.node.inputs[0]  # type: ignore[union-attr]
    if source is None or source.type.rank < 2 or source.type.shape[-2:] != value.type.shape[-2:]:
        return 0
    if broadcast_shape([source.type.shape[:-2], other.type.shape[:-2]]) != node.out.type.shape[:-2]:
        return 0
    node.set_input(index, source)
    return 1


# ------------------------------------------------------------------------------------------------- unit axes

REDUCTIONS = frozenset(
    f"onnx.Reduce{k}" for k in ("Sum", "Mean", "Max", "Min", "Prod", "SumSquare", "L1", "L2", "LogSumExp")
)


@graph_pass("unit_axes", at="onnx", level=2)
def unit_axes(graph: Graph, context: Context) -> int:
    """Move Squeeze and Unsqueeze behind what is computed from their results; reduce with axes kept and squeeze afterwards.

    So patterns that were written with and without kept axes look the same, and the two cancel where they meet.
    """
    views: Views = {}
    count = 0
    for node in context.fresh(graph, unit_axes, 1):
        if not node.op.startswith("onnx.") or len(node.outputs) != 1 or node.graph is not graph:
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
        old = op.node(f"onnx.{view.kind}", [value, op.dims(view.axes)], types=[view.type]).out
        for user, index in rest:
            user.set_input(index, old)


def _seen(node: Node, index: int, kind: str, views: Views) -> tuple[Value, tuple[int, ...]] | None:
    """(x, axes) where an operand is `Squeeze(x, axes)` or `Unsqueeze(x, axes)`; axes count in the longer shape, from 0."""
    value = node.inputs[index]
    assert value is not None
    view = _view(node, index, views)
    if view is not None:
        return (value, view.axes) if view.kind == kind else None
    maker = value.node
    if maker is None or maker.op != f"onnx.{kind}" or len(maker.inputs) < 2 or maker.inputs[1] is None:
        return None
    x, known = maker.inputs[0], maker.inputs[1].known
    if known is None or x is None or _view(maker, 0, views) is not None:
        return None
    return x, _from_zero(known, (x if kind == "Squeeze" else value).type.rank)


def _view(node: Node, index: int, views: Views) -> View | None:
    """What a node still takes an operand for."""
    view = views.get(node.inputs[index])  # type: ignore[arg-type]
    return view if view is not None and (node, index) not in view.done else None


def _type_seen(node: Node, index: int, views: Views) -> Type:
    return (_view(node, index, views) or node.inputs[index]).type  # type: ignore[union-attr]


def _from_zero(axes: Sequence[Dim], rank: int) -> tuple[int, ...]:
    """Axes, sorted, each once, none counted from the end."""
    return tuple(sorted({int(a) % rank for a in axes}))  # type: ignore[arg-type]


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
        if x is None or x not in views or len(node.inputs) < 2 or node.inputs[1] is None or not node.inputs[1].known:
            return False
        seen = _seen(node, 0, inverse, views)
        rank = max(node.out.type.rank, _type_seen(node, 0, views).rank)
        if seen is None or seen[1] != _from_zero(node.inputs[1].known, rank):
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
    axes = _from_zero(over.known, rank)
    if node.attrs.get("keepdims", 1) == 0:
        node.attrs["keepdims"] = 1
        return _change(node, "Squeeze", axes, views)
    seen = _seen(node, 0, "Unsqueeze", views)
    if seen is None or set(seen[1]) & set(axes):
        return False
    x, added = seen
    assert node.graph is not None
    _take(node, 1, Builder(node.graph, node, node.loc).dims([_without(added, a) for a in axes]), views)
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
    wide = [i for i, v in enumerate(node.inputs) if v is not None and _type_seen(node, i, views).rank]
    seen = [_seen(node, i, "Squeeze", views) for i in wide]
    if not seen or any(s is None or s[1] != seen[0][1] or s[0].type.rank != seen[0][0].type.rank for s in seen):  # type: ignore[index]
        return False
    for i, s in zip(wide, seen, strict=True):
        _take(node, i, s[0], views)  # type: ignore[index]
    return _change(node, "Squeeze", seen[0][1], views)  # type: ignore[index]


def _sink_unsqueeze(node: Node, views: Views) -> bool:
    """f(Unsqueeze(a), Unsqueeze(b), c) → Unsqueeze(f(a, b, c)) where c has no other sizes at the new axes."""
    rank, shape = node.out.type.rank, node.out.type.shape
    operands = [i for i, v in enumerate(node.inputs) if v is not None]
    types = {i: _type_seen(node, i, views) for i in operands}
    found = {i: s for i in operands if types[i].rank == rank and (s := _seen(node, i, "Unsqueeze", views))}
    axes = next((s[1] for s in found.values()), None)
    if not axes or not all(is_one(shape[a]) for a in axes):
        return False
    squeezed: dict[int, list[int]] = {}  # constants, of which axes go
    for i in operands:
        own = [a - (rank - types[i].rank) for a in axes if a >= rank - types[i].rank]
        if not own or (i in found and found[i][1] == axes):
            continue
        if node.inputs[i].const is None or not all(is_one(types[i].shape[a]) for a in own):  # type: ignore[union-attr]
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


@rewrite("splat", level=1)
def splat(op, x: Const, a, b, perm):
    """One number in every place keeps being that in any shape."""
    everywhere = op.Expand(x, a)
    return op.either(
        op.Reshape(everywhere, b, allowzero=...), op.Unsqueeze(everywhere, b), op.Squeeze(everywhere, b),
        op.Transpose(everywhere, perm=perm),
    )  # fmt: skip


@splat.becomes
def _(op, x, a, b, perm):
    return op.expand(op.reshape(x, ()), op.out_type.shape) if x.type.size == 1 else None


@rewrite("reshape_ones", level=1)
def reshape_ones(op, x, s):
    """A Reshape to the same shape is nothing; one that only adds or removes axes of size 1 needs no shape."""
    return op.Reshape(x, s, allowzero=...)


@reshape_ones.becomes
def _(op, x, s):
    return op.view(x, op.out_type.shape)


@rewrite("matmul_swapped", level=2)
def matmul_swapped(op, a, b, p, q):
    """aᵀ bᵀ = (b a)ᵀ, where one of the transposes only swaps the last two axes and so goes away."""
    return op.MatMul(op.Transpose(a, perm=p), op.Transpose(b, perm=q))


@matmul_swapped.becomes
def _(op, a, b, p, q):
    rank = a.type.rank
    if b.type.rank != rank:
        return None
    swap = (*range(rank - 2), rank - 1, rank - 2)
    p, q = (tuple(_permutation(perm, rank)) for perm in (p, q))
    if swap not in (p, q):
        return None
    left, right = (op.transpose(x, [perm[i] for i in swap]) for x, perm in ((b, q), (a, p)))  # one of them is x itself
    return op.transpose(op.MatMul(left, right), swap)


@rewrite("reduce_squeezes", level=1)
def reduce_squeezes(op, x, axes, over):
    """The inverse, for where nothing came of it."""
    forms = [getattr(op, f"Reduce{k}")(x, axes, keepdims=1) for k in ("Sum", "Mean", "Max", "Min", "Prod")]
    return op.either(*(op.Squeeze(form, over) for form in forms))


@reduce_squeezes.becomes
def _(op, x, axes, over):
    if axes.known is None or over.known is None:
        return None
    rank = x.type.rank
    if _from_zero(axes.known, rank) != _from_zero(over.known, rank):
        return None
    return op.node(op.root.inputs[0].node.op, [x, axes], {"keepdims": 0}).out


shapes = RuleSet(
    "shapes",
    (
        *map(_nothing, ("Expand", "Concat", "Tile")),
        pad_nothing,
        slice_nothing,
        *(_merged(outer, inner) for outer in RESHAPES for inner in RESHAPES),
        transpose_transpose,
        transpose_ones,
        expand_expand,
        slice_slice,
        mean,
        splat,
        reshape_ones,
        matmul_swapped,
    ),
    doc="Changes of shape and layout that cancel, and means.",
)
tidy = RuleSet("tidy", (reduce_squeezes,), doc="Reductions without the axes that nothing needs.")
