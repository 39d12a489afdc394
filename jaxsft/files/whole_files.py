"""Small files that are there whole or not at all, whenever the process that writes them ends."""

import os
import uuid
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a small file: it has its name only when it is complete and on disk."""
    # Processes on several hosts, which may have the same number, write to one directory.
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # a stop too
        partial.unlink(missing_ok=True)
        raise
