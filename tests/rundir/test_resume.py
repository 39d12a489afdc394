"""A read that fails costs no checkpoint; a stop is no damage; processes agree on what they do."""

import errno
import os
import shutil
import types

import pytest
import tiny

from jaxsft.devices import distributed, peers
from jaxsft.errors import CheckpointError, ConfigError, ConversionError, PeerError, Stopped
from jaxsft.rundir import resume
from jaxsft.rundir.checkpoint import files
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.failure import of_error
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from tests.faults import fault
from tests.rundir.test_checkpoint import abstract, make_state

# Orbax leaves reads that failed beside the first one without anyone to await them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
SETUP = types.SimpleNamespace(program=None, num_steps=9)
NOTES = Notes(identity={"config.train.seed": 1})
WIDTH = 4096


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", (0.0,))
    shapes = abstract(make_state(width=WIDTH))
    monkeypatch.setattr(resume.mesh_program, "abstract_state", lambda program: None)
    monkeypatch.setattr(resume, "saved_of", lambda state: shapes)


@pytest.fixture(scope="module")
def saved_once(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = CheckpointStore(directory, keep=5)
    for step in (3, 6):
        store.save(step, make_state(step, width=WIDTH), NOTES)
    store.wait()
    return directory


@pytest.fixture
def saved(saved_once, tmp_path):
    """A test's own checkpoints of the steps 3 and 6, opened anew as a restart does."""
    return shutil.copytree(saved_once, tmp_path / "checkpoints")


@pytest.fixture
def said():
    return []


def go_on(directory, said):
    store = CheckpointStore(directory, keep=5)
    state = resume.resume(store, SETUP, NOTES, lambda topic, line: said.append(line))
    return store, state


def content(directory):
    return {str(f.relative_to(directory)): f.read_bytes() for f in files_in(directory)}


def files_in(directory):
    return [path for path in directory.rglob("*") if path.is_file()]


def data_file(step):
    return max(step.rglob("d/*"), key=lambda path: path.stat().st_size)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def change(path, where, old, new):
    """Another character, in what is JSON before and after."""
    data = path.read_bytes().replace(b": ", b":")
    assert data.count(where) == 1
    path.write_bytes(data.replace(where, where.replace(old, new)))


def test_data_that_are_away_for_a_moment_cost_nothing(saved, said, tmp_path):
    away = tmp_path / "away"
    away.mkdir()
    for step in ("3", "6"):
        (saved / step / "state").rename(away / step)
    before = content(saved)
    with pytest.raises(CheckpointError, match=r"none of the checkpoints \[3, 6\] can be read"):
        go_on(saved, said)
    assert content(saved) == before
    for step in ("3", "6"):
        (away / step).rename(saved / step / "state")
    _, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(6, width=WIDTH))


@fault(
    "checkpoints",
    "a flipped bit in the newest checkpoint",
    "found by its digests; goes on from an older one, keeps this one under another name",
    lost="the steps between the two",
    code="goes on",
)
@pytest.mark.parametrize(
    "damage",
    [
        lambda step: flip(data_file(step)),
        lambda step: data_file(step).write_bytes(data_file(step).read_bytes()[:100]),
        lambda step: data_file(step).write_bytes(b""),
        lambda step: (step / "state" / "manifest.ocdbt").write_bytes(b""),
        lambda step: (step / "state" / "_METADATA").write_bytes(b'{"tree'),
        lambda step: (step / "_CHECKPOINT_METADATA").write_bytes(b'{"item_hand'),
        # Of which Orbax's parser dies, without an exception.
        lambda step: (step / "state" / "_sharding").write_text("[" * 200_000),
        lambda step: change(step / "_CHECKPOINT_METADATA", b'"config.train.seed":1', b"1", b"7"),
    ],
    ids=["flipped", "cut", "emptied", "manifest", "tree", "notes", "nested", "seed"],
)
def test_altered_data_are_set_aside_once_an_older_step_is_verified(saved, said, damage):
    damage(saved / "6")
    before = content(saved / "6")
    _, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(3, width=WIDTH))
    assert {path.name for path in saved.iterdir()} == {"3", "6.damaged"}
    assert content(saved / "6.damaged") == before
    assert any("was altered after it was saved" in line for line in said)


@fault(
    "checkpoints",
    "a flipped bit in the only checkpoint",
    "ends, says why, touches nothing",
    lost="nothing more",
    code=66,
)
def test_altered_data_keep_their_name_where_no_other_step_verifies(saved, said):
    for step in ("3", "6"):
        flip(data_file(saved / step))
    before = content(saved)
    with pytest.raises(CheckpointError, match="Nothing was changed"):
        go_on(saved, said)
    assert content(saved) == before


