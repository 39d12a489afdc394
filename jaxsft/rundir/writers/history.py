"""metrics.jsonl: the figures of a run in its directory, one line a logged step or evaluation."""

from pathlib import Path

from jaxsft.rundir.metric_lines import JsonLines, Line
from jaxsft.rundir.step_figures import is_of_steps


class History:
    """The lines of every start of a run, each step's once.

    Args:
        writes: False on all processes but the first: they neither read nor write.
    """

    def __init__(self, path: Path, writes: bool = True):
        self._lines = JsonLines(path, writes)

    def read(self) -> list[Line]:
        return self._lines.read()

    def append(self, line: Line) -> None:
        self._lines.append(line)

    def resume(self, step: int | None) -> None:
        """Keeps the lines up to a step, which a checkpoint knows; None: none of them."""
        self._lines.keep(lambda line: step is not None and line["step"] <= step)

    def forget_evaluations(self, since: int) -> None:
        """Leaves out the evaluations after step `since` and later ones; losses of steps stay."""
        self._lines.keep(lambda line: line["step"] < since or is_of_steps(line))

    def close(self) -> None:
        """Nothing is left to do: each line is on disk when `append` returns."""
