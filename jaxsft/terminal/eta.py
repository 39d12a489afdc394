"""How much longer a run's steps will take."""

import collections
import dataclasses
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

_LINES = 32  # of the log that count: the first steps, and those of another load, are forgotten


@dataclasses.dataclass(frozen=True)
class Schedule:
    """What a run does beside its steps, by name.

    Attributes:
        due: what is done after a step.
        left: how often each is done after a step and before the last one.
        at_end: what follows the last step.
        seconds: of each, where it is known before one was seen.
    """

    due: Callable[[int], Sequence[str]] = lambda step: ()
    left: Callable[[int], Mapping[str, float]] = lambda step: {}
    at_end: Sequence[str] = ()
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


class Remaining:
    """The time left, from the steps so far and from what was done between them.

    Args:
        done: steps that were done before.
        total: steps of the run.
    """

    def __init__(self, done: int, total: int, schedule: Schedule | None = None):
        self._first = self._done = done
        self._total = total
        self._schedule = schedule or Schedule()
        self._since = time.monotonic()
        self._recent: deque[float] = deque(maxlen=_LINES)
        self._beside = 0.0  # seconds of what is not scheduled, such as a save by the clock
        self._seen: dict[str, list[float]] = collections.defaultdict(list)

    def seconds(self, done: int, step_seconds: float) -> float:
        """Of the steps left, of what is scheduled beside them, as long as it took so far, and of
        the rest as much beside each of them as there was.

        Args:
            done: steps at the newest line of the log.
            step_seconds: of each since the line before.
        """
        now = time.monotonic()
        # Less than nothing where several lines come at once, of which the first had all the time.
        beside = now - self._since - step_seconds * (done - self._done)
        # What was due after the line before lies between it and this one's steps.
        self._count(self._schedule.due(self._done) if self._done > self._first else (), beside)
        self._since, self._done = now, done
        self._recent.append(step_seconds)
        beside_each = max(0.0, self._beside) / max(done - self._first, 1)
        each = statistics.median(self._recent) + beside_each
        scheduled = sum(n * self._each(name) for name, n in self._schedule.left(done).items())
        at_end = sum(self._each(name) for name in self._schedule.at_end)
        return each * (self._total - done) + scheduled + at_end

    def _count(self, names: Sequence[str], seconds: float) -> None:
        """Several at once share the time as they do by themselves, as far as that is known."""
        if not names or seconds < 0:
            self._beside += seconds
            return
        known = [self._each(name) for name in names]
        whole = sum(known)
        for name, alone in zip(names, known, strict=True):
            self._seen[name].append(seconds * (alone / whole if whole else 1 / len(names)))

    def _each(self, name: str) -> float:
        seen = self._seen.get(name)
        return statistics.fmean(seen[-_LINES:]) if seen else self._schedule.seconds.get(name, 0.0)


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
