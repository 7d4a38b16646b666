"""Complex numbers and typed keys become arrays of plain numbers."""
