"""Runtimes in environments of their own: their kernels as tables, and which of them agree with JAX."""
