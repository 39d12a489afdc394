"""Termination signals: when to stop at once, and when to finish the step and save."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax

from jaxsft.distributed import Vote
from jaxsft.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Termination:
    """SIGTERM and SIGINT while `listening`: an exception, or a note while `deferred`.

    A second signal always raises, so that a user is never held up.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False
        self._vote: Vote | None = None  # of the step before

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._receive) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, the first signal sets `requested` and the work goes on to the next safe point."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False

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
        again, self.requested = self.requested, True
        if again or not self._deferred:
            raise Stopped(f"stopped by {signal.Signals(number).name}; start the same command again")
