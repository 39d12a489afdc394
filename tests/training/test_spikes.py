"""A loss that leaps above the usual ones."""

import math

import numpy as np
import pytest

from jaxsft.training.spikes import Spikes


def found_in(losses, deviations=8.0):
    spikes = Spikes(deviations)
    return [n for n, loss in enumerate(losses) if spikes.add(loss) is not None]


def falling(count, seed=0):
    rng = np.random.default_rng(seed)
    return (2 * np.exp(-np.arange(count) / 40) + 1 + rng.normal(0, 0.1, count)).tolist()


@pytest.mark.parametrize("seed", range(5))
def test_a_run_without_a_leap_has_none(seed):
    assert not found_in(falling(400, seed))


@pytest.mark.parametrize("at", [16, 20, 60, 399])
def test_a_leap_is_found_where_it_is(at):
    losses = falling(400)
    losses[at] += 6.0
    assert found_in(losses) == [at]


def test_too_few_steps_before_it_say_nothing_of_what_is_usual():
    losses = falling(20)
    losses[15] += 6.0  # eight are near, eight more are needed
    assert not found_in(losses)


def test_it_has_as_many_deviations_as_it_says():
    """Of normal losses; the median of the eight before has some of its own."""
    found = []
    for seed in range(40):
        spikes = Spikes(5.5)
        for loss in np.random.default_rng(seed).normal(2.0, 0.1, 72):
            spikes.add(loss)
        assert spikes.usual == pytest.approx(2.0, abs=0.15)
        found.append(spikes.add(2.0 + 0.9))
    assert np.median(found) == pytest.approx(9.0 / math.hypot(1, 0.43), rel=0.1)


def test_a_leap_is_found_while_losses_fall_fast():
    losses = [6 * 0.93**n for n in range(80)]
    losses[20] += 2.4
    losses[60] += 1.2
    assert found_in(losses) == [20, 60]


def test_losses_that_barely_vary_have_no_leap_by_rounding():
    assert not found_in([1.0] * 30 + [1.01, 1.0 + 1e-6, 1.07] + [1.0] * 30)
    assert found_in([1.0] * 30 + [1.1]) == [30]


def test_a_loss_that_is_not_finite_or_a_run_that_asks_for_none_has_no_spike():
    assert not found_in([1.0] * 30 + [math.nan, math.inf] + [1.0] * 9)
    assert not found_in([1.0] * 30 + [9.0], deviations=None)
