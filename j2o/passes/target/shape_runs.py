"""What of a shape vector one Shape reads: the sizes of neighbouring axes of an input, for `materialize`."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from j2o.ir import dims
from j2o.ir.graph import Value
from j2o.ir.types import Shape


class Axes(NamedTuple):
    """Neighbouring axes of an input, which has a number: from `start` to `end`."""

    input: int
    start: int
    end: int


class Run(NamedTuple):
    """Entries of a shape vector from `start` to `end`, and the axes that have these sizes."""

    start: int
    end: int
    axes: Axes


class Runs:
    """Finds sizes of inputs that stand in shape vectors one behind the other."""

    def __init__(self, inputs: Sequence[Value]) -> None:
        # for each pair of neighbouring sizes, the shapes that go on from there, and where each begins
        self.places: dict[Shape, dict[Shape, tuple[int, int]]] = {}
        self._known: dict[Shape, list[Run]] = {}  # what was found in a vector
        for number, value in enumerate(inputs):
            shape = value.type.shape
            for axis in range(len(shape) - 1):
                pair = shape[axis : axis + 2]
                if not dims.is_static(pair):
                    places = self.places.setdefault(pair, {})
                    places.setdefault(shape[axis:], (number, axis))

    def within(self, entries: Shape) -> list[Run]:
        """The runs in a shape vector: all of it, or the longest without numbers, which others may share."""
        if entries not in self._known:
            self._known[entries] = self._find(entries)
        return self._known[entries]

    def _find(self, entries: Shape) -> list[Run]:
        """The runs that make up the entries: the whole, or runs of numbers and of sizes in turn."""
        whole = self._longest(entries, 0, len(entries))
        if whole is not None and whole.end == len(entries):
            return [whole]
        runs: list[Run] = []
        at = 0
        for are_numbers, group in itertools.groupby(entries, lambda d: type(d) is int):
            end = at + len(list(group))
            if not are_numbers:
                runs += self._between(entries, at, end)
            at = end
        return runs

    def _between(self, entries: Shape, at: int, stop: int) -> Iterator[Run]:
        """The longest runs between two places, from left to right."""
        while at < stop:
            run = self._longest(entries, at, stop)
            if run is not None:
                yield run
            at = at + 1 if run is None else run.end

    def _longest(self, entries: Shape, start: int, stop: int) -> Run | None:
        """The longest run that begins at a place; None where an input has not even two of the sizes."""
        places = self.places.get(entries[start : start + 2], {})
        if not places or stop - start < 2:
            return None
        wanted = entries[start:stop]
        lengths = {shape: _common(shape, wanted) for shape in places}
        longest = max(places, key=lengths.__getitem__)
        number, axis = places[longest]
        length = lengths[longest]
        return Run(start, start + length, Axes(number, axis, axis + length))

    def worthwhile(self, vectors: Sequence[Shape]) -> set[Axes]:
        """The axes to read at once: the sizes of whole vectors, and two or more that nothing else needs.

        A whole vector takes a Shape in place of a Concat, at least. Of another, one Shape less must be left.
        """
        chosen: set[Axes] = set()
        partial: dict[Axes, set[str]] = {}  # with the symbols that would not be read
        needed: set[str] = set()  # the symbols that are read by themselves
        for entries in dict.fromkeys(vectors):
            at = 0
            for run in self.within(entries):
                needed |= _symbols(entries[at : run.start])
                at = run.end
                if (run.start, run.end) == (0, len(entries)):
                    chosen.add(run.axes)
                else:
                    partial[run.axes] = _symbols(entries[run.start : run.end])
            needed |= _symbols(entries[at:])
        for axes, symbols in partial.items():
            if len(symbols - needed) >= 2:
                chosen.add(axes)
            else:
                needed |= symbols
        return chosen


def _common(one: Shape, other: Shape) -> int:
    """How many sizes two shapes begin with alike."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _symbols(entries: Shape) -> set[str]:
    """The symbols in the entries of a shape."""
    return {name for size in entries for name in dims.symbols(size)}
