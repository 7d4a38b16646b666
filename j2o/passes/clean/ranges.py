"""`ranges`: clamps, wrap-arounds, fills and selections go of which the outcome is known.

    i = Range(0, 8, 1);  Where(Less(i, 0), Add(i, 8), i)    becomes   i
    i = Range(0, 8, 1);  Min(Max(i, 0), 7)                  becomes   i
    i = Range(0, 8, 1);  Max(i, 9)                          becomes   9

Nearly everything here is about integers and Booleans, which have no NaN and one zero. Of floats it matters
which of two operands a Where gives, and what is left of integers that they are computed from. What is
replaced has the same elements, one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from j2o.ir.build import Builder
from j2o.ir.graph import Graph, Node, Value
from j2o.ir.types import DType
from j2o.passes.clean.facts import Facts
from j2o.passes.clean.indices import INDEX_REWRITES, read_clamp
from j2o.passes.clean.intervals import (
    NO,
    always_greater,
    extreme_of,
    fits,
    has_interval,
    never_less,
)
from j2o.passes.clean.truths import TRUTH_REWRITES
from j2o.passes.context import Context
from j2o.passes.pipeline import graph_pass

Rewrite: TypeAlias = Callable[[Builder, Node, Facts], "Value | None"]
# the integers that onnxruntime clips as they are
CLIPPED = (DType.I8, DType.I32, DType.I64, DType.U8, DType.U32, DType.U64)
LOOKS_BACK = 3  # nodes of an index: a clamp, a conversion, a wrap-around


@graph_pass("ranges", at="onnx", level=2, scope="root")
def ranges(graph: Graph, context: Context) -> int:
    """Remove clamps, wrap-arounds, fills and selections of which the outcome is known."""
    facts = Facts()
    graphs = (graph, *graph.functions.values())
    return sum(_improve_graph(one, facts, context) for one in graphs)


def _improve_graph(graph: Graph, facts: Facts, context: Context) -> int:
    """Improve the nodes of a graph, then those of the regions in it."""
    count = 0
    for node in context.fresh(graph, ranges, LOOKS_BACK):
        if node.graph is graph and _is_of_interest(node):
            count += _improve(node, facts)
    for holder in list(graph.holders):
        for region in holder.graphs:
            count += _improve_graph(region, facts, context)
    return count


def _is_of_interest(node: Node) -> bool:
    """Return True for an operator with a rule, or whose one result has an interval."""
    if len(node.outputs) != 1 or node.graphs or not node.inputs:
        return False
    if node.op in REWRITES:
        return True
    return has_interval(node.outputs[0]) and node.op.startswith("onnx.")


def _improve(node: Node, facts: Facts) -> bool:
    """Replace a node by something simpler; returns whether there is."""
    number = _only_number(node, facts)
    rewrites = REWRITES.get(node.op, ())
    if number is None and not rewrites:
        return False
    op = Builder(node.home, node, node.loc, node.out.hint)
    new = None if number is None else _filled(op, number, node.out)
    for rewrite in rewrites:
        new = new or rewrite(op, node, facts)
    if new is None:
        return False
    node.replace_by(_spread(op, new, node.out))
    return True


def _spread(op: Builder, x: Value, like: Value) -> Value:
    """`x` broadcast to the shape of another value."""
    missing = like.type.rank - x.type.rank
    return op.expand(op.unsqueeze(x, range(missing)), like.type.shape)


def _only_number(node: Node, facts: Facts) -> int | None:
    """The number that all elements must be, where a node works it out."""
    if not has_interval(node.out):
        return None
    if node.op == "onnx.Expand" and node.operand(0).const is not None:
        return None
    interval = facts.of(node.out)
    return interval.low if interval.is_single else None


def _filled(op: Builder, number: int, like: Value) -> Value:
    """One number everywhere."""
    dtype = like.type.dtype
    element = bool(number) if dtype is DType.BOOL else number
    return op.full(like.type.shape, element, dtype)


# ------------------------------------------------------------------------------- clamps


def _max(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A Max without the operands that are never the greatest."""
    return _extreme(op, node, facts, greatest=True)


