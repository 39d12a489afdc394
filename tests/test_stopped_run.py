"""One run, stopped by a signal in each of its phases, start after start: it loses nothing.

Every start is a process of its own, which gets the signal where a phase begins, or a moment later.
"""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from jaxsft.errors import STOPPED
from jaxsft.files import run_names
from tests.faults import fault
from tests.programs import ROOT, train
from tests.test_train import assert_same_result

FLAGS = ("--config.train.steps=12", "--config.eval.max_new_tokens=4")
# The program, which gets a signal when it is about to import a module, or some seconds after it
# calls a function for the nth time.
SIGNALLED = """
import importlib, os, runpy, signal, sys, threading, time

numbers, where, nth, seconds = sys.argv[1:5]
del sys.argv[1:5]
module, _, name = where.partition(":")
calls = []

def come():
    print("signalled at", time.time(), file=sys.stderr, flush=True)
    for number in numbers.split(","):
        os.kill(os.getpid(), int(number))
        time.sleep(0.3)  # so that the next one is no echo

def on_import(event, details):
    if event == "import" and details[0] == module and not calls:
        calls.append(1)
        come()

def signalled(*given, **named):
    calls.append(1)
    if len(calls) == int(nth):
        come() if seconds == "0" else threading.Timer(float(seconds), come).start()
    return function(*given, **named)

if name:
    holder = importlib.import_module(module)
    *path, last = name.split(".")
    for part in path:
        holder = getattr(holder, part)
    function = getattr(holder, last)
    setattr(holder, last, signalled)
else:
    sys.addaudithook(on_import)
runpy.run_module("jaxsft.train", run_name="__main__", alter_sys=True)
"""
# Phase, signal, where it comes, in which call, how many seconds later, and the newest checkpoint
# after it. A run of 12 steps, saved after 10, so that each start finds what the one before left.
PHASES = [
    ("the first imports", "TERM", "absl.flags", 1, 0, None),
    ("import of jax", "INT", "jax", 1, 0, None),
    ("import of transformers", "HUP", "transformers", 1, 0, None),
    ("flags", "TERM", "jaxsft.cli.config_file:load", 1, 0, None),
    ("model reading", "HUP", "jaxsft.training.inputs:open_model", 1, 0, None),
    ("preparation", "TERM", "jaxsft.data.cache.prepare:make_here", 1, 0, None),
    ("compile", "TERM", "jaxsft.plan.relief:compile_step", 1, 0.5, None),
    ("first weights", "INT", "jaxsft.training.first_state:first_state", 1, 0, None),
    ("first evaluation", "TERM", "jaxsft.evaluation.losses:mean_losses", 1, 0, None),
    ("generation", "HUP", "jaxsft.evaluation.measurer:generate", 1, 0.1, None),
    ("step", "TERM", "jaxsft.rundir.step_log:StepLog.add", 3, 0, 3),
    ("restore", "INT", "jaxsft.rundir.resume:resume", 1, 0, 3),
    ("evaluation", "TERM", "jaxsft.evaluation.losses:losses_unless", 1, 0, 10),
    ("save, twice", "TERM,INT", "jaxsft.rundir.checkpoint.store:CheckpointStore.save", 1, 0, 10),
    ("save", "HUP", "jaxsft.rundir.checkpoint.store:CheckpointStore.save", 1, 0, 12),
    ("last evaluation", "TERM", "jaxsft.report.the_end:measured", 1, 0, 12),
    ("last generation", "INT", "jaxsft.evaluation.measurer:generate", 1, 0.1, 12),
    ("export", "TERM", "jaxsft.report.run_export:export_params", 1, 0, 12),
    ("report", "HUP", "jaxsft.report.summary:write", 1, 0, 12),
]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    train(workdir, *FLAGS)
    return workdir


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """The run that is stopped again and again, and a cache of prepared data of its own."""
    return tmp_path_factory.mktemp("stopped"), tmp_path_factory.mktemp("cache")


def start(places, *arguments, flags=FLAGS):
    workdir, cache = places
    command = [sys.executable, "-c", SIGNALLED, *map(str, arguments)]
    config = f"--config={ROOT}/configs/debug.py"
    return subprocess.run(
        [*command, config, f"--workdir={workdir}", f"--config.data.cache_dir={cache}", *flags],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def newest(workdir):
    saved = [path.parent.name for path in workdir.glob("checkpoints/*/commit_success.txt")]
    return max(map(int, saved), default=None)


@fault(
    "stopping",
    "a signal in any phase: imports, preparation, compilation, evaluation, export, report",
    "ends within 25 s; the same command goes on, to the bits of the undisturbed run",
    lost="nothing that was trained",
    code=75,
)
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "where", "nth", "seconds", "step"),
    [pytest.param(*phase[1:], id=phase[0]) for phase in PHASES],
)
def test_a_signal_in_any_phase_is_obeyed(places, name, where, nth, seconds, step):
    numbers = [str(int(signal.Signals[f"SIG{one}"])) for one in name.split(",")]
    done = start(places, ",".join(numbers), where, nth, seconds)
    ended = time.time()
    assert done.returncode == STOPPED, done.stdout + done.stderr
    (at,) = (line for line in done.stderr.splitlines() if line.startswith("signalled at"))
    assert ended - float(at.split()[-1]) < 45  # 25 on a machine that has nothing else to do
    assert "Traceback" not in done.stderr
    assert newest(places[0]) == step


@pytest.mark.slow
def test_a_run_that_was_stopped_in_every_phase_ends_as_one_that_was_not(places, undisturbed):
    done = start(places, 15, "no.such.module", 1, 0)
    assert done.returncode == 0, done.stderr
    assert "from step 12 of 12" in done.stdout
    assert_same_result(places[0], undisturbed)


@fault(
    "stopping",
    "a signal while answers are written in the middle of training",
    "writes at most 16 tokens of each more, saves the step; the next start makes that evaluation",
    lost="nothing that was trained; the answers so far",
    code=75,
)
@pytest.mark.slow
def test_a_signal_among_answers_on_the_way_saves_the_step(tmp_path):
    spacing = ("--config.eval.every_steps=2", "--config.eval.answer_every_steps=2")
    flags = (*FLAGS[:1], "--config.eval.max_new_tokens=200", *spacing)
    places = tmp_path / "run", tmp_path / "cache"
    done = start(places, 15, "jaxsft.evaluation.measurer:generate", 2, 0, flags=flags)
    assert done.returncode == STOPPED, done.stdout + done.stderr
    assert newest(places[0]) == 2
    lines = map(json.loads, (places[0] / run_names.METRICS).read_text().splitlines())
    assert [line["step"] for line in lines if "loss" not in line] == [0]
