"""Where the figures of a run go, line by line: a file for each kind of writer."""
