"""A source of the config as files, as rows, and as records."""

import glob
import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from jaxsft.config import Source
from jaxsft.data.conversation import RawRow, Record, RowError
from jaxsft.data.read import file_rows, formats, hub
from jaxsft.data.read.patterns import files_matching
from jaxsft.data.read.strict_json import parse_object
from jaxsft.errors import DataError
from jaxsft.files import places


def files_of(source: Source) -> list[str]:
    """The source's files, a pattern's in the order of their names; a hub data set is one.

    Raises:
        DataError: there is no such file, or files of its kind can't be read.
    """
    if source.path.startswith(hub.SCHEME):
        return [hub.name_of(source)]
    if source.subset is not None or source.split != Source(path="").split:
        what = f"subset={source.subset!r}, split={source.split!r}"
        raise DataError(f"{source.path}: {what} are of data sets of the hub, hub://owner/name")
    files = _remote_files(source.path) if _is_remote(source.path) else _local_files(source.path)
    for file in files:
        places.refuse_other_encoding(file)
        if file_rows.suffix_and_compression(file)[0] == file_rows.ARRAY_RECORD and _is_remote(file):
            raise DataError(f"{file}: ArrayRecord is read from a local disk only; copy it there")
    return files


def other_names(source: Source) -> list[str]:
    """Names that the source's pattern finds too, of files that it has found under another."""
    path = os.path.expanduser(source.path)
    if _is_remote(path) or not glob.has_magic(path) or os.path.isfile(path):
        return []
    return files_matching(path)[1]


def read_rows(source: Source) -> Iterator[RawRow]:
    """Every row, unparsed; blank lines are none.

    Raises:
        DataError: a file is missing, empty or broken.
    """
    for file in files_of(source):
        num_rows = 0
        if source.path.startswith(hub.SCHEME):
            rows = enumerate(hub.load(source), start=1)
        else:
            rows = file_rows.rows_of(file, lambda file=file: _open(file))
        for row, data in rows:
            num_rows += 1
            yield RawRow(file, row, data)
        if not num_rows:
            raise DataError(f"{file}: the file is empty")


def read_source(source: Source) -> Iterator[Record]:
    """One record for each row; a row that can't be used is a BadRow.

    Raises:
        DataError: a file is missing, empty or broken, or no format fits.
    """
    form = form_of(source)
    for raw in read_rows(source):
        yield formats.record_of(raw, form, source.columns, source.ignore)


def form_of(source: Source) -> str:
    """The source's format; with "auto", by the keys of the first row that can be read.

    Raises:
        DataError: no format fits, or `columns` maps what the format doesn't have.
    """
    try:
        if source.format == "auto":
            return formats.detect(first_keys(source), source.columns)
        formats.check_columns(source.format, source.columns)
    except formats.FormatError as error:
        raise DataError(f"{source.path}: {error}") from None
    return source.format


def first_keys(source: Source) -> list[str]:
    """The keys of the first row that can be read."""
    for raw in read_rows(source):
        try:
            row = parse_object(raw.data) if isinstance(raw.data, bytes) else raw.data
        except RowError:
            continue
        if row is not None:
            return [key for key in row if key not in source.ignore]
    # Nothing can be read: with the keys of some format each row is reported for what it is.
    return list(formats.FORMATS["messages"].required)


def fingerprint_of(source: Source) -> list[str]:
    """sha256 of the bytes of each file."""
    if source.path.startswith(hub.SCHEME):
        return [hub.fingerprint(source)]
    return [_digest(file) for file in files_of(source)]


def stamps(files: Sequence[str]) -> dict[str, str]:
    """Size and time of each file of files_of.

    Equal before the hash is taken and after the last row is read: what was hashed was read.
    """
    return {file: _stamp(file) for file in files}


def _is_remote(path: str) -> bool:
    return "://" in path


def _local_files(path: str) -> list[str]:
    path = os.path.expanduser(path)
    if os.path.isfile(path):
        return [path]
    if os.path.isdir(path):
        folder = path.rstrip("/")
        raise DataError(f"{path}: is a directory; give a pattern such as {folder}/*.jsonl")
    if not glob.has_magic(path):
        raise DataError(f"{path}: no such file")
    files, _ = files_matching(path)
    if not files:
        raise DataError(f"{path}: no file matches the pattern")
    return files


def _remote_files(url: str) -> list[str]:
    system, path = _file_system(url)
    try:
        if system.isfile(path):
            return [url]
        found = system.glob(path) if glob.has_magic(path) else []
        files = [system.unstrip_protocol(file) for file in sorted(found) if system.isfile(file)]
    except MemoryError:
        raise
    except Exception as error:  # whatever a store of objects raises: no access, no network
        raise DataError(f"{url}: can't be looked up: {error}") from None
    if not files:
        wanted = f"give a file or a pattern such as {url.rstrip('/')}/*.jsonl"
        raise DataError(f"{url}: no such file; {wanted}")
    return files


def _file_system(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:  # it says which package to install, such as gcsfs
        raise DataError(f"{url}: can't be read: {error}") from None


def _open(file: str) -> BinaryIO:
    if not _is_remote(file):
        return Path(file).open("rb")
    system, path = _file_system(file)
    return cast(BinaryIO, system.open(path, "rb"))


def _digest(file: str) -> str:
    try:
        with _open(file) as data:
            digest = hashlib.sha256()
            while block := data.read(2**20):
                digest.update(block)
            return digest.hexdigest()
    except MemoryError:  # says nothing of the file
        raise
    except Exception as error:  # stores of objects have kinds of their own
        raise DataError(f"{file}: can't be read: {error}") from None


def _stamp(file: str) -> str:
    try:
        if file.startswith(hub.SCHEME):
            return "loaded"  # once in a process
        if _is_remote(file):
            system, path = _file_system(file)
            return str(system.ukey(path))
        status = Path(file).stat()
        return f"{status.st_size} bytes, {status.st_mtime_ns} ns"
    except OSError as error:
        return f"can't be read: {error}"
