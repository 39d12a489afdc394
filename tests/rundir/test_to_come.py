"""What a run does beside its steps is counted as the loop does it."""

import dataclasses

import pytest

from jaxsft.config import Checkpoint, Eval
from jaxsft.data.pack.epochs import Epochs
from jaxsft.devices import progress
from jaxsft.rundir import to_come
from jaxsft.rundir.writers.shown import ShownLoss
from tests.training.test_mesh_fit import config


class FakeEpochs:
    """Of ten steps each; is_due is that of the real ones."""

    is_due = Epochs.is_due

    def epoch_of(self, done):
        return done // 10

    def steps_in(self, epochs):
        return 10 * epochs

    def epochs_at(self, done):
        return done / 10


@pytest.mark.parametrize(
    "sections",
    [
        {"eval": Eval(every_steps=7), "checkpoint": Checkpoint(save_every_steps=20)},
        {"eval": Eval(times_per_epoch=2), "checkpoint": Checkpoint(save_times_per_epoch=1)},
        {"eval": Eval(), "checkpoint": Checkpoint()},
    ],
)
def test_what_is_left_is_what_will_be_due(sections):
    total = 60
    schedule = to_come.schedule_of(dataclasses.replace(config(), **sections), FakeEpochs(), total)
    for step in range(total):
        rest = [name for later in range(step + 1, total) for name in schedule.due(later)]
        counted = {name: rest.count(name) for name in ("evaluation", "save")}
        assert schedule.left(step) == pytest.approx(counted, abs=1)
    assert schedule.left(total - 1) == {"evaluation": 0, "save": 0}


def test_the_first_evaluation_says_what_others_take(monkeypatch):
    spent = {"evaluating": 10.0, "answering": 30.0}
    monkeypatch.setattr(progress, "spent", lambda: spent)
    asked = Eval(prompts=4, instruction="Be kind.", shots=2, every_steps=5)
    schedule = to_come.schedule_of(dataclasses.replace(config(), eval=asked), FakeEpochs(), 60)
    assert schedule.seconds == {"evaluation": 10.0, "last evaluation": 20.0}
    assert schedule.at_end == ("last evaluation", "save", "save")


def test_the_loss_of_the_first_set_is_shown():
    told: list[float | None] = []
    writer = ShownLoss(told.append)
    writer.append({"step": 0, "eval/holdout/loss": 2.0, "eval/general/loss": 3.0})
    writer.append({"step": 1, "loss": 1.0})
    writer.append({"step": 5, "eval/holdout/loss": None, "eval/general/loss": 3.0})
    writer.append({"step": 5, "eval/holdout/match": 0.5})
    assert told == [2.0, None]
