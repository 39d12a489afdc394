"""Skipped steps in a row end a run, wherever they come and however late they are looked at."""

import jax.numpy as jnp
import pytest

from jaxsft.errors import DIVERGED
from jaxsft.training.divergence import Divergence


def steps_until_diverged(skipped, limit=3):
    """Steps done when a run ends whose step n is skipped where skipped[n - 1] is 1; None: never."""
    divergence, count = Divergence(limit, 0), 0
    for done, one in enumerate(skipped, 1):
        count += one
        if divergence.add(done, jnp.int32(count)):
            return done
    return None


@pytest.mark.parametrize(
    ("skipped", "done"),
    [
        ([1, 1, 1, 0, 0], 4),  # seen a step later
        ([0, 1, 1, 0, 1, 1, 0], None),
        ([0, 1, 1, 0, 1, 1, 1, 1], 8),
        ([1, 1, 1], None),  # which the end of the run sees
    ],
)
def test_three_skipped_steps_in_a_row_end_a_run(skipped, done):
    assert steps_until_diverged(skipped) == done


def test_the_last_step_counts_alone():
    divergence = Divergence(3, skipped=5)
    divergence.add(11, jnp.int32(5))
    assert not divergence.newest_was_skipped()
    divergence.add(12, jnp.int32(6))
    assert divergence.newest_was_skipped()
    error = divergence.error()
    assert error.exit_code == DIVERGED == 71 and error.agreed
    assert "step 12 was skipped" in str(error) and "6 of 12 steps" in str(error)


def test_a_save_that_is_due_waits_for_a_step_that_was_not_skipped():
    """1  2  3  4  5  6  7"""
    skipped, due, saved = [0, 1, 1, 0, 0, 1, 0], {2, 5, 6}, []
    divergence, count = Divergence(3, 0), 0
    for done, one in enumerate(skipped, 1):
        count += one
        divergence.add(done, jnp.int32(count))
        saved += [done] if divergence.saves(done in due) else []
    assert saved == [4, 5, 7]


def test_the_message_names_the_steps():
    divergence = Divergence(2, 0)
    for done, count in enumerate((0, 1, 2), 1):
        divergence.add(done, jnp.int32(count))
    assert "steps 2 to 3 were skipped" in str(divergence.error())
