"""The modules of a graph as a tree, in which no level has more boxes than one can look at.

A module that is used again later, such as an embedding whose weights also make the logits, stands once for
each time: a picture with one box for both would run in a circle. A level with very many members is divided
into parts of what stands together in the graph. A module with a single node is that node, and one with only
one other module is one box with it: opening them would show nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

MOST = 60  # boxes of one level

Path: TypeAlias = tuple[str, ...]


@dataclass
class Module:
    """A box that can be opened: its name, its path, and what is in it, in the order of the graph.

    A part of a module has the path of that.
    """

    name: str
    path: Path
    members: list[Member]


Member: TypeAlias = "int | Module"  # a node, by its number


def tree(
    nodes: Sequence[int], paths: Mapping[int, Path], before: Mapping[int, set[int]]
) -> Module:
    """Return the outermost level of a graph; a module around all of it is that level.

    `nodes` are numbered in the graph's order, `paths` has the module of each, `before` the nodes whose
    results each uses. Linear in nodes and their uses, for each level.
    """
    members = _Levels(paths, before).level(nodes, ())
    if len(members) == 1 and isinstance(members[0], Module):
        return members[0]
    return Module("", (), members)


class _Levels:
    """What making the levels needs."""

    def __init__(
        self, paths: Mapping[int, Path], before: Mapping[int, set[int]]
    ) -> None:
        self.paths = paths
        self.before = before

    def level(self, nodes: Sequence[int], path: Path) -> list[Member]:
        """The members of a level, of nodes that have a path or the beginning of one in common."""
        paths = self.paths
        depth = len(path)
        steps = {node: paths[node][depth] for node in nodes if len(paths[node]) > depth}
        visits = self.visits(nodes, steps)
        inside: dict[tuple[str, int], list[int]] = {}
        order: list[int | tuple[str, int]] = []
        for node in nodes:
            if node not in steps:
                order.append(node)
                continue
            visit = (steps[node], visits.get(node, 1))
            if visit not in inside:
                inside[visit] = []
                order.append(visit)
            inside[visit].append(node)
        members: list[Member] = []
        for entry in order:
            if isinstance(entry, int):
                members.append(entry)
            else:
                members.append(self.module(entry, inside[entry], path))
        return divided(members, path)

    def module(self, visit: tuple[str, int], nodes: list[int], around: Path) -> Member:
        """The box of one visit of a module, in the module `around` it."""
        step, count = visit
        name = step if count == 1 else f"{step} ({count})"
        path = (*around, step)
        members = self.level(nodes, path)
        only = members[0]
        if len(members) > 1:
            return Module(name, path, members)
        if isinstance(only, Module):
            return Module(f"{name}/{only.name}", only.path, only.members)
        return only

    def visits(self, nodes: Sequence[int], steps: Mapping[int, str]) -> dict[int, int]:
        """Return of each node whose module is left and entered again which time it is, from 1 on."""
        counts: dict[int, int] = {}
        for step in self.entered_again(nodes, steps):
            counts.update(self.count(step, nodes, steps))
        return counts

    def entered_again(
        self, nodes: Sequence[int], steps: Mapping[int, str]
    ) -> list[str]:
        """The modules that a way through the graph leaves and comes back to."""
        modules = dict.fromkeys(steps.values())
        bits = {module: 1 << i for i, module in enumerate(modules)}
        left: dict[int, int] = {}  # by node, the modules that a way to it has left
        again: dict[str, None] = {}
        for node in nodes:
            own = steps.get(node)
            seen = 0
            for other in self.before[node]:
                if other not in left:
                    continue
                seen |= left[other]
                step = steps.get(other)
                if step is not None and step != own:
                    seen |= bits[step]
            left[node] = seen
            if own is not None and seen & bits[own]:
                again[own] = None
        return list(again)

    def count(
        self, module: str, nodes: Sequence[int], steps: Mapping[int, str]
    ) -> dict[int, int]:
        """Return which visit of one module each of its nodes belongs to: the most that a way to it has."""
        visits: dict[int, int] = {}  # that a way to the node has begun
        own: dict[int, int] = {}
        for node in nodes:
            is_inside = steps.get(node) == module
            visit = 1 if is_inside else 0
            for other in self.before[node]:
                if other not in visits:
                    continue
                enters = is_inside and other not in own
                visit = max(visit, visits[other] + enters)
            visits[node] = visit
            if is_inside:
                own[node] = visit
        return own


def divided(members: list[Member], path: Path) -> list[Member]:
    """Return the members of the level of a path, as parts of parts where there are too many.

    Each part is named by the places of what it has: `61 – 120`.
    """
    size = 1  # places that each entry stands for
    total = len(members)
    while len(members) > MOST:
        count = math.ceil(len(members) / MOST)
        length = math.ceil(len(members) / count)
        parts: list[Member] = []
        for start in range(0, len(members), length):
            first = start * size + 1
            last = min((start + length) * size, total)
            part = members[start : start + length]
            parts.append(Module(f"{first} – {last}", path, part))
        members = parts
        size *= length
    return members
