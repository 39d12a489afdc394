"""Would more data help, or better data? What runs on shares of the rows say together.

The rules by which it is said are in `said`, and in docs/evaluation.md in words.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxsft.config import Config
from jaxsft.errors import ConfigError
from jaxsft.evaluation.held_out_examples import ExampleSums
from jaxsft.evaluation.scoring.statistics import Interval, interval_of_ratio, paired_p
from jaxsft.evaluation.scoring.table import AFTER, ScoreRow
from jaxsft.files import records
from jaxsft.rundir.sample import Sample

FEW_EXAMPLES = 20  # held out, from which on anything is said
LEAST_GAIN = 0.01  # of the loss, in a doubling: less is called flat
SLOWS = 0.5  # times the gain of the doubling before


@dataclasses.dataclass(frozen=True)
class Point:
    """A run on a share of the rows, as curve.json has it."""

    share: float = 0.0
    directory: str = ""
    rows: int = 0
    steps: int = 0
    epochs: float = 0.0
    seconds: float = 0.0
    before: Mapping[str, float] = dataclasses.field(default_factory=dict)  # figures
    after: Mapping[str, float] = dataclasses.field(default_factory=dict)
    scores: Sequence[ScoreRow] = ()
    answers: Sequence[Sample] = ()  # after training, without what was asked
    losses: Mapping[str, ExampleSums] = dataclasses.field(default_factory=dict)  # by set
    held_out: Mapping[str, str] = dataclasses.field(default_factory=dict)  # fingerprints
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of its run

    def loss(self, name: str) -> Interval:
        return interval_of_ratio(self.losses[name].nll, self.losses[name].weights)


@dataclasses.dataclass(frozen=True)
class Gain:
    """By how much the loss on a set is lower with more of the rows, on the same examples."""

    set: str = ""
    from_share: float = 0.0
    to_share: float = 0.0
    mean: float = 0.0  # nats per target
    low: float = 0.0
    high: float = 0.0

    @property
    def of_a_doubling(self) -> float:
        return self.mean / math.log2(self.to_share / self.from_share)


@dataclasses.dataclass(frozen=True)
class Curve:
    """curve.json."""

    points: Sequence[Point] = ()
    gains: Sequence[Gain] = ()
    says: Sequence[str] = ()

    def point(self, share: float) -> Point | None:
        return next((one for one in self.points if one.share == share), None)


def directory_of(share: float) -> str:
    return f"share_{100 * share:g}"


def shares_of(texts: Sequence[str]) -> list[float]:
    """
    Raises:
        ConfigError: fewer than two, not rising, or no shares.
    """
    try:
        shares = [float(text) for text in texts]
    except ValueError:
        shares = []
    rising = all(a < b for a, b in zip(shares, shares[1:], strict=False))
    if len(shares) < 2 or not rising or not 0 < shares[0] < shares[-1] <= 1:
        raise ConfigError(
            f"--shares={','.join(texts)}: expected two shares or more, rising, the last 1 at most,"
            " such as 0.25,0.5,1"
        )
    return shares


def config_of(config: Config, share: float) -> Config:
    """The run of a point: as often over its rows as the whole run over all of them.

    So a smaller share has fewer steps, and the schedule the same shape. Nothing is exported, and
    what is measured of the untrained model alone is left out: it is the same for all.

    Raises:
        ConfigError: nothing is held out to measure on.
    """
    if not config.data.eval and config.data.holdout is None:
        raise ConfigError(
            "config.data.eval=(), config.data.holdout=None: the curve is of the loss on held-out"
            " data, and there are none"
        )
    own = (config.data.share or 1.0) * share
    data = dataclasses.replace(config.data, share=None if own == 1.0 else own)
    train, optim = config.train, config.optim
    if train.steps is not None:
        train = dataclasses.replace(train, steps=max(1, round(share * train.steps)))
    if optim.warmup_steps is not None:
        optim = dataclasses.replace(optim, warmup_steps=round(share * optim.warmup_steps))
    return dataclasses.replace(
        config,
        data=data,
        train=train,
        optim=optim,
        checkpoint=dataclasses.replace(config.checkpoint, export=False, merge=False),
        eval=dataclasses.replace(config.eval, instruction=None, shots=0),
    )


def read(file: Path) -> Curve:
    """
    Raises:
        ConfigError: it is no curve.
    """
    try:
        return records.read(Curve, file)
    except (ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{file}: can't be read: {error}; move it away") from None


def of_points(points: Sequence[Point]) -> Curve:
    """With what the points say together, in the order of their shares."""
    points = sorted(points, key=lambda point: point.share)
    gains = [gain for a, b in zip(points, points[1:], strict=False) for gain in _gains(a, b)]
    return Curve(points, gains, said(points, gains))


def _gains(less: Point, more: Point) -> list[Gain]:
    found = []
    for name, theirs in more.losses.items():
        ours = less.losses.get(name)
        if ours is None or less.held_out.get(name) != more.held_out.get(name):
            continue
        differences = [a - b for a, b in zip(ours.nll, theirs.nll, strict=True)]
        mean = interval_of_ratio(differences, theirs.weights)
        found.append(Gain(name, less.share, more.share, mean.mean, mean.low, mean.high))
    return found


def said(points: Sequence[Point], gains: Sequence[Gain]) -> list[str]:
    """A sentence for each set, and one for each score."""
    if len(points) < 2:
        return []
    last = points[-1]
    lines = []
    for name in last.losses:
        of_set = [gain for gain in gains if gain.set == name]
        if of_set:
            lines.append(_of_losses(name, last, of_set))
    lines += [line for row in last.scores if (line := _of_scores(row, points)) is not None]
    return lines


def _of_losses(name: str, last: Point, gains: Sequence[Gain]) -> str:
    newest, loss = gains[-1], last.loss(name).mean
    count = len(last.losses[name].nll)
    step = f"from {100 * newest.from_share:.4g} to {100 * newest.to_share:.4g} % of the rows"
    begin = (
        f"{name}: {step} the held-out loss goes from {loss + newest.mean:.4f} to {loss:.4f}"
        f" (a gain of {newest.mean:.4f}, 95 % {newest.low:.4f} to {newest.high:.4f}, on the same"
        f" {count:,} examples)"
    )
    if count < FEW_EXAMPLES:
        return f"{begin}: too few examples to say whether more rows help; hold out more"
    if newest.high < 0:
        return (
            f"{begin}: more of these rows make it worse: look for rows that are wrong or of another"
            " kind, or train fewer epochs"
        )
    if newest.low <= 0:
        return (
            f"{begin}: flat, as far as these examples can show: better or other rows, rather than"
            " more of the same kind"
        )
    share = newest.of_a_doubling / loss if loss > 0 else 0.0
    if share < LEAST_GAIN:
        return (
            f"{begin}: nearly flat, {share:.1%} for twice the rows: better or other rows, rather"
            " than more of the same kind"
        )
    slows = len(gains) > 1 and newest.of_a_doubling < SLOWS * gains[-2].of_a_doubling
    ending = ", though each doubling gives less than half of the one before" if slows else ""
    return f"{begin}: still falling: more rows of the same kind likely help{ending}"


def _of_scores(row: ScoreRow, points: Sequence[Point]) -> str | None:
    """How a score went from point to point, and whether the last two differ."""
    means = []
    for point in points:
        rates = [one.rates.get(AFTER) for one in point.scores if one.figure == row.figure]
        mean = rates[0].mean if rates and rates[0] is not None else None
        means.append("-" if mean is None else f"{mean:.4g}")
    if means[-1] == "-":
        return None
    less, more = (_of_answers(point, row) for point in points[-2:])
    both = [key for key in more if key in less]
    line = f"{row.source} {row.scorer}: {' -> '.join(means)}"
    if not both:
        return line
    p = paired_p([less[key] for key in both], [more[key] for key in both])
    return f"{line} (the last two differ on {len(both)} prompts with p = {p:.2g})"


def _of_answers(point: Point, row: ScoreRow) -> dict[object, float]:
    return {
        (sample.row, sample.prompt): float(score)
        for sample in point.answers
        if sample.source == row.source and (score := sample.scores.get(row.scorer)) is not None
    }
