"""A place of figures that others made, such as W&B: written to beside the run, and off once it
fails."""

import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from jaxsft.rundir.metric_lines import JsonLines, Line
from jaxsft.rundir.step_figures import is_of_steps
from jaxsft.rundir.writers.history import History
from jaxsft.terminal import deadline
from jaxsft.terminal.redact import redacted_values

_MOST_BEHIND = 10_000  # lines that wait for a place, a few MB
CLOSE_SECONDS = 35.0  # for what is still under way when the run ends
_MOST_SAMPLES = 20  # answers of one evaluation that a place gets: it is no archive


class Place(Protocol):
    """Where figures go, as another program keeps them; called in one thread alone."""

    name: str  # as config.log.writers has it
    remedy: str  # what to do when it fails

    def begin(self, step: int | None, there: Sequence[Line]) -> str:
        """Opens it for the lines after a step, and returns where it is; None: for a new run.

        Args:
            there: the lines of that step that the history keeps.
        """
        ...

    def append(self, line: Line, samples: Sequence[dict[str, Any]]) -> None:
        """Writes figures, and the answers that those of an evaluation were made of."""
        ...

    def close(self) -> None: ...

    def abandon(self) -> None:
        """Leaves nothing behind that would speak later; it has failed, and may fail here too."""
        ...


class Beside:
    """A writer that hands each line to a place in a thread of its own.

    The run never waits for it, but at its end, and there not for ever: a network that hangs keeps
    the thread busy, nobody else. What it raises is said once, and it is off from then on.
    """

    def __init__(
        self, place: Place, history: History, samples: JsonLines, say: Callable[[str, str], None]
    ):
        self._place = place
        self._history = history
        self._samples = samples
        self._say = say
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(_MOST_BEHIND)
        self._thread: threading.Thread | None = None
        self._last = -1  # step of the newest line
        self._is_off = False

    def append(self, line: Line) -> None:
        self._last = line["step"]
        values = redacted_values(line)
        self._do(lambda: self._place.append(values, self._answers(values)))

    def resume(self, step: int | None) -> None:
        if self._thread is not None and step is not None and self._last <= step:
            return  # it is open, and has nothing to forget
        there = [] if step is None else [one for one in self._history.read() if one["step"] == step]
        self._last = -1 if step is None else step
        self._do(lambda: self._say(self._place.name, self._place.begin(step, there)))

    def close(self) -> None:
        if self._thread is None or self._is_off:
            return
        self._do(self._place.close)
        self._do(None)
        # After a signal there is less time.
        self._thread.join(min(CLOSE_SECONDS, deadline.of_this_process().left() / 2))
        if self._thread.is_alive():
            self._turn_off("does not come to its end")

    def _do(self, job: Callable[[], None] | None) -> None:
        if self._is_off:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=self._place.name, daemon=True)
            self._thread.start()
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            self._turn_off(f"is {_MOST_BEHIND:,} lines behind")

    def _work(self) -> None:
        while not self._is_off and (job := self._jobs.get()) is not None:
            try:
                job()
            except BaseException as error:  # a library's sys.exit, too
                self._turn_off(str(error).strip() or type(error).__name__)
                with contextlib.suppress(BaseException):
                    self._place.abandon()

    def _turn_off(self, why: str) -> None:
        if not self._is_off:
            self._is_off = True
            name, why = self._place.name, " ".join(why.split())
            self._say(
                name,
                f"warning: {name} is off from here on, the run goes on and metrics.jsonl has all:"
                f" {why}; {self._place.remedy}",
            )

    def _answers(self, line: Line) -> list[dict[str, Any]]:
        if is_of_steps(line):
            return []
        return [one for one in self._samples.read() if one["step"] == line["step"]][:_MOST_SAMPLES]
