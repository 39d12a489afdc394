"""report.html: its sections, a file each, and what puts them on one page."""
