"""A conversation to its text by a chat template, each character with its origin on record."""
