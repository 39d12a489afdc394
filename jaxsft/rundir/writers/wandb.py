"""The figures of a run at Weights & Biases, or in its files where WANDB_MODE=offline says so."""

import dataclasses
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxsft.errors import ConfigError
from jaxsft.files import records, run_names
from jaxsft.files.whole_files import write_text
from jaxsft.rundir.metric_lines import Line
from jaxsft.rundir.step_figures import is_of_steps
from jaxsft.rundir.writers.answers import COLUMNS, rows_of

_FINISH_SECONDS = 30.0  # that it may take to send what is left, at the end
_INIT_SECONDS = 60.0
_ONLINE = "online"


@dataclasses.dataclass(frozen=True)
class Sent:
    """What W&B has of a run, for its later starts.

    Attributes:
        id: of the run there.
        steps: the newest whose figures it has.
        evaluated: the newest whose evaluation it has.
    """

    id: str = ""
    steps: int = -1
    evaluated: int = -1


def check() -> None:
    """Refuses what would have it ask for a key in the middle of a run.

    Raises:
        ConfigError: it is to send figures, and nobody has logged in.
    """
    import wandb

    wandb.setup(_settings())
    mode = os.environ.get("WANDB_MODE") or _ONLINE
    if mode == _ONLINE and not wandb.login(prompt=False, verify=False):
        raise ConfigError(
            "config.log.writers: wandb: this machine has no key of W&B; run `wandb login`, set"
            " WANDB_API_KEY, or keep the figures here with WANDB_MODE=offline"
        )


class WeightsAndBiases:
    """One run there for all starts of a run.

    Steps that it has are not sent again; `step` is the axis of its curves.

    Args:
        files: local directory of the run.
        name: of the run, for W&B's list.
        config: what the run uses, as JSON has it.
    """

    name = "wandb"
    remedy = (
        "WANDB_MODE=offline keeps its figures in the run's directory, `wandb sync` sends them later"
    )

    def __init__(self, files: Path, name: str, config: dict[str, Any]):
        self._files = files
        self._name = name
        self._config = config
        self._run: Any = None
        self._sent = Sent()

    def begin(self, step: int | None, there: Sequence[Line]) -> str:
        import wandb

        del there  # what was sent says it
        if self._run is not None:
            return f"goes on from step {step}"  # what it has stays
        sent = None if step is None else _read(self._files / run_names.WANDB_RUN)
        self._sent = sent or Sent(id=secrets.token_hex(4))
        self._write()
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or "jaxsft",
            id=self._sent.id,
            resume="allow",
            name=os.environ.get("WANDB_NAME") or self._name,
            dir=str(self._files),
            config=self._config,
            settings=_settings(),
        )
        self._run.define_metric("*", step_metric="step")
        if self._run.offline:
            return f"run {self._sent.id}; to send it: wandb sync {Path(self._run.dir).parent}"
        return f"run {self._sent.id}: {self._run.url}"

    def append(self, line: Line, samples: Sequence[dict[str, Any]]) -> None:
        import wandb

        step = line["step"]
        values = {key: value for key, value in line.items() if value is not None}
        if is_of_steps(line):
            if step <= self._sent.steps:
                return
            # Its own count of steps: what it has, though the run's directory was lost, it drops.
            self._run.log(values, step=step)
            self._sent = dataclasses.replace(self._sent, steps=step)
        else:
            if step <= self._sent.evaluated:
                return
            if samples:
                values["samples"] = wandb.Table(columns=[*COLUMNS], data=rows_of(samples))
            # Another start may have sent the step: what goes to a row before its newest is lost.
            self._run.log(values, step=max(step, self._run.step))
            self._sent = dataclasses.replace(self._sent, evaluated=step)
        self._write()

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def abandon(self) -> None:
        """Else it tries again when Python ends."""
        import wandb

        wandb.teardown()

    def _write(self) -> None:
        text = json.dumps(records.to_json(self._sent)) + "\n"
        write_text(self._files / run_names.WANDB_RUN, text)


def _read(path: Path) -> Sent | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    sent = records.from_json(Sent, value) if isinstance(value, dict) else Sent()
    return sent if sent.id else None


def _settings() -> Any:
    """It neither speaks, nor reads what is said, nor looks at the sources and the command line."""
    import wandb

    return wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        disable_job_creation=True,
        x_disable_meta=True,
        init_timeout=_INIT_SECONDS,
        finish_timeout=_FINISH_SECONDS,
    )
