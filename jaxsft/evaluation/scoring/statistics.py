"""How sure a mean of scores is, and whether two ways to answer the same prompts differ.

Rates (scores of 0 and 1) have exact or closed forms; for other scores numbers are drawn, seeded.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

_LEVEL = 0.95
_Z = 1.959963984540054  # of the standard normal distribution, at 1 - (1 - _LEVEL) / 2
_DRAWS, _DRAWS_AT_ONCE = 10_000, 500
_SEED = 0


@dataclasses.dataclass(frozen=True)
class Interval:
    """In which a mean lies with 95 % confidence."""

    mean: float
    low: float
    high: float


def is_rate(scores: Sequence[float]) -> bool:
    return all(score in (0, 1) for score in scores)


def interval_of(scores: Sequence[float]) -> Interval:
    """Wilson's of a rate, that of a seeded bootstrap of other scores; there is at least one."""
    if is_rate(scores):
        return wilson(int(sum(scores)), len(scores))
    return _bootstrap(scores)


def wilson(successes: int, count: int) -> Interval:
    """Source: E. B. Wilson, J. Amer. Statist. Assoc. 22 (1927) 209: without continuity term."""
    rate, z2 = successes / count, _Z**2
    middle = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = _Z * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # At the ends it is that end, which rounding misses.
    low = 0.0 if successes == 0 else middle - half
    return Interval(rate, low, 1.0 if successes == count else middle + half)


def _bootstrap(scores: Sequence[float]) -> Interval:
    """The middle 95 % of the means of samples drawn from these with replacement."""
    known = np.asarray(scores, np.float64)
    means = _drawn(lambda random, size: known[random.integers(len(known), size=size)], len(known))
    low, high = np.quantile(means, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(known.mean()), float(low), float(high))


def interval_of_ratio(sums: Sequence[float], weights: Sequence[float]) -> Interval:
    """Of sums over the examples of a set by their weights, such as nats by targets: the middle 95 %
    of those of samples of the examples, drawn with replacement, with one seed."""
    both = np.asarray([sums, weights], np.float64)
    count, random = both.shape[1], np.random.default_rng(_SEED)
    drawn = []
    for first in range(0, _DRAWS, _DRAWS_AT_ONCE):
        times = random.multinomial(count, [1 / count] * count, min(_DRAWS_AT_ONCE, _DRAWS - first))
        drawn.append(np.divide(*(times @ both.T).T))
    low, high = np.quantile(np.concatenate(drawn), [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return Interval(float(np.divide(*both.sum(axis=1))), float(low), float(high))


def _drawn(
    sample: Callable[[np.random.Generator, tuple[int, int]], np.ndarray], count: int
) -> np.ndarray:
    """The means of `count` values each, drawn many times, with one seed."""
    random = np.random.default_rng(_SEED)
    sizes = [min(_DRAWS_AT_ONCE, _DRAWS - first) for first in range(0, _DRAWS, _DRAWS_AT_ONCE)]
    return np.concatenate([sample(random, (size, count)).mean(axis=1) for size in sizes])


def paired_p(one: Sequence[float], other: Sequence[float]) -> float:
    """How likely a difference at least as large as this is where there is none; two-sided.

    Where there is none, each prompt's two scores might as well be the other way round: of rates
    that is McNemar's exact test, of other scores it is tried, seeded.

    Args:
        one, other: the scores of the same prompts, in one order; at least one prompt.
    """
    if is_rate(one) and is_rate(other):
        pairs = [(a, b) for a, b in zip(one, other, strict=True) if a != b]
        return mcnemar(sum(a > b for a, b in pairs), sum(a < b for a, b in pairs))
    return exchanged(one, other)


def exchanged(one: Sequence[float], other: Sequence[float]) -> float:
    """The share of random exchanges within pairs that differ by as much as these do."""
    differences = np.asarray(other, np.float64) - np.asarray(one, np.float64)
    means = _drawn(lambda r, size: differences * r.choice([-1, 1], size=size), len(differences))
    # Equal sums in another order differ by rounding.
    as_large = np.abs(means) >= abs(differences.mean()) * (1 - 1e-9)
    return (1 + int(as_large.sum())) / (1 + _DRAWS)


def mcnemar(only_one: int, only_other: int) -> float:
    """Source: Q. McNemar, Psychometrika 12 (1947) 153, with the binomial distribution itself.

    Args:
        only_one, only_other: prompts that only one of the two ways answers rightly.
    """
    # A tenth of a second to import: only evaluations with scores need it.
    from scipy import special

    of_binomial: Callable[[float, int, float], float] = special.bdtr
    if only_one == only_other:
        return 1.0
    count = only_one + only_other
    return min(1.0, 2 * float(of_binomial(min(only_one, only_other), count, 0.5)))
