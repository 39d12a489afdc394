"""starts.jsonl: what each start of a run took its time for, kept up while it lasts."""

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path

from jaxsft.devices import peak_memory, progress
from jaxsft.files import places, records
from jaxsft.files.whole_files import write_text
from jaxsft.rundir.metric_lines import JsonLines, Line
from jaxsft.rundir.step_figures import figures_of, is_of_steps
from jaxsft.training.predicted import Predicted

_SECONDS = 30.0  # between two times that the file is written: a kill loses as much of it


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a run, up to when this was written."""

    step: int = 0  # from which it went on
    last: int = 0  # step that it has a line of
    began: float = 0.0  # seconds since the epoch
    step_seconds: float = 0.0  # of all steps that it has lines of
    seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)  # by phase
    predicted: Predicted | None = None  # before its first step
    # The most that the first process held so far: on its first device, all its programs together
    # (None: the device doesn't say); and in RAM, libraries and all.
    device_bytes: int | None = None
    host_bytes: int | None = None


class Starts:
    """A writer of figures that keeps the seconds of this start beside those of the others."""

    def __init__(self, path: Path, predicted: Predicted | None = None):
        self._path = path
        self._began = time.time() - sum(progress.spent().values())
        self._before: list[Start] = []
        self._start = Start(began=self._began, predicted=predicted)
        self._written = time.monotonic()

    def append(self, line: Line) -> None:
        if is_of_steps(line):
            figures = figures_of(line)
            taken = figures.step - self._start.last
            self._start = dataclasses.replace(
                self._start,
                last=figures.step,
                step_seconds=self._start.step_seconds + taken * figures.step_seconds,
            )
        # After the last step comes an evaluation: what it takes the report of the end reads.
        if not is_of_steps(line) or time.monotonic() - self._written > _SECONDS:
            self.write()

    def resume(self, step: int | None) -> None:
        """The starts so far stay; None: they were of another run."""
        found = [] if step is None else starts_in(self._path)
        self._before = [one for one in found if one.began != self._began]
        self._start = dataclasses.replace(self._start, step=step or 0, last=step or 0)
        self.write()

    def write(self) -> None:
        now = dataclasses.replace(
            self._start,
            seconds=progress.spent(),
            device_bytes=peak_memory.device_bytes(),
            host_bytes=peak_memory.host_bytes(),
        )
        lines = [json.dumps(records.to_json(one)) + "\n" for one in (*self._before, now)]
        with places.using(str(self._path)):
            write_text(self._path, "".join(lines))
        self._written = time.monotonic()

    def close(self) -> None:
        """What is not on disk yet is of the last seconds."""


def starts_in(path: Path) -> list[Start]:
    """The run's starts, the newest last; none where the file is not there."""
    return [records.from_json(Start, line) for line in JsonLines(path).read()]
