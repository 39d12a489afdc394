"""What of a run needs a look: warnings of its data and of its steps, each with its remedy."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from jaxsft.report.run_read import RunFiles
from jaxsft.rundir.metric_lines import Line

# Shares of the time, or of the rows' places, from which on there is something to win.
_WAITING, _UNPACKED = 0.1, 0.75
_IMBALANCE = 1.25  # of the busiest device over the mean of all
_SHOWN = 5  # examples of a warning


@dataclasses.dataclass(frozen=True)
class Caution:
    text: str
    remedy: str = ""
    examples: Sequence[str] = ()


def cautions_of(run: RunFiles) -> list[Caution]:
    """What stopped the run first, then its steps, then its data."""
    return [*_of_files(run), *_of_end(run), *_of_steps(run), *_of_speed(run), *_of_data(run)]


def _of_files(run: RunFiles) -> Iterator[Caution]:
    for file in run.unreadable:
        yield Caution(
            f"{file} can't be read and is left out.", "A killed process or a failing disk did that."
        )


def _of_end(run: RunFiles) -> Iterator[Caution]:
    which = "A later start of the run" if run.finished else "The run"
    if run.error:
        yield Caution(
            f"{which} ended with an error: {run.error.message}",
            "Mend it and start the same command again: it goes on from the newest checkpoint.",
        )
    elif run.ended:
        yield Caution(
            f"{which} ended early: {run.ended}",
            "The same command goes on where it stopped.",
        )
    if run.summary.ended:
        yield Caution(f"It ended before its last step: {run.summary.ended}.")
    for change in run.summary.changes:
        yield Caution(
            f"{change.field} changed from {change.before!r} to {change.now!r} after step"
            f" {change.step}.",
            "What came of it is of neither value alone.",
        )


def _of_steps(run: RunFiles) -> Iterator[Caution]:
    newest = run.totals.newest
    if newest is not None and newest.skipped_steps:
        yield Caution(
            f"{newest.skipped_steps:,} steps were skipped: their gradients were not finite.",
            "odd_steps.jsonl names their rows; a lower config.optim.peak_lr, longer warm-up, or"
            " those rows left out.",
        )
    if newest is not None and newest.checkpoint_failures:
        yield Caution(
            f"{newest.checkpoint_failures:,} saves of a checkpoint failed, and others were made"
            " since.",
            "See that the place of the checkpoints has room and answers.",
        )
    if run.totals.without_loss:
        yield Caution("Some steps have no finite loss; the curves have gaps there.")
    leaps = [line for line in run.odd_steps if line.get("why") != "skipped"]
    if leaps:
        steps = ", ".join(f"{line['step']:,}" for line in leaps[:_SHOWN])
        yield Caution(
            f"The loss leapt at {len(leaps):,} steps (step {steps}"
            + (" ...)." if len(leaps) > _SHOWN else ")."),
            "odd_steps.jsonl names their rows: python tools/inspect_data.py shows them as trained.",
            [_rows_of(line) for line in leaps[:_SHOWN]],
        )


def _rows_of(odd: Line) -> str:
    rows = odd.get("examples") or ()
    named = [f"{Path(str(row.get('file'))).name} row {row.get('row')}" for row in rows[:_SHOWN]]
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"step {odd['step']:,}: {', '.join(named)}{more}"


def _of_speed(run: RunFiles) -> Iterator[Caution]:
    totals, newest = run.totals, run.totals.newest
    if newest is None or totals.lines < 2:
        return
    waiting = totals.wait_seconds / totals.step_seconds if totals.step_seconds else 0.0
    if waiting > _WAITING:
        yield Caution(
            f"{waiting:.0%} of the steps' time was waiting for data.",
            "Prepare the data beforehand (tools/prepare_data.py) on a disk that is near.",
        )
    packed = [v for line in run.steps if (v := line.packing_efficiency) is not None]
    if packed and sum(packed) / len(packed) < _UNPACKED:
        yield Caution(
            f"Only {sum(packed) / len(packed):.0%} of the places in a row hold tokens.",
            "Another config.data.sequence_length: tools/prepare_data.py shows the lengths.",
        )
    uneven = [v for line in run.steps if (v := line.device_imbalance) is not None]
    if uneven and sum(uneven) / len(uneven) > _IMBALANCE:
        yield Caution(
            f"The busiest device had {sum(uneven) / len(uneven):.2f} times the mean work.",
            "More rows a device: config.train.batch_size, or fewer replicas.",
        )


def _of_data(run: RunFiles) -> Iterator[Caution]:
    for warning in run.data_report.warnings:
        yield Caution(warning.text, warning.advice, warning.examples[:_SHOWN])
