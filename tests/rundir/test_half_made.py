"""What is no checkpoint is never taken for one, and a step is saved once."""

import shutil
import types

import numpy as np
import pytest
import tiny

from jaxsft.errors import CheckpointError
from jaxsft.rundir import resume
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore, Damaged
from tests.faults import fault
from tests.rundir.test_checkpoint import abstract, make_state

# Orbax leaves reads that failed beside the first one without anyone to await them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
JOB = types.SimpleNamespace(program=None, num_steps=9)
NOTES = Notes(identity={"config.train.seed": 1})


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", ())
    monkeypatch.setattr(resume.mesh_program, "abstract_state", lambda program: None)
    monkeypatch.setattr(resume, "saved_of", lambda state: abstract(make_state()))


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = CheckpointStore(directory, keep=5)
    for step in (3, 6):
        store.save(step, make_state(step), NOTES)
    store.wait()
    return directory


@pytest.fixture
def saved(saved_once, tmp_path):
    return shutil.copytree(saved_once, tmp_path / "checkpoints")


def go_on(directory):
    said = []
    store = CheckpointStore(directory, keep=5)
    state = resume.resume(store, JOB, NOTES, lambda topic, line: said.append(line))  # pyright: ignore
    return store, state, said


@fault(
    "checkpoints",
    "what a save that was never completed left: an empty step, one without its commit file",
    "is no checkpoint, said in one line; goes on from the newest whole one, and removes it later",
    lost="the steps since that checkpoint",
    code="goes on",
)
@pytest.mark.parametrize("left", ["7", "7.orbax-checkpoint-tmp", "7.orbax-checkpoint-tmp-1"])
def test_what_was_never_completed_is_said_once_and_removed_after_the_next_save(saved, left):
    (saved / left / "state").mkdir(parents=True)
    store, state, said = go_on(saved)
    tiny.assert_trees_equal(state, make_state(6))
    (line,) = [line for line in said if "never completed" in line]
    assert f"/{left}: " in line and (saved / left).is_dir()
    store.save(8, make_state(8), NOTES)
    store.wait()
    assert {path.name for path in saved.iterdir()} == {"3", "6", "8"}


def test_a_checkpoint_that_lost_its_commit_file_is_not_taken_and_named(saved):
    (saved / "6" / "commit_success.txt").unlink()
    _, state, said = go_on(saved)
    tiny.assert_trees_equal(state, make_state(3))
    assert any("/6: " in line and "commit_success.txt is not there" in line for line in said)


def test_a_bit_that_flips_is_found_wherever_it_is(tmp_path):
    """In twenty places of what holds the arrays; smaller ones would lie in one of the files."""
    store, state = CheckpointStore(tmp_path, keep=5), make_state(width=4096)
    store.save(3, state, NOTES)
    store.wait()
    data = sorted((tmp_path / "3" / "state").rglob("d/*"))
    assert len(data) == 2
    rng = np.random.default_rng(0)
    for number in range(20):
        path = data[number % 2]
        whole = path.read_bytes()
        changed = bytearray(whole)
        changed[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(Damaged):
            store.restore(3, abstract(state))
        path.write_bytes(whole)
    tiny.assert_trees_equal(store.restore(3, abstract(state)), state)


def test_a_step_is_saved_once_and_none_before_the_newest(saved):
    store, _, _ = go_on(saved)
    for step, match in ((6, "/6: is there already"), (5, "/5: is older than 6, which is there")):
        with pytest.raises(CheckpointError, match=match):
            store.save(step, make_state(step), NOTES)
    store.save(7, make_state(7), NOTES)
    with pytest.raises(CheckpointError, match="/6: is there already"):
        store.save(6, make_state(6), NOTES)
    store.wait()
    assert store.steps() == [3, 6, 7]
