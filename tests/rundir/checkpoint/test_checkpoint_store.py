"""What the store makes of faults: which it tries again, which it proves, and what it then says."""

import errno
import json
import logging
import shutil
import threading

import jax
import pytest
import tiny

from jaxsft.devices.digest import digests, named
from jaxsft.errors import BAD_CONFIG, BAD_MODEL, CheckpointError
from jaxsft.rundir.checkpoint import retention
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.notes import NOTES_FILE, Notes
from jaxsft.rundir.checkpoint.saving import NotSaved
from jaxsft.rundir.checkpoint.store import CheckpointStore, Damaged
from tests.rundir.test_checkpoint import abstract, make_state
from tests.rundir.test_resume import Failing

RETRY_SECONDS = stores.RETRY_SECONDS  # which no other test waits


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Checkpoints with step 3, which tests have a copy of."""
    directory = tmp_path_factory.mktemp("saved") / "checkpoints"
    store = CheckpointStore(directory, keep=2)
    store.save(3, make_state(), Notes({"seed": 1}, "2026-01-31"))
    store.wait()
    return directory


@pytest.fixture
def store(saved, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "RETRY_SECONDS", (0.0,))
    shutil.copytree(saved, tmp_path / "checkpoints")
    return CheckpointStore(tmp_path / "checkpoints", keep=2)


def restore(store):
    return store.restore(3, abstract(make_state()))


class Saving:
    """Orbax's response for a save, which raises where it is asked for its result."""

    def __init__(self, error):
        self.error = error

    def result(self):
        raise self.error


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("error", "code", "match"),
    [
        (FULL, BAD_CONFIG, "No space left on device; the disk is full"),
        (ValueError("no such"), BAD_MODEL, "can't save: ValueError: no such"),
    ],
)
def test_a_save_that_fails_is_an_error_at_once_or_at_the_next_one(
    store, monkeypatch, error, code, match
):
    def refuse(*_, **__):
        raise error

    for save_async in (refuse, lambda *_, **__: Saving(error)):
        with monkeypatch.context() as patch:
            patch.setattr(stores.ocp, "save_async", save_async)
            with pytest.raises(NotSaved, match=match) as raised:
                store.save(4, make_state(4), Notes())
                store.save(5, make_state(5), Notes())
            assert raised.value.exit_code == code
        store.wait()  # said once
    store.save(6, make_state(6), Notes())
    store.wait()
    assert store.steps() == [3, 6]


def test_a_wait_is_for_what_there_is(store, monkeypatch):
    CheckpointStore(store.directory, keep=2).wait()
    begun, end, threads = threading.Event(), threading.Event(), []

    def settle(*_):
        threads.append(threading.current_thread())
        begun.set()
        assert end.wait(60)

    monkeypatch.setattr(retention, "settle", settle)
    store.save(4, make_state(4), Notes())
    store.wait(settled=False)
    assert store.steps() == [3, 4] and begun.wait(60)
    assert threads[0].is_alive() and threads[0].daemon  # nor does the end of the program wait
    end.set()
    store.wait()
    assert not threads[0].is_alive()


def test_only_the_first_process_makes_a_number_free(store, monkeypatch):
    (store.directory / "4").mkdir()  # left by a save that never came to its end
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(stores.ocp, "save_async", lambda *_, **__: Saving(FULL))
    store.save(4, make_state(4), Notes())
    assert (store.directory / "4").is_dir()


def test_a_save_is_of_all_processes_and_a_read_of_one_alone(store, monkeypatch):
    """A process may have to read again what the others have read."""
    real, made = stores.ocp.Context, []

    def context():
        made.append(real())
        return made[-1]

    monkeypatch.setattr(stores.ocp, "Context", context)
    store.save(4, make_state(4), Notes())
    store.wait()
    restore(store)
    saving, reading = (one.multiprocessing for one in made)
    assert saving.active_processes is None
    assert reading.active_processes == {0} and reading.primary_host == 0


def rewrite(store, change):
    """Changes Orbax's file with our notes; without the list of sizes only the notes say so."""
    step = store.directory / "3"
    (step / "jaxsft_files.json").unlink(missing_ok=True)
    (step / NOTES_FILE).write_text(json.dumps(change(json.loads((step / NOTES_FILE).read_text()))))


def with_notes(change):
    return lambda all_: all_ | {"custom_metadata": change(all_["custom_metadata"])}


@pytest.mark.parametrize(
    "other", [{"template_date": "2026-02-01"}, *({"identity": {"seed": n}} for n in range(2, 8))]
)
def test_notes_that_say_anything_else_are_altered(store, other):
    """Several times, as a checksum may be the greater of both or the smaller."""
    rewrite(store, with_notes(lambda notes: notes | other))
    with pytest.raises(Damaged, match="differs from what was saved") as raised:
        store.notes(3)
    assert raised.value.failure.kind == "altered"


