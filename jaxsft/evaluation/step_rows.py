"""Which rows the steps of a run took: those of odd steps with their losses, by option all.

A step is odd that was skipped, or whose loss leapt. It is looked at one step late, so that no step
waits for it. B: batch row, M: segment of a row.
"""

import dataclasses
import math
from pathlib import Path

import jax
import numpy as np

from jaxsft.config import Config
from jaxsft.devices import progress
from jaxsft.files import run_names
from jaxsft.rundir.metric_lines import JsonLines, Line, finite
from jaxsft.terminal.console import Console
from jaxsft.training.example_losses import ExampleLosses
from jaxsft.training.job import Job
from jaxsft.training.spikes import Spikes
from jaxsft.training.step import StepMetrics, TrainState

_NAMED = 4  # rows in a line of the terminal
_MOST = 50  # odd steps whose rows are told: a run where all are odd must not spend its time on them


@dataclasses.dataclass(frozen=True)
class _Waiting:
    done: int  # steps completed with this one
    skipped: jax.Array  # of the run so far
    nll: jax.Array
    weight: jax.Array


class StepRows:
    """Keeps `odd_steps.jsonl` and, by option, `examples.jsonl`.

    Args:
        files: the directory of the run.
        first: the step that it begins with, of whose state `skipped` were left out.
    """

    def __init__(
        self, config: Config, job: Job, files: Path, console: Console, first: int, skipped: int
    ):
        writes = jax.process_index() == 0
        self._config, self._job, self._console = config, job, console
        self._odd = JsonLines(files / run_names.ODD_STEPS, writes)
        self._all = JsonLines(files / run_names.EXAMPLES, writes)
        for lines in (self._odd, self._all):
            lines.keep(lambda line: line["step"] <= first)
        self._spikes = Spikes(config.log.spike_deviations)
        self._skipped = skipped
        self._told = 0
        self._losses: ExampleLosses | None = None
        self._waiting: list[_Waiting] = []

    def after(self, done: int, metrics: StepMetrics, state: TrainState, flush: bool) -> None:
        """Step `done` is dispatched; looks at the one before, with `flush` at this one too.

        Args:
            state: after step `done`; by it the losses of an odd step's examples are measured, so
                by up to two updates more than the step itself saw.
        """
        if self._config.log.examples:
            rows = [self._row(example) for example in self._examples(done)]
            self._all.append({"step": done, "examples": rows})
        if not flush:
            self._look(state)
        self._waiting.append(
            _Waiting(done, metrics.skipped_steps, metrics.sums.nll, metrics.sums.weight)
        )
        if flush:
            self._look(state)

    def _look(self, state: TrainState) -> None:
        for one in self._waiting:
            count, nll, weight = (
                float(v) for v in jax.device_get((one.skipped, one.nll, one.weight))
            )
            loss = nll / weight if weight else math.nan
            usual, above = self._spikes.usual, self._spikes.add(loss)
            if count > self._skipped:
                what = "no token had weight" if not weight else "loss or gradients were not finite"
                self._tell(one.done, "skipped", f"was skipped: {what}", loss, usual, state)
            elif above is not None:
                said = f"has loss {loss:.4f}, {above:.0f} deviations above the usual {usual:.4f}"
                self._tell(one.done, "spike", said, loss, usual, state)
            self._skipped = int(count)
        self._waiting.clear()

    def _tell(
        self, done: int, why: str, said: str, loss: float, usual: float | None, state: TrainState
    ) -> None:
        self._told += 1
        if self._told > _MOST:
            return
        rows = self._rows_with_losses(done, state)
        line = {"step": done, "why": why, "loss": finite(loss), "usual_loss": usual}
        self._odd.append(line | {"examples": rows})
        last = " (the last step that is told)" if self._told == _MOST else ""
        self._console.say(
            "odd",
            f"step {done} {said}; {_said(rows)}; all of them in {run_names.ODD_STEPS}{last}",
        )

    @progress.during("measuring the rows of an odd step")
    def _rows_with_losses(self, done: int, state: TrainState) -> list[Line]:
        """The highest first, before them those that are not finite (None); those without a
        supervised token last, without a loss."""
        self._losses = self._losses or ExampleLosses(self._config, self._job)
        batches = self._job.batches
        losses_BM = self._losses.of(state.params, batches.batch(done - 1))
        pairs = [
            (example, loss)
            for examples, losses_M in zip(batches.members(done - 1), losses_BM, strict=True)
            for example, loss in zip(examples.tolist(), losses_M, strict=False)
        ]
        with_loss = [(example, float(loss)) for example, loss in pairs if loss is not np.ma.masked]
        with_loss.sort(key=lambda pair: -pair[1] if math.isfinite(pair[1]) else -math.inf)
        found = [self._row(example) | {"loss": finite(loss)} for example, loss in with_loss]
        return found + [self._row(example) for example, loss in pairs if loss is np.ma.masked]

    def _examples(self, done: int) -> list[int]:
        return sorted(np.concatenate(self._job.batches.members(done - 1)).tolist())

    def _row(self, example: int) -> Line:
        file, row = self._job.batches.source_of(example)
        return {"file": file, "row": row}


def _said(rows: list[Line]) -> str:
    """What of the examples' losses fits a line."""
    infinite = [row for row in rows if row.get("loss", 0) is None]
    if infinite:
        named = ", ".join(_name(row) for row in infinite[:_NAMED])
        more = ", ..." if len(infinite) > _NAMED else ""
        return f"not finite for {len(infinite)} of its {len(rows)} examples ({named}{more})"
    worst = [f"{_name(row)} {row['loss']:.4f}" for row in rows[:_NAMED] if "loss" in row]
    return f"highest losses of its {len(rows)} examples: {'; '.join(worst) or 'none'}"


def _name(row: Line) -> str:
    return f"{Path(row['file']).name} row {row['row']}"
