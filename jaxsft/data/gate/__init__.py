"""What to know of the data before a run: duplicates, hints, the report, the tokens as trained."""
