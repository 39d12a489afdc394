"""The peak of a process is its own."""

import subprocess
import sys

import numpy as np

from jaxsft.devices import peak_memory

_SAY = "from jaxsft.devices import peak_memory; print(peak_memory.host_bytes())"


def test_a_program_does_not_inherit_the_peak_of_the_one_that_started_it():
    """As getrusage says it does: a run started by a large notebook looked as large."""
    before = peak_memory.host_bytes()
    large = np.ones(3 * 10**8, np.uint8)
    assert peak_memory.host_bytes() >= large.nbytes and before > 2**20
    del large
    child = subprocess.run([sys.executable, "-c", _SAY], capture_output=True, text=True, check=True)
    assert 2**20 < int(child.stdout) < 10**8


def test_a_process_that_is_gone_held_nothing():
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert peak_memory.host_bytes(gone.pid) == 0
