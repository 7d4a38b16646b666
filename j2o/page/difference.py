"""Two texts of a graph, row by row: which line of the one belongs to which of the other.

A line is known by what it defines: `%x = …` is the line of `%x` on both sides, whatever stands behind it. Of
the lines that are there once on each side, the longest sequence in a common order is found, as in patience
sorting (https://en.wikipedia.org/wiki/Patience_sorting). This takes time n log n, also where all differs.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import TypeAlias

Row: TypeAlias = "tuple[int, int]"  # a line of the old and of the new text, -1 for none


def rows_of(old: Sequence[str], new: Sequence[str]) -> list[Row]:
    """Return all lines of both texts in order, those that belong together in one row."""
    old_keys = list(map(_key, old))
    new_keys = list(map(_key, new))
    anchors = _in_common_order(_shared(old_keys, new_keys))
    end = (len(old), len(new))
    rows: list[Row] = []
    left = right = 0
    for anchor in (*anchors, end):
        lefts = range(left, anchor[0])
        rights = range(right, anchor[1])
        rows += _between(old_keys, new_keys, lefts, rights)
        rows.append(anchor)
        left = anchor[0] + 1
        right = anchor[1] + 1
    return rows[:-1]


def _key(line: str) -> str:
    """What a line is known by: the names that it defines, or all that stands in it."""
    text = line.strip()
    names, equals, _ = text.partition(" = ")
    return names if equals and text.startswith("%") else text


def _shared(old: Sequence[str], new: Sequence[str]) -> list[Row]:
    """The keys that are there once on each side, in the order of the old text."""
    places = _places_of_single(new)
    found: list[Row] = []
    for key, left in _places_of_single(old).items():
        right = places.get(key)
        if right is not None:
            found.append((left, right))
    return found


def _places_of_single(keys: Sequence[str]) -> dict[str, int]:
    """Where each key stands that is there once."""
    places: dict[str, int] = {}
    several: set[str] = set()
    for i, key in enumerate(keys):
        if key in places:
            several.add(key)
        places[key] = i
    for key in several:
        del places[key]
    return places


def _in_common_order(pairs: Sequence[Row]) -> list[Row]:
    """The longest part of the pairs, which ascend on the left, that ascends on the right too."""
    ends: list[int] = []  # the least right end of an ascending sequence of each length
    at: list[int] = []  # the pair that it ends with
    before: list[int] = []  # of each pair, the one before it in the best sequence
    for i, (_, right) in enumerate(pairs):
        length = bisect.bisect_left(ends, right)
        before.append(at[length - 1] if length else -1)
        if length == len(ends):
            ends.append(right)
            at.append(i)
        else:
            ends[length] = right
            at[length] = i
    found: list[Row] = []
    last = at[-1] if at else -1
    while last >= 0:
        found.append(pairs[last])
        last = before[last]
    return found[::-1]


def _between(
    old: Sequence[str], new: Sequence[str], lefts: range, rights: range
) -> Iterator[Row]:
    """The rows between two anchors: what is alike at the beginning and at the end, else one side alone."""
    head = _alike(old, new, lefts, rights)
    yield from zip(lefts[:head], rights[:head], strict=True)
    lefts = lefts[head:]
    rights = rights[head:]
    tail = _alike(old, new, lefts[::-1], rights[::-1])
    left_end = len(lefts) - tail
    right_end = len(rights) - tail
    for left in lefts[:left_end]:
        yield left, -1
    for right in rights[:right_end]:
        yield -1, right
    yield from zip(lefts[left_end:], rights[right_end:], strict=True)


def _alike(
    old: Sequence[str], new: Sequence[str], lefts: Sequence[int], rights: Sequence[int]
) -> int:
    """How many lines at the beginning of both ranges have the same keys."""
    count = 0
    for left, right in zip(lefts, rights, strict=False):
        if old[left] != new[right]:
            break
        count += 1
    return count
