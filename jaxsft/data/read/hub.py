"""Data sets of the Hugging Face hub, through the optional package `datasets`."""

import functools
import hashlib
from collections.abc import Sized
from pathlib import Path
from typing import Any

from jaxsft.config import Source
from jaxsft.errors import DataError
from jaxsft.files import places

SCHEME = "hub://"


def name_of(source: Source) -> str:
    """The data set, its subset and split in one word, for messages."""
    return "/".join(part for part in (source.path, source.subset, source.split) if part)


def load(source: Source) -> Any:
    """The data set, an iterable of rows that lies on the local disk; downloaded once.

    Raises:
        DataError: the package is missing, or it can't load this data set.
    """
    return _load(source.path.removeprefix(SCHEME), source.subset, source.split, name_of(source))


# One load in a process: what is hashed is what is read, even if the hub gets a new version.
@functools.lru_cache(maxsize=64)
def _load(path: str, subset: str | None, split: str, name: str) -> Any:
    try:
        import datasets  # type: ignore  # an extra
    except ImportError:
        install = "pip install 'jaxsft[hub]'"
        raise DataError(f"{name}: needs the package datasets: {install}") from None
    try:
        found = datasets.load_dataset(path, subset, split=split)
    except MemoryError:
        raise
    except Exception as error:  # whatever the package, the network or the data set's files raise
        if refusal := places.user_error(error):  # no place for it here: HF_HOME
            raise refusal from error
        raise DataError(f"{name}: can't be loaded: {str(error).strip()}") from None
    if not isinstance(found, Sized):
        raise DataError(
            f"{name}: is a {type(found).__name__}, a stream that says not how many rows it has, and"
            " an epoch must have an end: name a part that has one, such as"
            f" split={split + '[:100000]'!r}, or write the rows to a file"
        )
    return found


def fingerprint(source: Source) -> str:
    """sha256 of the data set as it lies on the disk, and of which part of it is meant."""
    digest = hashlib.sha256(repr((source.subset, source.split)).encode())
    for file in load(source).cache_files:
        with Path(file["filename"]).open("rb") as data:
            digest.update(hashlib.file_digest(data, "sha256").digest())
    return digest.hexdigest()
