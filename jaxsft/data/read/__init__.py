"""Source files to records: every common format, each defect named with file and line."""
