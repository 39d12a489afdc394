"""The files of a run directory, as what reports read: those of a run that ended early too."""

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxsft.data.report import data_report as data_report_file
from jaxsft.data.report.data_report import DataReport
from jaxsft.files import records, run_names
from jaxsft.report import comparison, failure_record, step_history
from jaxsft.report import summary as summary_file
from jaxsft.report.failure_record import FailureRecord
from jaxsft.report.step_history import Totals
from jaxsft.report.summary import Summary
from jaxsft.rundir.checkpoint.notes import NOTES_FILE, parse_notes
from jaxsft.rundir.metric_lines import Line, read_lines
from jaxsft.rundir.sample import Sample
from jaxsft.rundir.starts import Start
from jaxsft.rundir.step_figures import StepFigures
from jaxsft.terminal.redact import redacted_values

_MATCH = "match"  # the name of the score that has a field of its own


@dataclasses.dataclass(frozen=True)
class Answered:
    """A line of samples.jsonl, and the whole line as it was read."""

    sample: Sample
    line: Mapping[str, Any]

    @property
    def prompt(self) -> tuple[str | None, int | None]:
        """Which it answers: the set and the row of it."""
        return self.sample.source, self.sample.row

    @property
    def scores(self) -> dict[str, bool | float | None]:
        """By scorer; None: it could give none."""
        found = self.line.get("scores")
        known = dict(found) if isinstance(found, dict) else {}
        if self.sample.match is not None:
            known.setdefault(_MATCH, self.sample.match)
        return known

    @property
    def passed(self) -> bool | None:
        """By the comparison with the reference or, without one, by all scores; None: by none."""
        scores = self.scores
        known = [scores[_MATCH]] if _MATCH in scores else list(scores.values())
        rates = [one for one in known if one in (0, 1)]
        return all(rates) if rates else None


@dataclasses.dataclass(frozen=True)
class SavedState:
    """What a checkpoint's notes say of it."""

    step: int
    fingerprint: str  # of the training data
    digests: Mapping[str, int]  # of its arrays


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFiles:
    """The files of a run directory; what is missing is empty."""

    name: str = ""  # of the directory
    ended: str | None = None  # why, of a run that was stopped
    lasts: bool = False  # it is read by the run itself, which goes on
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    command: str | None = None  # of the newest start
    base_file: str | None = None  # of the config, which that changed
    base_config: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_report: DataReport = dataclasses.field(default_factory=DataReport)
    steps: list[StepFigures] = dataclasses.field(default_factory=list)  # thinned where many
    totals: Totals = dataclasses.field(default_factory=Totals)
    evaluations: list[Line] = dataclasses.field(default_factory=list)
    answers: list[Answered] = dataclasses.field(default_factory=list)
    odd_steps: list[Line] = dataclasses.field(default_factory=list)
    starts: list[Start] = dataclasses.field(default_factory=list)  # the newest last
    checkpoints: list[SavedState] = dataclasses.field(default_factory=list)
    summary: Summary = dataclasses.field(default_factory=Summary)
    finished: bool = False
    error: FailureRecord | None = None
    unreadable: tuple[str, ...] = ()

    @property
    def before_after(self) -> tuple[dict[str, float], dict[str, float]]:
        """The summary's figures; while there is no summary, the first and the last evaluation."""
        if self.summary.before or self.summary.after:
            return _known(self.summary.before), _known(self.summary.after)
        first = self.evaluations[0]["step"] if self.evaluations else None
        last = self.evaluations[-1]["step"] if self.evaluations else None
        before = comparison.figures_at(self.evaluations, first)
        after = comparison.figures_at(self.evaluations, last) if last != first else {}
        return _known(before), _known(after)


def read_run(workdir: Path, ended: str | None = None, lasts: bool = False) -> RunFiles:
    """
    Args:
        ended: why, of a run that was stopped before its end; of a failure error.json says it.
        lasts: the run goes on: a line that is being written is no damage.
    """
    unreadable: list[str] = []
    history = _history(workdir / run_names.METRICS, unreadable, lasts)
    found = _json_file(workdir / run_names.SUMMARY, unreadable)
    summary = summary_file.from_json(found)
    last = history.last_step
    finished = bool(found) and last <= (last if summary.steps is None else summary.steps)
    error = redacted_values(_json_file(workdir / run_names.ERROR, unreadable))
    data_report = _json_file(workdir / run_names.DATA_REPORT, unreadable)
    base = redacted_values(_json_file(workdir / run_names.COMMAND, unreadable))
    samples = redacted_values(_lines(workdir / run_names.SAMPLES, unreadable))
    return RunFiles(
        name=workdir.resolve().name,
        ended=ended,
        lasts=lasts,
        config=redacted_values(_json_file(workdir / run_names.CONFIG, unreadable)),
        command=summary.command if finished else base.get("command") or summary.command,
        base_file=base.get("file"),
        base_config=base["config"] if isinstance(base.get("config"), dict) else {},
        steps=history.steps,
        totals=history.totals,
        evaluations=history.evaluations,
        answers=[Answered(records.from_json(Sample, line), line) for line in samples],
        odd_steps=redacted_values(_lines(workdir / run_names.ODD_STEPS, unreadable)),
        starts=_starts(workdir / run_names.STARTS, summary if finished else None, unreadable),
        checkpoints=_checkpoints(workdir / run_names.CHECKPOINTS),
        summary=summary if finished else summary.without_its_end(),
        finished=finished and not lasts,
        data_report=data_report_file.from_json(redacted_values(data_report)),
        error=failure_record.from_json(error) if error and not lasts else None,
        unreadable=tuple(unreadable),
    )


def _known(figures: Any) -> dict[str, float]:
    return {name: v for name, v in figures.items() if isinstance(v, int | float)}


def _checkpoints(directory: Path) -> list[SavedState]:
    """Of those that lie beside the other files; unreadable notes are no matter of a report."""
    found = []
    for path in directory.glob(f"*/{NOTES_FILE}"):
        with contextlib.suppress(OSError, ValueError):
            notes = parse_notes(path.read_text(encoding="utf-8"))
            step = int(path.parent.name)
            found.append(SavedState(step, notes.trained_on.fingerprint, notes.digests))
    return sorted(found, key=lambda one: one.step)


def _starts(path: Path, summary: Summary | None, unreadable: list[str]) -> list[Start]:
    """The last of a finished run up to its summary, which its line was written before."""
    found = [records.from_json(Start, line) for line in _lines(path, unreadable)]
    if found and summary is not None and summary.phase_seconds:
        found[-1] = dataclasses.replace(found[-1], seconds=summary.phase_seconds)
    return found


def _json_file(path: Path, unreadable: list[str]) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        value = None
    if not isinstance(value, dict):
        unreadable.append(path.name)
        return {}
    return value


def _history(path: Path, unreadable: list[str], lasts: bool) -> step_history.History:
    try:
        found = step_history.read(path)
    except OSError:
        unreadable.append(path.name)
        return step_history.History()
    if not lasts:
        unreadable += [f"{path.name}, line {number}" for number in found.unreadable]
    return found


def _lines(path: Path, unreadable: list[str]) -> list[Line]:
    try:
        found, numbers, _ = read_lines(path)
    except OSError:
        unreadable.append(path.name)
        return []
    unreadable += [f"{path.name}, line {number}" for number in numbers]
    return found
