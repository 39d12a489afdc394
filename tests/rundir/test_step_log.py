"""The rates and shares in a line of metrics.jsonl."""

import dataclasses
import types

import jax.numpy as jnp
import numpy as np
import pytest
import tiny

from jaxsft.data.pack.counts import BatchCounts
from jaxsft.kernels.loss.sums import Sums
from jaxsft.rundir import step_log
from jaxsft.training.flops import recomputed_flops, training_flops
from jaxsft.training.step import StepMetrics

COUNTS = dataclasses.replace(
    BatchCounts.of_segments(np.array([3, 20]), 32, {None}), cost=2.0, busiest_cost=2.5
)
SUPERVISED, PEAK = 11, 1e9


def lines(monkeypatch, remat, peak_flops, saves_until=None, steps=2, teacher=None, **changes):
    """Of steps, two to a line, that took four seconds together, after a save perhaps."""
    begin = [10.0] if saves_until is None else [10.0, saves_until]
    clock = iter([*begin, begin[-1] + 4])
    monkeypatch.setattr(step_log, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    log = step_log.StepLog(
        tiny.SETTINGS,
        remat=remat,
        every_steps=2,
        epochs_at=lambda step: 0.0,
        sources=(),
        peak_flops=peak_flops,
        teacher=teacher,
    )
    if saves_until is not None:
        log.restart_clock()
    values = {field.name: jnp.float32(1) for field in dataclasses.fields(Sums)}
    sums = Sums(**values | {"supervised_tokens": jnp.float32(SUPERVISED)} | changes)
    metrics = StepMetrics(sums, None, jnp.float32(1), jnp.float32(1), jnp.int32(0))
    for done in range(1, steps + 1):
        log.add(done, metrics, COUNTS, 0.0)
    return log.lines(flush=True)


def line(*given, **more):
    (found,) = lines(*given, **more)
    return found


def test_mfu_counts_what_is_needed_and_hfu_what_is_done(monkeypatch):
    needed = training_flops(tiny.SETTINGS, COUNTS, SUPERVISED)
    again = recomputed_flops(tiny.SETTINGS, COUNTS, "full")
    found = line(monkeypatch, "full", PEAK)
    assert found.mfu == pytest.approx(needed / 2 / PEAK)
    assert found.hfu == pytest.approx((needed + again) / 2 / PEAK)
    kept = line(monkeypatch, "none", PEAK)
    assert kept.hfu == kept.mfu == found.mfu


def test_a_teachers_forward_pass_is_done_but_not_needed(monkeypatch):
    """A third of what training it would need: two operations a weight and token of its six."""
    wider = dataclasses.replace(tiny.SETTINGS, embed_dim=64)
    found = line(monkeypatch, "none", PEAK, teacher=wider)
    forward = training_flops(wider, COUNTS, SUPERVISED) / 3
    assert found.hfu - found.mfu == pytest.approx(forward / 2 / PEAK)
    assert found.mfu == line(monkeypatch, "none", PEAK).mfu


def test_where_no_peak_is_known_there_is_no_share(monkeypatch):
    found = line(monkeypatch, "none", None)
    assert found.mfu is None and found.hfu is None


def test_rates_are_of_all_steps_of_a_line_over_their_time(monkeypatch):
    """Two steps of 23 tokens in rows of 32, in four seconds."""
    found = line(monkeypatch, "none", None)
    assert found.step_seconds == 2.0 and found.step == 2
    assert found.tokens == 46 and found.tokens_per_second == 46 / 4
    assert found.supervised_tokens_per_second == 2 * SUPERVISED / 4
    assert found.packing_efficiency == 23 / 32
    assert found.device_imbalance == 1.25


def test_lines_that_are_due_together_share_the_time(monkeypatch):
    """A device may have finished the last step when the line before it is read."""
    first, last = lines(monkeypatch, "none", None, steps=3)
    assert (first.step, last.step) == (2, 3)
    assert first.step_seconds == last.step_seconds == 4 / 3
    assert last.tokens_per_second == 23 / (4 / 3)


def test_a_save_between_two_lines_is_no_time_of_a_step(monkeypatch):
    found = line(monkeypatch, "none", None, saves_until=96.0)
    assert found.step_seconds == 2.0 and found.tokens_per_second == 46 / 4


def test_the_objective_is_shown_where_it_is_not_the_loss(monkeypatch):
    """Each over its own weight."""
    sums = {"nll": 6.0, "weight": 4.0, "objective": 5.0, "objective_weight": 2.0, "kl": 6.0}
    found = line(monkeypatch, "none", None, **{k: jnp.float32(v) for k, v in sums.items()})
    assert found.loss == 1.5 and found.others == {"objective": 2.5, "kl": 1.5}
    none = line(monkeypatch, "none", None, objective=None, objective_weight=None, kl=None)
    assert none.others == {}
    empty = line(monkeypatch, "none", None, objective_weight=jnp.float32(0), kl=None)
    assert empty.others == {"objective": None}
