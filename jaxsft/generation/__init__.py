"""Text by a model: tokens chosen one after the other, for many prompts at once."""