@fault(
    "checkpoints",
    "files of the newest checkpoint are missing",
    "goes on from an older one; this one stays until the run comes to its step",
    lost="the steps between the two",
    code="goes on",
)
def test_a_step_with_missing_files_is_left_until_its_number_is_needed(saved, said):
    data_file(saved / "6").unlink()
    before = content(saved)
    store, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(3, width=WIDTH))
    assert content(saved) == before and any("missing" in line for line in said)
    for step in (5, 6):
        store.save(step, make_state(step, width=WIDTH), NOTES)
        store.wait()
    assert store.steps() == [3, 5, 6]
    assert (
        content(saved / "6.damaged").items()
        <= {
            name.removeprefix("6/"): data for name, data in before.items() if name.startswith("6/")
        }.items()
    )


def test_an_unread_step_counts_for_nothing_when_old_ones_are_deleted(saved, said):
    """Kept as one of the newest two, it would push out the only good ones."""
    data_file(saved / "6").unlink()
    store = CheckpointStore(saved, keep=1)
    resume.resume(store, SETUP, NOTES, lambda topic, line: None)
    store.save(4, make_state(4, width=WIDTH), NOTES)
    store.wait()
    assert store.steps() == [4, 6]


class Failing:
    """Orbax's loading, which raises a few times first."""

    def __init__(self, monkeypatch, *raised):
        self.raised, self.real = list(raised), stores.ocp.load
        monkeypatch.setattr(stores.ocp, "load", self)

    def __call__(self, *given):
        if self.raised:
            raise self.raised.pop(0)
        return self.real(*given)


IO = OSError(errno.EIO, "Input/output error", "d/1")


@fault(
    "checkpoints",
    "a read that fails once",
    "tries again",
    lost="nothing",
    code="goes on",
)
def test_a_passing_fault_of_the_disk_is_waited_for(saved, said, monkeypatch):
    Failing(monkeypatch, IO)
    _, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(6, width=WIDTH))


@fault(
    "checkpoints",
    "reading is refused, the disk can't be reached, no memory",
    "ends and says so, touches nothing",
    lost="nothing",
    code=66,
)
@pytest.mark.parametrize(
    ("error", "match"),
    [
        (IO, "can't be reached"),
        (OSError(errno.EMFILE, "Too many open files"), "can't be reached"),
        (ValueError("UNAVAILABLE: the bucket"), "can't be reached"),
        (PermissionError(errno.EACCES, "Permission denied", "d/1"), "reading is refused"),
        (MemoryError("8 GiB"), "does not fit in memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), "does not fit in memory"),
    ],
    ids=str,
)
def test_a_fault_that_is_not_the_checkpoints_ends_the_run(saved, said, monkeypatch, error, match):
    before = content(saved)
    Failing(monkeypatch, *[error] * 2)
    with pytest.raises(CheckpointError, match=f"/6: {match}.*Nothing was changed"):
        go_on(saved, said)
    assert content(saved) == before


def test_a_stop_while_reading_is_a_stop(saved, said, monkeypatch):
    before = content(saved)
    Failing(monkeypatch, Stopped("SIGTERM"))
    with pytest.raises(Stopped):
        go_on(saved, said)
    assert content(saved) == before


def test_the_gravest_cause_of_a_chain_is_the_kind():
    wrapped = Exception("could not load")
    wrapped.__cause__ = ValueError("DATA_LOSS: 0 bytes")
    wrapped.__cause__.__context__ = PermissionError(errno.EACCES, "Permission denied", "x")
    assert of_error(wrapped).kind == "refused"
    assert "Permission denied" in of_error(wrapped).cause
    assert of_error(ExceptionGroup("both", [IO, ValueError("?")])).kind == "unreachable"


def test_processes_take_the_gravest_failure_of_all(saved, said, monkeypatch):
    """One of two can't read a file that only it needs: both fall back, or both stop."""
    real = distributed.gather
    theirs = {"failure": ["missing", "d/2 is not there"]}
    monkeypatch.setattr(distributed, "gather", lambda value: [*real(value), value | theirs])
    with pytest.raises(CheckpointError, match="3: .*process 1: d/2 is not there"):
        go_on(saved, said)
    theirs = {"failure": ["unreachable", "EIO"]}
    with pytest.raises(CheckpointError, match="/6: can't be reached: process 1: EIO"):
        go_on(saved, said)


def test_processes_go_through_the_steps_that_the_first_one_sees(saved, said, monkeypatch):
    """A disk of the network shows a new directory to one before the other."""
    real = distributed.gather
    first = {"result": [3]}
    monkeypatch.setattr(
        distributed, "gather", lambda value: [first] if "result" in value else real(value)
    )
    _, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(3, width=WIDTH))


