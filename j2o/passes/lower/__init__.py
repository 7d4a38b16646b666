"""The stage that turns `lax.*` nodes into `onnx.*` nodes: rules, and the pass `lower` that applies them.

`table.py` has the tables and the decorators `@lower` and `@lower_with`, `driver.py` the pass. The other files
have the rules, a family each.
"""

from j2o.passes.lower.driver import has_rule, lower_graph

__all__ = ["has_rule", "lower_graph"]
