"""The driver: applies rules to the nodes of a graph until none fits. A worklist, indexed by the operation a match ends in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from j2o.errors import NotConvergingError
from j2o.ir.graph import Graph, Node
from j2o.passes.context import Context
from j2o.passes.pipeline import Pass

if TYPE_CHECKING:
    from j2o.passes.rewriting.rule import Rule


def rewrite_graph(
    graph: Graph, rules: Sequence[Rule], context: Context, one: Pass
) -> int:
    """Apply rules to the nodes of one graph until none fits; NotConvergingError names rules that go round in circles.

    `one` is the pass that they are of: nodes that it knows already and that have not changed are left out.
    """
    for rule in rules:
        rule.checked_replacement()
    present = {op for op, count in graph.ops.items() if count}
    table = _table(rules, context.opt_level, present)
    queue = deque(
        n
        for n in context.fresh(graph, one, max(rule.depth for rule in rules))
        if n.op in table
    )
    waiting = set(map(id, queue))
    limit, count = 10 * graph.length + 1000, 0

    def requeue(node: Node) -> None:
        if node.graph is graph and node.op in table and id(node) not in waiting:
            waiting.add(id(node))
            queue.append(node)

    while queue:
        node = queue.popleft()
        waiting.discard(id(node))
        if node.graph is not graph or len(node.outputs) != 1 or not node.out.uses:
            continue
        for rule, fits in table.get(node.op, []):
            if not fits(node):
                continue
            users = list(node.out.users())
            made = rule.apply(node, context)
            if made is None:
                continue
            count += 1
            context.fired[rule.name] = context.fired.get(rule.name, 0) + 1
            if count > limit:
                often = sorted(context.fired, key=lambda n: -context.fired[n])[:3]
                raise NotConvergingError(
                    f"rules {', '.join(often)} do not come to an end in @{graph.name}"
                )
            new = {n.op for n in made} - present
            if new:
                present |= new
                table = _table(rules, context.opt_level, present)
            for each in (*made, *users):
                requeue(each)
            break
    return count


def _table(
    rules: Sequence[Rule], level: int, present: set[str]
) -> dict[str, list[tuple[Rule, Callable[[Node], bool]]]]:
    """The rules that can fit in a graph with these operations, by the operation that a match ends in."""
    table: dict[str, list[tuple[Rule, Callable[[Node], bool]]]] = {}
    for rule in rules:
        if rule.level <= level and rule.required <= present:
            for root, fits in rule.roots:
                table.setdefault(root, []).append((rule, fits))
    return table
