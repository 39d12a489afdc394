"""summary.json: what a run that came to its end was, in one object."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsft.data.cache.manifest import CacheReport
from jaxsft.evaluation.scoring.table import ScoreRow
from jaxsft.files import records, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.report.adapter_change import AdapterChange
from jaxsft.report.kept_base import Difference
from jaxsft.report.token_rows import TableChange
from jaxsft.report.weight_change import LeafChange
from jaxsft.rundir.checkpoint.notes import Best, Change
from jaxsft.terminal.redact import redacted_values


@dataclasses.dataclass(frozen=True)
class TrainedExample:
    """An example of the training data, as it was trained."""

    where: str = ""  # the example's number, of how many
    tokens: Sequence[tuple[str, float]] = ()  # with their weights


@dataclasses.dataclass(frozen=True)
class Summary:
    """None: not known, as of a run that went on after its end."""

    model: str | None = None  # as the user named it
    parameters: int | None = None
    trained_parameters: int | None = None  # of adapters; None: the model's own weights
    device: str | None = None
    mesh: str | None = None
    steps: int | None = None
    epochs: float | None = None
    planned_steps: int | None = None  # more than `steps` where the run ended early
    exported_step: int | None = None  # after which the exported parameters, and `after`, are
    best: Best | None = None  # of the figure that the run followed
    ended: str | None = None  # why, before its last step
    # Of what decides the result, since the run began, as its starts were allowed to.
    changes: Sequence[Change] = ()
    checkpoint_failures: int = 0  # saves that failed, and were made up for
    wall_seconds: float | None = None
    # Of the last start, by phase, from the process's beginning to its first step's end.
    start_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    phase_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)  # likewise, all
    peak_memory_bytes: int | None = None
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)
    after: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scores: Sequence[ScoreRow] = ()  # of the answers, with intervals, and what training changed
    data: Mapping[str, CacheReport] = dataclasses.field(default_factory=dict)
    weights: Sequence[LeafChange] = ()  # how far the exported parameters are from the base model's
    tables: Sequence[TableChange] = ()  # and which tokens' rows moved
    adapters: Sequence[AdapterChange] = ()  # what each adds to its weight
    kept_base: Sequence[Difference] = ()  # what few bits of a frozen base changed
    export: str | None = None
    export_merged: str | None = None
    command: str | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    choices: Sequence[tuple[str, str, str]] = ()  # what, which back end, why
    example: Sequence[tuple[str, float]] = ()  # tokens with their weights
    examples: Sequence["TrainedExample"] = ()  # that one and others

    def without_its_end(self) -> "Summary":
        """Of a run that went on: how it ended then says nothing of it now."""
        kept = dataclasses.replace(self, before={}, after={}, weights=(), kept_base=(), scores=())
        kept = dataclasses.replace(kept, phase_seconds={}, tables=(), adapters=())
        of_end = ("steps", "epochs", "exported_step", "best", "ended", "wall_seconds")
        exports = ("export", "export_merged")
        return dataclasses.replace(kept, **dict.fromkeys((*of_end, *exports)))


def write(directory: Path, summary: Summary) -> None:
    text = json.dumps(redacted_values(records.to_json(summary)), indent=2) + "\n"
    write_text(directory / run_names.SUMMARY, text)


def from_json(value: dict[str, Any]) -> Summary:
    return records.from_json(Summary, redacted_values(value))
