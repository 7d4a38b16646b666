"""Choices by the place of a condition, as `jnp.select` and `jnp.piecewise` trace to: one Where for each case.

JAX stacks the conditions, looks for the place of the first that holds (`select`) or of the last
(`piecewise`, which counts how many hold up to each place), and chooses the case of that place. Where none
holds, that is place 0, whose condition is False:

    select_n(argmax(stack(False, p, q)), none, x, y)           becomes   Where(p, x, Where(q, y, none))
    select_n(argmax(cumsum(stack(False, p, q))), none, x, y)   becomes   Where(q, y, Where(p, x, none))
"""

from __future__ import annotations

from typing import NamedTuple

from j2o.ir.graph import Node, Value
from j2o.ir.types import DType, is_one
from j2o.passes.recover.constants import BROADCAST
from j2o.passes.rewriting.rule import rewrite

# more conditions than the least integers can count are not counted
MOST_CONDITIONS = 127


class Place(NamedTuple):
    """What a place is looked for in, along which axis, and whether the last condition counts or the first."""

    conditions: Value
    axis: int
    is_last: bool


def _chooses_by_place(choice: Node) -> bool:
    """Return True where the case is chosen by an integer: by a Boolean, it is a Where already."""
    return choice.operand(0).type.dtype.is_int


@rewrite("choice_by_place", at="lax", where=_chooses_by_place)
def choice_by_place(op, which, none):
    """A case for each of several conditions, and one for none of them."""
    return op.lax.select_n(which, none, ...)


@choice_by_place.becomes
def _(op, which, none):
    cases = op.root.operands[1:]
    place = _place(which, len(cases))
    if place is None:
        return None
    conditions = _stacked(place.conditions, place.axis)
    if conditions is None or len(conditions) != len(cases):
        return op.decline("it is not one condition for each case, stacked one by one")
    pairs = list(zip(conditions, cases, strict=True))
    if not place.is_last:
        # the choice that is written last is the outermost, which goes before the others
        pairs.reverse()
    chosen = none
    for condition, case in pairs:
        if _is_false(condition):
            continue
        has_axis = condition.type.rank == place.conditions.type.rank
        held = op.squeeze(condition, [place.axis]) if has_axis else condition
        chosen = op.Where(held, case, chosen)
    return chosen


# ------------------------------------------------------------------------------ reading


def _place(which: Value, count: int) -> Place | None:
    """Read the place of a condition that holds; None where it is something else.

    Of Booleans, argmax finds the first that is True. Of how many hold up to each place, the greatest number
    stands first where the last one holds. Where none holds, all are equal, and the first place is 0.
    """
    if which.origin(BROADCAST).type.rank == 0:
        # one place for whole tensors
        which = which.origin(BROADCAST)
    which = _unclamped(which, count)
    if which.op != "lax.argmax":
        return None
    axes = which.producer.ints_attr("axes")
    looked_at = which.producer.operand(0)
    if len(axes) != 1:
        return None
    if looked_at.type.dtype == DType.BOOL:
        return Place(looked_at, axes[0], is_last=False)
    counted = _counted(looked_at, axes[0])
    return None if counted is None else Place(counted, axes[0], is_last=True)


def _unclamped(which: Value, count: int) -> Value:
    """The place without the limits 0 and `count - 1`, which no place of a condition is beyond."""
    if which.op != "lax.clamp":
        return which
    low, place, high = which.producer.operands
    has_limits = (
        low.origin(BROADCAST).number == 0 and high.origin(BROADCAST).number == count - 1
    )
    return place if has_limits else which


def _counted(counts: Value, axis: int) -> Value | None:
    """The Booleans of which the numbers say how many hold up to each place; None of other numbers."""
    if counts.op != "lax.cumsum":
        return None
    sums = counts.producer
    if sums.attrs["axis"] != axis or sums.attrs["reverse"]:
        return None
    ones = sums.operand(0)
    if ones.op != "lax.convert_element_type" or not ones.type.dtype.is_int:
        return None
    conditions = ones.producer.operand(0)
    size = conditions.type.shape[axis]
    is_countable = type(size) is int and size <= MOST_CONDITIONS
    return conditions if conditions.type.dtype == DType.BOOL and is_countable else None


def _stacked(conditions: Value, axis: int) -> list[Value] | None:
    """The conditions that are put together along an axis; None where something else is done.

    `stack` takes them without the axis, `concatenate` takes rows, which have it.
    """
    if conditions.op == "lax.stack":
        is_along = conditions.producer.attrs["axis"] == axis
        return list(conditions.producer.operands) if is_along else None
    return _rows(conditions, axis)


def _rows(conditions: Value, axis: int) -> list[Value] | None:
    """What is concatenated along an axis, each of one row; None where something has more rows."""
    if conditions.op == "lax.concatenate":
        rows: list[Value] = []
        is_along = conditions.producer.attrs["dimension"] == axis
        for part in conditions.producer.operands:
            parts = _rows(part, axis) if is_along else None
            if parts is None:
                return None
            rows += parts
        return rows
    return [conditions] if is_one(conditions.type.shape[axis]) else None


def _is_false(condition: Value) -> bool:
    """Return True for a condition that never holds."""
    return condition.origin(BROADCAST).number == 0


CHOICES = (choice_by_place,)
