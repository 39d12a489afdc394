"""What there is to know of rows: duplicates, lengths, what looks odd."""
