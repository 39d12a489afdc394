"""Small files that are there whole or not at all, whenever the process that writes them ends."""

import os
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a small file: it has its name only when it is complete and on disk."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w", encoding="utf-8", newline="") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
