"""How sure scores are: against what others published, and by how often an interval holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from jaxsft.evaluation.scoring import statistics
from jaxsft.evaluation.scoring.statistics import interval_of, mcnemar, paired_p, wilson


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # R. G. Newcombe, Statistics in Medicine 17 (1998) 857, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)]
    + [(1, 29, 0.0061, 0.1718)],
)
def test_published_intervals(successes, count, low, high):
    found = wilson(successes, count)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_and_tests_are_scipys(pair):
    successes, count = pair
    theirs = stats.binomtest(successes, count)
    interval = theirs.proportion_ci(0.95, method="wilson")
    found = wilson(successes, count)
    assert found.mean == successes / count
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert mcnemar(successes, count - successes) == pytest.approx(theirs.pvalue, rel=1e-9)


def test_a_known_test_of_pairs():
    """The table 101, 121, 59, 33 of many textbooks, whose chi-squared is 21.4; exact by scipy."""
    before = [1.0] * (101 + 121) + [0.0] * (59 + 33)
    after = [1.0] * 101 + [0.0] * 121 + [1.0] * 59 + [0.0] * 33
    assert paired_p(before, after) == pytest.approx(stats.binomtest(59, 180).pvalue)
    assert paired_p(after, before) == paired_p(before, after)
    assert paired_p(before, before) == 1.0


@pytest.mark.parametrize("rate", [0.03, 0.2, 0.5, 0.9])
def test_the_rate_lies_in_19_of_20_intervals(rate):
    """Of a rate's exact distribution, no draws: Wilson's is near its level, never far below."""
    for count in (24, 64, 256):
        chances = stats.binom.pmf(np.arange(count + 1), count, rate)
        held = [wilson(k, count).low <= rate <= wilson(k, count).high for k in range(count + 1)]
        assert 0.915 < float(chances @ held) < 0.99


def test_the_mean_lies_in_19_of_20_intervals_of_other_scores(monkeypatch):
    monkeypatch.setattr(statistics, "_DRAWS", 1000)
    random = np.random.default_rng(1)
    held = []
    for _ in range(400):
        found = interval_of(random.beta(2.0, 5.0, size=64).tolist())
        held.append(found.low <= 2 / 7 <= found.high)
    assert 0.91 < np.mean(held) < 0.98


def test_where_nothing_changed_one_test_in_20_says_that_it_did(monkeypatch):
    monkeypatch.setattr(statistics, "_DRAWS", 1000)
    random = np.random.default_rng(2)
    pairs = [random.normal(size=(2, 64)) for _ in range(400)]
    found = [paired_p(one.tolist(), other.tolist()) for one, other in pairs]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09
    assert paired_p(*(pairs[0] + [[0.0], [2.0]]).tolist()) < 1e-3


def test_exchanging_pairs_of_rates_is_mcnemars_test():
    before, after = [1.0] * 6 + [0.0] * 30, [0.0] * 4 + [1.0] * 2 + [1.0] * 14 + [0.0] * 16
    assert statistics.exchanged(before, after) == pytest.approx(mcnemar(4, 14), abs=0.01)
    assert statistics.exchanged(before, before) == 1.0
    assert statistics.exchanged([0.0, 0.0], [1.5, 2.0]) == pytest.approx(0.5, abs=0.02)  # of four


def test_the_same_scores_have_the_same_figures():
    scores = np.random.default_rng(3).random(50).tolist()
    assert interval_of(scores) == interval_of(scores)
    assert paired_p(scores, scores[::-1]) == paired_p(scores, scores[::-1])
    alone = interval_of([0.5])
    assert (alone.mean, alone.low, alone.high) == (0.5, 0.5, 0.5)
