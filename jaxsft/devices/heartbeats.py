"""What each process says of itself once a second, and how long it has said nothing new."""

import dataclasses
import json
import math
import socket
import time

from jaxsft.devices import coordinator, progress, stacks

SECONDS = 1.0  # between two beats
_FOLDER = "jaxsft/beats/"  # in the coordinator's store
# The main thread's place is looked up where it stands: while it runs, it is no news and costs time.
_STANDS_SECONDS = 5.0


@dataclasses.dataclass(frozen=True)
class Beat:
    """
    Attributes:
        still_seconds: since the process last got on.
        limit_seconds: of that, after which it hangs.
        place: of its main thread; "": not looked up.
        waits: for what all processes' devices do together, and so perhaps for another process.
        broken: a connection of its devices broke.
    """

    count: int = 0
    host: str = ""
    phase: str = progress.STARTING
    step: int = 0
    still_seconds: float = 0.0
    limit_seconds: float = math.inf
    place: str = ""
    waits: bool = False
    broken: bool = False

    @property
    def doing(self) -> str:
        """training, after step 12, at train.py:3 in main"""
        place = f", at {self.place}" if self.place else ""
        return f"{progress.Doing(self.phase, self.step)}{place}"


def who(number: int, host: str) -> str:
    """process 1 (host b)"""
    return f"process {number} (host {host})" if host else f"process {number}"


def beat_here(count: int, hang_seconds: float, broken: bool = False) -> Beat:
    doing = progress.now()
    still, limit = time.monotonic() - doing.since, progress.limit(hang_seconds)
    stands = still > min(_STANDS_SECONDS, limit / 2)
    place = stacks.main_place() if stands else ""
    return Beat(
        count,
        socket.gethostname(),
        doing.phase,
        doing.step,
        still,
        limit,
        place,
        progress.waits() or place.startswith("jax/"),
        broken,
    )


def send(number: int, beat: Beat) -> None:
    coordinator.put(f"{_FOLDER}{number}/now", json.dumps(dataclasses.asdict(beat)))


def received(number: int | None = None) -> dict[int, Beat]:
    """The newest beat of each process, or of one."""
    found = coordinator.below(_FOLDER if number is None else f"{_FOLDER}{number}/")
    return {
        int(key.partition("/")[0]) if number is None else number: Beat(**json.loads(text))
        for key, text in found.items()
    }


class Silences:
    """How long each process has said nothing new, counted while this one runs: one that was stopped
    itself, or whose machine slept, must not take the others for lost."""

    def __init__(self, numbers: list[int]):
        self.beats = dict.fromkeys(numbers, Beat())
        self._seconds = dict.fromkeys(numbers, 0.0)
        self._counts = dict.fromkeys(numbers, 0)
        self._looked = time.monotonic()

    def look(self) -> dict[int, float]:
        """Seconds, by process."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, SECONDS), now
        for number, beat in list(self.beats.items()):
            new = beat.count != self._counts[number]
            self._seconds[number] = 0.0 if new else self._seconds[number] + passed
            self._counts[number] = beat.count
        return self._seconds
