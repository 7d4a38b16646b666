"""Lowering: rules that turn `lax.*` into `onnx.*`, by families; `driver.py` applies them, `table.py` holds them."""

from j2o.passes.lower.driver import has_rule, lower

__all__ = ["has_rule", "lower"]
