"""jax's coordinator, which lives in process 0: its store of keys, and what becomes of a process
whose coordinator is gone."""

import contextlib
import ctypes
import dataclasses
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

_ANSWER_SECONDS = 2.0


@dataclasses.dataclass(frozen=True)
class Place:
    """Of a process in its run: its number, of how many, and the address of the coordinator."""

    number: int
    count: int
    address: str


def place() -> Place | None:
    """This process's, as soon as jax knows it, which is before the others have come."""
    state = _state()
    # The client is made last.
    if state.client is None:
        return None
    return Place(state.process_id, state.num_processes, state.coordinator_address)


def put(key: str, text: str) -> None:
    """Raises RuntimeError where the coordinator does not answer; may wait for it for long."""
    _client().key_value_set(key, text, allow_overwrite=True)


def below(folder: str) -> dict[str, str]:
    """The texts whose keys begin so, by the rest of their keys.

    Raises:
        RuntimeError: as put.
    """
    found = _client().key_value_dir_get(folder)
    return {key.removeprefix(folder): text for key, text in found}


def is_gone(address: str | None = None) -> bool:
    """Whether nobody listens where the coordinator did, or is to.

    Not asked through jax, whose calls wait for ever once it has given the coordinator up.
    """
    host, _, port = (address or _state().coordinator_address).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS).close()
    except OSError:
        return True
    return False


@contextlib.contextmanager
def instead_of_aborting(leave: Callable[[], None]) -> Iterator[None]:
    """Inside, C++ code that would abort this process calls `leave` first.

    A thread of jax's aborts it within milliseconds after the coordinator is gone: with SIGABRT, and
    with no word on which process was lost. Python's handlers never run then.
    """
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    library.signal.restype = ctypes.c_void_p
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(lambda number: leave())
    before = library.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
    try:
        yield
    finally:
        library.signal(signal.SIGABRT, before)


def _client() -> Any:
    return _state().client


def _state() -> Any:
    # jax has no public way to its own coordinator.
    from jax._src import distributed

    return distributed.global_state
