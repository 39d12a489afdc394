"""A run that is killed at any moment of a save goes on from its newest whole checkpoint.

JAXSFT_TEST_KILLS=20 kills it so often; without it, twice.
"""

import os
import random
import re
import subprocess
import time

import pytest

from jaxsft.errors import STOPPED
from tests.faults import fault
from tests.programs import ROOT
from tests.test_train import command

KILLS = int(os.environ.get("JAXSFT_TEST_KILLS", "2"))
FLAGS = (
    *("--config.train.steps=100000", "--config.eval.every_steps=None", "--config.eval.prompts=0"),
    *("--config.checkpoint.save_every_steps=3", "--config.log.every_steps=50"),
)


def names(workdir):
    """Of whole checkpoints, and of what else lies beside them."""
    found = list((workdir / "checkpoints").glob("*")) if workdir.exists() else []
    whole = [path for path in found if (path / "commit_success.txt").exists()]
    return sorted(int(path.name) for path in whole), {p.name for p in found if p not in whole}


def start(workdir, log):
    return subprocess.Popen(
        command(workdir, *FLAGS),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=log,
        stderr=subprocess.STDOUT,
    )


def wait_for_a_save(running, workdir, after):
    deadline = time.monotonic() + 150
    while not (names(workdir)[0] or [after])[-1] > after:
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.002)


def wait_for_the_next(running, workdir):
    """To begin."""
    deadline = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        whole, left = names(workdir)
        if any(name.isdecimal() and int(name) > whole[-1] for name in left):
            return


@fault(
    "checkpoints",
    "the run is killed at random moments, in the middle of saves too",
    "goes on from its newest whole checkpoint; what the save left is gone after the next",
    lost="the steps since that checkpoint",
    code="goes on",
)
@pytest.mark.slow
def test_a_run_killed_in_a_save_goes_on_from_the_newest_whole_checkpoint(tmp_path):
    workdir, log = tmp_path / "run", tmp_path / "log"
    chance, newest, within = random.Random(0), 0, 0
    for number in range(KILLS + 1):
        with log.open("w") as said:
            running = start(workdir, said)
            try:
                wait_for_a_save(running, workdir, newest)
                if number == KILLS:
                    running.terminate()
                    running.wait(60)
                else:
                    wait_for_the_next(running, workdir)
                    time.sleep(chance.uniform(0, 0.05))
            finally:
                running.kill()
                running.wait()
        if number:
            assert re.search(rf"^resume +from step {newest} of", log.read_text(), re.M)
        whole, left = names(workdir)
        newest, within = whole[-1], within + bool(left)
    assert running.returncode == STOPPED, log.read_text()
    assert len(whole) <= 4 and not left  # a run that is stopped leaves old ones to the next start
    print(f"{KILLS} kills, {within} of them within a save")
