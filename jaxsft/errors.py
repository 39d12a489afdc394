"""What can go wrong through no fault of ours, and the exit code that each kind gives a launcher."""

from collections.abc import Iterator
from typing import TypeVar

DONE = 0
BAD_CONFIG = 64
BAD_DATA = 65
BAD_MODEL = 66
INTERNAL = 70
DIVERGED = 71  # started again, it would diverge again
BAD_HARDWARE = 72  # a device computes wrongly: not again on this machine
STOPPED = 75  # a termination signal: the state is saved, start the same command again
LOST_PEER = 76


Known = TypeVar("Known", bound="UserError | Stopped")


class UserError(ValueError):
    """An error that the user can mend: shown as one message without a traceback."""

    exit_code = BAD_CONFIG
    agreed = False  # whether every process of the run knows of it


def known_to_all(error: "Known") -> "Known":
    """The error, which every process of the run raises at the same place."""
    error.agreed = True
    return error


def is_of_library(error: BaseException) -> bool:
    """Whether a library gave up: any Exception but a lack of memory, and a panic of Rust, which no
    Exception stands for."""
    is_panic = type(error).__name__ == "PanicException"
    return is_panic or isinstance(error, Exception) and not isinstance(error, MemoryError)


class ConfigError(UserError):
    """A flag or a config field that can't be honoured."""


class MeshError(ConfigError):
    """A mesh that the devices, the model or the batch don't fit."""


class DataError(UserError):
    """A row, file or cache that can't be trained on."""

    exit_code = BAD_DATA


class ConversionError(UserError):
    """A model directory or file that can't be read or written without loss."""

    exit_code = BAD_MODEL


class CheckpointError(UserError):
    """A checkpoint that can't be restored as asked."""

    exit_code = BAD_MODEL


class DivergedError(UserError):
    """Training whose steps are skipped, one after the other: no start of the same command helps."""

    exit_code = DIVERGED


class HardwareError(UserError):
    """A device computes or remembers wrongly, without saying so itself."""

    exit_code = BAD_HARDWARE


class PeerError(UserError):
    """Another process of the run is lost or never came."""

    exit_code = LOST_PEER


def chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those that led to it, the newest first."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and not any(found is one for one in seen):
        seen.append(found)
        yield found
        found = found.__cause__ or (None if found.__suppress_context__ else found.__context__)


class Stopped(BaseException):
    """A termination signal arrived, at this process or at another of its run.

    No `Exception`: it can arrive anywhere, and a handler of the kind `except Exception`, ours or a
    library's, would take it for a bad row, a damaged file or a kernel that does not work.
    """

    exit_code = STOPPED
    agreed = False  # whether every process of the run knows of it


def of_code(exit_code: int) -> type[UserError] | type[Stopped]:
    """The kind of error that ends a program with this code."""
    users = (ConfigError, DataError, ConversionError, DivergedError, HardwareError, PeerError)
    return next(kind for kind in (*users, Stopped) if kind.exit_code == exit_code)


class FailedTogether(RuntimeError):
    """Work of this process failed through a fault of ours, which every process of the run knows."""
