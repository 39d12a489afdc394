"""Checkpoints of a run: saved whole, verified when read, deleted only where a newer one is good."""
