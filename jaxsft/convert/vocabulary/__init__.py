"""The tokens that a tokenizer has, and whether a written one makes the same ids."""
