"""A finished run on a share of the rows, read as a point of a curve; and the curve as a table."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

from jaxsft.config import Config
from jaxsft.evaluation import held_out_examples
from jaxsft.evaluation.data_curve import Curve, Point
from jaxsft.evaluation.scoring.table import AFTER, Rate, ScoreRow
from jaxsft.files import records, run_names
from jaxsft.report import summary as summary_file
from jaxsft.rundir import identity
from jaxsft.rundir.metric_lines import JsonLines
from jaxsft.rundir.sample import Sample


def is_finished(directory: Path) -> bool:
    return (directory / run_names.SUMMARY).is_file()


def point_of(directory: Path, share: float, config: Config) -> Point:
    """
    Args:
        config: of its run.

    Raises:
        CheckpointError: its last checkpoint can't be read.
    """
    found = summary_file.from_json(json.loads((directory / run_names.SUMMARY).read_text("utf-8")))
    held_out = held_out_examples.of_run(str(directory), found.exported_step)
    lines = JsonLines(directory / run_names.SAMPLES).read()
    samples = [records.from_json(Sample, line) for line in lines]
    train = found.data.get("train")
    return Point(
        share=share,
        directory=directory.name,
        rows=0 if train is None else train.rows_out,
        steps=found.steps or 0,
        epochs=found.epochs or 0.0,
        seconds=found.wall_seconds or 0.0,
        before=found.before,
        after=found.after,
        scores=found.scores,
        answers=[
            dataclasses.replace(one, messages=(), tools=(), tool_calls=(), reference_tool_calls=())
            for one in samples
            if one.phase == AFTER
        ],
        losses=held_out.sets,
        held_out=held_out.fingerprints,
        identity=json.loads(json.dumps(identity.identity(config))),
    )


def head(curve: Curve) -> tuple[str, ...]:
    last = curve.points[-1]
    return ("", "rows", "steps", *(f"{n}/loss" for n in last.losses), *_figures(last.scores))


def _figures(scores: Sequence[ScoreRow]) -> list[str]:
    return [f"{row.source}/{row.scorer}" for row in scores]


def rows(curve: Curve) -> list[tuple[str, ...]]:
    """A row for each point, after one of the untrained model."""
    last = curve.points[-1]
    losses = [_known(last.before.get(f"eval/{name}/loss")) for name in last.losses]
    rates = [_rate(row.rates.get("before")) for row in last.scores]
    table = [("untrained", "0", "0", *losses, *rates)]
    for point in curve.points:
        losses = []
        for name in last.losses:
            loss = point.loss(name) if name in point.losses else None
            words = "-" if loss is None else f"{loss.mean:.4f} ({loss.low:.3f} to {loss.high:.3f})"
            losses.append(words)
        of = {row.figure: row.rates.get(AFTER) for row in point.scores}
        rates = [_rate(of.get(row.figure)) for row in last.scores]
        table.append(
            (f"{100 * point.share:.4g} %", f"{point.rows:,}", f"{point.steps:,}", *losses, *rates)
        )
    return table


def _known(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _rate(rate: Rate | None) -> str:
    if rate is None or rate.mean is None or rate.low is None or rate.high is None:
        return "-"
    if 0 <= rate.low and rate.high <= 1:
        return f"{rate.mean:.1%} ({100 * rate.low:.0f} to {100 * rate.high:.0f})"
    return f"{rate.mean:.3g} ({rate.low:.2g} to {rate.high:.2g})"
