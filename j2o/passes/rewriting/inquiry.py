"""`Inquiry`: a rule is asked at every node where a match of it could end, for `j2o passes --why RULE`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from j2o.errors import PassError
from j2o.ir.graph import Graph, Node
from j2o.ir.target import Target
from j2o.passes.context import Context
from j2o.passes.pipeline import PassPipeline, graph_pass
from j2o.passes.rewriting.explain import Mismatch, why
from j2o.passes.rewriting.rule import Rule
from j2o.passes.runner import all_graphs


class Answer(NamedTuple):
    """What a rule says at a node: which part does not fit there, or None where it fits."""

    node: str
    mismatch: Mismatch | None

    def __str__(self) -> str:
        if self.mismatch is None:
            return f"  {self.node}: fits"
        rows = [
            f"  {self.node}",
            f"in        {self.mismatch.part}",
            f"expected  {self.mismatch.expected}",
            f"found     {self.mismatch.found}",
        ]
        return "\n    ".join(rows)

    def as_data(self) -> dict[str, Any]:
        """The answer under the keys of `j2o passes --why RULE --json`."""
        found = self.mismatch
        return {
            "node": self.node,
            "fits": found is None,
            "part": found and found.part,
            "expected": found and found.expected,
            "found": found and found.found,
        }


@dataclass
class Inquiry:
    """The answers of a rule at the nodes of its root operations.

    It may ask several times while a graph changes. Then a node keeps its last answer; one where the
    rule fitted keeps that, because a rewrite erases the node.
    """

    rule: Rule
    answers: dict[Node, Answer] = field(default_factory=dict)

    def ask(self, root: Graph, target: Target | None) -> None:
        """Ask at the nodes of a root graph, its functions and regions. The graph stays as it is."""
        for node, answer in list(self.answers.items()):
            if answer.mismatch is not None:
                del self.answers[node]
        roots = self.rule.root_operations
        for graph in all_graphs(root):
            for node in [n for n in graph if n.op in roots]:
                self.answers[node] = Answer(_shown(node), why(self.rule, node, target))

    def put_before_rule(self, pipeline: PassPipeline) -> PassPipeline:
        """The pipeline that also asks, each time before the pass that the rule belongs to.

        Raises PassError for a rule that is not in the pipeline.
        """

        @graph_pass("why", at=self.rule.at, level=0, scope="root")
        def ask(graph: Graph, context: Context) -> int:
            self.ask(graph, context.target)
            return 0

        return pipeline.before(pass_of(self.rule, pipeline), ask)

    def in_order(self) -> list[Answer]:
        """The answers, those where the rule fits first."""
        return sorted(self.answers.values(), key=lambda a: a.mismatch is not None)

    def __str__(self) -> str:
        if not self.answers:
            return f"{self.rule.name}: there is no {' or '.join(self.rule.root_operations)}"
        answers = self.in_order()
        fitting = sum(answer.mismatch is None for answer in answers)
        head = f"{self.rule.name} fits at {fitting} of {len(answers)} nodes"
        return "\n".join([head, *map(str, answers)])


def pass_of(rule: Rule, pipeline: PassPipeline) -> str:
    """The name of the first pass that a rule belongs to, which may be the rule itself.

    PassError if none does.
    """
    for one in pipeline:
        if one is rule or rule in getattr(one, "rules", ()):
            return one.name
    raise PassError(f"passes: no pass of {pipeline!r} has the rule {rule.name}")


def _shown(node: Node) -> str:
    """A node with the names of its results."""
    results = ", ".join(f"%{value.hint}" for value in node.outputs)
    return f"{results} = {node.described}"
