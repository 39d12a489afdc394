"""Whole runs of two processes, one of which is killed, stopped, fails or hangs in some phase."""

import json
import time
from pathlib import Path

import pytest

from jaxsft.errors import BAD_DATA, INTERNAL, LOST_PEER, STOPPED
from tests.devices.test_distributed import finish, start
from tests.faults import fault
from tests.programs import ROOT

pytestmark = pytest.mark.slow
# Where jaxsft says that a phase begins, one process does what argv[1] says, once; what@6: where it
# says for the sixth time in the phase that it gets on.
PROGRAM = """
import ctypes, os, runpy, signal, sys, threading, time
from jaxsft.devices import progress
from jaxsft.devices.termination import Termination

number, phase, step, what, file = sys.argv.pop(1).split(":")
what, _, nth = what.partition("@")
begin, mark, done, marks = progress._Progress.begin, progress._Progress.mark, [], []

def act():
    with open(file, "w") as opened:
        opened.write(str(time.time()))
    if what == "stuck":  # in C, where no handler of Python runs
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM)).start()
        ctypes.CDLL(None).sleep(999)
    if what in ("SIGKILL", "SIGSTOP", "SIGTERM"):
        os.kill(os.getpid(), getattr(signal, what))
    if what.startswith("sleep"):
        time.sleep(float(what[5:]))
    if what == "raise":
        raise RuntimeError("a defect here")
    if what == "skip":
        agreed = Termination.agreed
        def skip(self, wishes):
            Termination.agreed = agreed
            return False, wishes
        Termination.agreed = skip

def act_once():
    mine = f"--process_id={number}" in sys.argv or "--num_processes=1" in sys.argv
    if mine and progress.now().phase == phase and progress.now().step >= int(step) and not done:
        done.append(1)
        act()

def begin_here(self, now, at):
    begin(self, now, at)
    if not nth:
        act_once()

def mark_here(self, at):
    mark(self, at)
    marks.append(self.now.phase)
    if nth and marks.count(phase) == int(nth):
        act_once()

progress._Progress.begin, progress._Progress.mark = begin_here, mark_here
runpy.run_module("jaxsft.train", run_name="__main__")
"""
FLAGS = (
    "--config.train.steps=8",
    "--config.checkpoint.save_every_steps=4",
    "--lost_seconds=4",
)
MOST_SECONDS = 60  # on a machine with much else to do; jax itself takes 100, or never ends


def run(
    folder: Path,
    number: int,
    phase: str,
    step: int,
    what: str,
    hang_seconds: int = 4,
    count: int = 2,
    flags: tuple[str, ...] = (),
):
    """By process its exit code and what it said; seconds from the fault to the end; error.json.

    Of the step `step` and later, the process `number` does `what` where it comes to the phase.
    """
    when, workdir = folder / "when", folder / "workdir"
    program = ("-c", PROGRAM, f"{number}:{phase}:{step}:{what}:{when}")
    flags = (*FLAGS, f"--hang_seconds={hang_seconds}", *flags)
    processes = start(workdir, count, *flags, program=program)
    stopped = processes[number] if what == "SIGSTOP" else None  # never ends by itself
    said = {}
    try:
        for one in processes:
            if one is not stopped:
                said[one] = one.communicate(timeout=240)
        took = time.time() - float(when.read_text())
    finally:
        for one in processes:
            one.kill()
            if one not in said:
                said[one] = one.communicate()
    error = workdir / "error.json"
    found = json.loads(error.read_text()) if error.exists() else {}
    return [(one.returncode, *said[one]) for one in processes], took, found


@fault(
    "processes",
    "a process is killed, or stopped, in any phase",
    "all others end after `--lost_seconds`, with its number, host, phase and step",
    lost="the steps since the last checkpoint",
    code=76,
)
@pytest.mark.parametrize(
    ("number", "phase", "step", "what"),
    [
        (1, "training", 3, "SIGKILL"),
        (1, "saving", 0, "SIGSTOP"),
        (1, "compiling", 0, "SIGKILL"),
        (0, "evaluating", 0, "SIGSTOP"),
        (1, "exporting", 0, "SIGKILL"),
    ],
)
def test_a_lost_process_ends_the_others(number, phase, step, what, tmp_path):
    done, took, error = run(tmp_path, number, phase, step, what)
    code, _, said = done[1 - number]
    assert code == LOST_PEER and took < MOST_SECONDS, said
    assert f"error: process {number} (host " in said
    assert "is lost: no sign of life for" in error["message"] and "after step" in error["message"]
    assert f"process {1 - number} (host" in error["where"]


@fault(
    "processes",
    "the first process, which has the coordinator, is killed",
    "all others end at once, with its number, host, phase and step",
    lost="the steps since the last checkpoint",
    code=76,
)
@pytest.mark.parametrize(("phase", "step"), [("training", 3), ("saving", 0), ("exporting", 0)])
def test_a_killed_coordinator_ends_the_others_at_once(phase, step, tmp_path):
    (_, (code, _, said)), took, error = run(tmp_path, 0, phase, step, "SIGKILL")
    assert code == LOST_PEER and took < 20, said  # 0.3 s on a machine that has nothing else to do
    assert "error: process 0 (host " in said and "its connections are closed" in error["message"]


@fault(
    "processes",
    "a defect on one process",
    "all end within seconds; error.json has its words, place and traceback",
    lost="the steps since the last checkpoint",
    code="70, the others 76",
)
@pytest.mark.parametrize(("number", "phase", "step"), [(0, "training", 3), (1, "evaluating", 0)])
def test_a_defect_of_one_process_ends_all(number, phase, step, tmp_path):
    done, took, error = run(tmp_path, number, phase, step, "raise")
    assert done[number][0] == INTERNAL and done[1 - number][0] == LOST_PEER, done
    assert took < 40
    for _, _, said in done:
        assert f"error: process {number} (host " in said and "a defect here" in said
    assert f"process {number} (host " in f"{error['where']} {error['message']}"
    assert phase in f"{error['where']} {error['message']}"