def test_an_error_of_another_process_is_raised_here(monkeypatch):
    monkeypatch.setattr(distributed.jax, "process_count", lambda: 2)
    told = {"failed": [66, "d/2: Permission denied"]}
    monkeypatch.setattr(distributed, "gather", lambda value: [value, told])
    with pytest.raises(ConversionError, match="process 1: d/2: Permission denied") as raised:
        distributed.together(lambda: 1)
    assert raised.value.exit_code == 66 and raised.value.agreed
    told = {"failed": None}
    with pytest.raises(CheckpointError) as mine:
        distributed.together(lambda: (_ for _ in ()).throw(CheckpointError("mine")))
    assert mine.value.agreed
    told = {"failed": [76, "KeyError: 'x'"]}
    with pytest.raises(PeerError, match="process 1: KeyError"):
        distributed.together(lambda: 1)
    told = {"failed": [*peers.told(Stopped("stopped by SIGTERM"))]}
    with pytest.raises(Stopped, match="process 1: stopped by SIGTERM") as stopped:
        distributed.together(lambda: 1)
    assert stopped.value.agreed


@fault(
    "checkpoints",
    "a disk that stores something else than was written",
    "older checkpoints stay, with a warning",
    lost="nothing",
    code="goes on",
)
def test_old_steps_stay_until_the_new_one_reads_back(tmp_path, monkeypatch):
    reports = []
    store = CheckpointStore(tmp_path, keep=1, report=reports.append)
    store.save(1, make_state(1), NOTES)
    store.wait()
    real = files.write_sizes

    def rot(step):  # what a bad disk does between the write and the read
        real(step)
        flip(data_file(tmp_path / step.name))

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_sizes", rot)
        store.save(2, make_state(2, width=WIDTH), NOTES)
        store.wait()
    assert store.steps() == [1, 2] and "older checkpoints are kept" in reports[0]
    store.save(3, make_state(3), NOTES)
    store.wait()
    assert store.steps() == [3] and len(reports) == 1


def test_what_saves_left_half_done_goes_with_the_next_save(saved):
    (saved / "7.orbax-checkpoint-tmp-12").mkdir()
    shutil.copytree(saved / "3", saved / "4")
    (saved / "4" / "commit_success.txt").unlink()
    (saved / "4" / "jaxsft_files.json").unlink()
    (saved / "notes").mkdir()
    store = CheckpointStore(saved, keep=5)
    assert store.steps() == [3, 6]
    store.save(8, make_state(8), NOTES)
    store.wait()
    assert {path.name for path in saved.iterdir()} == {"3", "6", "8", "notes"}


def test_a_step_that_lost_its_commit_file_is_no_leftover(saved, said):
    """What is written after the commit says that there was one."""
    (saved / "6" / "commit_success.txt").unlink()
    store, state = go_on(saved, said)
    tiny.assert_trees_equal(state, make_state(3, width=WIDTH))
    assert any("missing" in line and "commit_success.txt" in line for line in said)
    store.save(8, make_state(8), NOTES)
    store.wait()
    assert store.steps() == [3, 6, 8]


def test_a_disk_that_fails_for_a_moment_loses_no_step(saved, monkeypatch):
    """`exists` says no where the disk gives no answer; listings and `stat` say why."""
    before = content(saved)
    real = os.listdir
    store = CheckpointStore(saved, keep=5)

    def listdir(path):
        if str(path).endswith("/6"):
            raise IO
        return real(path)

    monkeypatch.setattr(os.path, "exists", lambda path: False)
    assert store.steps() == [3, 6] and not files.leftovers(store.directory, before=9)
    monkeypatch.setattr(os, "listdir", listdir)
    for look in (store.steps, lambda: files.leftovers(store.directory, before=9)):
        with pytest.raises((CheckpointError, OSError), match="Input/output error"):
            look()
    assert content(saved) == before


def test_a_number_that_was_in_the_way_counts_again_when_it_is_saved_anew(saved):
    data_file(saved / "6").unlink()
    store = CheckpointStore(saved, keep=1)
    resume.resume(store, SETUP, NOTES, lambda topic, line: None)
    for step in (6, 7):
        store.save(step, make_state(step, width=WIDTH), NOTES)
    store.wait()
    assert store.steps() == [7]


def test_a_link_to_a_disk_that_is_not_mounted_is_no_empty_directory(tmp_path):
    (tmp_path / "checkpoints").symlink_to(tmp_path / "mnt")
    with pytest.raises(ConfigError, match="checkpoints: is a link to .*mnt, which is not there"):
        CheckpointStore(tmp_path / "checkpoints", keep=1)
