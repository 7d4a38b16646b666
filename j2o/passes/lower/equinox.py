"""Primitives that equinox defines: assertions about transformations, which have happened once a program is exported."""

from __future__ import annotations

from typing import Any

from j2o.passes.lower.table import lower_with


@lower_with("nontraceable", "nonbatchable", "nondifferentiable_backward")
def unchanged(x: Any, **_: Any) -> Any:
    return x


@lower_with("unvmap_any")
def unvmap_any(x: Any) -> Any:
    return x.any()


@lower_with("unvmap_all")
def unvmap_all(x: Any) -> Any:
    return x.all()


@lower_with("unvmap_max")
def unvmap_max(x: Any) -> Any:
    return x.max()


@lower_with("select_if_vmap")
def select_if_vmap(predicate: Any, x: Any, y: Any) -> Any:
    """Without vmap, whose rule makes it a select, the predicate is taken to be true."""
    return x
