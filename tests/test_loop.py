"""What the loop saves where it follows a figure, also where steps are skipped: by stand-ins."""

import contextlib
import dataclasses
import types
from typing import Any

import pytest

from jaxsft import loop
from jaxsft.config import Checkpoint, Config, Data, Eval, Model, Optim, Source, Train
from jaxsft.errors import Stopped
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.watch import Watch
from jaxsft.training.untrained import ALL_TRAINS

LOSS = "eval/x/loss"


class Log:
    def __init__(self, *_, **__):
        pass

    def add(self, *_):
        pass

    def lines(self, flush):
        return []

    def restart_clock(self):
        pass


class Rows:
    def __init__(self, *_):
        pass

    def after(self, *_, **__):
        pass


class Store:
    def __init__(self):
        self.saved: dict[int, Notes] = {}

    def save(self, step, state, notes):
        self.saved[step] = notes

    def restart_clock(self):
        pass

    def wishes(self):
        return ()

    def is_due(self, done, epochs, wished):
        return False

    def counted(self, line):
        return line

    def finish(self, step, state, may_retry, settled):
        pass


def state(step: int, skipped: int) -> Any:
    return types.SimpleNamespace(step=step, skipped_steps=skipped, params=step, trained={})


def outputs(lines: list[dict]) -> Any:
    history = types.SimpleNamespace(read=lambda: lines)
    return types.SimpleNamespace(
        metrics=types.SimpleNamespace(
            resume=lambda step: None, append=lines.append, history=history
        ),
        console=types.SimpleNamespace(steps=lambda *_: contextlib.nullcontext()),
        workdir=types.SimpleNamespace(files=None),
        copy=lambda now: None,
        saver=Store(),
    )


def train(
    monkeypatch, losses, skipped=(), steps=6, first=0, best=None, stop=None, lines=(), **sections
):
    """A run of so many steps, evaluated after each; losses by step.

    Args:
        stop: one comes while the parameters after this step are evaluated.
        lines: of an earlier start.
    """
    monkeypatch.setattr(loop, "StepLog", Log)
    monkeypatch.setattr(loop, "StepRows", Rows)
    monkeypatch.setattr(loop, "saved_of", lambda state: state)
    monkeypatch.setattr(loop, "result_params", lambda recipe, state: state.params)
    config = Config(
        model=Model(source="m"),
        data=Data(train=(Source(path="a"),), sequence_length=8),
        optim=Optim(peak_lr=1.0, max_skipped_steps=9),
        train=Train(batch_size=1, steps=steps),
        checkpoint=Checkpoint(best=LOSS),
        eval=Eval(every_steps=1, **sections),
    )
    watch = Watch(config.checkpoint, config.eval, [LOSS])
    watch.best = best

    def step(before, batch):
        count = before.skipped_steps + (before.step + 1 in skipped)
        after = state(before.step + 1, count)
        return after, types.SimpleNamespace(skipped_steps=count)

    lines = list(lines)
    out = outputs(lines)
    program = types.SimpleNamespace(
        settings=None, remat=None, sources=(), recipe=None, teacher=None, untrained=ALL_TRAINS
    )
    epochs = types.SimpleNamespace(epochs_at=None, is_due=lambda steps, times, done: True)
    batches = types.SimpleNamespace(
        epochs=epochs, stream=lambda first, total: iter([(None, None)] * (total - first))
    )
    job: Any = types.SimpleNamespace(program=program, batches=batches, num_steps=steps)
    measurer: Any = types.SimpleNamespace(
        watch=watch,
        losses=lambda step: {LOSS: losses[step]},
        on_the_way=lambda stopped, step, done: None if step == stop else {LOSS: losses[step]},
    )
    termination: Any = types.SimpleNamespace(
        deferred=contextlib.nullcontext,
        agreed=lambda wishes: (False, wishes),
        why_of_any=lambda: "" if stop is None else "a signal",
    )
    try:
        end = loop.train(config, job, step, state(first, 0), out, Notes(), measurer, termination)
    except Stopped:
        return lines, out.saver.saved, watch
    return end.step, out.saver.saved, watch


def test_each_best_step_is_saved_and_so_is_the_last(monkeypatch):
    end, saved, watch = train(monkeypatch, [None, 3.0, 4.0, 2.0, 5.0, 6.0])
    assert end == 6 and list(saved) == [1, 3, 6]
    assert [notes.best and notes.best.step for notes in saved.values()] == [1, 3, 3]
    assert watch.best is not None and watch.best.seen == 5  # the last is evaluated after the loop


def test_what_a_skipped_step_left_is_never_the_best(monkeypatch):
    """Nor is it counted: it is not saved, so that it could not be exported."""
    losses = [None, 3.0, 1.0, 2.0, 5.0, 5.0]
    _, saved, watch = train(monkeypatch, losses, skipped={2})
    assert list(saved) == [1, 3, 6] and watch.best is not None
    assert (watch.best.step, watch.best.value, watch.best.waited) == (3, 2.0, 2)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_the_run_ends_where_patience_does_and_saves_there(monkeypatch, patience):
    losses = [None, 3.0, *[4.0] * 20]
    end, saved, watch = train(monkeypatch, losses, steps=20, early_stopping=patience)
    assert end == 1 + patience and list(saved) == [1, end] and watch.is_over
    again, nothing, _ = train(
        monkeypatch, losses, steps=20, first=end, best=watch.best, early_stopping=patience
    )
    assert again == end and not nothing
    longer, _, _ = train(
        monkeypatch, losses, steps=20, first=end, best=watch.best, early_stopping=patience + 2
    )
    assert longer == end + 2


def test_an_evaluation_that_a_stop_leaves_is_made_by_the_next_start(monkeypatch):
    """The state is saved without it, and the run ends as it would have."""
    losses = [None, 3.0, 4.0, 2.0, 5.0, 6.0]
    lines, saved, watch = train(monkeypatch, losses, stop=3)
    assert list(saved) == [1, 3] and watch.best.step == 1
    assert [line["step"] for line in lines] == [1, 2]
    for before, made in ((lines, True), ([*lines, {"step": 3, LOSS: 9.0}], False)):
        end, saved, watch = train(monkeypatch, losses, first=3, best=watch.best, lines=before)
        assert end == 6 and watch.best.step == (3 if made else 1)
        watch.best = dataclasses.replace(watch.best, step=1, value=3.0, seen=2, waited=1)
