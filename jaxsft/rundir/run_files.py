"""The files of a run directory, and what is said on the way."""

import contextlib
import dataclasses
import datetime
import json
from pathlib import Path
from typing import Any

import jax

from jaxsft.config import Config, to_dict
from jaxsft.data.report import data_report
from jaxsft.data.report.data_report import DataReport
from jaxsft.devices import distributed
from jaxsft.errors import CheckpointError
from jaxsft.files import run_names
from jaxsft.files.whole_files import write_text
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.saver import Saver
from jaxsft.rundir.step_figures import figures_of, is_of_steps
from jaxsft.rundir.workdir import Workdir
from jaxsft.rundir.writers import opening
from jaxsft.rundir.writers.history import History
from jaxsft.rundir.writers.shown import ShownLoss
from jaxsft.rundir.writers.writer import Writer, Writers
from jaxsft.terminal.console import Console
from jaxsft.terminal.redact import redacted, redacted_values


@dataclasses.dataclass(frozen=True)
class Command:
    """What a start was asked for, for those who read of it later."""

    line: str = ""
    file: str | None = None  # of its config, as the user named it
    base: Config | None = None  # of that file, before the command line changed any of it


@dataclasses.dataclass(frozen=True)
class Outputs:
    """Where a run writes to."""

    workdir: Workdir
    console: Console
    metrics: Writers
    samples: JsonLines
    store: CheckpointStore
    saver: Saver  # to the store

    def copy(self, now: bool) -> None:
        """Copies the files of a run in a bucket there: now, or if the last time is long ago.

        Raises:
            CheckpointError: `now`, and the bucket fails.
            ConfigError: another run has taken the directory.
        """
        self.workdir.refuse_lost(now)
        if now:
            self.workdir.copy()
        elif failed := self.workdir.copy_now_and_then():
            self.console.say("copy", f"warning: {failed}; tried again in a minute")


_UNKNOWN = Command()


def open_outputs(config: Config, workdir: Workdir, console: Console) -> Outputs:
    """Where a run writes to, read but not yet written.

    Raises:
        ConfigError: something is in the way.
    """
    first, policy = jax.process_index() == 0, config.checkpoint
    store = CheckpointStore(
        workdir.checkpoints,
        policy.keep,
        lambda line: console.say("save", line),
        policy.keep_every_steps,
    )
    history = History(workdir.files / run_names.METRICS, writes=first)
    lines = [figures_of(line) for line in history.read() if is_of_steps(line)]
    samples = JsonLines(workdir.files / run_names.SAMPLES, writes=first)
    others: tuple[Writer, ...] = (ShownLoss(console.evaluated),)
    if first:
        others += opening.opened(config, workdir, history, samples, console.say)
    return Outputs(
        workdir,
        console,
        Writers(history, others),
        samples,
        store,
        Saver(store, policy, console.say, lines[-1].checkpoint_failures if lines else 0),
    )


def with_date(config: Config, workdir: Workdir, store: CheckpointStore) -> Config:
    """The config with the date that a template writes: of the run's first start, so that a run that
    goes on after midnight has the same data."""
    if config.data.template_date is not None:
        return config
    date = distributed.of_first(lambda: _first_date(workdir, store))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, template_date=date))


def _first_date(workdir: Workdir, store: CheckpointStore) -> str:
    """From config.json or, if that was lost, from a checkpoint; today's for a new run."""
    data = (workdir.read_json(run_names.CONFIG) or {}).get("data")
    saved = data.get("template_date") if isinstance(data, dict) else None
    steps = [] if saved else store.steps()
    for step in reversed(steps):
        with contextlib.suppress(CheckpointError):  # judged when it is restored
            saved = saved or store.notes(step).template_date
    return saved or datetime.date.today().isoformat()


def write_inputs(
    config: Config, report: DataReport, workdir: Path, command: Command = _UNKNOWN
) -> None:
    """The config that the run really uses, the command with the config that it changed, and the
    data's report."""
    if jax.process_index() != 0:
        return
    _write_json(workdir / run_names.CONFIG, to_dict(config))
    base = None if command.base is None else to_dict(command.base)
    value = {"command": redacted(command.line), "file": command.file, "config": base}
    _write_json(workdir / run_names.COMMAND, value)
    data_report.write(workdir, report)


def _write_json(file: Path, value: dict[str, Any]) -> None:
    text = json.dumps(redacted_values(value), indent=2, ensure_ascii=False)
    write_text(file, text + "\n")
