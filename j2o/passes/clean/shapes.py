"""`shapes` and `tidy`: changes of shape and layout that need not be there, as rules."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Dim, DType, Shape, from_zero, is_one
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import Rule, RuleSet, rewrite

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
    return (
        x
        if pads.known is not None and all(type(p) is int and p == 0 for p in pads.known)
        else None
    )


@rewrite("slice_nothing", level=1)
def slice_nothing(op, x, start, end, axes, steps):
    return op.Slice(x, start, end, axes, steps)


@slice_nothing.becomes
def _(op, x, start, end, axes, steps):
    return (
        x if steps.known and all(s == 1 for s in steps.known) else None
    )  # of another type unless it is all of x


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
    pairs = [
        (p.known, q.known) for p, q in ((a, c), (b, d), (axes, axes2), (steps, steps2))
    ]
    if any(None in pair for pair in pairs):
        return None
    inner, outer = (from_zero(each.known, x.type.rank) for each in (axes, axes2))
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
    count = dims.prod(x.type.shape[a] for a in from_zero(axes.known, x.type.rank))
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
    while node is not None and node.op in (
        "onnx.Cast",
        "onnx.Reshape",
        "onnx.Squeeze",
        "onnx.Unsqueeze",
    ):
        if node.out.type.dtype.bits < 32:
            return None
        known = node.inputs[0].known  # type: ignore[union-attr]
        if known is not None:
            return known[0] if len(known) == 1 else None
        node = node.inputs[0].node  # type: ignore[union-attr]
    return None


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
    left, right = (
        op.transpose(x, [perm[i] for i in swap]) for x, perm in ((b, q), (a, p))
    )  # one of them is x itself
    return op.transpose(op.MatMul(left, right), swap)


@rewrite("reduce_squeezes", level=1)
def reduce_squeezes(op, x, axes, over):
    """The inverse, for where nothing came of it."""
    forms = [
        getattr(op, f"Reduce{k}")(x, axes, keepdims=1)
        for k in ("Sum", "Mean", "Max", "Min", "Prod")
    ]
    return op.either(*(op.Squeeze(form, over) for form in forms))


@reduce_squeezes.becomes
def _(op, x, axes, over):
    if axes.known is None or over.known is None:
        return None
    rank = x.type.rank
    if from_zero(axes.known, rank) != from_zero(over.known, rank):
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
tidy = RuleSet(
    "tidy", (reduce_squeezes,), doc="Reductions without the axes that nothing needs."
)
