"""What the page tells of a model, as plain data."""
