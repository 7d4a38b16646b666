"""What each pass changed: the text of the graph after it, kept as what differs from the text before.

A value keeps its name from pass to pass, so that two texts differ where the graphs do. (In the text of one
graph alone the numbers behind names count, and one value less gives others new names.)
"""

from __future__ import annotations

import linecache
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from j2o.ir.graph import Graph, Node, Value
from j2o.ir.node import Loc
from j2o.ir.notation import stem
from j2o.ir.places import portable
from j2o.ir.printer import Printer, printable
from j2o.page.difference import Row, rows_of
from j2o.passes.runner import all_graphs

LONGEST = 60_000_000  # characters of different lines; beyond that, steps are left out
SHOWN_CODE = 160  # characters of a source line

# where it begins in the old text, then for each row: 1 where the old text has it, and the new line or -1
Hunk: TypeAlias = "tuple[int, tuple[tuple[int, int], ...]]"


@dataclass
class PassStep:
    """What one run of a pass changed: hunks of the text, and the number of lines removed and added."""

    name: str
    hunks: list[Hunk]
    removed: int
    added: int


@dataclass
class ProgramLine:
    """A line of the program: its file, number, function, the module, and what stands in it."""

    file: str
    line: int
    function: str
    module: str
    code: str


@dataclass
class Texts:
    """The text of the graph before all passes, and what each run of a pass changed.

    `lines` has every line that ever stood in a text once, `place_of` for each the number of its place,
    -1 for none. `start` and the hunks of `steps` refer to them. `runs` names the passes in the order in
    which they ran, `step_of_run` has the number of the step of each, -1 where it changed nothing.
    """

    lines: list[str] = field(default_factory=list)
    place_of: list[int] = field(default_factory=list)
    places: list[ProgramLine] = field(default_factory=list)
    start: list[int] = field(default_factory=list)
    steps: list[PassStep] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    step_of_run: list[int] = field(default_factory=list)
    is_whole: bool = True


class Recorder:
    """An observer of a pipeline that takes down what each pass changes.

    Without `sources`, nothing is told of the program's files.
    """

    def __init__(self, sources: bool = True) -> None:
        self.sources = sources
        self.texts = Texts()
        self._names = SteadyNames()
        self._known: dict[tuple[str, int], int] = {}
        self._known_places: dict[Loc | None, int] = {None: -1}
        self._last: list[int] = []
        self._seen: list[tuple[Graph, int, int]] = []
        self._size = 0

    def __call__(self, name: str, graph: Graph) -> None:
        """Take down the graph as it is after the pass; "" is the name before all passes."""
        texts = self.texts
        if not texts.is_whole:
            return
        if not name:
            texts.start = self._last = self._lines_of(graph)
        else:
            step = self._step_to(name, graph)
            texts.runs.append(name)
            texts.step_of_run.append(len(texts.steps) if step else -1)
            texts.steps += [step] if step else []
        self._seen = _state(graph)
        texts.is_whole = self._size <= LONGEST

    def _step_to(self, name: str, graph: Graph) -> PassStep | None:
        """What a pass has changed; the text is only made where something has changed."""
        if _state(graph) == self._seen:
            return None
        now = self._lines_of(graph)
        step = self._step(name, now)
        self._last = now
        return step

    def _lines_of(self, graph: Graph) -> list[int]:
        """The text of a graph, as numbers of lines."""
        self._names.begin(graph)
        printer = LinePrinter(self._names)
        printer.root(graph)
        found = []
        for i, line in enumerate(printer.lines):
            node = printer.nodes.get(i)
            found.append(self._number(line, self._place(node)))
        return found

    def _place(self, node: Node | None) -> int:
        """The number of the place that a node comes from."""
        loc = None if node is None or not self.sources else node.loc
        number = self._known_places.get(loc)
        if number is None:
            assert loc is not None
            number = self._known_places[loc] = len(self.texts.places)
            self.texts.places.append(_place(loc))
        return number

    def _number(self, line: str, place: int) -> int:
        """The number of a line, a new one where it is met first."""
        number = self._known.get((line, place))
        if number is None:
            number = self._known[line, place] = len(self.texts.lines)
            self.texts.lines.append(line)
            self.texts.place_of.append(place)
            self._size += len(line)
        return number

    def _step(self, name: str, now: Sequence[int]) -> PassStep | None:
        """What differs from the last text; None where nothing does."""
        if now == self._last:
            return None
        lines = self.texts.lines
        old = [lines[number] for number in self._last]
        new = [lines[number] for number in now]
        rows = rows_of(old, new)
        hunks = _hunks(rows, old, new, now)
        if not hunks:
            return None
        every = [row for _, rows in hunks for row in rows]
        removed = sum(has_old for has_old, _ in every)
        added = sum(number >= 0 for _, number in every)
        return PassStep(name, hunks, removed, added)


