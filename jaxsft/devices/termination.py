"""Termination signals: when to stop at once, when to finish the step and save."""

import contextlib
import math
import signal
import time
from collections.abc import Iterator, Sequence
from types import FrameType

import jax

from jaxsft.devices.distributed import gather
from jaxsft.devices.votes import Vote
from jaxsft.errors import Stopped
from jaxsft.terminal import deadline, signals


class Termination:
    """Termination signals while `listening`: an exception, or a note while `deferred`.

    A second signal, unless it is an echo of the first, raises wherever it comes, so that a user is
    never held up. The program's deadline ends the process where the exception does not.

    Attributes:
        requested: whether a signal came, or a notice, which is a first one.
        why: what came, in words.

    Args:
        grace_seconds: that the program has from a signal to its end; None: as it is.
    """

    def __init__(self, grace_seconds: float | None = None) -> None:
        self.requested = False
        self.why = ""
        self._deadline = deadline.of_this_process()
        if grace_seconds is not None:
            self._deadline.seconds = grace_seconds
        self._first = math.inf  # when the first signal was received
        self._taken: list[signal.Signals] = []
        self._deferred = False
        self._vote: Vote | None = None  # of the step before

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.getsignal(number) for number in signals.to_take()}
        self._taken = list(before)
        self.take_again()
        try:
            yield
            self.raise_if_requested()  # a handler in a callback of C can't raise
        finally:
            self._taken = []
            for number, handler in before.items():
                signal.signal(number, handler)

    def take_again(self) -> None:
        """Takes the signals from a library that, as those of devices do, took them for itself."""
        for number in self._taken:
            signal.signal(number, self._receive)

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
            raise Stopped(f"stopped by {self.why}; start the same command again")

    def agreed(self, wishes: Sequence[bool] = ()) -> tuple[bool, Sequence[bool]]:
        """Whether to stop after this step, and what else any process wishes; the same answer on
        every process.

        With several processes it is the answer to what they knew one step ago, so that nobody waits
        for a step that still computes; one vote has it all. From a stop on the deadline runs on all
        of them.
        """
        if jax.process_count() == 1:
            return self.requested, wishes
        before, self._vote = self._vote, Vote(self.requested, *wishes)
        if before is None:
            return False, [False] * len(wishes)
        stop, *wished = before.each()
        if stop:
            self._deadline.begin()
        return stop, wished

    def why_of_any(self) -> str:
        """What stopped this process or another; empty: nothing did."""
        return next((one["why"] for one in gather({"why": self.why}) if one["why"]), "")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        now = time.monotonic()
        before, self.requested = self.requested, True
        self.why = self.why or signals.reason()
        if number == signals.NOTICE:
            if not before and not self._deferred:
                raise signals.stopped_by(number)
            return
        again, self._first = self._first < math.inf, min(self._first, now)
        echo = again and now - self._first < signals.ECHO_SECONDS
        if not echo and (again or not self._deferred):
            raise signals.stopped_by(number)
