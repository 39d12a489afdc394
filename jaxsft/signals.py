"""The signals that ask a program to end."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from jaxsft.errors import Stopped

ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A shell that starts a program behind nohup or & makes it ignore these, and means it.
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)


def to_take() -> list[signal.Signals]:
    """Those that this program was not told to ignore."""
    return [
        number
        for number in ALL
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) != signal.SIG_IGN
    ]


def stopped_by(number: int) -> Stopped:
    return Stopped(f"stopped by {signal.Signals(number).name}; start the same command again")


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside, a signal is raised as Stopped, wherever the program is; Ctrl-C as Python does it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken = [number for number in to_take() if number != signal.SIGINT]
    before = {number: signal.signal(number, _raise) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise stopped_by(number)
