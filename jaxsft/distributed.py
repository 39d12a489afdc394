"""Termination signals: when to stop at once, and when to finish the step and save."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

import jax
from jax.experimental import multihost_utils

from jaxsft.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Termination:
    """SIGTERM and SIGINT while `listening`: an exception, or a note while `deferred`.

    A second signal always raises, so that a user is never held up.
    """

    def __init__(self) -> None:
        self.requested = False
        self._deferred = False

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

    def agreed(self, step: int) -> bool:
        """Whether to stop after this step; the same answer on every process."""
        if jax.process_count() == 1:
            return self.requested
        return multihost_utils.reached_preemption_sync_point(step)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        again, self.requested = self.requested, True
        if again or not self._deferred:
            raise Stopped(f"stopped by {signal.Signals(number).name}; start the same command again")
