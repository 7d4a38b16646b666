"""The calls of Python functions that the equations of a program were traced in, as a tree.

A module runs as the call of a function. So the tree shows where the equations of a module begin and end, also
where a framework names none. JAX keeps with each equation the functions that were open, and the place in the
code of each. It does not keep whether two equations of one function are of one call. Of equations that follow
each other they are, unless the second stands before the first in the code, and no loop leads back there. A
derivative walks backwards through the code: there it is the other way round.

Uses of private JAX: `source_info_util`, and the frames of its tracebacks.
"""

from __future__ import annotations

import dis
import functools
from types import CodeType
from typing import Any, NamedTuple

from jax._src import source_info_util

from j2o.frontend.sources import NameStack, names_of
from j2o.ir.graph import Node


class TracedCall:
    """One call in the tree; `parent` is the call around it, None for the program itself."""

    __slots__ = ("depth", "parent")

    def __init__(self, parent: TracedCall | None) -> None:
        self.parent = parent
        self.depth: int = 0 if parent is None else parent.depth + 1


class EquationPlace(NamedTuple):
    """Where an equation stands: its scope, its innermost call, and whether it is a part of a derivative."""

    scope: str
    call: TracedCall
    is_backwards: bool

    def inside(self, name: str) -> EquationPlace:
        """The place in a part of this name."""
        if not name:
            return self
        return EquationPlace(joined(self.scope, name), self.call, self.is_backwards)


def joined(scope: str, name: str) -> str:
    """The scope of a part of this name; a part without a name is none."""
    if not name:
        return scope
    return f"{scope}/{name}" if scope else name


class Calls:
    """The calls of a program: `made` has all, outer ones first, `places` where each node stands."""

    def __init__(self) -> None:
        self.root = TracedCall(None)
        self.made = [self.root]
        self.places: dict[Node, EquationPlace] = {}

    def of(self, node: Node) -> TracedCall:
        """The innermost call that a node stands in."""
        place = self.places.get(node)
        return self.root if place is None else place.call

    def new(self, parent: TracedCall) -> TracedCall:
        """One more call, made in another."""
        call = TracedCall(parent)
        self.made.append(call)
        return call


class Frames:
    """Follows the equations of one jaxpr, which stands at the place `around`, and keeps the open calls."""

    def __init__(self, calls: Calls, around: EquationPlace) -> None:
        self.calls = calls
        self.around = around
        self.before: Any = None  # the traceback of the equation before
        self.open: list[TracedCall] = []

    def place(self, eqn: Any) -> EquationPlace:
        """Where an equation stands; equations come in their order."""
        own: NameStack = names_of(eqn)
        is_backwards = self.around.is_backwards or own.is_backwards
        call = self.call(eqn.source_info.traceback, is_backwards)
        return EquationPlace(joined(self.around.scope, own.scope), call, is_backwards)

    def call(self, traceback: Any, is_backwards: bool) -> TracedCall:
        """The innermost call that an equation with this traceback is in."""
        if traceback is None:
            return self.around.call
        kept, added = _kept(self.before, traceback, is_backwards)
        del self.open[kept:]
        call = self.open[-1] if self.open else self.around.call
        for _ in range(added):
            call = self.calls.new(call)
            self.open.append(call)
        self.before = traceback
        return call


def around_both(one: TracedCall, other: TracedCall) -> TracedCall:
    """Return the innermost call that two of one program stand in."""
    while one is not other:
        if one.depth < other.depth:
            one, other = other, one
        assert one.parent is not None
        one = one.parent
    return one


# equal tracebacks have equal frames: the layers of a model are traced by the same lines
@functools.lru_cache(maxsize=4096)
def _kept(before: Any, traceback: Any, is_backwards: bool) -> tuple[int, int]:
    """How many of the calls that an equation is in hold the next one, too, and how many more this is in."""
    codes, places = _frames(traceback)
    opened = () if before is None else zip(*_frames(before), strict=True)
    kept = 0
    for code, place, (own, last) in zip(codes, places, opened, strict=False):
        if code is not own:
            break
        if place != last:
            follows = place < last if is_backwards else place > last
            kept += follows or _is_in_a_loop(code, last, place)
            break
        kept += 1
    return kept, len(codes) - kept


@functools.lru_cache(maxsize=1024)
def _frames(traceback: Any) -> tuple[list[CodeType], list[int]]:
    """The functions that were open, from the outside in, and the places in them; without JAX's innermost."""
    codes, places = traceback.raw_frames()
    own = 0
    for code in codes:
        if source_info_util.is_user_filename(code.co_filename):
            break
        own += 1
    return codes[own:][::-1], places[own:][::-1]


def _is_in_a_loop(code: CodeType, one: int, other: int) -> bool:
    """Return True where a loop of a function holds both of these places."""
    low = min(one, other)
    high = max(one, other)
    return any(start <= low and high <= end for start, end in _loops(code))


@functools.lru_cache(maxsize=1024)
def _loops(code: CodeType) -> list[tuple[int, int]]:
    """Where the loops of a function begin and end: what its jumps back lead to, and where they stand."""
    return [
        (jump.argval, jump.offset)
        for jump in dis.get_instructions(code)
        if "JUMP_BACKWARD" in jump.opname
    ]
