"""Reshapes, transposes, broadcasts and slices that need not be there.

`shapes` is a set of rules. `broadcasts` lets elementwise operators broadcast by themselves. `squeezes` keeps reduced axes as
axes of size 1 while rules look for patterns, and moves the Squeeze behind what is computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir import dims
from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import Dim, Shape
from j2o.passes.patterns import Rule, RuleBuilder, RuleSet, rewrite
from j2o.passes.pipeline import graph_pass

RESHAPES = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
ANY = {"Reshape": {"allowzero": ...}, "Flatten": {"axis": ...}}  # attributes that do not matter to a rule


# ----------------------------------------------------------------------------------------------------- rules


def _nothing(kind: str, operands: int) -> Rule:
    """An operator that gives its first operand back where the type is the same; its attributes do not matter."""

    @rewrite(f"{kind.lower()}_nothing", level=1)
    def nothing(op, x, a, b, c, d):
        forms = [getattr(op, kind)(x, *(a, b, c, d)[:n], **ANY.get(kind, {})) for n in range(operands)]
        return op.either(*forms)

    @nothing.becomes
    def _(op, x, *_):
        return x if x.type == op.out_type else None

    return nothing


@rewrite("slice_nothing", level=1)
def slice_nothing(op, x, start, end, axes, steps):
    return op.Slice(x, start, end, axes, steps)


@slice_nothing.becomes
def _(op, x, start, end, axes, steps):
    return x if steps.known and all(s == 1 for s in steps.known) else None  # of another type unless it is all of x


def _view(op: RuleBuilder, x: Value) -> Value:
    """`x` in the shape of what is replaced, by the cheapest operator."""
    have, want = x.type.shape, op.out_type.shape
    if have == want:
        return x
    if len(want) > len(have):
        axes = ones_added(have, want)
        if axes is not None:
            return op.unsqueeze(x, axes)
    elif len(want) < len(have):
        axes = ones_added(want, have)
        if axes is not None:
            return op.squeeze(x, axes)
    return op.reshape(x, want)


def ones_added(short: Shape, long: Shape) -> list[int] | None:
    """Which axes of `long`, all of size 1, `short` lacks; None where that is not the difference."""
    axes, i = [], 0
    for k, d in enumerate(long):
        if i < len(short) and short[i] == d and not (d == 1 and len(short) - i < len(long) - k and _skips(short[i:], long[k + 1 :])):
            i += 1
        elif d == 1:
            axes.append(k)
        else:
            return None
    return axes if i == len(short) else None


def _skips(short: Shape, long: Shape) -> bool:
    """Whether the rest still fits when an axis of size 1 is taken as added."""
    return len(long) >= len(short) and [d for d in short if d != 1] == [d for d in long if d != 1] and (
        sum(d == 1 for d in long) >= sum(d == 1 for d in short)
    )


def _merged(outer: str, inner: str) -> Rule:
    """Two changes of shape in a row are one."""

    @rewrite(f"{outer.lower()}_{inner.lower()}", level=1, shared=True)
    def merged(op, x, s, t):
        first = getattr(op, inner)(x, *(() if inner == "Flatten" else (s,)), **ANY.get(inner, {}))
        return getattr(op, outer)(first, *(() if outer == "Flatten" else (t,)), **ANY.get(outer, {}))

    @merged.becomes
    def _(op, x, s, t):
        return _view(op, x)

    return merged


@rewrite("transpose_transpose", level=1, shared=True)
def transpose_transpose(op, x, first, second):
    return op.Transpose(op.Transpose(x, perm=first), perm=second)


@transpose_transpose.becomes
def _(op, x, first, second):
    return op.transpose(x, [first[i] for i in second])


@rewrite("transpose_ones", level=1)
def transpose_ones(op, x, perm):
    """A transpose that only moves axes of size 1 is a reshape."""
    return op.Transpose(x, perm=perm)


@transpose_ones.becomes
def _(op, x, perm):
    shape = x.type.shape
    moved = [p for p in perm if shape[p] != 1]
    symbolic = sum(type(d) is not int for d in shape)
    return _view(op, x) if moved == sorted(moved) and symbolic <= 1 else None


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
    if axes.known is None or axes2.known is None or set(axes.known) & set(axes2.known):
        return None
    starts, ends = a.known, b.known
    if None in (starts, ends, c.known, d.known) or steps.known is None or steps2.known is None:
        return None
    both = [(*p.known, *q.known) for p, q in ((a, c), (b, d), (axes, axes2), (steps, steps2))]
    return op.Slice(x, op.dims(both[0]), op.dims(both[1]), op.dims(both[2]), op.dims(both[3]))


@rewrite("mean", level=2)
def mean(op, x, axes, keep, n):
    """A sum divided by how many there are."""
    total = op.ReduceSum(x, axes, keepdims=keep)
    return op.either(op.Div(total, n), op.Mul(total, n))


@mean.becomes
def _(op, x, axes, keep, n):
    if axes.known is None or not x.type.dtype.is_float:
        return None
    count = dims.prod(x.type.shape[int(a)] for a in axes.known)  # type: ignore[arg-type]
    inverse = op.root.op == "onnx.Mul"
    if type(count) is int:
        if n.const is None or n.type.size != 1:
            return None
        number = np.asarray(1 / count if inverse else count).astype(n.type.dtype.numpy)
        fits = n.const.load().reshape(()) == number
    else:
        fits = not inverse and size_of(n) == count
    return op.ReduceMean(x, axes, keepdims=keep) if fits else None


def size_of(value: Value) -> Dim | None:
    """The size that a scalar holds: `Cast(Reshape(dims [n]))`."""
    node = value.node
    while node is not None and node.op in ("onnx.Cast", "onnx.Reshape", "onnx.Squeeze", "onnx.Unsqueeze"):
        known = node.inputs[0].known  # type: ignore[union-attr]
        if known is not None:
            return known[0] if len(known) == 1 else None
        node = node.inputs[0].node  # type: ignore[union-attr]
    return None


shapes = RuleSet(
    "shapes",
    (
        _nothing("Reshape", 3),
        _nothing("Expand", 3),
        _nothing("Concat", 2),
        _nothing("Tile", 3),
        _nothing("Pad", 5),
        slice_nothing,
        *(_merged(outer, inner) for outer in RESHAPES for inner in RESHAPES),
        transpose_transpose,
        transpose_ones,
        expand_expand,
        slice_slice,
        mean,
    ),
    doc="Changes of shape and layout that cancel, and means.",
)


# ------------------------------------------------------------------------------------------------ broadcasts

BROADCASTING = frozenset(
    f"onnx.{kind}"
    for kind in (
        "Add Sub Mul Div Pow Mod Max Min And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Where PRelu "
        "BitwiseAnd BitwiseOr BitwiseXor"
    ).split()
)


@graph_pass("broadcasts", at="onnx", level=1)
def broadcasts(graph: Graph) -> int:
    """Elementwise operators and MatMul broadcast by themselves: take Expands, and leading axes of size 1, off operands."""
    count = 0
    for node in graph:
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
        if broadcast_shape([source.type.shape, *others]) != node.out.type.shape:
            break
        node.set_input(index, source)
        value, count = source, count + 1
    return count


def _adds_leading_ones(node: Node) -> bool:
    if node.op not in ("onnx.Unsqueeze", "onnx.Reshape") or node.inputs[0] is None:
        return False
    before, after = node.inputs[0].type.shape, node.out.type.shape
    extra = len(after) - len(before)
    return extra > 0 and after[extra:] == before and all(d == 1 for d in after[:extra])


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


def broadcast_shape(shapes: Sequence[Shape]) -> Shape | None:
    """The shape that these broadcast to, where it is certain; None where it is not."""
    rank = max(map(len, shapes))
    out: list[Dim] = []
    for i in range(1, rank + 1):
        found = {s[-i] for s in shapes if len(s) >= i and s[-i] != 1}
        if len(found) > 1:
            return None
        out.append(next(iter(found), 1))
    return tuple(reversed(out))


# -------------------------------------------------------------------------------------------------- squeezes


@graph_pass("squeezes", at="onnx", level=2)
def squeezes(graph: Graph) -> int:
    """Reduce with axes kept, squeeze afterwards, and compute on the kept axes what is computed from the squeezed ones."""
    count = 0
    for node in graph:
        if node.spec.name.startswith("onnx.Reduce") and node.attrs.get("keepdims", 1) == 0:
            count += _keep_axes(graph, node)
        elif node.spec.elementwise:
            count += _sink_squeeze(graph, node)
    return count


def _keep_axes(graph: Graph, node: Node) -> int:
    axes = node.inputs[1].known if len(node.inputs) > 1 and node.inputs[1] is not None else None
    if not axes:
        return 0
    op = Builder(graph, node, node.loc, node.out.hint)
    kept = op.node(node.op, node.inputs, {**node.attrs, "keepdims": 1}).out
    node.replace_by(op.Squeeze(kept, np.sort(np.asarray(axes, np.int64) % kept.type.rank)))
    return 1


def _sink_squeeze(graph: Graph, node: Node) -> int:
    """f(Squeeze(a), Squeeze(b), scalar) → Squeeze(f(a, b, scalar))."""
    wide = [v for v in node.inputs if v is not None and v.type.rank]
    if not wide or len(node.outputs) != 1:
        return 0
    axes = _squeezed_axes(wide[0])
    if axes is None or any(_squeezed_axes(v) != axes for v in wide[1:]) or len({v.type.rank for v in wide}) > 1:
        return 0
    op = Builder(graph, node, node.loc, node.out.hint)
    inputs = [v.node.inputs[0] if v is not None and v.type.rank else v for v in node.inputs]  # type: ignore[union-attr]
    inner = op.node(node.op, inputs, node.attrs)
    node.replace_by(op.Squeeze(inner.out, np.asarray(axes, np.int64)))
    return 1


def _squeezed_axes(value: Value) -> tuple[Dim, ...] | None:
    node = value.node
    if node is None or node.op != "onnx.Squeeze" or len(node.inputs) < 2 or node.inputs[1] is None:
        return None
    return node.inputs[1].known


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
    if sorted(int(a) % rank for a in axes.known) != sorted(int(a) % rank for a in over.known):
        return None
    return op.node(op.root.inputs[0].node.op, [x, axes], {"keepdims": 0}).out


tidy = RuleSet("tidy", (reduce_squeezes,), doc="Reductions without the axes that nothing needs.")
