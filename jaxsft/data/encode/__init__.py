"""A rendered text to ids and weights."""
