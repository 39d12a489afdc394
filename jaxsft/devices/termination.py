"""Termination signals: when to stop at once, when to finish the step and save, when to leave."""

import contextlib
import faulthandler
import math
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import jax

from jaxsft.devices.distributed import Vote
from jaxsft.errors import STOPPED, Stopped
from jaxsft.terminal import signals

# How long Python's own handler may take: it waits for calls into compilers, disks and devices.
# Clouds give 25 to 30 seconds.
AT_ONCE_SECONDS = 20.0
AGAIN_SECONDS = 8.0


class Termination:
    """Termination signals while `listening`: an exception, or a note while `deferred`.

    A second signal, unless it is an echo of the first, raises wherever it comes, so that a user is
    never held up. A thread that no call of the main one can block ends the process where the
    exception does not: nothing is lost then, since a checkpoint is there only when it is whole.
    """

    def __init__(self) -> None:
        self.requested = False
        self._first = math.inf  # when the first signal was received
        self._deferred = False
        self._vote: Vote | None = None  # of the step before

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        taken = signals.to_take()
        with self._watched(taken):
            before = {number: signal.signal(number, self._receive) for number in taken}
            try:
                yield
                self.raise_if_requested()  # a handler in a callback of C can't raise
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal sets `requested` and the work goes on to the next safe point."""
        self.raise_if_requested()
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

    def raise_if_requested(self) -> None:
        if self.requested:
            raise Stopped("stopped by a signal; start the same command again")

    def agreed(self) -> bool:
        """Whether to stop after this step; the same answer on every process.

        With several processes it is the answer to what they knew one step ago, so that nobody waits
        for a step that still computes.
        """
        if jax.process_count() == 1:
            return self.requested
        before, self._vote = self._vote, Vote(self.requested)
        return before is not None and before.any()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        again, self.requested = self.requested, True
        self._first = min(self._first, now)
        echo = again and now - self._first < signals.ECHO_SECONDS
        if not echo and (again or not self._deferred):
            raise signals.stopped_by(number)

    @contextlib.contextmanager
    def _watched(self, numbers: list[signal.Signals]) -> Iterator[None]:
        """Inside, a thread sees each signal at once, whatever the main thread is doing."""
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        watch = threading.Thread(target=self._watch, args=(reading, numbers), daemon=True)
        watch.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            os.close(writing)
            watch.join()
            os.close(reading)

    def _watch(self, reading: int, numbers: list[signal.Signals]) -> None:
        first, deadline = math.inf, math.inf
        while True:
            left = None if deadline == math.inf else max(deadline - time.monotonic(), 0)
            ready, _, _ = select.select([reading], [], [], left)
            if not ready:
                _leave_now()
            received = os.read(reading, 64)
            if not received:
                return
            if not any(number in numbers for number in received):
                continue
            now = time.monotonic()
            if first == math.inf:
                first, deadline = now, math.inf if self._deferred else now + AT_ONCE_SECONDS
            elif now - first >= signals.ECHO_SECONDS:
                deadline = min(deadline, now + AGAIN_SECONDS)


def _leave_now() -> NoReturn:
    with contextlib.suppress(Exception):
        print("stopped by a signal, in the middle of this:", file=sys.stderr, flush=True)
        faulthandler.dump_traceback(all_threads=True)
    os._exit(STOPPED)
