"""A bucket is a directory, an object a file in it: what all parts of the fake read and write."""

import os
import threading
import uuid
from pathlib import Path
from urllib.parse import quote, unquote

ROOT = "FAKE_GCS_ROOT"
READ_ONLY = "read-only"  # a bucket that refuses to be written
_LOCK = threading.Lock()


def bucket(name: str) -> Path:
    return Path(os.environ[ROOT]) / name


def names(bucket_name: str) -> list[str]:
    files = bucket(bucket_name).iterdir()
    return sorted(unquote(file.name) for file in files if not file.name.startswith("."))


def file_of(bucket_name: str, name: str) -> Path:
    return bucket(bucket_name) / quote(name, safe="")


def generation(file: Path) -> int:
    """A number that changes with each write; 0: no such object."""
    return file.stat().st_ino if file.exists() else 0


def write(bucket_name: str, name: str, content: bytes, expected: int | None = None) -> bool:
    """Whole or not at all; False where the object is of another generation than `expected`."""
    if bucket_name == READ_ONLY:
        raise PermissionError(f"403: no storage.objects.create access to {bucket_name}/{name}")
    file = file_of(bucket_name, name)
    new = file.with_name(f".{uuid.uuid4().hex}")
    new.write_bytes(content)
    with _LOCK:
        if expected is not None and generation(file) != expected:
            new.unlink()
            return False
        new.replace(file)
    return True
