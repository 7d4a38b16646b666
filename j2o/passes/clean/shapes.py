"""`shapes`: changes of shape and layout that need not be there, as rules.

Those of pieces (Pad, Slice, Concat, Gather) are in `pieces.py`, those of means in `means.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from j2o.ir.build import ones_added
from j2o.ir.graph import Node
from j2o.ir.ops import REDUCTIONS
from j2o.ir.types import (
    Dim,
    Shape,
    differ_by_ones,
    from_zero,
    is_one,
    long_axes,
    same_dim,
    same_shape,
)
from j2o.passes.clean.means import MEANS
from j2o.passes.clean.pieces import PIECES, type_stays
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import Rule, RuleSet, rewrite

# of two in a row, one is left
MERGED = ("Reshape", "Squeeze", "Unsqueeze", "Flatten")
# attributes that do not matter to a rule
ANY = {
    "Concat": {"axis": ...},
    "Flatten": {"axis": ...},
    "Reshape": {"allowzero": ...},
}


# ----------------------------------------------------------------------------------------------------- rules


def _nothing(kind: str) -> Rule:
    """An operator that gives its first operand back where the type is the same, whatever its attributes."""

    @rewrite(f"{kind.lower()}_nothing", level=1, where=type_stays)
    def nothing(op, x):
        return getattr(op, kind)(x, ..., **ANY.get(kind, {}))

    @nothing.becomes
    def _(op, x):
        return x

    return nothing


@rewrite("tile_ones", level=1)
def tile_ones(op, x, repeats):
    """Axes of size 1 that are repeated are broadcast: other rules take an Expand away."""
    return op.Tile(x, repeats)


@tile_ones.becomes
def _(op, x, repeats):
    shape = op.out_type.shape
    pairs = zip(x.type.shape, shape, strict=True)
    if not all(is_one(size) or same_dim(size, wide) for size, wide in pairs):
        return None
    return op.expand(x, shape)


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
    inner = _permutation(first, x.type.rank)
    outer = _permutation(second, x.type.rank)
    return op.transpose(x, [inner[i] for i in outer])


def _permutation(perm: Sequence[int] | None, rank: int) -> Sequence[int]:
    """The axes that `perm` of a Transpose lists: all in reverse where it is left out."""
    return range(rank)[::-1] if perm is None else perm


def only_ones_move(node: Node) -> bool:
    """Return True where the axes of other sizes than 1 keep their order."""
    shape = node.operand(0).type.shape
    perm: Any = node.attrs.get("perm")
    last = -1
    for axis in _permutation(perm, len(shape)):
        if is_one(shape[axis]):
            continue
        if axis < last:
            return False
        last = axis
    return True


@rewrite("transpose_ones", level=1, where=only_ones_move)
def transpose_ones(op, x, perm):
    """A transpose that only moves axes of size 1 is a reshape."""
    return op.Transpose(x, perm=perm)


@transpose_ones.becomes
def _(op, x, perm):
    shape = x.type.shape
    if _needs_no_sizes(shape):
        return op.reshape(x, op.out_type.shape)
    flat = op.squeeze(x, _unit_axes(shape))
    return op.unsqueeze(flat, _unit_axes(op.out_type.shape))


def _unit_axes(shape: Shape) -> list[int]:
    """The axes of size 1."""
    return [axis for axis, size in enumerate(shape) if is_one(size)]


def _needs_no_sizes(shape: Shape) -> bool:
    """Return True where a Reshape to `shape` can leave its one unknown size to the runtime."""
    return sum(type(d) is not int for d in shape) <= 1


@rewrite("transpose_between_views", level=1, shared=True)
def transpose_between_views(op, x, before, perm, after):
    """Axes of size 1 that are there for a Transpose alone: it goes without them."""
    viewed = op.either(op.Unsqueeze(x, before), op.Squeeze(x, before))
    moved = op.Transpose(viewed, perm=perm)
    return op.either(op.Squeeze(moved, after), op.Unsqueeze(moved, after))


@transpose_between_views.becomes
def _(op, x, before, perm, after):
    rank, shape = x.type.rank, op.out_type.shape
    if rank != len(shape):
        return None
    moved = op.root.operand(0).producer
    order = long_axes(moved.out.type.shape)
    axes = long_axes(moved.operand(0).type.shape)
    perm = _permutation(perm, moved.out.type.rank)
    # each axis that is moved, as one of `x`
    own = dict(zip(axes, long_axes(x.type.shape), strict=True))
    places = dict(zip(long_axes(shape), order, strict=True))
    ones = iter(_unit_axes(x.type.shape))
    new = [own[perm[places[i]]] if i in places else next(ones) for i in range(rank)]
    return op.transpose(x, new)


@rewrite("expand_expand", level=1)
def expand_expand(op, x, first, second):
    return op.Expand(op.Expand(x, first), second)


@expand_expand.becomes
def _(op, x, first, second):
    return op.expand(x, op.out_type.shape)


@rewrite("reshape_expand", level=1)
def reshape_expand(op, x, wide, shape_or_axes):
    """An Expand goes behind what only moves axes of size 1: what broadcasts by itself does not need it."""
    everywhere = op.Expand(x, wide)
    return op.either(
        op.Reshape(everywhere, shape_or_axes, allowzero=...),
        op.Unsqueeze(everywhere, shape_or_axes),
        op.Squeeze(everywhere, shape_or_axes),
    )


@reshape_expand.becomes
def _(op, x, wide, shape_or_axes):
    before, after = op.root.operand(0).type.shape, op.out_type.shape
    if not differ_by_ones(before, after):
        return None
    kept, places = long_axes(before), long_axes(after)
    own = (*[1] * (len(before) - x.type.rank), *x.type.shape)
    shape: list[Dim] = [1] * len(after)
    for axis, place in zip(kept, places, strict=True):
        shape[place] = own[axis]
    return op.expand(op.reshape(x, shape), after)


@rewrite("rows_expand", level=1)
def rows_expand(op, x, wide, shape):
    """An Expand along axes in front goes behind a Reshape of those behind them: fewer elements are copied."""
    return op.Reshape(op.Expand(x, wide), shape, allowzero=...)


@rows_expand.becomes
def _(op, x, wide, shape):
    before, after = op.root.operand(0).type.shape, op.out_type.shape
    own = (*[1] * (len(before) - x.type.rank), *x.type.shape)
    front = 0
    while front < min(len(before), len(after)) and same_dim(
        before[front], after[front]
    ):
        front += 1
    if not same_shape(own[front:], before[front:]):
        return None
    return op.expand(op.reshape(x, (*own[:front], *after[front:])), after)


@rewrite("transpose_expand", level=1)
def transpose_expand(op, x, wide, perm):
    """An Expand goes behind a Transpose: fewer elements are moved."""
    return op.Transpose(op.Expand(x, wide), perm=perm)


@transpose_expand.becomes
def _(op, x, wide, perm):
    rank = op.out_type.rank
    whole = op.unsqueeze(x, range(rank - x.type.rank))
    moved = op.transpose(whole, _permutation(perm, rank))
    return op.expand(moved, op.out_type.shape)


@rewrite("reduce_transposed", level=2, shared=True)
def reduce_transposed(op, x, perm, axes, keep):
    """A tensor that only reductions take transposed is reduced first: what is transposed then is smaller."""
    transposed = op.Transpose(x, perm=perm)
    options = []
    for name in sorted(REDUCTIONS):
        reduction = getattr(op, name.removeprefix("onnx."))
        options.append(reduction(transposed, axes, keepdims=keep))
    return op.either(*options)


@reduce_transposed.becomes
def _(op, x, perm, axes, keep):
    reduction = op.root
    users = reduction.operand(0).users()
    is_only_reduced = all(user.op in REDUCTIONS for user in users)
    if not is_only_reduced or not axes.known_ints:
        return None
    rank = x.type.rank
    perm = _permutation(perm, rank)
    over = from_zero(axes.known_ints, rank)
    moved = op.dims([perm[axis] for axis in over])
    reduced = op.node(reduction.op, [x, moved], reduction.attrs).out
    if keep != 0:
        return op.transpose(reduced, perm)
    kept = [perm[axis] for axis in range(rank) if axis not in over]
    return op.transpose(reduced, [sorted(kept).index(axis) for axis in kept])


@rewrite("splat", level=1)
def splat(op, x: Const, wide, shape_or_axes, perm):
    """One number in every place keeps being that in any shape."""
    everywhere = op.Expand(x, wide)
    return op.either(
        op.Reshape(everywhere, shape_or_axes, allowzero=...),
        op.Unsqueeze(everywhere, shape_or_axes),
        op.Squeeze(everywhere, shape_or_axes),
        op.Transpose(everywhere, perm=perm),
    )


@splat.becomes
def _(op, x, wide, shape_or_axes, perm):
    if x.type.size != 1:
        return None
    return op.expand(op.reshape(x, ()), op.out_type.shape)


def only_ones_differ(node: Node) -> bool:
    """Return True where operand and result have the same axes but for some of size 1."""
    have = node.operand(0).type.shape
    want = node.out.type.shape
    if same_shape(have, want):
        return True
    short, long = (have, want) if len(have) < len(want) else (want, have)
    return ones_added(short, long) is not None


@rewrite("reshape_ones", level=1, where=only_ones_differ)
def reshape_ones(op, x, shape):
    """A Reshape to the same shape is nothing; one that only adds or removes axes of size 1 needs no shape."""
    return op.Reshape(x, shape, allowzero=...)


@reshape_ones.becomes
def _(op, x, shape):
    return op.view(x, op.out_type.shape)


shapes = RuleSet(
    "shapes",
    (
        *map(_nothing, ("Expand", "Concat", "Tile")),
        tile_ones,
        *PIECES,
        *(_merged(outer, inner) for outer in MERGED for inner in MERGED),
        transpose_transpose,
        transpose_ones,
        transpose_between_views,
        expand_expand,
        reshape_expand,
        rows_expand,
        transpose_expand,
        reduce_transposed,
        *MEANS,
        splat,
        reshape_ones,
    ),
    doc="Changes of shape and layout that cancel, and means.",
)
