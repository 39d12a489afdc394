"""What the plan says of the user's data is what the run then sees."""

import dataclasses

import numpy as np
import pytest

from jaxsft.cli import config_file
from jaxsft.plan import measured_data
from jaxsft.terminal.console import Console
from jaxsft.training import inputs, job

QUIET = Console(speaks=False)


@pytest.fixture
def epochs_of_debug(tmp_path, pytestconfig):
    """configs/debug.py by epochs, one of its sources twice as often as the other one."""
    config = config_file.load(str(pytestconfig.rootpath / "configs" / "debug.py"))
    first, second = config.data.train
    train = (dataclasses.replace(first, weight=2.0), second)
    data = dataclasses.replace(config.data, train=train, eval=(), cache_dir=str(tmp_path))
    timing = dataclasses.replace(config.train, steps=None, epochs=3)
    return dataclasses.replace(config, data=data, train=timing)


def test_the_prepared_data_give_the_steps_and_the_rows_of_the_run(epochs_of_debug):
    config = epochs_of_debug
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    unknown = measured_data.look(config, base)
    assert unknown.num_steps is None and "is not prepared" in unknown.where_from
    assert unknown.rows.supervised == 1.0

    ready = inputs.prepare_data(config, base, QUIET)
    plan = job.set_up(config, base, ready)
    found = measured_data.look(config, base)
    assert found.num_steps == plan.num_steps > 10
    assert ready.train.directory.name in found.where_from
    slots = config.train.batch_size * config.data.sequence_length
    steps = plan.batches.epochs.steps_in(1)
    built = [plan.batches.build(step) for step in range(steps)]
    tokens = sum(counts.tokens for _, counts in built)
    pairs = sum(counts.attention_pairs[None] for _, counts in built)  # no layer has a window
    supervised = sum(np.count_nonzero(rows["weights_BT"]) for rows, _ in built)
    # The last batch of an epoch is filled up with padding, which the plan leaves out.
    full = plan.batches.epochs.num_rows * config.data.sequence_length / slots
    expected = found.rows.counts(slots, base.settings)
    assert expected.tokens * full == pytest.approx(tokens, rel=0.01)
    assert expected.attention_pairs[None] * full == pytest.approx(pairs, rel=0.05)
    assert found.rows.supervised * slots * full == pytest.approx(supervised, rel=0.02)


def test_the_step_has_room_for_the_rows_of_every_set(epochs_of_debug):
    """Training's, or an evaluation's with more segments; the model is told."""
    config = epochs_of_debug
    held_out = dataclasses.replace(config.data.train[0], weight=1.0)
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, eval=(held_out,)))
    base = inputs.open_model(config, lambda topic, line: None, weights=False)
    made = job.set_up(config, base, inputs.prepare_data(config, base, QUIET))
    (evaluated,) = made.eval_batches.values()
    sets = [made.batches.epochs, evaluated.epochs]
    assert made.program.settings.attention_max_segments == max(one.max_segments for one in sets)
    original = job.Batches

    def with_many(*args, **named):
        batches = original(*args, **named)
        if named["sources"] is None:
            batches.epochs.max_segments = 64
        return batches

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "Batches", with_many)
        made = job.set_up(config, base, inputs.prepare_data(config, base, QUIET))
    assert made.program.settings.attention_max_segments == 64
