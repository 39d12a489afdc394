"""Why a checkpoint could not be read, told apart by what follows from it."""

import dataclasses
import errno
import json
from collections.abc import Iterator
from typing import Literal

FailureKind = Literal["altered", "missing", "unreadable", "refused", "unreachable", "memory"]

# Any other error of the system says nothing about what is in the file.
_KIND_OF_NUMBER: dict[int, FailureKind] = {
    errno.EACCES: "refused",
    errno.EPERM: "refused",
    errno.ENOMEM: "memory",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
}
_CODES_OF_STORES: tuple[tuple[FailureKind, tuple[str, ...]], ...] = (
    ("memory", ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory", "bad_alloc")),
    ("refused", ("PERMISSION_DENIED", "UNAUTHENTICATED", "Permission denied")),
    (
        "unreachable",
        (
            *("UNAVAILABLE", "DEADLINE_EXCEEDED", "Input/output error", "Stale file handle"),
            *("Transport endpoint", "Connection ", "timed out", "Too many open files"),
        ),
    ),
    ("missing", ("NOT_FOUND", "No such file", "could not be identified", "No valid PyTree")),
    ("altered", ("DATA_LOSS", "OUT_OF_RANGE", "Error decoding", "INVALID_ARGUMENT: Error reading")),
)
# The gravest first: what says more about the place than about the data.
ORDER: tuple[FailureKind, ...] = (
    *("memory", "refused", "unreachable"),
    *("missing", "altered", "unreadable"),
)
SAID: dict[FailureKind, str] = {
    "memory": "does not fit in memory",
    "refused": "reading is refused",
    "unreachable": "can't be reached",
    "missing": "files are missing (is a disk or bucket not mounted?)",
    "altered": "was altered after it was saved",
    "unreadable": "can't be read",
}


@dataclasses.dataclass(frozen=True)
class Failure:
    """What kept a checkpoint from being read.

    altered: the bytes are there and are others than were written. missing: files are not there,
    which a mount that failed also looks like. unreadable: for a reason that proves nothing.
    refused, unreachable: the disk or the bucket. memory: this process.
    """

    kind: FailureKind
    cause: str

    @property
    def ends_the_run(self) -> bool:
        """Whether the fault is elsewhere: an older checkpoint would be no better."""
        return self.kind in ("refused", "unreachable", "memory")


def of_error(error: BaseException) -> Failure:
    """What an error of Orbax, TensorStore or the system says; the strongest of its causes."""
    found: list[tuple[FailureKind, BaseException]] = [(_kind(one), one) for one in _chain(error)]
    kind, cause = min(found, key=lambda pair: ORDER.index(pair[0]))
    return Failure(kind, f"{type(cause).__name__}: {' '.join(str(cause).split())[:500]}")


def cause_of(error: BaseException) -> str:
    """The innermost reason: Orbax wraps a full disk and a missing file alike in its own errors."""
    inner = error.__cause__ or error.__context__
    return cause_of(inner) if inner else f"{type(error).__name__}: {error}"


def _kind(error: BaseException) -> FailureKind:
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, OSError) and error.errno is not None:
        return _KIND_OF_NUMBER.get(error.errno, "unreachable")
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError):
        return "altered"
    text = str(error)
    for kind, words in _CODES_OF_STORES:
        if any(word in text for word in words):
            return kind
    if isinstance(error, ConnectionError | TimeoutError):
        return "unreachable"
    return "unreadable"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """The error with all that it came from."""
    seen: set[int] = set()
    todo = [error]
    while todo:
        one = todo.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            todo += one.exceptions
