"""The steps of a run: every row once an epoch, by step number alone, mixtures included."""

import types
from collections import Counter
from typing import Any

import numpy as np
import pytest

from jaxsft.config import Source, Train
from jaxsft.data.pack import packing
from jaxsft.data.pack.epochs import Epochs, epochs_of, num_steps
from jaxsft.data.pack.packing import PADDING_ROW

LENGTHS = np.random.default_rng(0).integers(2, 30, 90)
SOURCE_OF = np.repeat([0, 1, 2], [50, 30, 10])


def epochs(wanted=(50, 30, 10), batch_size=4):
    return Epochs(LENGTHS, SOURCE_OF, wanted, sequence_length=32, batch_size=batch_size, seed=3)


def seen(source, steps):
    """How often each example stands in the rows of these steps."""
    counts: Counter[int] = Counter()
    for step in steps:
        plan, rows = source.rows(step)
        for row in rows[rows != PADDING_ROW]:
            counts.update(plan.row(row).tolist())
    return counts


def test_an_epoch_is_every_example_once_and_its_last_batch_is_filled_up():
    source = epochs()
    per_epoch = source.steps_in(1)
    assert source.num_rows % 4 and per_epoch == -(-source.num_rows // 4)
    for epoch in range(3):
        steps = range(epoch * per_epoch, (epoch + 1) * per_epoch)
        assert seen(source, steps) == dict.fromkeys(range(90), 1)
        padding = sum((source.rows(step)[1] == PADDING_ROW).sum() for step in steps)
        assert padding == -source.num_rows % 4


def test_a_mixture_is_exact_in_each_epoch_though_their_steps_differ():
    wanted = (20, 60, 5)
    source = epochs(wanted)
    bounds = [source.steps_in(n) for n in range(6)]
    assert len(set(np.diff(bounds))) > 1, "the law must meet epochs of different length"
    for epoch in range(5):
        counts = seen(source, range(bounds[epoch], bounds[epoch + 1]))
        by_source = [sum(n for i, n in counts.items() if SOURCE_OF[i] == s) for s in range(3)]
        assert by_source == list(wanted)
        assert {counts[i] for i in range(50, 80)} == {2}


@pytest.mark.parametrize("times", [1, 2, 3, 7, 400])
def test_steps_are_due_as_often_in_each_epoch_and_evenly(times):
    source = epochs((20, 60, 5))
    bounds = [source.steps_in(n) for n in range(5)]
    sizes = np.diff(bounds)
    assert len(set(sizes)) > 1, "the law must meet epochs of different length"
    for epoch, size in enumerate(sizes.tolist()):
        steps = range(bounds[epoch] + 1, bounds[epoch + 1] + 1)
        due = [done - bounds[epoch] for done in steps if source.is_due(None, times, done)]
        assert len(due) == min(times, size) and due[-1] == size
        gaps = np.diff([0, *due])
        assert gaps.max() - gaps.min() <= 1
        if times <= size:
            assert due == [-(-size * n // times) for n in range(1, times + 1)]


def most_examples(plan):
    return int(np.diff(plan.row_offsets).max())


def test_no_row_of_any_epoch_has_more_segments_than_the_run_is_told():
    """Drawn anew each epoch, short ones may gather in a row as they did not in the first."""
    lengths = np.where(np.arange(60) < 30, 1, 31)
    source = Epochs(lengths, np.zeros(60, int), (6,), sequence_length=32, batch_size=4, seed=3)
    room = source.max_segments
    assert room == 4 and most_examples(source.plan(0)) == 2
    split = 0
    for epoch in range(40):
        plan = source.plan(epoch)
        assert most_examples(plan) + 1 <= room
        assert len(np.unique(plan.order)) == 6
        free = packing.plan_rows(lengths[plan.order], 32, 3, epoch)
        split += most_examples(free) + 1 > room
    assert split  # without the limit


def test_where_epochs_have_the_same_examples_their_rows_hold_as_many():
    source = epochs((100, 30, 10))
    most = [most_examples(source.plan(epoch)) for epoch in range(3)]
    assert len(set(most)) == 1
    assert source.max_segments == 1 << most[0].bit_length()


@pytest.mark.parametrize(
    ("wanted", "plans"), [((50, 30, 10), 1), ((100, 30, 20), 1), ((20, 60, 5), 6)]
)
def test_epochs_that_have_the_same_lengths_are_counted_with_one_plan(wanted, plans, monkeypatch):
    """A plan of many examples takes seconds, and a run asks for all its steps before it starts."""
    made, plan_rows = [], packing.plan_rows
    monkeypatch.setattr(
        packing, "plan_rows", lambda *args: made.append(plan_rows(*args)) or made[-1]
    )
    source = epochs(wanted)
    bounds = [source.steps_in(n) for n in (6, 0, 1, 2, 3, 4, 5, 6)][1:]
    assert len(made) == plans
    rows = [source.plan(epoch).num_rows for epoch in range(6)]
    assert np.diff(bounds).tolist() == [-(-n // 4) for n in rows]


def test_a_step_is_a_function_of_its_number():
    for wanted in ((50, 30, 10), (20, 60, 5)):
        forward, backward = epochs(wanted), epochs(wanted)
        total = forward.steps_in(3)
        steps = {
            step: [forward.rows(step)[1].tolist(), seen(forward, [step])] for step in range(total)
        }
        for step in reversed(range(total)):
            assert steps[step] == [backward.rows(step)[1].tolist(), seen(backward, [step])]


def test_the_steps_of_an_epoch_share_one_plan():
    source = epochs()
    first, second = source.steps_in(1) - 1, source.steps_in(1)
    assert source.rows(0)[0] is source.rows(first)[0]
    assert source.rows(second)[0] is source.rows(second + 1)[0] is not source.rows(first)[0]


@pytest.mark.parametrize("wanted", [(50, 30, 10), (20, 60, 5)])
def test_epochs_at_counts_whole_epochs_exactly(wanted):
    source = epochs(wanted)
    for n in range(4):
        assert source.epochs_at(source.steps_in(n)) == n
        first, steps = source.steps_in(n), source.steps_in(n + 1) - source.steps_in(n)
        assert source.epochs_at(first + 3) == pytest.approx(n + 3 / steps)
    assert source.epoch_of(source.steps_in(2) - 1) == 1


@pytest.mark.parametrize("hosts", [1, 2, 4, 8])
def test_hosts_share_every_row_once_and_a_resume_in_the_middle_goes_on(hosts):
    """Host h takes its slice of the rows of each batch."""
    before, after = epochs(batch_size=8), epochs(batch_size=8)
    total, middle = before.steps_in(2), before.steps_in(1) - 1
    counts: Counter[int] = Counter()
    for step in range(total):
        plan, rows = (before if step < middle else after).rows(step)
        for host in range(hosts):
            mine = rows[host * 8 // hosts : (host + 1) * 8 // hosts]
            for row in mine[mine != PADDING_ROW]:
                counts.update(plan.row(row).tolist())
    assert counts == dict.fromkeys(range(90), 2)


@pytest.mark.parametrize("wanted", [(50, 30, 10), (20, 60, 5)])
def test_sums_of_steps_and_the_fill_are_those_of_the_rows_seen(wanted):
    source, values = epochs(wanted), np.random.default_rng(1).integers(0, 9, 90)
    expected = []
    for step in range(source.steps_in(1)):
        counts = seen(source, [step])
        expected.append(sum(values[i] * times for i, times in counts.items()))
    assert source.sums_of_steps(values).tolist() == expected
    tokens = sum(LENGTHS[i] for i in source.plan(0).order)
    assert source.fill == tokens / (source.num_rows * 32)


def test_the_epochs_of_a_cache_are_mixed_as_its_sources_say():
    """The last source gave no example; one that has half a weight gives half of its examples."""
    sources = [Source(path="a"), Source(path="b", weight=0.5), Source(path="c")]
    sources += [Source(path="d", count=3), Source(path="e")]
    lengths, made_of = np.full(90, 8), np.repeat([0, 1, 3], [50, 30, 10])
    cache: Any = types.SimpleNamespace(lengths=lengths, sources=made_of)
    mixed = epochs_of(cache, sources, sequence_length=32, batch_size=4, seed=3)
    assert mixed.wanted == (50, 15, 0, 3, 0) and mixed.num_rows == 17 and mixed.fill == 1.0
    assert (mixed.steps_in(1), mixed.steps_in(3)) == (5, 15)
    alone: Any = types.SimpleNamespace(lengths=lengths, sources=0 * made_of)
    whole = epochs_of(alone, None, sequence_length=32, batch_size=4, seed=3)
    assert whole.wanted == (90,) and whole.steps_in(1) == 6
    assert num_steps(Train(batch_size=4, epochs=2), whole) == 12
    assert num_steps(Train(batch_size=4, steps=7), whole) == 7
