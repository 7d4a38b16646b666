"""The rewriting language: patterns, rules, and the driver that applies them."""
