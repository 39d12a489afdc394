"""Causal attention among the tokens of one segment: its back ends, and which one is chosen."""
