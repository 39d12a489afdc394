"""A tokenizer's directory: its digest, and the tokenizer as the data's options ask for it."""

import datetime
import hashlib
from pathlib import Path

from jaxsft.config import Data
from jaxsft.data.encode.tokenize import ChatTokenizer
from jaxsft.errors import DataError

_TEMPLATES = ("*.jinja", "*/*.jinja", "tokenizer_config.json")
_FILES = ("*token*.json", "*.model*", *_TEMPLATES, "vocab*", "merges*", "config.json")


def open_tokenizer(directory: str, data: Data) -> ChatTokenizer:
    """The tokenizer in a directory with the template, options and date that the data asks for.

    Raises:
        DataError: the tokenizer or its template can't be used.
    """
    date = date_written(directory, data)
    return ChatTokenizer(
        directory,
        data.template,
        template_options=data.template_options,
        trusted_control_tokens=data.trusted_control_tokens,
        today=None if date is None else datetime.date.fromisoformat(date),
    )


def date_written(directory: str, data: Data) -> str | None:
    """The date that the template writes into conversations; None if it writes none."""
    files = [path for pattern in _TEMPLATES for path in Path(directory).glob(pattern)]
    if data.template is not None:
        files = [Path(data.template)]
    if not any(b"strftime_now" in path.read_bytes() for path in files if path.is_file()):
        return None
    return data.template_date or datetime.date.today().isoformat()


def directory_digest(directory: str) -> str:
    """SHA-256 of the names and bytes of all files that make a tokenizer."""
    root = Path(directory)
    if not root.is_dir():
        raise DataError(f"{directory}: no such tokenizer directory")
    found = {path for pattern in _FILES for path in root.glob(pattern)}
    lines = [f"{path.relative_to(root)} {file_digest(path)}" for path in found if path.is_file()]
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal.

    Raises:
        DataError: it can't be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path}: can't be read: {error.strerror}") from None
