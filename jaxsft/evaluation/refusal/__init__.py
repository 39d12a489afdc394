"""Requests to refuse, harmless ones that look alike, and what counts as a refusal."""
