"""What a graph needs to run where it must: dtypes, sizes, operators of the runtime's own."""
