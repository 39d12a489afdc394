"""The training step: its loss, its optimizer, how it is built, and what it starts from."""