@pytest.mark.parametrize(
    "change",
    [
        with_notes(lambda notes: dict(reversed(notes.items()))),
        with_notes(lambda notes: {n: value for n, value in notes.items() if n != "checksum"}),
    ],
    ids=["another order", "of before there was a checksum"],
)
def test_notes_that_say_the_same_are_read(store, change):
    rewrite(store, change)
    assert store.notes(3).identity == {"seed": 1}


@pytest.mark.parametrize(
    "change",
    [
        with_notes(lambda notes: None),
        with_notes(lambda notes: {}),
        with_notes(lambda notes: {n: notes[n] for n in notes if n == "identity"}),
        lambda all_: {},
        lambda all_: [],
    ],
)
def test_a_checkpoint_without_our_notes_is_damaged(store, change):
    rewrite(store, change)
    with pytest.raises(Damaged) as raised:
        store.notes(3)
    assert raised.value.failure.kind == "altered"


def test_notes_that_are_away_are_missing(store):
    (store.directory / "3" / NOTES_FILE).unlink()
    with pytest.raises(Damaged, match=f"{NOTES_FILE} is not there"):
        store.notes(3)


@pytest.mark.parametrize("error", [ValueError("DATA_LOSS"), OSError(errno.EIO, "EIO"), KeyError()])
def test_what_passes_is_read_at_the_second_try(store, monkeypatch, error):
    Failing(monkeypatch, error)
    tiny.assert_trees_equal(restore(store), make_state())


def test_a_disk_that_is_away_for_two_seconds_costs_nothing_and_a_longer_fault_is_soon_said(
    store, monkeypatch
):
    real, waited = stores.ocp.load, []

    def load(*given):
        if sum(waited) < 2:
            raise OSError(errno.EIO, "EIO")
        return real(*given)

    monkeypatch.setattr(stores.ocp, "load", load)
    monkeypatch.setattr(stores, "RETRY_SECONDS", RETRY_SECONDS)
    monkeypatch.setattr(stores.time, "sleep", waited.append)
    tiny.assert_trees_equal(restore(store), make_state())
    waited.clear()
    (store.directory / "3" / NOTES_FILE).unlink()
    with pytest.raises(Damaged, match="is not there"):
        store.notes(3)
    assert 2 <= sum(waited) <= 3


def test_no_second_try_is_made_without_memory(store, monkeypatch):
    failing = Failing(monkeypatch, MemoryError("8 GiB"), MemoryError("8 GiB"))
    with pytest.raises(Damaged, match="does not fit in memory"):
        restore(store)
    assert len(failing.raised) == 1


def test_another_form_is_no_damage(store):
    with pytest.raises(CheckpointError, match="w_AB was saved as") as raised:
        store.restore(3, abstract(make_state(width=15)))
    assert not isinstance(raised.value, Damaged)


@pytest.mark.parametrize(
    ("error", "known", "kind"),
    [
        ("DATA_LOSS", True, "altered"),
        ("DATA_LOSS", False, "unreadable"),  # nothing says what it was
        ("NOT_FOUND", True, "unreadable"),  # every file is there
        ("?", True, "unreadable"),
        ("PERMISSION_DENIED", True, "refused"),
    ],
)
def test_damage_is_what_files_prove(store, monkeypatch, error, known, kind):
    if not known:
        (store.directory / "3" / "jaxsft_files.json").unlink()
    Failing(monkeypatch, *[ValueError(f"{error}: d/1")] * 2)
    with pytest.raises(Damaged) as raised:
        restore(store)
    assert raised.value.failure.kind == kind
    assert raised.value.failure.cause == f"ValueError: {error}: d/1"


@pytest.mark.parametrize("change", [1, -1, None])
def test_one_leaf_with_another_digest_is_altered(change):
    state = make_state()
    wanted = {name: int(digest) for name, digest in digests(named(state)).items()}
    assert CheckpointStore.verify(state, wanted) is None
    wrong = {} if change is None else {"params.a.w_AB": wanted["params.a.w_AB"] + change}
    del wanted["params.a.w_AB"]
    failure = CheckpointStore.verify(state, wanted | wrong)
    assert failure is not None and failure.kind == "altered"
    assert failure.cause == (
        f"params.a.w_AB differs from what was saved (1 of {len(wanted) + 1} leaves do)"
    )


def test_of_many_leaves_that_differ_the_first_is_named():
    wanted = {name: int(digest) for name, digest in digests(named(make_state())).items()}
    failure = CheckpointStore.verify(make_state(), dict.fromkeys(wanted, -1))
    count = len(wanted)
    assert failure is not None and count > 1
    first = f"{next(iter(wanted))} differs from what was saved ({count} of {count} leaves do)"
    assert failure.cause == first


def test_what_orbax_logs_of_a_read_that_fails_is_left_out_and_nothing_else(
    store, monkeypatch, caplog
):
    loggers = [logging.getLogger(name) for name in ("absl", "asyncio")]

    def failing(*_):
        for logger in loggers:
            logger.error("inside")
        raise ValueError("DATA_LOSS")

    monkeypatch.setattr(stores.ocp, "load", failing)
    with pytest.raises(Damaged):
        restore(store)
    for logger in loggers:
        logger.error("after")
    assert [record.message for record in caplog.records] == ["after"] * 2
