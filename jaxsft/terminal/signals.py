"""The signals that ask a program to end."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

from jaxsft.errors import STOPPED, Stopped, chain

ALL = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# A shell that starts a program behind nohup or & makes it ignore these, and means it.
_MAY_BE_IGNORED = (signal.SIGINT, signal.SIGHUP)
# One wish to end may come as several signals: a terminal that closes sends SIGHUP, and so does its
# shell; systemd sends SIGTERM and SIGHUP; whoever started us may pass on the Ctrl-C that we had.
ECHO_SECONDS = 0.1
# By this one a thread of the program asks its main thread to end. Nobody else sends it, and where
# no handler is, it does nothing.
NOTICE = signal.SIGURG
_NOTICES: list[str] = []  # why, in words, each time


def to_take() -> list[signal.Signals]:
    """Those that this program was not told to ignore."""
    return [NOTICE] + [
        number
        for number in ALL
        if number not in _MAY_BE_IGNORED or signal.getsignal(number) != signal.SIG_IGN
    ]


def notice(why: str) -> None:
    """Asks the main thread to end, as a first signal would; the signal that follows is no second.

    Args:
        why: a sentence.
    """
    _NOTICES.append(why)
    os.kill(os.getpid(), NOTICE)


def reason() -> str:
    """What a program is stopped by, in words: the signal that a notice announced may come first."""
    return f"a notice ({_NOTICES[-1]})" if _NOTICES else "a signal"


def stopped_by(number: int) -> Stopped:
    by = reason() if number == NOTICE else signal.Signals(number).name
    return Stopped(f"stopped by {by}; start the same command again")


def stop_behind(error: BaseException) -> BaseException | None:
    """The stop that led to the error, which may be the error itself; None: none did."""
    stops = (one for one in chain(error) if isinstance(one, (Stopped, KeyboardInterrupt)))
    return next(stops, None)


def end_at_once() -> None:
    """From here on a signal ends the process with STOPPED, for nothing has begun: a program's first
    act, before the imports that take time."""
    for number in to_take():
        signal.signal(number, _end)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    with contextlib.suppress(OSError):
        os.write(2, f"{stopped_by(number)}\n".encode())
    os._exit(STOPPED)


def leave_to_deadline() -> None:
    """From here on a signal raises nothing, for the program is ending; its deadline sees it."""
    if threading.current_thread() is threading.main_thread():
        for number in to_take():
            signal.signal(number, lambda *_: None)


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Inside, a signal is raised as Stopped, wherever the program is; Ctrl-C as Python does it.

    An error that a library made of a stop is that stop again. After it more signals change nothing:
    the program is ending.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _NOTICES.clear()
    before = {
        number: signal.signal(
            number, signal.default_int_handler if number == signal.SIGINT else _raise
        )
        for number in to_take()
    }
    try:
        yield
    except BaseException as error:
        stop = stop_behind(error)
        if stop is not None:
            before = dict.fromkeys(to_take(), signal.SIG_IGN)
        if stop is None or stop is error:
            raise
        raise stop from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def unraised_in_silence() -> Iterator[None]:
    """Inside, a stop that comes in a callback of C, where it can't be raised, shows no traceback:
    the program looks for it later, or its deadline ends it."""
    show = sys.unraisablehook

    def show_others(found: "sys.UnraisableHookArgs") -> None:
        if not isinstance(found.exc_value, Stopped | KeyboardInterrupt):
            show(found)

    sys.unraisablehook = show_others
    try:
        yield
    finally:
        sys.unraisablehook = show


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise stopped_by(number)
