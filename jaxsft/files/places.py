"""Places that can't be written to or read: each failure names the place and what to do."""

import contextlib
import errno
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jaxsft.errors import ConfigError, Stopped, UserError, chain

# Errors of the system about a place that is not as a program needs it, and what mends each.
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or name a place on another disk",
    errno.EDQUOT: "your quota is used up: free some space, or name a place on another disk",
    errno.EFBIG: "the limit of a file's size is reached (ulimit -f): raise it",
    errno.EROFS: "it can't be changed there: name a place that is writable",
    errno.EACCES: "name a place of your own, or change its permissions",
    errno.EPERM: "name a place of your own, or change its permissions",
    errno.ENOTDIR: "a file is where a directory is needed: remove it, or name another place",
    errno.EEXIST: "a file is where a directory is needed: remove it, or name another place",
    errno.EISDIR: "a directory is where a file is needed: remove it, or name another place",
    errno.ELOOP: "a link there leads back to itself: remove it, or name another place",
    errno.ENAMETOOLONG: "name a shorter one",
    errno.EMFILE: "too many files are open (ulimit -n): raise the limit",
    errno.ENFILE: "too many files are open on this machine",
    errno.EIO: "the disk or the network behind it fails: mend it, or name another place",
    errno.ESTALE: "it was taken away by its server: mount it again, or name another place",
}
_OTHERWISE = "name another place"
# As libraries put it that keep no OSError.
_SPELT = re.compile(
    "No space left on device|Disk quota exceeded|Read-only file system|File too large"
    "|No usable temporary directory"
)
_PATH = re.compile(r"(?<![\w/.:])/[^\s'\"\]),:;]+")


class PlaceError(ConfigError):
    """A file or directory that can't be made, written or read where it was asked for."""


@contextlib.contextmanager
def using(name: str, place: Path | str | None = None) -> Iterator[None]:
    """Inside, a failure of the file system is one of the place that `name` chose.

    Args:
        name: the flag or field with its value, or the path, for the message.
        place: said where the failure itself names no file, as a full disk doesn't.

    Raises:
        PlaceError: the place, what the system says of it, and what to do.
    """
    try:
        yield
    except OSError as error:
        raise PlaceError(_message(error, name, place)) from error


def make_writable(directory: Path, name: str) -> None:
    """Makes the directory where it is missing, and tries to write there.

    Args:
        name: as in `using`.

    Raises:
        PlaceError: it can't be made or written, or its name is not UTF-8.
    """
    refuse_other_encoding(str(directory.absolute()), name)
    with using(name, directory):
        directory.mkdir(parents=True, exist_ok=True)
        try:
            with tempfile.TemporaryFile(dir=directory) as trial:
                trial.write(bytes(4096))  # an empty file fits on a full disk
        except OSError as error:  # names a file that nobody asked for
            raise OSError(error.errno, error.strerror or str(error), str(directory)) from error


def refuse_other_encoding(path: str, name: str | None = None) -> None:
    """Refuses a path whose bytes are not UTF-8: neither JSON nor checkpoints nor a report hold it.

    Args:
        name: what chose it, for the message; None: the path itself.

    Raises:
        PlaceError: the name, with each such byte as \\udcff.
    """
    try:
        path.encode()
    except UnicodeEncodeError:
        shown = (name or path).encode("utf-8", "backslashreplace").decode()
        raise PlaceError(f"{shown}: is not UTF-8; give it a name that is") from None


def cache_home() -> Path:
    """Where the caches of this user lie: $XDG_CACHE_HOME, or ~/.cache.

    Raises:
        PlaceError: the user has no home.
    """
    if chosen := os.environ.get("XDG_CACHE_HOME"):
        refuse_other_encoding(chosen, f"XDG_CACHE_HOME={chosen}")
        return Path(chosen)
    try:
        return Path.home() / ".cache"
    except RuntimeError:
        raise PlaceError(
            "HOME is not set and this user has no home directory, where caches lie;"
            " set XDG_CACHE_HOME to a directory for them"
        ) from None


def user_error(error: BaseException, place: Path | str | None = None) -> UserError | None:
    """The error as one that the user can mend, where a place is what failed; else None.

    The net beneath `using`: it also finds what a library wrapped in an error of its own.

    Args:
        place: as in `using`.
    """
    if isinstance(error, (UserError, Stopped, KeyboardInterrupt)):
        return None  # each says already what happened, whatever it was raised from
    for found in chain(error):
        if isinstance(found, OSError) and found.errno in _REMEDIES:
            return PlaceError(_message(found, None, place))
        if match := _SPELT.search(str(found)):
            return PlaceError(_spelt(str(found), match, place))
    return None


def _message(error: OSError, name: str | None, place: Path | str | None) -> str:
    file = error.filename2 or error.filename or place
    where = "" if file is None else str(os.fsdecode(file) if isinstance(file, bytes) else file)
    chosen = name or where or "a file"
    begin = chosen if not where or where in chosen else f"{chosen}: {where}"
    remedy = _REMEDIES.get(error.errno or 0, _OTHERWISE)
    return f"{begin}: {error.strerror or error}; {remedy}"


def _spelt(text: str, match: re.Match[str], place: Path | str | None) -> str:
    near = _PATH.findall(text[max(0, match.start() - 500) : match.end() + 500])
    return (
        f"{near[0] if near else place or 'a file'}: {match[0]}; make room, or name a place that is"
        " writable (--workdir, config.data.cache_dir, XDG_CACHE_HOME, TMPDIR)"
    )
