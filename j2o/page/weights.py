"""Where the weights are: a tree of their names, each level largest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from j2o.page.data import WeightRow

SHOWN = 60  # parts of one level; more are told as one


@dataclass
class Branch:
    """The weights whose names begin alike. A leaf has its `row`, others have parts."""

    name: str
    nbytes: int = 0
    count: int = 0
    row: WeightRow | None = None
    parts: dict[str, Branch] = field(default_factory=dict)


def tree(rows: Sequence[WeightRow]) -> Branch:
    """Return the tree of names, cut at each `/`."""
    root = Branch("")
    for row in rows:
        branch = root
        _count(branch, row)
        steps = row.name.split("/")
        for step in steps:
            # a name may go on behind another's end
            branch = branch.parts.setdefault(step, Branch(step))
            _count(branch, row)
        branch.row = row
    _shorten(root)
    return root


def _count(branch: Branch, row: WeightRow) -> None:
    branch.nbytes += row.nbytes
    branch.count += 1


def _shorten(root: Branch) -> None:
    """Let a branch of one part be that part, under both names, and order the parts by size."""
    waiting = [root]
    while waiting:
        branch = waiting.pop()
        while len(branch.parts) == 1 and branch.row is None and branch.name:
            (only,) = branch.parts.values()
            branch.name += f"/{only.name}"
            branch.row = only.row
            branch.parts = only.parts
        ordered = sorted(branch.parts.items(), key=lambda item: -item[1].nbytes)
        branch.parts = dict(ordered)
        waiting += branch.parts.values()
