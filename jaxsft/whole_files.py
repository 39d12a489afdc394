"""Small files that are there whole or not at all, whenever the process that writes them ends."""

import contextlib
import os
import secrets
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a small file: it has its name only when it is complete and on disk."""
    # Containers on one disk may all have the process number 1.
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:  # a full disk, a stop
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
