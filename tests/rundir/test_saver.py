"""When a run saves, and what follows a save that fails: told, counted, tried again, given up."""

import errno
import json
import os
import resource
import signal
import subprocess
import threading
import time
import types

import jax.numpy as jnp
import pytest

from jaxsft.config import Checkpoint
from jaxsft.errors import BAD_CONFIG, DIVERGED, DivergedError, UserError
from jaxsft.rundir import saver as savers
from jaxsft.rundir.checkpoint import store as stores
from jaxsft.rundir.checkpoint.notes import Notes
from jaxsft.rundir.checkpoint.store import CheckpointStore
from jaxsft.rundir.metric_lines import read_lines
from jaxsft.rundir.saver import Saver
from tests.devices.test_distributed import finish, start
from tests.faults import fault
from tests.programs import ROOT
from tests.rundir.test_checkpoint import make_state
from tests.test_train import command

FULL = OSError(errno.ENOSPC, "No space left on device")


class Clock:
    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        time.sleep(0.001)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(savers, "time", clock)
    return clock


@pytest.fixture
def said():
    return []


@pytest.fixture
def make(tmp_path, clock, said):
    def made(**policy):
        store = CheckpointStore(tmp_path, keep=9)
        return Saver(store, Checkpoint(**policy), lambda topic, line: said.append(line))

    return made


class Disk:
    """Fails each save while it is full: at once, or in the background."""

    def __init__(self, monkeypatch, at_once):
        self.full, self.tried, self._at_once, self._real = True, 0, at_once, stores.ocp.save_async
        monkeypatch.setattr(stores.ocp, "save_async", self)

    def __call__(self, *given, **named):
        self.tried += 1
        if not self.full:
            return self._real(*given, **named)
        if self._at_once:
            raise FULL
        return self

    def result(self):
        raise FULL


@pytest.fixture(params=["at once", "in the background"])
def disk(request, monkeypatch):
    return Disk(monkeypatch, request.param == "at once")


def is_due(saver, done):
    """In an epoch of which no step is one to save."""
    epochs = types.SimpleNamespace(is_due=lambda steps, times, done: done == steps)
    return saver.is_due(done, epochs, saver.wishes())


def ended(saver):
    while saver._progress() == "saving":
        time.sleep(0.001)


def save(saver, step):
    saver.save(step, make_state(step), Notes())
    ended(saver)


def test_saves_when_the_minutes_are_over(make, clock):
    saver = make()
    clock.now = 100.0
    saver.restart_clock()
    due = []
    for step in range(1, 40):
        clock.now += 60
        due += [step] if is_due(saver, step) else []
        if is_due(saver, step):
            save(saver, step)
    assert due == [15, 30]
    clock.now += 10_000
    assert not is_due(make(save_every_minutes=None), 1)


def test_a_save_for_another_reason_begins_the_minutes_anew(make, clock):
    saver = make(save_every_minutes=0.5)
    clock.now += 29
    save(saver, 1)
    clock.now += 29
    assert not is_due(saver, 2)
    clock.now += 1
    assert is_due(saver, 3)


def test_saves_at_the_steps_that_are_due(make):
    saver = make(save_every_steps=3)
    assert [step for step in range(5) if is_due(saver, step)] == [3]


def test_a_signal_asks_for_one_checkpoint(make, said):
    saver = make()
    with saver.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert is_due(saver, 1) and is_due(saver, 2)  # until it is saved: step 1 was skipped
        save(saver, 2)
        assert not is_due(saver, 3)
    assert said == ["step 2, as SIGUSR1 asks"]
    os.kill(os.getpid(), signal.SIGUSR1)  # too late, and harmless


@pytest.fixture(autouse=True)
def given_back():
    before = signal.getsignal(signal.SIGUSR1)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_outside_the_main_thread_no_signal_is_taken(make):
    taken, before = [], signal.getsignal(signal.SIGUSR1)

    def run():
        with make().listening():
            taken.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert taken == [before]


