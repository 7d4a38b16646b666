"""Primitives that equinox defines: assertions about transformations, which have happened once a program is exported."""

from __future__ import annotations

import operator

from j2o.passes.lower.table import lower_with

lower_with("nontraceable", "nonbatchable", "nondifferentiable_backward")(lambda x, **_: x)
lower_with("select_if_vmap")(lambda predicate, x, y: x)  # true without vmap, whose rule makes it a select
for _name in ("any", "all", "max"):
    lower_with(f"unvmap_{_name}")(operator.methodcaller(_name))
