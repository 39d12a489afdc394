"""The time that a program has for its end: a thread ends it where no exception can."""

import contextlib
import faulthandler
import math
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from jaxsft.errors import STOPPED
from jaxsft.terminal import signals

# After a second signal a program ends within ten seconds: these, and those of its last acts.
AGAIN_SECONDS = 7.0
_LAST_SECONDS = 3.0
_LEAVE_SECONDS = 5.0
_BEGIN = b"\0"  # no signal has the number 0


class Deadline:
    """Runs from the first signal on; a second one that is no echo of it shortens it.

    What is half done then counts for nothing: a checkpoint is there only when it is whole.

    Attributes:
        seconds: that the main thread gets after the first signal.
        spared: signals that don't ask this program to end, such as a chat's Ctrl-C.
    """

    def __init__(self, seconds: float):
        self.seconds = seconds
        self.spared: frozenset[int] = frozenset()
        self._first = math.inf  # when the first signal was received
        self._at = math.inf
        self._writing: int | None = None
        self._tell: Callable[[], None] | None = None

    @contextlib.contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Inside, `tell` is called before the process ends here; it may never come back."""
        self._tell = tell
        try:
            yield
        finally:
            self._tell = None

    def begin(self) -> None:
        """Runs from now on, if it did not before; the signal that comes next is a first one."""
        self._at = min(self._at, time.monotonic() + self.seconds)
        if self._writing is not None:
            with contextlib.suppress(OSError):  # it is full: the thread wakes up anyway
                os.write(self._writing, _BEGIN)

    def left(self) -> float:
        """Seconds until the process is ended; infinite where no signal came."""
        return max(self._at - time.monotonic(), 0.0)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Inside, a thread sees each signal that Python handles, whatever the main one is doing."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        self._writing = writing
        watch = threading.Thread(target=self._watch, args=(reading,), daemon=True)
        watch.start()
        try:
            yield
        finally:
            self._writing = None
            signal.set_wakeup_fd(before)
            os.close(writing)
            watch.join()
            os.close(reading)

    def _watch(self, reading: int) -> None:
        while True:
            left = None if self._at == math.inf else max(self._at - time.monotonic(), 0)
            ready, _, _ = select.select([reading], [], [], left)
            if not ready:
                _leave_now([_show_stacks, *([self._tell] if self._tell else [])])
                return
            received = os.read(reading, 64)
            if not received:
                return
            if any(number in signals.ALL and number not in self.spared for number in received):
                self._signalled(time.monotonic())
            elif signals.NOTICE in received:
                self._at = min(self._at, time.monotonic() + self.seconds)

    def _signalled(self, now: float) -> None:
        if self._first == math.inf:
            self._first, self._at = now, min(self._at, now + self.seconds)
        elif now - self._first >= signals.ECHO_SECONDS:
            self._at = min(self._at, now + AGAIN_SECONDS)


# A process has one descriptor that signals wake up, and so one deadline.
_WATCHED: list[Deadline] = []


@contextlib.contextmanager
def watching(seconds: float) -> Iterator[None]:
    """Inside, the process ends with STOPPED when it takes longer than this to end after a signal.

    In a thread it does nothing: Python takes signals in the main one alone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _WATCHED.append(Deadline(seconds))
    try:
        with _WATCHED[-1].watching():
            yield
    finally:
        _WATCHED.pop()


def of_this_process() -> Deadline:
    """The one that is watched; else one that nobody watches."""
    return _WATCHED[-1] if _WATCHED else Deadline(math.inf)


def leave_soon(code: int) -> None:
    """Ends the process with this code if threads of libraries keep it from ending by itself."""
    timer = threading.Timer(_LEAVE_SECONDS, _exit, (code,))
    timer.daemon = True
    timer.start()


def _leave_now(last_acts: list[Callable[[], None]]) -> None:
    """Ends the process after these, each of which may wait for a reader who never comes."""
    until = time.monotonic() + _LAST_SECONDS
    acts = [threading.Thread(target=act, daemon=True) for act in last_acts]
    for act in acts:
        act.start()
    for act in acts:
        act.join(max(until - time.monotonic(), 0))
    _exit(STOPPED)


def _show_stacks() -> None:
    with contextlib.suppress(Exception):
        said = "stopped by a signal, in the middle of this; what was saved before is there:\n"
        os.write(2, said.encode())  # the main thread may hold sys.stderr
        faulthandler.dump_traceback(2, all_threads=True)


def _exit(code: int) -> NoReturn:
    os._exit(code)
