"""What a model does on held-out data: its loss, and its answers."""
