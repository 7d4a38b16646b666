"""Weights of checkpoints on disk as lazy arrays: only headers are read before the model is written."""
