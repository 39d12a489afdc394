"""What this process is doing, and when it last got on with it; threads that watch it read it here.

A mark is set where work is done: after a step is on its way and the one before it is over, after a
batch of an evaluation, a part of the data. Waiting for another process sets none.
"""

import collections
import contextlib
import dataclasses
import math
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from jaxsft import errors

STARTING = "starting"
TRAINING = "training"
OPENING = "opening the model"
# What may take for ever, such as a download: whoever does it says how far it is.
_UNLIMITED = (OPENING,)
# Steps that follow each other are alike; whatever else begins may compile first, or wait for a disk
# or a bucket without a mark between.
_FIRST_STEPS, _FIRST_OF_OTHERS = 4, 12
_TIMES_MEDIAN = 10
_LOOK_SECONDS = 1.0
_FEW_MARKS = 4  # the first come before anything is computed: steps are only sent to the devices


@dataclasses.dataclass(frozen=True)
class Doing:
    """
    Attributes:
        step: the newest that was sent to the devices.
        since: the mark, time.monotonic().
    """

    phase: str = STARTING
    step: int = 0
    since: float = dataclasses.field(default_factory=lambda: time.monotonic())

    def __str__(self) -> str:
        return f"{self.phase}, after step {self.step}"


class _Progress:
    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.now = Doing()
        self.waits = False
        self.raised: tuple[BaseException, Doing] | None = None
        self._seconds: dict[str, collections.deque[float]] = {}  # between two marks, by phase
        self.spent: dict[str, float] = {}  # seconds, by phase that was

    def begin(self, phase: str, step: int | None) -> None:
        was = self.now
        self.spent[was.phase] = self.spent.get(was.phase, 0.0) + time.monotonic() - was.since
        self.now = Doing(phase, self.now.step if step is None else step)

    def move(self) -> None:
        self.now = dataclasses.replace(self.now, since=time.monotonic())

    def mark(self, step: int | None) -> None:
        before = self.now
        self.begin(before.phase, step)
        seconds = self._seconds.setdefault(before.phase, collections.deque(maxlen=64))
        seconds.append(self.now.since - before.since)

    def limit(self, hang_seconds: float) -> float:
        phase = self.now.phase
        if phase in _UNLIMITED:
            return math.inf
        seconds = list(self._seconds.get(phase, ()))
        if len(seconds) < _FEW_MARKS:
            return hang_seconds * (_FIRST_STEPS if phase == TRAINING else _FIRST_OF_OTHERS)
        return max(_TIMES_MEDIAN * statistics.median(seconds), hang_seconds)


_HERE = _Progress()


@contextlib.contextmanager
def during(phase: str) -> Iterator[None]:
    """Inside, the process is in this phase, such as "saving"; a decorator of functions, too."""
    before = _HERE.now.phase
    _HERE.begin(phase, None)
    try:
        yield
    except BaseException as error:
        if _HERE.raised is None or _HERE.raised[0] is not error:
            _HERE.raised = error, _HERE.now
        raise
    finally:
        _HERE.begin(before, None)


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Inside, work is sent to the devices of all processes, which may wait there for another one.

    What blocks is C code, called from the function whose frame a stack shows as the innermost.
    """
    before, _HERE.waits = _HERE.waits, True
    try:
        yield
    finally:
        _HERE.waits = before


def waits() -> bool:
    return _HERE.waits


def mark(step: int | None = None) -> None:
    """Says that work was done.

    Args:
        step: that is on its way now; None: the same as before.
    """
    _HERE.mark(step)


@contextlib.contextmanager
def while_growing(count: Callable[[], int]) -> Iterator[None]:
    """Inside, what grows is work, such as the bytes that C code has read; no other mark is set.

    How long it stands still at most is not learnt: what it reads in one piece may be large.
    """
    over = threading.Event()

    def look() -> None:
        before = count()
        while not over.wait(_LOOK_SECONDS):
            found = count()
            if found != before:
                _HERE.move()
            before = found

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def marking(told: Callable[[int], Any]) -> Callable[[int], None]:
    """`told`, each call of which is a mark."""

    def tell(count: int) -> None:
        mark()
        told(count)

    return tell


def restart() -> None:
    """A program begins."""
    _HERE.restart()


def now() -> Doing:
    return _HERE.now


def spent() -> dict[str, float]:
    """Seconds since the program began, by phase: those of a phase within another are its own."""
    now, found = _HERE.now, dict(_HERE.spent)
    found[now.phase] = found.get(now.phase, 0.0) + time.monotonic() - now.since
    return found


def at(error: BaseException) -> Doing:
    """What was done where the error, or what led to it, was raised."""
    raised = _HERE.raised
    return raised[1] if raised and raised[0] in errors.chain(error) else _HERE.now


def limit(hang_seconds: float) -> float:
    """Seconds without a mark after which this process does not get on any more."""
    return _HERE.limit(hang_seconds)
