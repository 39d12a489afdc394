"""What a user is told of the data before a run: the report, and the tokens as trained."""
