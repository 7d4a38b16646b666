"""Rules of `tidy` for shifts: what loses places at one end and gets a number at the other is one Pad.

`jnp.pad(x, ((1, 0), (0, 0)))[:-1]`, and zeros in front of `x[:-1]`, are what a causal model reads. ONNX's Pad
takes amounts below 0, which cut:

    Slice(Pad(x, [1, 0, 0, 0]), starts=[0], ends=[-1], axes=[0])   becomes   Pad(x, [1, 0, -1, 0])

Before `tidy`, convolutions take in what is put around places.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from j2o.ir import dims
from j2o.ir.graph import Node, Value
from j2o.ir.types import DType
from j2o.passes.clean.pieces import cuts_of
from j2o.passes.rewriting.rule import RuleBuilder, rewrite

# what is put in front of each axis, then what is put behind each, as Pad lists it; below 0 it is cut off
Amounts: TypeAlias = list[int]


@rewrite("slice_of_pad")
def slice_of_pad(op, x, pads):
    return op.Slice(op.Pad(x, pads, ...), ...)


@slice_of_pad.becomes
def _(op, x, pads):
    padded = op.root.operand(0).producer
    added = _added(padded)
    cut = _cut(op.root)
    if added is None or cut is None:
        return None
    left = [border - gone for border, gone in zip(added, cut, strict=True)]
    if max(left) <= 0 or not _has_places(x, left):
        return op.decline("nothing of the border is left, or nothing else")
    return _pad(op, x, left, padded)


@rewrite("pad_of_slice")
def pad_of_slice(op, x, pads):
    return op.Pad(op.Slice(x, ...), pads, ...)


@pad_of_slice.becomes
def _(op, x, pads):
    added = _added(op.root)
    cut = _cut(op.root.operand(0).producer)
    if added is None or cut is None:
        return None
    amounts: Amounts = []
    for border, gone in zip(added, cut, strict=True):
        if border > 0 and gone > 0:
            return op.decline("at one end both cut and pad")
        amounts.append(border - gone)
    return _pad(op, x, amounts, op.root)


@rewrite("concat_of_number")
def concat_of_number(op, first, second, axis):
    """A number that is repeated in front of a tensor, or behind it."""
    return op.Concat(first, second, axis=axis)


@concat_of_number.becomes
def _(op, first, second, axis):
    if op.out_type.dtype == DType.BOOL:  # such a number is not taken everywhere
        return None
    if not op.prefers("Pad", first):
        return op.decline("no kernel pads this dtype")
    for border, x, is_behind in ((first, second, 0), (second, first, 1)):
        count = border.type.shape[axis]
        number = _repeated(border)
        if number is None or type(count) is not int:
            continue
        scalar = op.const(number, x.type.dtype)
        rank = x.type.rank
        amounts = [0] * (2 * rank)
        amounts[axis % rank + is_behind * rank] = count
        return op.Pad(x, op.dims(amounts), scalar)
    return None


def _repeated(value: Value) -> Any:
    """The number that an Expand repeats; None of another value."""
    if value.op != "onnx.Expand" or len(value.uses) > 1:
        return None
    tensor = value.producer.operand(0).const
    return None if tensor is None or tensor.size != 1 else tensor.scalar


def _added(node: Node) -> Amounts | None:
    """What a Pad adds; None where that is not known, or axes are named."""
    known = node.operand(1).known_ints
    return None if known is None or len(node.inputs) > 3 else list(known)


def _cut(node: Node) -> Amounts | None:
    """What a Slice leaves out; None where that is not known, or it takes steps."""
    cuts = cuts_of(node)
    if cuts is None:
        return None
    shape = node.operand(0).type.shape
    left = node.out.type.shape
    rank = len(shape)
    amounts = [0] * (2 * rank)
    for axis, (start, _, step) in cuts.items():
        is_from_end = type(start) is int and start < 0
        first = dims.add(shape[axis], start) if is_from_end else start
        rest = dims.sub(dims.sub(shape[axis], first), left[axis])
        if step != 1 or type(first) is not int or type(rest) is not int:
            return None
        if first < 0 or rest < 0:
            return None
        amounts[axis] = first
        amounts[axis + rank] = rest
    return amounts


def _has_places(x: Value, amounts: Sequence[int]) -> bool:
    """Return True where no more is cut of any axis than it has."""
    rank = x.type.rank
    for axis, size in enumerate(x.type.shape):
        cut_in_front = max(-amounts[axis], 0)
        cut_behind = max(-amounts[axis + rank], 0)
        lost = cut_in_front + cut_behind
        if not dims.known_ge(size, lost):
            return False
    return True


def _pad(op: RuleBuilder, x: Value, amounts: Sequence[int], pad: Node) -> Value:
    """A Pad by other amounts, with the number of a Pad."""
    return op.Pad(x, op.dims(amounts), *pad.inputs[2:])


SHIFTS = (slice_of_pad, pad_of_slice, concat_of_number)
