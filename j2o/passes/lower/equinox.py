"""Primitives that equinox defines: assertions about transformations, which have happened once a program is exported."""

from __future__ import annotations

import operator
from typing import Any

from j2o.passes.lower.table import lower_with


@lower_with("nontraceable", "nonbatchable", "nondifferentiable_backward")
def unchanged(x: Any, **_: Any) -> Any:
    return x


for _name in ("any", "all", "max"):
    lower_with(f"unvmap_{_name}")(operator.methodcaller(_name))


@lower_with("select_if_vmap")
def select_if_vmap(predicate: Any, x: Any, y: Any) -> Any:
    """Without vmap, whose rule makes it a select, the predicate is taken to be true."""
    return x
