"""Threads of saves that are still inside a library when the program ends.

One reads a checkpoint back; another, whose save was given up, waits for a process that will not
come. Python waits for some of them, which would be minutes, and takes others away in the middle of
C++, which aborts the process: the exit code would say nothing of how the run ended. This file is
imported before it is known that the command line is right.
"""

import contextlib
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator

from jaxsft.errors import INTERNAL, Stopped, UserError
from jaxsft.terminal.redact import redacted

_JOIN_SECONDS = 3.0
_STARTED: list[tuple[threading.Thread, threading.Event]] = []


def start(work: Callable[[], object], over: threading.Event) -> threading.Thread:
    """A thread that does the work.

    Args:
        over: is set when the program ends: the work need not come to its end.
    """
    _STARTED[:] = [one for one in _STARTED if one[0].is_alive()]
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    _STARTED.append((thread, over))
    return thread


def _all_ended() -> bool:
    for _, over in _STARTED:
        over.set()
    until = time.monotonic() + _JOIN_SECONDS
    for thread, _ in _STARTED:
        thread.join(max(0.0, until - time.monotonic()))
    return not any(thread.is_alive() for thread, _ in _STARTED)


@contextlib.contextmanager
def left_behind() -> Iterator[None]:
    """After it, the process ends at once where a thread is not done."""
    try:
        yield
    except BaseException as error:
        if _all_ended():
            raise
        known = isinstance(error, UserError | Stopped)
        said = f"error: {error}" if isinstance(error, UserError) else str(error)
        print(redacted(said if known else _lines_of(error)), file=sys.stderr)
        _leave(error.exit_code if known else INTERNAL)
    if not _all_ended():
        _leave(0)


def _lines_of(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)).rstrip()


def _leave(code: int) -> None:
    import jax

    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()  # the others leave too: no process is missed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
