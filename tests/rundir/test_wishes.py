"""One vote a step has what all processes wish: to stop, to save, to give a save up."""

import signal
import types

from jaxsft.config import Checkpoint
from jaxsft.devices import termination as terminations
from jaxsft.devices.termination import Termination
from jaxsft.rundir import saver as savers
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.saver import Saver
from tests.rundir.test_checkpoint import make_state


def test_what_several_processes_wished_before_a_save_is_done_by_it(tmp_path, monkeypatch):
    """The vote of one step is read at the next, which may come after a save that met the wish."""
    several = types.SimpleNamespace(process_count=lambda: 2, process_index=lambda: 0)
    votes = []

    class Vote:
        def __init__(self, *yes):
            votes.append(yes)
            self.each = lambda: yes

    monkeypatch.setattr(savers, "jax", several)
    monkeypatch.setattr(savers.distributed, "gather", lambda value: [value])
    monkeypatch.setattr(terminations, "jax", several)
    monkeypatch.setattr(terminations, "Vote", Vote)
    saver = Saver(CheckpointStore(tmp_path, keep=9), Checkpoint(), lambda topic, line: None)
    epochs = types.SimpleNamespace(is_due=lambda steps, times, done: False)
    termination, due = Termination(), []
    for step in range(1, 8):
        if step == 2:
            saver._request(signal.SIGUSR1, None)
        termination.requested = step == 6
        stop, wished = termination.agreed(saver.wishes())
        assert stop == (step == 7)
        if saver.is_due(step, epochs, wished):
            due.append(step)
            saver.save(step, make_state(step), Notes())
    saver._store.wait()
    assert due == [3]
    asked = [yes[2] for yes in votes]
    assert asked == [step in (2, 3) for step in range(1, 8)]  # one vote a step has all of it
