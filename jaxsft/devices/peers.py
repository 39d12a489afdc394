"""One process that fails by itself tells the others why, and all of them end.

In the middle of a step or of a write the others wait for it inside a library of the devices, where
no exception reaches them. jax would end them after its heartbeats, a minute or two later, with a
dump of the stack and no word on why.
"""

import contextlib
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import jax

from jaxsft import errors
from jaxsft.errors import UserError
from jaxsft.terminal.redact import redacted, redacted_values

Write = Callable[[BaseException], object]
_FOLDER = "jaxsft/failed/"  # in the store of keys that jax's coordinator keeps
_LISTEN_SECONDS = 1.0
_HEARD_SECONDS = 3  # the first process serves the others, which must have listened once
# One thread ends the process: the main one, whose collective broke, or the one that listens.
_ENDING = threading.Lock()


def told(error: BaseException) -> tuple[int, str]:
    """Exit code and message for the other processes."""
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if isinstance(error, errors.Stopped):
        return errors.LOST_PEER, str(error)
    return errors.LOST_PEER, f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def listening(write: Write) -> Iterator[None]:
    """Inside, this process ends within seconds, for the same reason, when another fails alone.

    Args:
        write: what this process leaves of the run when it ends.
    """
    if jax.process_count() == 1:
        yield
        return
    over = threading.Event()
    thread = threading.Thread(target=_listen, args=(over, write), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def leave(error: BaseException, write: Write) -> None:
    """Writes what is left of the run; returns where every process knows of the error.

    Else it tells the others and ends this process: jax would wait minutes for them at exit, and
    they for this process.
    """
    agreed = isinstance(error, UserError | errors.Stopped) and error.agreed
    if jax.process_count() == 1 or agreed or isinstance(error, errors.FailedTogether):
        write(error)
        return
    _ENDING.acquire()
    if cause := _failure_of_another():  # this one's is what came of it
        _end_with(cause, write)
    number = jax.process_index()
    _tell(number, error)
    known = isinstance(error, UserError | errors.Stopped)
    said = str(error) if known else "".join(traceback.format_exception(error))
    print(redacted(f"error: process {number}: {said}"), file=sys.stderr, flush=True)
    write(error)
    time.sleep(_HEARD_SECONDS)
    os._exit(error.exit_code if known else errors.INTERNAL)


def _listen(over: threading.Event, write: Write) -> None:
    while not over.wait(_LISTEN_SECONDS):
        cause = _failure_of_another()
        if cause and _ENDING.acquire(blocking=False):
            _end_with(cause, write)


def _end_with(cause: UserError, write: Write) -> NoReturn:
    print(redacted(f"error: {cause}"), file=sys.stderr, flush=True)
    write(cause)
    time.sleep(_HEARD_SECONDS if jax.process_index() == 0 else 0)
    os._exit(cause.exit_code)


def _failure_of_another() -> UserError | None:
    with contextlib.suppress(RuntimeError):  # the coordinator itself is gone: jax ends this process
        for key, text in _store().key_value_dir_get(_FOLDER):
            number, (code, message) = int(key.rpartition("/")[2]), json.loads(text)
            if number != jax.process_index():
                return errors.of_code(code)(f"process {number}: {message}")
    return None


def _tell(number: int, error: BaseException) -> None:
    with contextlib.suppress(RuntimeError):
        _store().key_value_set(f"{_FOLDER}{number}", json.dumps(redacted_values(told(error))))


def _store() -> Any:
    # jax has no public way to its own coordinator; Orbax has one.
    from orbax.checkpoint import multihost

    return multihost.get_jax_distributed_client()
