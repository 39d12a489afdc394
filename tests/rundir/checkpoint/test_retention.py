"""Old steps go once every process has read its share of the new one back, and by the first one."""

import dataclasses
from threading import Event

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsft.config import Mesh
from jaxsft.devices import digest, mesh
from jaxsft.rundir.checkpoint import files, retention
from jaxsft.rundir.checkpoint.notes import Best, Notes
from jaxsft.rundir.checkpoint.retention import Kept
from jaxsft.rundir.checkpoint.store import CheckpointStore
from tests.rundir.test_checkpoint import make_state

FIRST, SECOND = (0, 2), (1, 2)


@pytest.fixture
def store(tmp_path):
    """Steps 1 and 2, of which the first is old where one is kept."""
    store = CheckpointStore(tmp_path, keep=5)
    for step in (1, 2):
        store.save(step, make_state(step), Notes())
    store.wait()
    return store


def settle(store, process, report=pytest.fail, digests=None, over=None):
    digests = digests or store.notes(2).digests
    retention.settle(store.directory, 2, Kept(1), digests, set(), process, report, over or Event())


def test_the_best_step_stays_beside_the_newest(tmp_path):
    """And goes when another one is better, or is counted where it is among the newest."""
    store = CheckpointStore(tmp_path, keep=1)
    kept = []
    for step, best in ((1, 1), (2, 1), (3, 1), (4, 4), (5, 4), (6, None)):
        store.save(step, make_state(step), Notes(best=best and Best(step=best)))
        store.wait()
        kept.append(store.steps())
    assert kept == [[1], [1, 2], [1, 3], [4], [4, 5], [6]]


def test_multiples_of_a_number_stay_for_good(tmp_path):
    store = CheckpointStore(tmp_path, keep=1, keep_every_steps=4)
    for step in (2, 4, 6, 8, 9, 10):
        store.save(step, make_state(step), Notes())
    store.wait()
    assert store.steps() == [4, 8, 10]


def marker(store, process):
    return store.directory / "2" / "jaxsft_read_back_{}_of_{}".format(*process)


def test_each_process_leaves_word_and_the_first_one_does_the_rest(store):
    step = store.directory / "2"
    (step / "jaxsft_files.json").unlink()
    marker(store, FIRST).touch()
    settle(store, SECOND)
    assert marker(store, SECOND).exists()
    assert store.steps() == [1, 2] and not files.is_known(step)
    settle(store, FIRST)
    assert store.steps() == [2] and files.is_known(step)


@pytest.mark.parametrize(("mine", "other"), [(FIRST, SECOND), (SECOND, FIRST)])
@pytest.mark.parametrize("comes_after", [590, None])
def test_another_process_may_take_ten_minutes(store, mine, other, comes_after):
    waited, reports = [0.0], []

    class Over(Event):
        def wait(self, seconds):
            sleep(seconds)
            return self.is_set()

    def sleep(seconds):
        waited.append(seconds)
        if comes_after is not None and sum(waited) >= comes_after:
            marker(store, other).touch()

    settle(store, mine, reports.append, over=Over())
    deletes = mine == FIRST and comes_after is not None
    assert store.steps() == ([2] if deletes else [1, 2])
    assert sum(waited) == (comes_after or 600)
    if comes_after is None:
        assert len(reports) == 1 and "not all processes have read it back" in reports[0]
        assert marker(store, mine).exists() and not marker(store, other).exists()
    else:
        assert not reports


@pytest.mark.parametrize("process", [(0, 1), FIRST])  # which waits for the other one
def test_nothing_is_read_or_deleted_once_the_program_ends(store, process):
    over, reports = Event(), []
    over.set()
    wrong = dict.fromkeys(store.notes(2).digests, 1)
    for digests in (None, wrong):
        settle(store, process, reports.append, digests, over)
    assert store.steps() == [1, 2] and not reports


def test_each_leaf_is_read_back_by_one_process(store, monkeypatch):
    monkeypatch.setattr(files, "remove", lambda step: None)  # step 1 stays for the next leaf
    for process in (FIRST, SECOND):
        marker(store, process).touch()
    right = store.notes(2).digests
    for name in right:
        reports = []
        for process in (FIRST, SECOND):
            settle(store, process, reports.append, right | {name: right[name] ^ 1})
        assert len(reports) == 1 and f"/2: {name} was saved and reads back diff" in reports[0]


def test_a_leaf_is_read_as_it_was_split(tmp_path, monkeypatch):
    """No process needs the memory for the whole of what lies on eight devices."""
    sizes = []
    real = digest.of_part

    def counting(part, start, shape):
        sizes.append(part.nbytes)
        return real(part, start, shape)

    monkeypatch.setattr(retention.digest, "of_part", counting)
    split = mesh.sharding(mesh.make_mesh(Mesh(fsdp=8)), None, "embed")
    array = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    state = dataclasses.replace(make_state(), params={"a": jax.device_put(array, split)})
    store = CheckpointStore(tmp_path, keep=1, report=pytest.fail)
    for step in (1, 2):
        store.save(step, dataclasses.replace(state, step=jnp.int32(step)), Notes())
    store.wait()
    assert store.steps() == [2]
    assert sizes.count(array.nbytes // 8) == 8 and array.nbytes not in sizes


def test_a_deletion_that_fails_is_said_and_made_up_for(store, monkeypatch):
    reports = []
    again = CheckpointStore(store.directory, keep=1, report=reports.append)
    with monkeypatch.context() as patch:

        def refuse(step):
            raise OSError(5, "Input/output error")

        patch.setattr(files, "remove", refuse)
        again.save(3, make_state(3), Notes())
        again.wait()
    (said,) = reports
    assert "could not be deleted" in said and "Input/output error" in said
    again.save(4, make_state(4), Notes())
    again.wait()
    assert again.steps() == [4] and len(reports) == 1


def test_a_later_save_is_neither_a_leftover_nor_a_reason_to_delete(tmp_path):
    """Reading back takes its time: meanwhile one step was saved, and one is in the making."""
    store = CheckpointStore(tmp_path, keep=5)
    for step in (1, 2, 3):
        store.save(step, make_state(step), Notes())
    store.wait()
    (tmp_path / "4").mkdir()  # as Orbax begins
    digests = store.notes(2).digests
    retention.settle(
        store.directory,
        2,
        Kept(1),
        digests,
        set(),
        (0, 1),
        pytest.fail,
        Event(),
    )
    assert {path.name for path in tmp_path.iterdir()} == {"2", "3", "4"}
