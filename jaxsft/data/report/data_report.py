"""data_report.json: what a user should know before a run, of its data and of the steps made of it.

It is made of the reports of the caches (account and quality, for each source too), of the overlaps
between training and evaluation, and of the plan of the steps.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsft.data.cache.manifest import CacheReport
from jaxsft.data.quality.figures import Overlap
from jaxsft.files import records, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.terminal.redact import redacted_values


@dataclasses.dataclass(frozen=True)
class DataWarning:
    """What is wrong with the data, what to do, and rows that show it."""

    text: str = ""
    advice: str = ""
    examples: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class PlannedSteps:
    """The steps of a run."""

    sequence_length: int = 0
    batch_size: int = 0  # packed rows
    packed_rows: int = 0  # of the first epoch
    fill: float = 0.0  # share of the packed rows that is tokens
    steps_per_epoch: int = 0
    steps: int = 0
    epochs: float = 0.0  # that these steps make
    supervised_tokens_per_epoch: int = 0
    examples_per_epoch: Mapping[str, int] = dataclasses.field(default_factory=dict)  # by source
    fewest_supervised_tokens: int | None = None  # of any step of the first epoch
    batch_multiple: int = 1  # rows that micro-batches and devices share at the least


@dataclasses.dataclass(frozen=True)
class PlanReport(PlannedSteps):
    supervised_tokens_per_step: float = 0.0

    @staticmethod
    def of(plan: PlannedSteps) -> "PlanReport":
        per_step = plan.supervised_tokens_per_epoch / max(plan.steps_per_epoch, 1)
        return PlanReport(**vars(plan), supervised_tokens_per_step=round(per_step, 1))


@dataclasses.dataclass(frozen=True)
class HeldOutReport(CacheReport):
    """The report of an evaluation set's cache, and what it has in common with training."""

    overlap: Overlap | None = None


@dataclasses.dataclass(frozen=True)
class DataReport:
    """data_report.json: what is known of a run's data before its first step."""

    warnings: Sequence[DataWarning] = ()  # the gravest kinds first
    plan: PlanReport | None = None  # None where only the data is looked at
    train: CacheReport = dataclasses.field(default_factory=CacheReport)
    held_out: Mapping[str, HeldOutReport] = records.keyed_mapping("eval")


def write(directory: Path, report: DataReport) -> None:
    """Writes data_report.json, whole."""
    text = json.dumps(redacted_values(records.to_json(report)), indent=2, ensure_ascii=False)
    write_text(directory / run_names.DATA_REPORT, text + "\n")


def from_json(value: Mapping[str, Any]) -> DataReport:
    """The report that `write` wrote, also of another version."""
    return records.from_json(DataReport, value)
