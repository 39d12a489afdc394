"""Measurements of the real training step, alone and against others on the same work."""
