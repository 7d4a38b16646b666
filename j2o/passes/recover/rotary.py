"""RotaryEmbedding (since opset 23), however a program pairs the numbers that it turns.

Each pair (u, v) of a head's numbers becomes (u cos - v sin, u sin + v cos) (Su et al., arXiv:2104.09864).
The pairs are two halves of the last axis, or neighbours along it. Programs take them apart by Slice, Split,
Gather or Reshape and join them by Concat or by stacking; or they multiply all of x by cos, whose halves are
equal, and add (-v, u) times sin.

The kernel computes the same products and sums, and agrees at NaN and infinities; it may round once less.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.ops import VIEWS
from j2o.ir.tensor import Tensor
from j2o.ir.types import Dim, DType, Shape, from_zero, is_one, same_shape
from j2o.passes.layout.perms import inverse, perm_of
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# ------------------------------------------------------------------------ taking apart


class Lanes(NamedTuple):
    """Some numbers of the last axis of a tensor, by their places."""

    source: Value
    places: range


def read_lanes(value: Value) -> Lanes | None:
    """The tensor that a value has some numbers of, evenly spaced along the last axis."""
    node = value.node
    match value.op:
        case "onnx.Slice" if node is not None:
            return _of_slice(node)
        case "onnx.Split" if node is not None:
            return _of_split(node, value)
        case "onnx.Gather" if node is not None:
            return _of_gather(node)
        case _:
            return None


def _of_slice(node: Node) -> Lanes | None:
    """The places that a Slice takes from the last axis."""
    x, start, end, axis = node.operands[:4]
    step = node.optional(4)
    size = x.type.shape[-1]
    first, after, along = start.known_int, end.known_int, axis.known_int
    by = 1 if step is None else step.known_int
    if first is None or after is None or along is None or by is None:
        return None
    is_last = along % x.type.rank == x.type.rank - 1
    if type(size) is not int or not is_last or by < 1:
        return None
    places = range(size)
    return Lanes(x, places[first:after:by])


def _of_split(node: Node, value: Value) -> Lanes | None:
    """The places that a part of a Split has along the last axis."""
    x = node.operand(0)
    last = x.type.rank - 1
    if node.int_attr("axis", 0) % x.type.rank != last:
        return None
    start = 0
    for part in node.outputs:
        size = part.type.shape[-1]
        if type(size) is not int:
            return None
        if part is value:
            return Lanes(x, range(start, start + size))
        start += size
    return None


def _of_gather(node: Node) -> Lanes | None:
    """The places that a Gather takes from the last axis, or from pairs that are an axis of their own."""
    x, indices = node.operands
    axis = node.int_attr("axis", 0) % x.type.rank
    numbers = indices.known_ints
    if numbers is not None and indices.type.rank == 1:
        places = _evenly_spaced(numbers)
        is_last = axis == x.type.rank - 1
        return None if places is None or not is_last else Lanes(x, places)
    if indices.const is None or indices.type.rank or x.op != "onnx.Reshape":
        return None
    return _of_pairs(x, axis, int(indices.const.scalar) % 2)


def _of_pairs(pairs: Value, axis: int, index: int) -> Lanes | None:
    """One of each pair, where a Reshape has put the pairs along an axis of size 2, one of the last two."""
    x, shape = pairs.producer.operand(0), pairs.type.shape
    last = pairs.type.rank - 1
    if axis not in (last, last - 1) or shape[axis] != 2:
        return None
    count = shape[last - 1] if axis == last else shape[last]
    if type(count) is not int:
        return None
    end = 2 * count
    if not same_shape(x.type.shape, (*shape[:-2], end)):
        return None
    if axis == last:
        return Lanes(x, range(index, end, 2))
    halves = range(count), range(count, end)
    return Lanes(x, halves[index])


def _evenly_spaced(numbers: Sequence[int]) -> range | None:
    """The numbers as a range, where they are one that ascends."""
    if not numbers or numbers[0] < 0:
        return None
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    if step < 1:
        return None
    spaced = range(numbers[0], numbers[-1] + 1, step)
    return spaced if list(spaced) == list(numbers) else None


class Pairs(NamedTuple):
    """A tensor whose last axis has pairs: two halves, or neighbours where they are `interleaved`."""

    x: Value
    interleaved: bool


def read_pairs(first: Value, second: Value) -> Pairs | None:
    """The tensor that two values have the first and the second numbers of all pairs of."""
    one, other = read_lanes(first), read_lanes(second)
    if one is None or other is None or one.source is not other.source:
        return None
    count = len(one.places)
    end = 2 * count
    both = one.places, other.places
    if both == (range(count), range(count, end)):
        return Pairs(one.source, False)
    if both == (range(0, end, 2), range(1, end, 2)):
        return Pairs(one.source, True)
    return None


# ----------------------------------------------------------------------------- joining


def _joined(op, first, second, axis, shape, at):
    """Two tensors one behind the other, or stacked."""
    one, other = op.Unsqueeze(first, at), op.Unsqueeze(second, at)
    stacked = op.Concat(one, other, axis=axis)
    behind = op.Concat(first, second, axis=axis)
    return op.either(behind, op.Reshape(stacked, shape, allowzero=...))


def _is_interleaved(
    rank: int, axis: int, shape: Value | None, at: Value | None
) -> bool | None:
    """Whether `_joined` makes neighbours or halves of the last axis; None where it makes something else."""
    if shape is None or at is None:
        is_last = axis % rank == rank - 1
        return False if is_last else None
    stacked = axis % (rank + 1)
    added = from_zero(at.known_ints or (), rank + 1)
    if added != (stacked,):
        return None
    return {rank: True, rank - 1: False}.get(stacked)


# ------------------------------------------------------------------------------ writing


class RotaryLayout(NamedTuple):
    """How RotaryEmbedding takes a tensor.

    `shape` is [N, T, heads · size], with a number of heads, or [N, heads, T, size], without. N counts the
    elements of the axes `batch`. `heads_axis` is that of the tensor, where it has one.
    """

    shape: Shape
    heads: int | None
    batch: Shape
    time: Dim
    heads_axis: int | None


def _layout(x: Value, angles: Sequence[Value]) -> RotaryLayout | None:
    """Which axes are heads and time, told by those along which the angles vary; None where none can be."""
    *lead, size = x.type.shape
    if not lead or type(size) is not int:
        return None
    if not _vary(angles, -2):
        return _heads_behind_time(lead, size)
    if len(lead) > 1 and not _vary(angles, -3):
        return _heads_before_time(lead, size)
    *batch, time = lead
    shape = (dims.prod(batch), time, size)
    return RotaryLayout(shape, 1, tuple(batch), time, None)


def _heads_behind_time(lead: Sequence[Dim], size: int) -> RotaryLayout | None:
    """[batch, time, heads, size] with heads and size merged; there may be no time."""
    *outer, heads = lead
    if type(heads) is not int:
        return None
    *batch, time = outer or [1]
    shape = (dims.prod(batch), time, heads * size)
    return RotaryLayout(shape, heads, tuple(batch), time, len(outer))


def _heads_before_time(lead: Sequence[Dim], size: int) -> RotaryLayout:
    """[batch, heads, time, size]."""
    *batch, heads, time = lead
    shape = (dims.prod(batch), heads, time, size)
    return RotaryLayout(shape, None, tuple(batch), time, len(batch))


def _vary(angles: Sequence[Value], axis: int) -> bool:
    """Return True where a tensor has more than one number along an axis, counted from the end."""
    wide = [angle.type.shape for angle in angles if angle.type.rank >= -axis]
    return not all(is_one(shape[axis]) for shape in wide)


def _cache(op: RuleBuilder, angle: Value, x: Value, layout: RotaryLayout) -> Value:
    """The cosines or sines as [N, T, pairs]."""
    missing = x.type.rank - angle.type.rank
    own: list[Dim] = [*[1] * missing, *angle.type.shape]
    if layout.heads_axis is not None:
        del own[layout.heads_axis]
    if len(own) < len(layout.batch) + 2:
        own.insert(0, 1)  # there is no time
    times = (layout.time, x.type.shape[-1] // 2)
    plain = op.reshape(angle, tuple(own))
    whole = op.expand(plain, (*layout.batch, *times))
    return op.reshape(whole, (layout.shape[0], *times))


def _rotated(
    op: RuleBuilder, x: Value, cos: Value, sin: Value, interleaved: bool
) -> Value | None:
    """RotaryEmbedding of x; `cos` and `sin` broadcast with one number of each pair."""
    if 0 in x.type.shape or not same_shape(op.out_type.shape, x.type.shape):
        return None
    perm = perm_of(x.node)
    if perm is not None and _keeps_last(perm):
        # it is turned before it is transposed, and so beside the product that it comes from
        back = inverse(perm)
        source = x.producer.operand(0)
        real = op.transpose(_of_rank(op, cos, x), back)
        imaginary = op.transpose(_of_rank(op, sin, x), back)
        turned = _rotated_as_it_lies(op, source, real, imaginary, interleaved)
        if turned is not None:
            return op.transpose(turned, perm)
    turned = _rotated_as_it_lies(op, x, cos, sin, interleaved)
    if turned is None:
        return op.decline("the number of heads is not known")
    return turned


def _keeps_last(perm: Sequence[int]) -> bool:
    """Return True where a Transpose leaves the last axis where it is."""
    return perm[-1] == len(perm) - 1


def _of_rank(op: RuleBuilder, angle: Value, x: Value) -> Value:
    """An angle with as many axes as what it turns."""
    return op.unsqueeze(angle, range(x.type.rank - angle.type.rank))


def _rotated_as_it_lies(
    op: RuleBuilder, x: Value, cos: Value, sin: Value, interleaved: bool
) -> Value | None:
    """RotaryEmbedding of x with its axes as they are; None where the number of heads is not known."""
    layout = _layout(x, [cos, sin])
    if layout is None:
        return None
    out = op.RotaryEmbedding(
        op.reshape(x, layout.shape),
        _cache(op, cos, x, layout),
        _cache(op, sin, x, layout),
        interleaved=int(interleaved),
        num_heads=layout.heads,
    )
    return op.reshape(out, x.type.shape)


def _can_rotate(op: RuleBuilder, x: Value) -> bool:
    """Return True where the target has RotaryEmbedding for a tensor."""
    return x.type.dtype == DType.F32 and op.prefers("RotaryEmbedding", x)


@rewrite("rotary")
def rotary(op, first, second, cos, sin, axis, shape, at):
    """(u cos - v sin, u sin + v cos)."""
    real = op.Sub(op.Mul(first, cos), op.Mul(second, sin))
    imaginary = op.Add(op.Mul(first, sin), op.Mul(second, cos))
    return _joined(op, real, imaginary, axis, shape, at)


@rotary.becomes
def _(op, first, second, cos, sin, axis, shape, at):
    pairs = read_pairs(first, second)
    if pairs is None or not _can_rotate(op, pairs.x):
        return None
    joined = _is_interleaved(first.type.rank, axis, shape, at)
    if joined is not pairs.interleaved:
        return op.decline("pairs are taken apart in one way, and joined in the other")
    size = op.out_type.shape[-1]
    x = op.slice(pairs.x, pairs.x.type.rank - 1, 0, size)
    return _rotated(op, x, cos, sin, pairs.interleaved)


@rewrite("rotary_of_all")
def rotary_of_all(op, x, first, second, perm, cos, sin, axis, shape, at):
    """x cos + (-v, u) sin, where cos and sin have the same number for both of a pair.

    Each of x, -v and u may be transposed by itself, as `jax.vmap` over heads writes it.
    """
    negated = op.Neg(second)
    real = op.either(op.Transpose(negated, perm=perm), negated)
    imaginary = op.either(op.Transpose(first, perm=perm), first)
    turned = _joined(op, real, imaginary, axis, shape, at)
    return op.Add(op.Mul(x, cos), op.Mul(turned, sin))


@rotary_of_all.becomes
def _(op, x, first, second, perm, cos, sin, axis, shape, at):
    pairs = read_pairs(first, second)
    if pairs is None or not _can_rotate(op, x):
        return None
    if not _is_transposed(x, pairs.x, perm):
        return None
    interleaved = pairs.interleaved
    if _is_interleaved(first.type.rank, axis, shape, at) is not interleaved:
        return op.decline("pairs are taken apart in one way, and joined in the other")
    size = x.type.shape[-1]
    if size != 2 * first.type.shape[-1]:
        return None
    reader = _Half(op, size, interleaved)
    half_cos, half_sin = reader.of(cos), reader.of(sin)
    if half_cos is None or half_sin is None:
        return op.decline("cos or sin has another number for the second of a pair")
    return _rotated(op, x, half_cos, half_sin, interleaved)


def _is_transposed(x: Value, source: Value, perm: Sequence[int] | None) -> bool:
    """Return True where x is a tensor that a Transpose has given another order of all axes but the last.

    Where there is no order, it is the tensor itself.
    """
    if perm is None:
        return x is source
    if not _keeps_last(perm) or perm_of(x.node) != perm:
        return False
    return x.producer.operand(0) is source


# ------------------------------------------------- of two equal numbers of a pair, one


class _Half(NamedTuple):
    """Takes one number of each pair of a tensor's last axis, where both are known to be equal."""

    op: RuleBuilder
    size: int
    interleaved: bool

    def of(self, value: Value) -> Value | None:
        """The tensor with one of each; None where they may differ."""
        if not value.type.rank or is_one(value.type.shape[-1]):
            return value  # one number is that of all
        if value.type.shape[-1] != self.size:
            return None
        if value.const is not None:
            return self.of_const(value.const)
        if value.op in VIEWS:
            return self.of_view(value)
        if value.op == "onnx.Concat":
            return self.of_concat(value.producer)
        if value.op == "onnx.Tile":
            return self.of_tile(value.producer)
        return None if value.node is None else self.of_elementwise(value.node)

    def of_const(self, tensor: Tensor) -> Value | None:
        """The first of each pair of numbers, where both are equal; else None."""
        if not tensor.is_small:
            return None
        numbers = tensor.load()
        axis = -1 if self.interleaved else -2
        pair = [-1, -1]
        pair[axis] = 2
        pairs = numbers.reshape(*numbers.shape[:-1], *pair)
        first, second = np.moveaxis(pairs, axis, 0)
        return self.op.const(first) if np.array_equal(first, second) else None

    def of_concat(self, node: Node) -> Value | None:
        """One of two equal halves."""
        first, *others = node.operands
        is_twice = len(others) == 1 and others[0] is first
        last = node.out.type.rank - 1
        is_last = node.int_attr("axis") % node.out.type.rank == last
        return first if is_twice and is_last and not self.interleaved else None

    def of_tile(self, node: Node) -> Value | None:
        """What is repeated along the last axis alone."""
        once, times = node.operand(0), node.operand(1).known_ints
        is_twice = times == (*[1] * (once.type.rank - 1), 2)
        return once if is_twice and not self.interleaved else None

    def of_elementwise(self, node: Node) -> Value | None:
        if not node.spec.elementwise:
            return None
        halves = [self.of(operand) for operand in node.operands]
        if None in halves:
            return None
        return self.op.node(node.op, halves, node.attrs).out

    def of_view(self, value: Value) -> Value | None:
        """Where a change of shape keeps the last axis, or makes it by repeating each number or all."""
        source = value.producer.operand(0)
        shape = (*value.type.shape[:-1], self.size // 2)
        once = self.repeated(source) if value.op == "onnx.Reshape" else None
        if once is not None:
            return self.op.reshape(once, shape)
        if not source.type.rank or source.type.shape[-1] != self.size:
            return None
        half = self.of(source)
        if half is None:
            return None
        change = self.op.expand if value.op == "onnx.Expand" else self.op.reshape
        return change(half, shape)

    def repeated(self, value: Value) -> Value | None:
        """What an Expand repeats along an axis of its own, the last one or the one before."""
        if value.op != "onnx.Expand":
            return None
        once = value.producer.operand(0)
        axis = -1 if self.interleaved else -2
        if once.type.rank < 2 or not is_one(once.type.shape[axis]):
            return None
        shape = list(once.type.shape)
        shape[axis] = 2
        last = 2 if self.interleaved else self.size // 2
        is_last = value.type.shape[-1] == last
        is_twice = same_shape(tuple(shape), value.type.shape)
        return once if is_last and is_twice else None


ROTARIES = (rotary, rotary_of_all)
