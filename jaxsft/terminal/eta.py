"""How much longer a run's steps will take."""

import statistics
import time
from collections import deque

_LINES = 32  # of the log that count: the first steps, and those of another load, are forgotten


class Remaining:
    """The time left, from the steps so far and from what was done between them.

    Args:
        done: steps that were done before.
        total: steps of the run.
    """

    def __init__(self, done: int, total: int):
        self._first = self._done = done
        self._total = total
        self._since = time.monotonic()
        self._stepping = 0.0  # seconds in steps; the rest went to evaluations and saves
        self._recent: deque[float] = deque(maxlen=_LINES)

    def seconds(self, done: int, step_seconds: float) -> float:
        """Of the steps left, with as much beside each of them as there was so far.

        Args:
            done: steps at the newest line of the log.
            step_seconds: of each since the line before.
        """
        self._stepping += step_seconds * (done - self._done)
        self._done = done
        self._recent.append(step_seconds)
        beside = max(0.0, time.monotonic() - self._since - self._stepping)
        each = statistics.median(self._recent) + beside / max(done - self._first, 1)
        return each * (self._total - done)


def said(seconds: float) -> str:
    """Such as `45 s`, `12 min`, `3 h 20 min`, `2 d 4 h`."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"
