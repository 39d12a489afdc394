"""Which examples share a packed row, and which rows a step takes."""
