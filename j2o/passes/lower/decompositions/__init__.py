"""Primitives that are plain JAX code, re-traced at the node's own types."""
