"""The files of a pattern on the local disk, each once however many names links give it."""

import fnmatch
import glob
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from jaxsft.errors import DataError


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
    known: set[tuple[int, int]] = set()
    kept, others = [], []
    for name in names:
        status = os.stat(name)
        identity = (status.st_dev, status.st_ino)
        (others if identity in known else kept).append(name)
        known.add(identity)
    return sorted(kept), sorted(others)


def _search(pattern: str) -> Iterator[str]:
    parts = Path(pattern).parts
    first = 1 if os.path.isabs(pattern) else 0
    waiting = deque([(parts[0] if first else "", first)])
    seen: set[tuple[int, int, int]] = set()
    while waiting:
        folder, at = waiting.popleft()
        try:
            status = os.stat(folder or ".")
        except OSError:
            continue
        key = (status.st_dev, status.st_ino, at)
        if key in seen:
            continue
        seen.add(key)
        is_last = at == len(parts) - 1
        if parts[at] == "**" and not is_last:
            waiting.append((folder, at + 1))
        for name in _names(folder, parts[at]):
            path = os.path.join(folder, name)
            if os.path.isdir(path):
                if parts[at] == "**":
                    waiting.append((path, at))
                elif not is_last:
                    waiting.append((path, at + 1))
            elif is_last and not os.path.exists(path):
                raise DataError(f"{path}: is a link to what is not there")
            elif is_last and os.path.isfile(path):
                yield path


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
