"""Saves that were given up, and still wait, inside Orbax, for a process that will not come.

Python waits at its end for such threads, which would be minutes. This file is imported before it is
known that the command line is right.
"""

import contextlib
import os
import sys
import threading
import traceback
from collections.abc import Iterator

from jaxsft.errors import INTERNAL, Stopped, UserError
from jaxsft.terminal.redact import redacted

_GIVEN_UP: list[threading.Event] = []  # each is set when the wait is over


def remember(ended: threading.Event) -> None:
    _GIVEN_UP.append(ended)


def some_wait() -> bool:
    return not all(ended.is_set() for ended in _GIVEN_UP)


@contextlib.contextmanager
def left_behind() -> Iterator[None]:
    """After it, the process ends at once where a save that was given up still waits."""
    try:
        yield
    except BaseException as error:
        if not some_wait():
            raise
        known = isinstance(error, UserError | Stopped)
        said = f"error: {error}" if known else "".join(traceback.format_exception(error))
        print(redacted(said), file=sys.stderr)
        _leave(error.exit_code if known else INTERNAL)
    if some_wait():
        _leave(0)


def _leave(code: int) -> None:
    import jax

    with contextlib.suppress(RuntimeError):
        jax.distributed.shutdown()  # the others leave too: no process is missed
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
