"""Paths in a bucket, gs://bucket/...: whether one can be used, and copies to it.

Objects can't be appended to, renamed or mapped into memory. So files are written on a local disk
and copied, and only checkpoints are written to the bucket itself, by Orbax.
"""

import contextlib
import importlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from etils import epath
from fsspec.config import conf

from jaxsft.errors import CheckpointError, ConfigError

_CLIENTS = ("gcsfs", "google.cloud.storage")  # epath uses the one, Orbax the other
_UNFINISHED = ".jaxsft_unfinished"  # in a directory while it is copied to


def is_remote(path: str) -> bool:
    return "://" in path


def open_directory(flag: str, url: str, writes: bool = True) -> epath.Path:
    """The directory, which need not be there yet, after a trial that it can be used.

    Args:
        flag: that names it, for messages.

    Raises:
        ConfigError: no gs:// URL, no client, or a bucket that can't be reached or written.
    """
    match = re.fullmatch(r"gs://([^/]+)/+[^/].*", url)
    if not match:
        raise ConfigError(f"{flag}={url}: expected a local path or gs://bucket/directory")
    for module in _CLIENTS:
        try:
            importlib.import_module(module)
        except ImportError:
            raise ConfigError(f"{flag}={url}: needs {module}; pip install 'jaxsft[gcs]'") from None
    # TensorStore, in Orbax, writes past gcsfs, whose cached listings would lack those objects.
    conf.setdefault("gcs", {})["use_listings_cache"] = False
    directory = epath.Path(url)
    try:
        _try(match[1], directory, writes)
    except Exception as error:  # each client raises errors of its own
        raise ConfigError(
            f"{flag}={url}: can't be used: {type(error).__name__}: {error}; the account needs the"
            " roles storage.objectUser and storage.legacyBucketReader of the bucket"
            " (gcloud auth application-default login, or the machine's service account)"
        ) from None
    return directory


def _try(bucket: str, directory: epath.Path, writes: bool) -> None:
    importlib.import_module("google.cloud.storage").Client().get_bucket(bucket)  # as Orbax does
    if writes:
        trial = directory / f".trial-{uuid.uuid4().hex}"  # processes try at the same time
        trial.write_bytes(b"")
        trial.unlink()


def upload(file: Path, target: epath.Path) -> None:
    """Copies a file.

    Raises:
        CheckpointError: it is not there afterwards, or not whole.
    """
    try:
        epath.Path(file).copy(target, overwrite=True)
        size = target.stat().length
    except Exception as error:  # each client raises errors of its own
        raise CheckpointError(f"{target}: can't be written: {error}") from error
    if size != file.stat().st_size:
        raise CheckpointError(f"{target}: has {size} bytes of {file.stat().st_size}; copy it again")


def download(file: epath.Path, target: Path) -> None:
    """Copies a file, with the time of its last change, if it is there.

    Raises:
        CheckpointError: the bucket fails.
    """
    try:
        if not file.exists():
            return
        content, seconds = file.read_bytes(), file.stat().mtime
    except Exception as error:  # each client raises errors of its own
        raise CheckpointError(f"{file}: can't be read: {error}") from error
    target.write_bytes(content)
    os.utime(target, (seconds, seconds))  # which file is newer says what is still to be done


@contextlib.contextmanager
def staged(target: str, marker: str, writes: bool = True) -> Iterator[Path]:
    """The local path to write `target` at: itself, or one that is copied to the bucket afterwards.

    Nothing is copied when the block ends with an error.

    Args:
        target: a file, or a directory of files.
        marker: the file of a directory that says that it is whole.
        writes: False on all processes but the first.

    Raises:
        ConfigError: a directory with files but no marker, which is not ours to replace.
        CheckpointError: the bucket fails.
    """
    if not is_remote(target):
        yield Path(target)
        return
    there = epath.Path(target)
    names = _names(there)
    if names and not names & {marker, _UNFINISHED}:
        raise ConfigError(
            f"{target}: exists and was not written by an export (no {marker}); name another one"
        )
    with tempfile.TemporaryDirectory(prefix="jaxsft-") as parent:  # in $TMPDIR
        local = Path(parent) / there.name
        yield local
        if writes and local.is_dir():
            _upload_directory(local, there, marker)
        elif writes:
            upload(local, there)


def _upload_directory(local: Path, there: epath.Path, marker: str) -> None:
    """Replaces a directory; the marker is away while the files are of two exports."""
    obsolete = _names(there) - {_UNFINISHED}
    (there / _UNFINISHED).write_bytes(b"")
    (there / marker).unlink(missing_ok=True)
    files = sorted(local.iterdir(), key=lambda file: (file.name == marker, file.name))
    for file in files[:-1]:
        upload(file, there / file.name)
    for name in obsolete - {file.name for file in files}:
        (there / name).unlink()
    upload(files[-1], there / marker)
    (there / _UNFINISHED).unlink()


def _names(directory: epath.Path) -> set[str]:
    """Of the files and folders in a directory; none where there is no directory."""
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()
