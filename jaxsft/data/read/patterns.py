"""The files of a pattern on the local disk, each once however many names links give it."""

import errno
import fnmatch
import glob
import os
import stat
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from jaxsft.errors import DataError

Identity = tuple[int, ...] | str


def files_matching(pattern: str) -> tuple[list[str], list[str]]:
    """The files that the pattern finds, by name, and other names of the same files.

    As glob.glob(recursive=True), but a folder is searched once for what is left of the pattern:
    links in a circle have no end, and give each file many names. Of these the one of fewest folders
    stays, and then the first.

    Returns:
        Both in the order of their names.

    Raises:
        DataError: a link leads nowhere, or a folder may not be searched.
    """
    names = sorted(set(_search(pattern)), key=lambda name: (name.count(os.sep), name))
    known: set[Identity] = set()
    kept, others = [], []
    for name in names:
        identity = _identity(name, os.stat(name))
        (others if identity in known else kept).append(name)
        known.add(identity)
    return sorted(kept), sorted(others)


def _search(pattern: str) -> Iterator[str]:
    parts = Path(pattern).parts
    first = 1 if os.path.isabs(pattern) else 0
    waiting = deque([(parts[0] if first else "", first)])
    seen: set[tuple[Identity, int]] = set()
    while waiting:
        folder, at = waiting.popleft()
        status = _status(folder or ".")
        if status is None or (key := (_identity(folder or ".", status), at)) in seen:
            continue
        seen.add(key)
        is_last = at == len(parts) - 1
        if parts[at] == "**" and not is_last:
            waiting.append((folder, at + 1))
        for name in _names(folder, parts[at]):
            path = os.path.join(folder, name)
            status = _status(path)
            if status is None:
                if is_last:
                    raise DataError(f"{path}: is a link to what is not there")
            elif stat.S_ISDIR(status.st_mode):
                if parts[at] == "**":
                    waiting.append((path, at))
                elif not is_last:
                    waiting.append((path, at + 1))
            elif is_last and stat.S_ISREG(status.st_mode):
                yield path


def _identity(path: str, status: os.stat_result) -> Identity:
    """Equal for two names of one file; a mount may number none, or several alike."""
    if not status.st_ino:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _status(path: str) -> os.stat_result | None:
    """None where there is nothing, or only a link to nothing.

    Raises:
        DataError: a disk or a mount fails: what it holds would be left out in silence.
    """
    try:
        return os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise DataError(f"{path}: can't be searched: {error.strerror}") from None


def _names(folder: str, wanted: str) -> list[str]:
    """What of a folder fits one part of a pattern; as in a shell, * finds no hidden file."""
    if not glob.has_magic(wanted):
        return [wanted] if os.path.lexists(os.path.join(folder, wanted)) else []
    try:
        names = sorted(os.listdir(folder or "."))
    except NotADirectoryError:
        return []
    except OSError as error:
        raise DataError(f"{folder}: can't be searched: {error.strerror}") from None
    if not wanted.startswith("."):
        names = [name for name in names if not name.startswith(".")]
    return names if wanted == "**" else fnmatch.filter(names, wanted)
