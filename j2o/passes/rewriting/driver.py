"""The driver: applies rules to the nodes of a graph until none fits.

It is a worklist. Rules are looked up by the operation that a match ends in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

from j2o.errors import NotConvergingError
from j2o.ir.graph import Graph, Node
from j2o.passes.context import Context
from j2o.passes.pipeline import Pass

if TYPE_CHECKING:
    from j2o.passes.rewriting.rule import Rule

# operation → the rules whose matches end in it, each with its quick test of the operands
Table: TypeAlias = "dict[str, list[tuple[Rule, Callable[[Node], bool]]]]"


def rewrite_graph(
    graph: Graph, rules: Sequence[Rule], context: Context, one: Pass
) -> int:
    """Apply rules to the nodes of one graph until none fits; returns the number of rewrites.

    `one` is the pass that they are of: nodes that it knows already and that have not changed are left
    out. Raises NotConvergingError, which names rules that go round in circles.
    """
    for rule in rules:
        rule.checked_replacement()
    depth = max(rule.depth for rule in rules)
    work = _Worklist(graph, rules, context)
    work.add(context.fresh(graph, one, depth))
    return work.done()


class _Worklist:
    """The nodes of a graph at which rules are still to be tried, each once, and the rules that can fit."""

    def __init__(self, graph: Graph, rules: Sequence[Rule], context: Context) -> None:
        self.graph = graph
        self.rules = rules
        self.context = context
        self.present = {op for op, count in graph.ops.items() if count}
        self.table = self.rules_that_can_fit()
        self.queue: deque[Node] = deque()
        self.waiting: set[Node] = set()

    def rules_that_can_fit(self) -> Table:
        """The rules of this level all of whose operations there are in the graph."""
        table: Table = {}
        for rule in self.rules:
            if rule.level <= self.context.opt_level and rule.required <= self.present:
                for root, fits in rule.roots:
                    table.setdefault(root, []).append((rule, fits))
        return table

    def add(self, nodes: Iterable[Node]) -> None:
        """Put nodes into the queue, but for those that wait, are erased, or have no rule."""
        for node in nodes:
            is_here = node.graph is self.graph
            if is_here and node.op in self.table and node not in self.waiting:
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
        if not node.out.uses:
            return False
        for rule, fits in self.table.get(node.op, ()):
            if not fits(node):
                continue
            users = list(node.out.users())
            made = rule.apply(node, self.context)
            if made is not None:
                self.context.fire(rule.name)
                self.take_operations(made)
                self.add(made)
                self.add(users)
                return True
        return False

    def take_operations(self, made: Iterable[Node]) -> None:
        """With operations that are new in the graph, more rules can fit."""
        new = {node.op for node in made} - self.present
        if new:
            self.present |= new
            self.table = self.rules_that_can_fit()

    def not_converging(self) -> NotConvergingError:
        """The error that names the rules which fired most."""
        fired = self.context.fired
        often = sorted(fired, key=lambda name: -fired[name])[:3]
        names = ", ".join(often)
        return NotConvergingError(
            f"rules {names} do not come to an end in @{self.graph.name}"
        )
