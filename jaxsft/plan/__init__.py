"""The training step compiled for hardware that isn't there, and what it will need."""
