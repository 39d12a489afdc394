"""What the samples of a run say together: each score before and after, how sure it is, and whether
they differ. All of it from samples.jsonl alone."""

import dataclasses
from collections.abc import Mapping, Sequence

from jaxsft.evaluation.scoring.statistics import interval_of, paired_p
from jaxsft.rundir.sample import Sample, from_older

AFTER = "after"
DURING = "during"  # answers on the way, which are no end to compare


@dataclasses.dataclass(frozen=True)
class Rate:
    """The mean of the scores of a set's answers, in a 95 % interval; None: there is no score."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    count: int = 0  # answers with a score
    failed: int = 0  # without


@dataclasses.dataclass(frozen=True)
class ScoreRow:
    """One scorer on one set.

    Attributes:
        rates: by how the set was asked, a phase of Sample.
        p_values: by phase before training, that of `after` being no other than it; on the prompts
            that have both scores.
    """

    source: str = ""
    scorer: str = ""
    rates: Mapping[str, Rate] = dataclasses.field(default_factory=dict)
    p_values: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def figure(self) -> str:
        return f"eval/{self.source}/{self.scorer}"


def rates_of(samples: Sequence[Sample]) -> dict[tuple[str, str], Rate]:
    """By set and scorer, of answers to one way of asking."""
    found = {}
    for source, scorer in _columns(samples):
        scores = [s.scores[scorer] for s in samples if s.source == source and scorer in s.scores]
        known = [float(score) for score in scores if score is not None]
        rate = Rate(failed=len(scores) - len(known))
        if known:
            mean = interval_of(known)
            rate = Rate(mean.mean, mean.low, mean.high, len(known), rate.failed)
        found[source, scorer] = rate
    return found


def table(samples: Sequence[Sample]) -> list[ScoreRow]:
    """A row for each set and scorer, in the order of the samples."""
    samples = [from_older(sample) for sample in samples]
    phases = dict.fromkeys(sample.phase for sample in samples if sample.phase != DURING)
    of = {phase: [s for s in samples if s.phase == phase] for phase in phases}
    rates = {phase: rates_of(theirs) for phase, theirs in of.items()}
    rows = []
    for column in _columns([sample for sample in samples if sample.phase != DURING]):
        p_values = {
            phase: p
            for phase in phases
            if phase != AFTER and (p := _p_value(of[phase], of.get(AFTER, ()), column)) is not None
        }
        found = {phase: rates[phase][column] for phase in phases if column in rates[phase]}
        rows.append(ScoreRow(*column, found, p_values))
    return rows


def _columns(samples: Sequence[Sample]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((s.source or "", name) for s in samples for name in s.scores))


def _p_value(
    before: Sequence[Sample], after: Sequence[Sample], column: tuple[str, str]
) -> float | None:
    one, other = _by_prompt(before, column), _by_prompt(after, column)
    both = [key for key in one if key in other]
    return paired_p([one[key] for key in both], [other[key] for key in both]) if both else None


def _by_prompt(samples: Sequence[Sample], column: tuple[str, str]) -> dict[object, float]:
    source, scorer = column
    return {
        (s.row, s.prompt): float(score)
        for s in samples
        if s.source == source and (score := s.scores.get(scorer)) is not None
    }


def said(row: ScoreRow) -> str:
    """`heldout exact 12.5 % -> 61.0 % of 64 (95 % 49 to 72), p = 1e-6`, as far as it is known."""
    before, after = row.rates.get("before", Rate()), row.rates.get(AFTER, Rate())
    percent = all(0 <= (rate.mean or 0) <= 1 for rate in row.rates.values())
    words = f"{row.source} {row.scorer} "
    words += " -> ".join(_figure(r.mean, percent) for r in (before, after) if r.mean is not None)
    known = after if after.mean is not None else before
    if known.mean is None or known.low is None or known.high is None:
        return f"{row.source} {row.scorer}: no answer has a score"
    low, high = (f"{100 * end:.0f}" if percent else f"{end:.3g}" for end in (known.low, known.high))
    words += f" of {known.count} (95 % {low} to {high})"
    if (p := row.p_values.get("before")) is not None:
        words += f", p = {p:.1g}".replace("e-0", "e-") if p > 1e-300 else ", p < 1e-300"
    failed = sum(rate.failed for rate in row.rates.values())
    return words + (f"; {failed} answers have no score" if failed else "")


def _figure(value: float | None, percent: bool) -> str:
    assert value is not None
    return f"{value:.1%}".replace("%", " %") if percent else f"{value:.4g}"