def _state(graph: Graph) -> list[tuple[Graph, int, int]]:
    """All graphs in a root graph, each with what no change leaves as it is.

    A journal grows with each change, but where a node goes whose operands go too.
    """
    return [(each, len(each.journal), each.length) for each in all_graphs(graph)]


def _hunks(
    rows: Sequence[Row], old: Sequence[str], new: Sequence[str], numbers: Sequence[int]
) -> list[Hunk]:
    """The runs of rows that are not alike on both sides."""
    found: list[Hunk] = []
    run: list[tuple[int, int]] = []
    position = 0  # in the old text
    start = 0
    for left, right in rows:
        is_alike = left >= 0 and right >= 0 and old[left] == new[right]
        if is_alike:
            if run:
                found.append((start, tuple(run)))
                run = []
        else:
            start = start if run else position
            run.append((int(left >= 0), numbers[right] if right >= 0 else -1))
        position += left >= 0
    if run:
        found.append((start, tuple(run)))
    return found


def _place(loc: Loc) -> ProgramLine:
    """A line of the program as the page shows it; its code where the file can still be read."""
    code = linecache.getline(loc.file, loc.line).strip()[:SHOWN_CODE]
    return ProgramLine(portable(loc.file), loc.line, loc.function, loc.scope, code)


# ------------------------------------------------------------------------------------ names


class SteadyNames:
    """Names of values that stay from one text to the next.

    A value that is new takes the name of the one in whose place a node now uses it, else the first
    name of its hint that no value in the graph has. `operands` has the names of what each node used.
    """

    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.operands: dict[Node, list[str]] = {}
        self._taken: set[str] = set()
        self._counts: dict[str, int] = {}

    def begin(self, graph: Graph) -> None:
        """Forget the names of values that are no longer in a root graph, and hand these on."""
        kept: dict[Value, str] = {}
        new: list[Value] = []
        for value in _values(graph):
            name = self.names.get(value)
            if name is None:
                new.append(value)
            else:
                kept[value] = name
        self.names = kept
        self._taken = set(kept.values())
        self._counts = {}
        for value in new:
            self._hand_on(value)
        self.operands = {}

    def _hand_on(self, value: Value) -> None:
        """Name a new value as the one whose place it has taken, where there is such a one."""
        base = printable(value.hint)
        for node, index in value.uses:
            before = self.operands.get(node, [])
            name = before[index] if index < len(before) else ""
            if name not in self._taken and _base(name) == base:
                self.names[value] = name
                self._taken.add(name)
                return

    def new_name(self, hint: str) -> str:
        """A name that is free."""
        base = printable(hint)
        count = self._counts.get(base, 0)
        while (name := _numbered(base, count)) in self._taken:
            count += 1
        self._counts[base] = count + 1
        return name


def _base(name: str) -> str:
    """The hint that a name was made of; no hint for "", which is no name."""
    return stem(name.removeprefix("%")) if name else "none"


def _numbered(base: str, count: int) -> str:
    """`%x`, `%x_1`, …; `%0`, `%1`, … where there is no hint."""
    if not base:
        return f"%{count}"
    return f"%{base}_{count}" if count else f"%{base}"


def _values(root: Graph) -> list[Value]:
    """All values of a root graph, of its functions and of the regions in them."""
    found: list[Value] = []
    waiting = [root, *root.own_functions.values()]
    while waiting:
        graph = waiting.pop()
        found += graph.inputs
        for node in graph:
            found += node.outputs
            waiting += node.graphs
    return found


class LinePrinter(Printer):
    """Prints with steady names, and knows which line a node begins."""

    def __init__(self, names: SteadyNames) -> None:
        super().__init__(with_locations=False)
        self.names = names.names
        self.nodes: dict[int, Node] = {}
        self._steady = names

    def begin_function(self) -> None:
        """The names are steady: no value of a function has one of the root's."""

    def new_name(self, hint: str) -> str:
        return self._steady.new_name(hint)

    def node(self, node: Node, indent: str) -> None:
        self.nodes[len(self.lines)] = node
        self._steady.operands[node] = [self.name(value) for value in node.inputs]
        super().node(node, indent)
