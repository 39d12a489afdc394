"""The process that holds all others up is named, and only where it does."""

import numpy as np
import pytest

from jaxsft.devices import stragglers
from tests.devices.test_distributed import finish, metrics, start

HOSTS = ["a", "b", "c"]


def test_the_slowest_process_is_named_with_its_host():
    said = stragglers.slowest(np.array([0.1, 0.1, 0.3]), 0.5, HOSTS)
    assert said is not None and said.startswith("process 2 (host c) is the slowest: 0.300 s")
    assert "3.0 times the median" in said


@pytest.mark.parametrize(
    ("own", "step_seconds"),
    [([0.1, 0.11, 0.115], 0.5), ([0.001, 0.001, 0.01], 0.5), ([0, 0, 0], 1)],
)
def test_what_is_even_or_costs_nothing_is_not_told(own, step_seconds):
    assert stragglers.slowest(np.array(own), step_seconds, HOSTS) is None


def test_one_process_has_nobody_to_compare_with():
    pace = stragglers.Pace(1, pytest.fail)
    assert [pace.add(0.5) for _ in range(5)] == [{}] * 5


# The last process waits for each batch.
SLOW_DATA = """
import runpy, sys, time
from jaxsft.training.loader import Batches

real = Batches.stream

def stream(self, first, last):
    for batch in real(self, first, last):
        time.sleep(0.8 if "--process_id=1" in sys.argv else 0.0)
        yield batch

Batches.stream = stream
runpy.run_module("jaxsft.train", run_name="__main__")
"""


@pytest.mark.slow
def test_a_run_names_the_process_whose_data_are_slow(tmp_path):
    flags = ("--config.train.steps=10", "--config.log.processes_every_steps=3")
    more = ("--config.eval.every_steps=None", "--config.checkpoint.export=false")
    done = finish(start(tmp_path, 2, *flags, *more, program=("-c", SLOW_DATA)))
    assert [code for code, _, _ in done] == [0, 0], done
    lines = [one for one in metrics(tmp_path) if "process_seconds/0" in one]
    assert [one["step"] for one in lines] == [6, 9]
    assert all(one["process_seconds/1"] >= 0.8 for one in lines), lines
    assert all(one["process_seconds/0"] < one["process_seconds/1"] / 2 for one in lines), lines
    assert "slow       process 1 (host " in done[0][1]
