"""The files of a run directory, and what is said on the way."""

import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax

from jaxsft import distributed
from jaxsft.checkpoint import CheckpointStore
from jaxsft.config import Config
from jaxsft.console import Console
from jaxsft.metrics import JsonLines
from jaxsft.redact import redacted_values
from jaxsft.workdir import Workdir

CONFIG = "config.json"
DATA_REPORT = "data_report.json"


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a run writes to."""

    workdir: Workdir
    console: Console
    metrics: JsonLines
    samples: JsonLines
    store: CheckpointStore

    def copy(self, now: bool) -> None:
        """Copies the files of a run in a bucket there: now, or if the last time is long ago.

        Raises:
            CheckpointError: `now`, and the bucket fails.
        """
        if now:
            self.workdir.copy()
        elif failed := self.workdir.copy_now_and_then():
            self.console.say("copy", f"warning: {failed}; tried again in a minute")


def open_outputs(config: Config, workdir: Workdir, console: Console) -> Outputs:
    first = jax.process_index() == 0
    return Outputs(
        workdir,
        console,
        JsonLines(workdir.files / "metrics.jsonl", writes=first),
        JsonLines(workdir.files / "samples.jsonl", writes=first),
        CheckpointStore(workdir.checkpoints, config.checkpoint.keep),
    )


def with_date(config: Config, workdir: Path) -> Config:
    """The config with the date that a template writes: of the run's first start, so that a run that
    goes on after midnight has the same data."""
    if config.data.template_date is not None:
        return config
    saved = workdir / CONFIG
    date = json.loads(saved.read_text())["data"].get("template_date") if saved.is_file() else None
    date = distributed.gather({"date": date or datetime.date.today().isoformat()})[0]["date"]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, template_date=date))


def write_inputs(config: Config, data_report: dict[str, Any], workdir: Path) -> None:
    """config.json: what the run really uses, after all overrides; and data_report.json."""
    if jax.process_index() == 0:
        for name, value in ((CONFIG, dataclasses.asdict(config)), (DATA_REPORT, data_report)):
            text = json.dumps(redacted_values(value), indent=2, ensure_ascii=False)
            (workdir / name).write_text(text + "\n", encoding="utf-8")
