"""The directory of a run: its files, its metrics, its checkpoints, and going on from them."""
