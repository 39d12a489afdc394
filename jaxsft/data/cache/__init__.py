"""Prepared examples on disk: made once, found by what they were made from."""
