"""The stage that turns `lax.*` nodes into `onnx.*` nodes: a package of rules, and the pass `lower` that applies them.

`table.py` has the tables and the decorators `@lower` and `@lower_with`, `driver.py` the pass, the other files the rules.
"""

from j2o.passes.lower.driver import has_rule, lower_graph

__all__ = ["has_rule", "lower_graph"]