def _min(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A Min without the operands that are never the least."""
    return _extreme(op, node, facts, greatest=False)


def _extreme(op: Builder, node: Node, facts: Facts, greatest: bool) -> Value | None:
    """A Max or Min without the operands that another always outdoes; None where all count."""
    if not has_interval(node.out):
        return None
    kept = list(node.operands)
    for value in node.operands:
        others = [v for v in kept if v is not value]
        if any(_outdoes(other, value, facts, greatest) for other in others):
            kept = others
    if len(kept) == len(node.operands):
        return None
    return kept[0] if len(kept) == 1 else op.apply(node.op, *kept)


def _clamp(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A Max of a Min, or a Min of a Max, by numbers that do not cross is a Clip."""
    if node.out.type.dtype not in CLIPPED:
        return None
    index = read_clamp(node.out, facts)
    if index is None:
        return None
    # bounds may add axes of size 1, which a Clip does not
    if index.source.type != node.out.type or index.source.op == "onnx.Unsqueeze":
        return None
    low, high = index.low, index.high
    if type(low) is not int or type(high) is not int:
        return None
    return op.Clip(index.source, low, high)


def _outdoes(a: Value, b: Value, facts: Facts, greatest: bool) -> bool:
    """Return True where a Max (or a Min) of `a` and `b` is always `a`."""
    more, less = (a, b) if greatest else (b, a)
    return never_less(facts.of(more), facts.of(less))


def _clip(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A Clip without a bound that is never passed."""
    x, low, high = node.operand(0), node.optional(1), node.optional(2)
    if not has_interval(node.out):
        return x if _lies_between(x, low, high, facts) else None
    raised = facts.of(x)
    if low is not None and never_less(raised, facts.of(low)):
        low = None
    if low is not None:
        raised = extreme_of([raised, facts.of(low)], least=False)
    # the upper bound counts where the two cross
    if high is not None and never_less(facts.of(high), raised):
        high = None
    if (low, high) == (node.optional(1), node.optional(2)):
        return None
    return x if low is None and high is None else op.Clip(x, low, high)


def _lies_between(
    x: Value, low: Value | None, high: Value | None, facts: Facts
) -> bool:
    """Return True for floats that no bound changes."""
    known = facts.bounds(x)
    if known is None:
        return False
    least = None if low is None else low.number
    most = None if high is None else high.number
    is_above = low is None or (least is not None and least <= known.low)
    is_below = high is None or (most is not None and known.high <= most)
    return is_above and is_below


def _is_nan(op: Builder, node: Node, facts: Facts) -> Value | None:
    """False of floats that are computed from integers in a way that gives no NaN."""
    if facts.bounds(node.operand(0)) is None:
        return None
    return op.full(node.out.type.shape, False, DType.BOOL)


def _never_reaches(op: Builder, node: Node, facts: Facts) -> Value | None:
    """False where the greatest of floats is less than a number."""
    x, limit = node.operands
    known, number = facts.bounds(x), limit.number
    if known is None or number is None or not known.high < number:
        return None
    return op.full(node.out.type.shape, False, DType.BOOL)


def _mod(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The rest of a number from 0 on that is less than the divisor is that number."""
    if not has_interval(node.out):
        return None
    x, divisor = node.operands
    interval = facts.of(x)
    is_rest = interval.low >= 0 and always_greater(facts.of(divisor), interval)
    return x if is_rest else None


def _abs(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The operand, where none of its integers is negative."""
    x = node.operand(0)
    return x if has_interval(x) and facts.of(x).low >= 0 else None


# --------------------------------------------------------------------------- remainders
#
# JAX's `rem` is x - (x / y) y, where the quotient is rounded towards 0; its sign is that of x. Its `mod` is
# Where(rem < 0, rem + y, rem) for a positive y: ONNX's Mod, which has the sign of y.


class Remainder(NamedTuple):
    """A value is `x - (x / y) * y`."""

    x: Value
    y: Value


def _remainder_of(value: Value) -> Remainder | None:
    """The operands of a remainder of integers; None of another value."""
    if value.op != "onnx.Sub" or not value.type.dtype.is_int:
        return None
    x, multiple = value.producer.operands
    if multiple.op != "onnx.Mul":
        return None
    a, b = multiple.producer.operands
    for quotient, y in ((a, b), (b, a)):
        if quotient.op == "onnx.Div" and quotient.producer.operands == (x, y):
            return Remainder(x, y)
    return None


def _rem(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The remainder of a number from 0 on by a positive one."""
    found = _remainder_of(node.out)
    if found is None:
        return None
    if facts.of(found.x).low < 0 or facts.of(found.y).low <= 0:
        return None
    return op.Mod(found.x, found.y)


def _modulo(op: Builder, node: Node, facts: Facts) -> Value | None:
    """A remainder by a positive number, with that added where it is negative."""
    condition, moved, rest = node.operands
    found = _remainder_of(rest)
    if found is None or condition.op != "onnx.Less" or moved.op != "onnx.Add":
        return None
    subject, zero = condition.producer.operands
    if subject is not rest or facts.of(zero) != NO:
        return None
    if facts.of(found.y).low <= 0:
        return None
    sums = ((rest, found.y), (found.y, rest))
    return op.Mod(*found) if moved.producer.operands in sums else None


# -------------------------------------------------------------------------- conversions


def _cast(op: Builder, node: Node, facts: Facts) -> Value | None:
    """Two conversions are one where the dtype between holds all numbers that there are."""
    between = node.operand(0)
    if between.op != "onnx.Cast" or not has_interval(between):
        return None
    x = between.producer.operand(0)
    if not has_interval(x) or not fits(facts.of(x), between.type.dtype):
        return None
    if x.type.dtype is node.out.type.dtype:
        return x
    return op.node("onnx.Cast", [x], node.attrs).out


# ----------------------------------------------------------------- Booleans, selections


def _where(op: Builder, node: Node, facts: Facts) -> Value | None:
    """What a condition that is known chooses, also of floats: a Where copies elements."""
    condition, a, b = node.operands
    known = facts.of(condition)
    if not known.is_single:
        return None
    return a if known.low else b


def _and(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The one operand where the other is true under it."""
    a, b = node.operands
    for value, other in ((a, b), (b, a)):
        if facts.given(other, value, True).low:
            return value
    return None


def _or(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The one operand where the other is false without it."""
    a, b = node.operands
    for value, other in ((a, b), (b, a)):
        if not facts.given(other, value, False).high:
            return value
    return None


def _xor(op: Builder, node: Node, facts: Facts) -> Value | None:
    """The one operand, or its negation, where the other is known."""
    a, b = node.operands
    for value, other in ((a, b), (b, a)):
        known = facts.of(other)
        if known.is_single:
            return op.Not(value) if known.low else value
    return None


REWRITES: dict[str, Sequence[Rewrite]] = {
    "onnx.Abs": (_abs,),
    "onnx.And": (_and,),
    "onnx.Cast": (_cast,),
    "onnx.Clip": (_clip,),
    "onnx.Max": (_max, _clamp),
    "onnx.Min": (_min, _clamp),
    "onnx.Mod": (_mod,),
    "onnx.Or": (_or,),
    "onnx.Sub": (_rem,),
    "onnx.Where": (_where, _modulo),
    "onnx.Xor": (_xor,),
    **INDEX_REWRITES,
    **TRUTH_REWRITES,
    "onnx.GreaterOrEqual": (*TRUTH_REWRITES["onnx.GreaterOrEqual"], _never_reaches),
    "onnx.IsNaN": (_is_nan,),
    "onnx.Equal": (*TRUTH_REWRITES["onnx.Equal"], *INDEX_REWRITES["onnx.Equal"]),
}
