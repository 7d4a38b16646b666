"""The driver: applies rules to the nodes of a graph until none fits.

It is a worklist. Rules are looked up by the operations of a node and of its operands.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING

from j2o.errors import NotConvergingError
from j2o.ir.graph import Graph, Node
from j2o.passes.context import Context
from j2o.passes.pipeline import Pass
from j2o.passes.rewriting.candidates import RuleTable, table_of

if TYPE_CHECKING:
    from j2o.passes.rewriting.rule import Rule


def rewrite_graph(
    graph: Graph, rules: tuple[Rule, ...], context: Context, one: Pass
) -> int:
    """Apply rules to the nodes of one graph until none fits; returns the number of rewrites.

    `one` is the pass that they are of: nodes that it knows already and that have not changed are left
    out. Raises NotConvergingError, which names rules that go round in circles.
    """
    table = table_of(rules, context.opt_level)
    work = _Worklist(graph, table, context)
    work.add(context.fresh(graph, one, table.depth))
    return work.done()


class _Worklist:
    """The nodes of a graph at which rules are still to be tried, each once, and the rules that can fit."""

    def __init__(self, graph: Graph, table: RuleTable, context: Context) -> None:
        self.graph = graph
        self.context = context
        self.table = table
        self.present = {op for op, count in graph.ops.items() if count}
        self.roots = table.roots_among(self.present)
        self.queue: deque[Node] = deque()
        self.waiting: set[Node] = set()

    def take_operations(self, nodes: Iterable[Node]) -> None:
        """With operations that are new in the graph, more rules can fit."""
        new = {node.op for node in nodes if node.graph is self.graph} - self.present
        if new:
            self.present |= new
            self.roots = self.table.roots_among(self.present)

    def add(self, nodes: Iterable[Node]) -> None:
        """Put nodes into the queue, but for those that wait, are erased, or have no rule."""
        roots = self.roots
        if not roots:
            return
        for node in nodes:
            if node.op not in roots or node in self.waiting:
                continue
            if node.graph is self.graph:
                self.waiting.add(node)
                self.queue.append(node)

    def done(self) -> int:
        """Rewrite until the queue is empty; returns the number of rewrites."""
        limit = 10 * self.graph.length + 1000
        count = 0
        while self.queue:
            node = self.queue.popleft()
            self.waiting.discard(node)
            count += self.rewrite(node)
            if count > limit:
                raise self.not_converging()
        return count

    def rewrite(self, node: Node) -> bool:
        """Apply the first rule that fits at a node; False where none does."""
        if node.graph is not self.graph or len(node.outputs) != 1:
            return False
        if not node.outputs[0].uses:
            return False
        for rule, required, fits in self.table.candidates(node):
            if not required <= self.present or not fits(node):
                continue
            again = rule.apply(node, self.context)
            if again is not None:
                self.context.fire(rule.name)
                self.take_operations(again)
                self.add(again)
                return True
        return False

    def not_converging(self) -> NotConvergingError:
        """The error that names the rules which fired most."""
        fired = self.context.fired
        often = sorted(fired, key=lambda name: -fired[name])[:3]
        names = ", ".join(often)
        return NotConvergingError(
            f"rules {names} do not come to an end in @{self.graph.name}"
        )
