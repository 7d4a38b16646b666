"""Calls, functions and repeated blocks: what is put in place, what becomes a function."""
