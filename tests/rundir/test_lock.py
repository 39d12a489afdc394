"""A directory has one run: a second one is refused while the first lives, and takes over after."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from etils import epath
from fake_gcs import objects

from jaxsft.errors import BAD_CONFIG, ConfigError
from jaxsft.report import endings
from jaxsft.rundir import lock as locks
from jaxsft.rundir.lock import BucketPlace, Holder, LocalPlace, Lock
from jaxsft.rundir.workdir import Workdir
from tests.devices.test_distributed import finish, start
from tests.faults import fault
from tests.programs import ROOT, train
from tests.test_train import command

ENDLESS = ("--config.train.steps=100000", "--config.eval.every_steps=None")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(locks, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(locks, "_POLL_SECONDS", 0.001)


@pytest.fixture(params=["local", "gs://"])
def path(request, tmp_path, monkeypatch):
    if request.param == "local":
        return str(tmp_path / "lock.json")
    monkeypatch.syspath_prepend(str(ROOT / "tests" / "fake_gcs"))
    monkeypatch.setenv(objects.ROOT, str(tmp_path))
    (tmp_path / "bucket").mkdir()
    return "gs://bucket/run/lock.json"


@pytest.fixture
def said():
    return []


def make(path, said, **fields):
    lock = Lock(path, 1, lambda topic, line: said.append(line))
    lock.mine = dataclasses.replace(lock.mine, **fields)
    return lock


def left_by(path, said, age=0.0, **fields):
    """A lock that nobody renews, `age` seconds after its last heartbeat."""
    lock = make(path, said, **fields)
    values = json.loads(lock._text()) | {"heartbeat": time.time() - age}
    locks.place_of(path).create(json.dumps(values))
    return lock.mine


def ended_process():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_second_lock_is_refused_until_the_first_is_released(path, said):
    first, second = make(path, said), make(path, said)
    first.take()
    mine = first.mine
    with pytest.raises(ConfigError) as refused:
        second.take()
    for part in (f"in use by host {mine.host}, process {mine.pid}", mine.since, "--workdir"):
        assert part in str(refused.value)
    second.release()  # takes nobody's away
    first.check(now=True)
    first.release()
    second.take()
    second.release()
    assert epath.Path(path).exists() is False and not said


@pytest.mark.parametrize(
    "fields",
    [{"pid": 0}, {"process_started": "1"}],
    ids=["no such process", "another process has its number"],
)
def test_what_a_killed_process_left_is_taken_over_at_once(path, said, fields):
    left_by(path, said, **({"pid": ended_process()} if fields == {"pid": 0} else fields))
    lock = make(path, said)
    lock.take()
    (line,) = said
    assert "taken over from" in line and "which is gone" in line
    assert locks.holder_of(locks.place_of(path).read()).token == lock.mine.token
    lock.release()


def test_a_process_that_waits_for_its_parent_is_gone(tmp_path, said):
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    deadline = time.monotonic() + 60
    while locks._started(zombie.pid) is not None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert zombie.poll() is not None


ELSEWHERE = {"host": "pod-1"}


@pytest.mark.parametrize("age", [61, 10_000])
@pytest.mark.parametrize("where", [ELSEWHERE, {"machine": "an earlier boot"}])
def test_an_old_heartbeat_of_elsewhere_is_taken_over(path, said, monkeypatch, age, where):
    monkeypatch.setattr(locks, "WATCH_SECONDS", 0.1)
    left_by(path, said, age, **where)
    lock = make(path, said)
    lock.take()
    assert "taken over from" in said[-1] and len(said) == (2 if age == 61 else 1)
    lock.release()


def test_a_fresh_heartbeat_of_elsewhere_is_watched_until_it_is_old(path, said, monkeypatch):
    """As a pod that is started again at once needs it, which no launcher starts after a 64."""
    monkeypatch.setattr(locks, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(locks, "STALE_SECONDS", 1.0)
    left_by(path, said, 0, **ELSEWHERE)
    before = time.monotonic()
    lock = make(path, said)
    lock.take()
    assert 0.5 < time.monotonic() - before
    assert "waiting whether it still renews it, at most 1 s" in said[0]
    lock.release()


@pytest.mark.parametrize("age", [0, 100])  # a clock that is late is no death
def test_a_heartbeat_that_moves_lives(path, said, monkeypatch, age):
    other = left_by(path, said, age, **ELSEWHERE)
    moved = json.dumps(dataclasses.asdict(other) | {"heartbeat": time.time() - age + 10})
    threading.Timer(0.2, lambda: overwrite(locks.place_of(path), moved)).start()
    with pytest.raises(ConfigError, match="in use by host pod-1"):
        make(path, said).take()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}'])
def test_a_lock_that_cannot_be_read_is_taken_over(path, said, text):
    locks.place_of(path).create(text)
    lock = make(path, said)
    lock.take()
    assert "(its file can't be read)" in said[0]
    lock.release()


def test_heartbeats_are_written_and_a_lock_that_was_removed_comes_back(path, said, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02)
    lock, place = make(path, said), locks.place_of(path)
    lock.take()
    first = locks.holder_of(place.read()).heartbeat

    def newest():
        holder = locks.holder_of(place.read())
        return 0 if holder is None else holder.heartbeat

    wait_until(lambda: newest() > first)
    place.remove()
    wait_until(lambda: newest() > first)
    lock.release()
    assert place.read() is None and not said


def overwrite(place, text):
    place.read()
    while not place.replace(text):
        place.read()


def wait_until(true):
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("how", ["at the next heartbeat", "before the next save"])
def test_a_lock_that_another_took_is_not_fought_for(path, said, monkeypatch, how):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.02 if "heartbeat" in how else 60)
    lock, place = make(path, said), locks.place_of(path)
    lock.take()
    other = dataclasses.replace(lock.mine, host="thief", token="another")
    taken = json.dumps(dataclasses.asdict(other))
    overwrite(place, taken)
    if "heartbeat" in how:
        wait_until(lambda: lock._taken_by)
    else:
        lock.check()
    with pytest.raises(ConfigError, match="taken by another one, host thief.*this run ends"):
        lock.check(now=True)
    lock.release()
    assert place.read() == taken


def test_trouble_with_a_heartbeat_is_said_once_and_stops_nothing(tmp_path, said, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    tries = []

    def fail(*_):
        tries.append(1)
        raise OSError(5, "Input/output error")

    lock = make(str(tmp_path / "lock.json"), said)
    lock.take()
    with monkeypatch.context() as patch:
        patch.setattr(LocalPlace, "renew", fail)
        wait_until(lambda: len(tries) > 3)
    lock.check(now=True)
    lock.release()
    assert len(said) == 1 and "can't be renewed: [Errno 5] Input/output error" in said[0]


def test_two_that_write_an_object_at_once_have_one_winner(path):
    if not path.startswith("gs://"):
        pytest.skip("a local file is made by one alone")
    ours, theirs = BucketPlace(path), BucketPlace(path)
    assert ours.read() is theirs.read() is None
    assert theirs.create("theirs") and not ours.create("ours")
    assert ours.read() == theirs.read() == "theirs"
    assert ours.replace("ours") and not theirs.replace("theirs again")
    theirs.renew("a heartbeat")
    theirs.remove()
    assert ours.read() == "ours"
    ours.remove()
    assert theirs.read() is None


def test_an_object_whose_answer_was_lost_on_the_way_is_ours(path, monkeypatch):
    """The client asks again, and is told that there is an object, which is its own."""
    if not path.startswith("gs://"):
        pytest.skip("a local file is made by one alone")
    place = BucketPlace(path)
    write = objects.write

    def write_twice(*args):
        write(*args)
        return write(*args)

    monkeypatch.setattr(sys.modules["objects"], "write", write_twice)
    assert place.create("ours") and place.read() == "ours"


def test_without_hard_links_a_file_is_still_made_by_one_alone(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    place = LocalPlace(tmp_path / "lock.json")
    assert place.create("first") and not place.create("second")
    assert place.read() == "first" and len(list(tmp_path.iterdir())) == 1


def test_nothing_is_written_into_a_directory_that_is_anothers(tmp_path, said):
    """An error before the lock is asked for, too."""
    lock, workdir = make(str(tmp_path / "lock.json"), said), Workdir("w", tmp_path)
    lock.take()
    for token in (None, "one that got no lock"):
        workdir.token = token
        endings.write_ending(workdir, ConfigError("no"))
    assert {file.name for file in tmp_path.iterdir()} == {"lock.json"}
    lock.release()
    left_by(str(tmp_path / "lock.json"), said, pid=ended_process())
    endings.write_ending(Workdir("w", tmp_path), ConfigError("no"))
    assert (tmp_path / "error.json").is_file()


def test_words_name_how_many_processes():
    assert "process 7, the first of 4, since noon" in Holder("h", 7, "noon", processes=4).words()


def run_of(workdir, *flags):
    """A run of its own process that has begun to train."""
    running = subprocess.Popen(
        command(workdir, *ENDLESS, *flags),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (workdir / "checkpoints" / "10" / "commit_success.txt").exists():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    return running


@fault(
    "checkpoints",
    "a second run in the directory of one that lives",
    "refused at once, with host, process and time of the first, which goes on",
    lost="nothing",
    code=64,
)
@fault(
    "checkpoints",
    "a run is killed and started again",
    "takes the lock over in one line, and goes on from the newest whole checkpoint",
    lost="the steps since that checkpoint",
    code="goes on",
)
@pytest.mark.slow
def test_a_second_run_is_refused_until_the_first_is_killed(tmp_path):
    running = run_of(tmp_path)
    try:
        files = {file.name for file in tmp_path.iterdir()}
        refused = train(tmp_path, check=False)
        assert refused.returncode == BAD_CONFIG
        assert f"in use by host {os.uname().nodename}, process {running.pid}" in refused.stderr
        assert files <= {file.name for file in tmp_path.iterdir()} <= files | {"samples.jsonl"}
        assert running.poll() is None
    finally:
        running.send_signal(signal.SIGKILL)
        running.communicate()
    steps = [int(file.name) for file in (tmp_path / "checkpoints").glob("[0-9]*")]
    again = train(tmp_path, f"--config.train.steps={max(steps) + 1}", check=False)
    assert f"is taken over from host {os.uname().nodename}, process {running.pid}" in again.stdout
    # A run that was to be longer may not be made shorter: the lock was given to it all the same.
    assert again.returncode == 66 and not (tmp_path / "lock.json").exists()


@fault(
    "checkpoints",
    "another run takes the directory of one that was stopped for long",
    "the first ends before it saves again, and writes nothing more",
    lost="the steps since the last checkpoint",
    code=64,
)
@pytest.mark.slow
def test_a_run_whose_lock_was_taken_ends_and_leaves_the_directory(tmp_path):
    running = run_of(tmp_path)
    taken = json.loads((tmp_path / "lock.json").read_text()) | {"token": "x", "host": "thief"}
    LocalPlace(tmp_path / "lock.json").replace(json.dumps(taken))
    _, said = running.communicate(timeout=120)
    assert running.returncode == BAD_CONFIG
    assert "this run's lock was taken by another one, host thief" in said
    assert json.loads((tmp_path / "lock.json").read_text()) == taken
    assert not (tmp_path / "error.json").exists()


@fault(
    "checkpoints",
    "a second run of several processes in the directory of one that lives",
    "refused on all of them",
    lost="nothing",
    code=64,
)
@pytest.mark.slow
def test_several_processes_are_refused_together(tmp_path):
    running = run_of(tmp_path)
    try:
        done = finish(start(tmp_path, 2, *ENDLESS))
        assert [code for code, _, _ in done] == [BAD_CONFIG] * 2, done
        assert all("in use by host" in error for _, _, error in done)
        assert running.poll() is None and not (tmp_path / "error.json").exists()
    finally:
        running.kill()
        running.communicate()
