"""A program's end: within its time, whatever holds the main thread up."""

import signal
import subprocess
import sys
import time

import pytest

from jaxsft.errors import STOPPED
from jaxsft.terminal import deadline, signals
from jaxsft.terminal.deadline import Deadline
from tests.faults import fault


@pytest.fixture
def ended(monkeypatch):
    """The codes that a deadline would have ended this process with."""
    codes = []
    monkeypatch.setattr(deadline, "_exit", codes.append)
    monkeypatch.setattr(deadline, "_show_stacks", lambda: None)
    signal.signal(signal.SIGHUP, lambda *_: None)
    return codes


def wait_for(codes, seconds=20.0):
    until = time.monotonic() + seconds
    while not codes and time.monotonic() < until:
        time.sleep(0.01)
    return codes


def test_no_time_runs_before_a_signal(ended):
    with Deadline(0.0).watching():
        time.sleep(0.1)
        assert not ended
        signal.raise_signal(signal.SIGHUP)
        assert wait_for(ended) == [STOPPED]


@pytest.mark.parametrize(("echo_seconds", "leaves"), [(60.0, False), (0.0, True)])
def test_the_deadline_of_a_second_signal_is_not_that_of_an_echo(
    ended, monkeypatch, echo_seconds, leaves
):
    monkeypatch.setattr(signals, "ECHO_SECONDS", echo_seconds)
    monkeypatch.setattr(deadline, "AGAIN_SECONDS", 0.01)
    with Deadline(600.0).watching():
        signal.raise_signal(signal.SIGHUP)
        time.sleep(0.1)  # ten times the deadline
        assert not ended
        signal.raise_signal(signal.SIGHUP)
        assert bool(wait_for(ended, 20.0 if leaves else 0.1)) == leaves


def test_a_stop_that_came_by_no_signal_has_a_deadline_and_leaves_the_first_signal_its_own(
    ended, monkeypatch
):
    """What follows a notice of the cloud is the signal that it announced, no impatient user's."""
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.0)
    monkeypatch.setattr(deadline, "AGAIN_SECONDS", 0.01)
    with Deadline(600.0).watching() as _, deadline.watching(0.0):
        deadline.of_this_process().begin()
        assert wait_for(ended) == [STOPPED]
    ended.clear()
    one = Deadline(600.0)
    with one.watching():
        one.begin()
        signal.raise_signal(signal.SIGHUP)
        time.sleep(0.1)
        assert not ended


def test_nothing_runs_out_that_nobody_watches(ended):
    deadline.of_this_process().begin()
    assert not ended


# C code that lets no handler of Python run, as compilers and file systems do.
BUSY = """
import contextlib, hashlib, sys
from jaxsft.terminal import deadline, signals
seconds, deadline.AGAIN_SECONDS = map(float, sys.argv[1:3])
with deadline.watching(999), signals.raised(), contextlib.ExitStack() as stack:
    deadline.of_this_process().seconds = seconds
    if sys.argv[3] == "deferred":
        from jaxsft.devices.termination import Termination
        one = Termination(seconds)
        stack.enter_context(one.listening())
        stack.enter_context(one.deferred())
    print("busy", flush=True)
    hashlib.pbkdf2_hmac("sha512", b"", b"", 2**31 - 1)
"""
WHERE = '"<string>", line 13 in <module>'


def ended_by(program, arguments, numbers):
    """Exit code and words of a program that is busy when these signals come."""
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout is not None and running.stdout.readline() == "busy\n"
            for number in numbers:
                time.sleep(0.2)
                running.send_signal(number)
            _, said = running.communicate(timeout=60)
        finally:
            running.kill()
    return running.returncode, said


@fault(
    "stopping",
    "a signal while a compiler, a disk or a step that hangs holds Python up",
    "a thread shows all stacks after `checkpoint.grace_seconds` and ends the process",
    lost="the steps since the last complete checkpoint",
    code=75,
)
@pytest.mark.parametrize(
    ("seconds", "how", "count"),
    [(("1", "99"), "now", 1), (("1", "99"), "deferred", 1), (("99", "1"), "deferred", 2)],
)
def test_a_deadline_holds_where_python_does_not_run(seconds, how, count):
    code, said = ended_by(BUSY, [*seconds, how], [signal.SIGTERM] * count)
    assert code == STOPPED and "stopped by a signal, in the middle" in said
    assert WHERE in said


# Whoever reads stderr has stopped reading, and the main thread waits for it with the stream's lock.
FULL = """
import sys
from jaxsft.terminal import deadline, signals
with deadline.watching(1), signals.raised():
    print("busy", flush=True)
    while True:
        try:
            print("x" * 100, file=sys.stderr, flush=True)
        except BaseException:
            pass
"""


def test_a_deadline_holds_where_nobody_reads_what_is_said():
    command = [sys.executable, "-c", FULL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None and running.stdout.readline() == b"busy\n"
        time.sleep(0.5)
        running.send_signal(signal.SIGTERM)
        try:
            assert running.wait(30) == STOPPED
        finally:
            running.kill()


# The first act of a program, before the imports that take time.
EARLY = """
import sys, time
from jaxsft.terminal import signals
signals.end_at_once()
print("busy", flush=True)
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
"""


@pytest.mark.parametrize("number", signals.ALL)
def test_a_signal_while_a_program_is_imported_ends_it_whatever_catches_what(number):
    # Whoever started the tests may ignore some.
    handlers = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler);"
    handlers += "signal.signal(signal.SIGHUP, signal.SIG_DFL)"
    code, said = ended_by(handlers + EARLY, [], [number])
    assert code == STOPPED
    assert said == f"stopped by {number.name}; start the same command again\n"


def test_a_signal_that_is_spared_asks_for_no_end(ended):
    with deadline.watching(0.2):
        deadline.of_this_process().spared = frozenset({signal.SIGINT})
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            signal.raise_signal(signal.SIGINT)
            time.sleep(1.0)
            assert not ended
        finally:
            signal.signal(signal.SIGINT, before)
