"""A thread that is inside a library when the program ends does not decide how it ends."""

import subprocess
import sys

import pytest

from jaxsft.errors import BAD_CONFIG, INTERNAL, STOPPED
from tests.programs import ROOT

PROGRAM = """
import threading, time
from jaxsft.errors import ConfigError, Stopped
from jaxsft.rundir.checkpoint import background

background._JOIN_SECONDS = 0.2
over = threading.Event()
held = threading.Event()

def forever():
    held.wait()

def until_over():
    over.wait()

def python_waits():
    threading.Thread(target=forever).start()
    forever()

with background.left_behind():
    background.start({work}, over)
    {end}
print("as ever")
"""


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("pass", 0, ""),
        ("raise ConfigError('full')", BAD_CONFIG, "error: full\n"),
        ("raise Stopped('stopped')", STOPPED, "stopped\n"),
        ("1 / 0", INTERNAL, "ZeroDivisionError: division by zero\n"),
    ],
)
def test_a_thread_that_does_not_end_is_left_behind(end, code, said):
    done = run(PROGRAM.format(work="python_waits", end=end))
    assert (done.returncode, done.stdout) == (code, "") and done.stderr.endswith(said)


def test_a_thread_that_is_told_ends(tmp_path):
    done = run(PROGRAM.format(work="until_over", end="pass"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "as ever\n", "")


def run(program):
    return subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
