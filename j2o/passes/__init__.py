"""Passes: what authors of their own need.

`rewrite` makes a rule of a pattern, `graph_pass` a pass of a function.
"""

from j2o.passes.context import Context, Options
from j2o.passes.pipeline import Fixpoint, PassPipeline, graph_pass
from j2o.passes.rewriting.explain import Mismatch, why
from j2o.passes.rewriting.language import Const
from j2o.passes.rewriting.rule import RuleSet, identities, rewrite

__all__ = [
    "Const",
    "Context",
    "Fixpoint",
    "Mismatch",
    "Options",
    "PassPipeline",
    "RuleSet",
    "graph_pass",
    "identities",
    "rewrite",
    "why",
]
