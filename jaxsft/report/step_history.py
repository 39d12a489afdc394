"""The lines of metrics.jsonl as a report needs them: few, however long the run was."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from jaxsft.rundir.metric_lines import Line, line_of_text
from jaxsft.rundir.step_figures import StepFigures, figures_of, is_of_steps

MAX_LINES = 4000  # of each kind that are kept; a curve is narrower than that on any screen
_EXTREMES = ("loss", "grad_norm", "step_seconds")


@dataclasses.dataclass
class Totals:
    """Sums over all lines, those that are left out too."""

    lines: int = 0
    step_seconds: float = 0.0
    wait_seconds: float = 0.0
    tokens: int = 0
    supervised_tokens: int = 0
    without_loss: int = 0  # lines whose loss is not finite
    newest: StepFigures | None = None


@dataclasses.dataclass
class History:
    steps: list[StepFigures] = dataclasses.field(default_factory=list)
    evaluations: list[Line] = dataclasses.field(default_factory=list)
    totals: Totals = dataclasses.field(default_factory=Totals)
    unreadable: list[int] = dataclasses.field(default_factory=list)  # line numbers
    last_step: int = 0


def read(path: Path) -> History:
    """The file's lines, thinned where there are many: of each stretch the extremes stay, and sums
    are of all.

    Raises:
        OSError: it can't be read.
    """
    history, thinned, evaluations = History(), _Thinned(), _Thinned()
    if not path.exists():
        return history
    before, totals, newest = 0, history.totals, None
    for number, line in _lines(path):
        if line is None:
            history.unreadable.append(number)
            continue
        history.last_step = max(history.last_step, line["step"])
        if not is_of_steps(line):
            if any(key.startswith("eval/") for key in line):
                evaluations.add(line)
            continue
        taken = max(line["step"] - before, 1)
        before = line["step"]
        totals.lines += 1
        totals.step_seconds += taken * (line.get("step_seconds") or 0.0)
        totals.wait_seconds += taken * (line.get("data_wait_seconds") or 0.0)
        totals.tokens += line.get("tokens") or 0
        totals.supervised_tokens += line.get("supervised_tokens") or 0
        totals.without_loss += line["loss"] is None
        newest = line
        thinned.add(line)
    totals.newest = None if newest is None else figures_of(newest)
    history.steps = [figures_of(line) for line in thinned.lines()]
    history.evaluations = evaluations.lines()
    return history


def _lines(path: Path) -> Iterator[tuple[int, Line | None]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            if text.strip():
                yield number, line_of_text(text) if text.endswith(b"\n") else None


class _Thinned:
    """Lines in stretches that double when there are too many; of each the extremes are kept."""

    def __init__(self) -> None:
        self._whole: list[list[Line]] = [[]]
        self._length = 1  # lines of a stretch
        self._filled = 0  # of the newest
        self._first: Line | None = None

    def add(self, line: Line) -> None:
        if self._first is None:
            self._first = line
        if self._filled == self._length:
            self._whole[-1] = _extremes(self._whole[-1])
            self._whole.append([])
            self._filled = 0
        self._whole[-1].append(line)
        self._filled += 1
        kept = 1 if self._length == 1 else 2 + 2 * len(_EXTREMES)
        if len(self._whole) * kept > MAX_LINES:
            pairs = zip(self._whole[::2], [*self._whole[1::2], []], strict=False)
            odd = len(self._whole) % 2
            self._whole = [_extremes(a + b) for a, b in pairs]
            self._filled = self._filled if odd else self._filled + self._length
            self._length *= 2

    def lines(self) -> list[Line]:
        found = [line for stretch in self._whole for line in _extremes(stretch)]
        if self._first is not None and found[0] is not self._first:
            found.insert(0, self._first)
        return found


def _extremes(lines: list[Line]) -> list[Line]:
    """Those with the least and the greatest of some figures, and the last, in their order."""
    if len(lines) <= 2 + 2 * len(_EXTREMES):
        return lines
    wanted = {len(lines) - 1}
    for name in _EXTREMES:
        known = [(v, place) for place, one in enumerate(lines) if (v := one.get(name)) is not None]
        if known:
            wanted |= {min(known)[1], max(known)[1]}
    return [lines[place] for place in sorted(wanted)]
