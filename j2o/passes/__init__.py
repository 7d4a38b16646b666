"""Passes: what authors of their own need. `rewrite` makes a rule of a pattern, `graph_pass` a pass of a function."""

from j2o.passes.explain import Mismatch, why
from j2o.passes.patterns import Const, RuleSet, identities, rewrite
from j2o.passes.pipeline import Context, Fixpoint, PassPipeline, graph_pass

__all__ = [
    "Const",
    "Context",
    "Fixpoint",
    "Mismatch",
    "PassPipeline",
    "RuleSet",
    "graph_pass",
    "identities",
    "rewrite",
    "why",
]