def test_a_save_that_fails_is_told_counted_and_tried_again(make, disk, clock, said):
    saver = make()
    save(saver, 1)
    assert not is_due(saver, 2)
    (line,) = said
    assert line.startswith("error: ") and "/1: No space left on device; the disk is full" in line
    assert "failure 1 of 3 in a row" in line and saver.failures == 1
    clock.now += savers.RETRY_SECONDS[0] - 1
    assert not is_due(saver, 3)
    clock.now += 1
    assert is_due(saver, 4)
    disk.full = False
    save(saver, 4)
    assert not is_due(saver, 5) and saver._store.steps() == [4]
    # It counts from nothing again.
    save(saver, 6)
    disk.full = True
    for step in (7, 8):
        save(saver, step)
    assert not is_due(saver, 9)
    assert saver.failures == 3 and "failure 2 of 3" in said[-1]


def test_the_third_failure_in_a_row_ends_the_run(make, disk, clock, said):
    saver = make()
    disk.full = False
    save(saver, 1)
    disk.full = True
    waits = []
    for step in (2, 3):
        save(saver, step)
        assert not is_due(saver, step)
        waits.append(saver._retry_at - clock.now)
    save(saver, 4)
    with pytest.raises(UserError, match="/4: No space left.*; 3 saves in a row failed") as raised:
        is_due(saver, 5)
    assert raised.value.exit_code == BAD_CONFIG and raised.value.agreed
    assert waits == list(savers.RETRY_SECONDS) and saver._store.steps() == [1]


def test_the_last_save_is_tried_again_at_once(make, disk, clock):
    saver, state = make(), make_state(1)
    save(saver, 1)
    clock.sleep = lambda seconds: setattr(disk, "full", False)
    saver.finish(1, state, may_retry=True, settled=True)
    assert saver._store.steps() == [1] and saver.failures == 1


def test_the_last_save_that_fails_for_good_is_an_error(make, disk):
    saver = make()
    save(saver, 1)
    with pytest.raises(UserError, match="3 saves in a row failed"):
        saver.finish(1, make_state(1), may_retry=True, settled=True)
    assert disk.tried == 3
    other = make()
    save(other, 1)
    other.finish(1, make_state(1), may_retry=False, settled=True)  # of a skipped step
    assert other.failures == 1


@fault(
    "numbers",
    "parameters or an optimizer state that are not finite when a save is due",
    "not saved: ends with the name of the leaf; the newest checkpoint is the last good state",
    lost="the steps since that checkpoint",
    code=71,
)
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["params", "opt_state"])
def test_a_state_that_is_not_finite_is_never_saved(make, value, where):
    saver, state = make(), make_state(2)
    save(saver, 1)
    leaf = state.params["a"] if where == "params" else state.opt_state[0].nu["a"]
    leaf["w_AB"] = leaf["w_AB"].at[7, 3].set(value)
    named = rf"^{where}\S+a\.w_AB is not finite after step 2: not saved"
    with pytest.raises(DivergedError, match=named) as raised:
        saver.save(2, state, Notes())
    assert raised.value.exit_code == DIVERGED and raised.value.agreed
    assert saver._store.steps() == [1]


def wait_for(running, true):
    deadline = time.monotonic() + 150
    while not true():
        assert time.monotonic() < deadline and running.poll() is None, running.communicate()
        time.sleep(0.02)


def committed(workdir):
    steps = (workdir / "checkpoints").glob("*/commit_success.txt")
    return sorted(int(path.parent.name) for path in steps if path.parent.name.isdecimal())


def begun(workdir):
    file = workdir / "metrics.jsonl"
    return file.exists() and any("loss" in line for line in metrics(workdir))


def failures(workdir):
    return max(line.get("checkpoint_failures", 0) for line in metrics(workdir))


def metrics(workdir):
    """Of whole lines: the run writes meanwhile."""
    return read_lines(workdir / "metrics.jsonl")[0]


def file_sizes_up_to(process, size):
    """A full disk, without the rights to fill one."""
    _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))