@fault(
    "stopping",
    "a signal to one of several processes, while nothing is trained",
    "all end within seconds and say which process was stopped, and where; its deadline does so too",
    lost="nothing: no step has been taken since the last checkpoint",
    code=75,
)
@pytest.mark.parametrize(
    ("number", "phase", "what"),
    [(0, "compiling", "SIGTERM"), (1, "exporting", "SIGTERM"), (0, "exporting", "stuck")],
)
def test_a_signal_outside_the_steps_stops_all_processes(number, phase, what, tmp_path):
    grace = () if what == "SIGTERM" else ("--config.checkpoint.grace_seconds=2",)
    done, took, error = run(tmp_path, number, phase, 0, what, 300, flags=grace)
    assert [code for code, _, _ in done] == [STOPPED] * 2, done
    assert took < 40 and not error  # 4 s on a machine that has nothing else to do
    said = done[1 - number][2]
    (line,) = (line for line in said.splitlines() if line.startswith("process "))
    assert line.startswith(f"process {number} (host ") and f"{phase}, after step" in line
    assert ("stopped by SIGTERM" if what == "SIGTERM" else "stopped by a signal") in line
    assert "error: " not in said and "Traceback" not in said


@fault(
    "processes",
    "a process that is alive and does not go on",
    "the watchdog shows the stacks of all threads of all processes, and who is behind, where",
    lost="the steps since the last checkpoint",
    code=76,
)
@pytest.mark.parametrize(
    ("phase", "step", "what"),
    [
        ("training", 5, "sleep999"),
        ("training", 5, "skip"),
        ("saving", 0, "sleep999"),
        ("compiling", 0, "sleep999"),
        ("evaluating", 0, "sleep999"),
        ("writing tensors", 0, "sleep999@6"),
    ],
)
def test_a_run_that_hangs_ends_with_who_is_stuck_where(phase, step, what, tmp_path):
    # What has no steps, or has not had four of them yet, may take twelve times as long.
    hang_seconds = {"saving": 2, "compiling": 1, "evaluating": 1}.get(phase, 4)
    done, took, error = run(tmp_path, 1, phase, step, what, hang_seconds)
    assert [code for code, _, _ in done] == [LOST_PEER] * 2, done
    assert took < 100, done
    assert "process 0 (host" in error["message"] and "process 1 (host" in error["message"]
    if what != "skip":
        assert error["message"].startswith("process 1 (host") and " in act" in error["message"]
        assert f"{phase}, after step" in error["message"]
    for number, (_, _, said) in enumerate(done):
        assert f"the stacks of process {number}" in said
        assert "jaxsft/run.py" in said  # of the main thread


@fault(
    "processes",
    "a process that hangs while it reads the checkpoint that its run goes on from",
    "all end; the message says which process, where, and that a checkpoint was read",
    lost="nothing: the checkpoint is still there",
    code=76,
)
def test_a_restore_that_hangs_ends_too(tmp_path):
    shorter = [flag.replace("steps=8", "steps=4") for flag in FLAGS]
    [(code, _, said)] = finish(start(tmp_path / "workdir", 1, *shorter))
    assert code == 0, said
    done, took, error = run(tmp_path, 1, "reading a checkpoint", 0, "sleep999", hang_seconds=1)
    assert [code for code, _, _ in done] == [LOST_PEER] * 2, done
    assert took < 100, done
    assert error["message"].startswith("process 1 (host") and " in act" in error["message"]
    assert "reading a checkpoint, after step 0" in error["message"]
    (step,) = (tmp_path / "workdir" / "checkpoints").glob("[0-9]*")
    assert step.name == "4"


@fault(
    "processes",
    "a run of one process that does not go on",
    "the watchdog shows the stacks of all threads",
    lost="the steps since the last checkpoint",
    code=76,
)
def test_a_run_alone_that_hangs_ends_too(tmp_path):
    [(code, _, said)], _, error = run(tmp_path, 0, "training", 5, "sleep999", count=1)
    assert code == LOST_PEER and "the stacks of process 0" in said
    assert "is stuck for" in error["message"] and " in act" in error["message"]


def test_what_takes_long_and_gets_on_is_no_hang(tmp_path):
    """One process compiles while the other waits for it, and longer than a step may take."""
    done, took, error = run(tmp_path, 1, "compiling", 0, "sleep9")
    assert [code for code, _, _ in done] == [0, 0], done
    assert took > 9 and not error


# Each program of Python runs this file first, where it finds it; those that prepare data are killed
# after a second.
KILLED = """
import os, signal, sys, threading

if "spawn_main" in " ".join(sys.orig_argv):
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL))
    timer.daemon = True
    timer.start()
"""


@fault(
    "data",
    "a process that prepares the data is killed, by a lack of memory perhaps",
    "all end, with the process whose data it prepared and what to try",
    lost="nothing",
    code=65,
)
def test_a_killed_worker_of_the_data_ends_all(tmp_path):
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(KILLED)
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    flags = ("--config.data.workers=2", "--config.train.steps=2")
    surroundings = {"PYTHONPATH": f"{ROOT}:{site}", **cache}
    done = finish(start(tmp_path / "workdir", 2, *flags, surroundings=surroundings))
    assert [code for code, _, _ in done] == [BAD_DATA] * 2, done
    for number, (_, _, said) in enumerate(done):
        assert "one of the 2 processes that prepare the data was killed" in said
        assert "process 0: " in said or not number
