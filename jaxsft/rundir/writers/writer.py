"""What every writer of figures can do, and all writers of a run as one."""

import dataclasses
from typing import Protocol

from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.writers.history import History


class Writer(Protocol):
    """One place that the figures of a run go to; only the first process's reach it."""

    def append(self, line: Line) -> None:
        """Writes the figures of line["step"]; more of the same step may follow."""

    def resume(self, step: int | None) -> None:
        """Forgets what an earlier start wrote of later steps; None: all of it."""

    def close(self) -> None:
        """Returns when all lines are where they belong; the run ends, well or not."""


@dataclasses.dataclass(frozen=True)
class Writers:
    """The history, which resuming and the report read again, and those that only write.

    The history comes first: where another writer fails, it has the line already.
    """

    history: History
    others: tuple[Writer, ...] = ()

    def append(self, line: Line) -> None:
        for writer in self._all():
            writer.append(line)

    def append_last(self, line: Line) -> None:
        """The evaluation after the last step, in place of what an earlier end of the run found."""
        self.history.forget_evaluations(line["step"])
        self.append(line)

    def resume(self, step: int | None) -> None:
        for writer in self._all():
            writer.resume(step)

    def close(self) -> None:
        for writer in self._all():
            writer.close()

    def _all(self) -> tuple[Writer, ...]:
        return self.history, *self.others