ENDLESS = ("--config.train.steps=20000", "--config.eval.every_steps=None")
LOGS_LITTLE = ("--config.eval.prompts=0", "--config.log.every_steps=50")
SMALL = 300_000  # bytes: more than the log of all these steps, fewer than a checkpoint's file


def started(workdir, *flags):
    return subprocess.Popen(
        command(workdir, *ENDLESS, *LOGS_LITTLE, *flags),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@fault(
    "checkpoints",
    "the disk is full for a while",
    "says so at the next step, counts it, trains on and saves again when there is room",
    lost="nothing",
    code="goes on",
)
@fault(
    "checkpoints",
    "the disk stays full",
    "ends after three saves in a row that failed, with the newest good checkpoint",
    lost="the steps since that checkpoint",
    code=64,
)
@pytest.mark.slow
def test_a_run_lives_through_a_disk_that_is_full_for_a_while(tmp_path):
    running = started(tmp_path, "--config.checkpoint.save_every_steps=None")
    try:
        wait_for(running, lambda: begun(tmp_path))
        file_sizes_up_to(running, SMALL)
        running.send_signal(signal.SIGUSR1)
        wait_for(running, lambda: failures(tmp_path) == 1)
        file_sizes_up_to(running, resource.RLIM_INFINITY)
        wait_for(running, lambda: committed(tmp_path))  # without another word
        file_sizes_up_to(running, SMALL)
        newest = committed(tmp_path)
        ask_until_ended(running)
        said, _ = running.communicate(timeout=150)
    finally:
        running.kill()
    assert running.returncode == BAD_CONFIG, said
    assert "File too large" in said and "3 saves in a row failed" in said
    assert said.count("failure 1 of 3 in a row") == 2 and said.count("Training goes on") == 3
    assert committed(tmp_path) == newest and json.loads((tmp_path / "error.json").read_text())


def ask_until_ended(running):
    """For one checkpoint after the other."""
    deadline = time.monotonic() + 150
    while running.poll() is None and time.monotonic() < deadline:
        running.send_signal(signal.SIGUSR1)
        time.sleep(0.5)


@pytest.mark.slow
def test_sigusr1_saves_at_the_next_step(tmp_path):
    running = started(tmp_path)
    try:
        wait_for(running, lambda: committed(tmp_path))  # each ten steps
        before = max(line["step"] for line in metrics(tmp_path))
        running.send_signal(signal.SIGUSR1)
        wait_for(running, lambda: any(step % 10 for step in committed(tmp_path)))
        asked = next(step for step in committed(tmp_path) if step % 10)
        assert asked > before
    finally:
        running.kill()
        said, _ = running.communicate()
    assert f"save       step {asked}, as SIGUSR1 asks" in said


@fault(
    "checkpoints",
    "a save that fails on one of several processes",
    "all give it up and go on; after three in a row all end with its words",
    lost="the steps since the newest good checkpoint",
    code=64,
)
@pytest.mark.slow
def test_a_save_that_one_process_fails_is_given_up_by_both(tmp_path):
    """And a signal to the one that does not speak saves on both."""
    processes = start(tmp_path, 2, *ENDLESS, "--config.checkpoint.save_every_steps=None")
    first, second = processes
    try:
        wait_for(first, lambda: begun(tmp_path))
        second.send_signal(signal.SIGUSR1)
        wait_for(first, lambda: committed(tmp_path))
        (asked,) = committed(tmp_path)
        file_sizes_up_to(second, 1000)
        ask_until_ended(second)
        done = finish(processes)
    finally:
        for process in processes:
            process.kill()
    assert [code for code, _, _ in done] == [BAD_CONFIG] * 2, done
    assert f"save       step {asked}, as SIGUSR1 asks" in done[0][1]
    assert done[0][1].count("Training goes on") == 2 and "error: process 1: " in done[0][1]
    for _, _, error in done:
        assert "File too large" in error and "3 saves in a row failed" in error
    assert committed(tmp_path) == [asked]
