"""Termination signals: deferred while a step runs, at once elsewhere and on the second."""

import signal
import threading
import time

import pytest

from jaxsft.devices.termination import Termination
from jaxsft.errors import STOPPED, Stopped
from jaxsft.terminal import signals
from tests.faults import fault


@fault(
    "stopping",
    "a second signal",
    "ends within 10 s; a save that is not complete is no checkpoint",
    lost="the steps since the last complete checkpoint",
    code=75,
)
def test_a_deferred_signal_waits_for_the_step_and_a_second_one_does_not():
    termination = Termination()
    with termination.deferred():
        assert not termination.agreed()[0]
        termination._receive(signal.SIGTERM, None)
        assert termination.agreed()[0]
        termination._first -= 1
        with pytest.raises(Stopped, match="SIGINT"):
            termination._receive(signal.SIGINT, None)


def test_one_wish_that_comes_as_several_signals_is_one():
    """A terminal that closes sends SIGHUP, and so does its shell: the state is saved."""
    termination = Termination()
    with termination.deferred():
        termination._receive(signal.SIGHUP, None)
        termination._receive(signal.SIGHUP, None)
        assert termination.agreed()[0]
    with pytest.raises(Stopped):
        Termination()._receive(signal.SIGHUP, None)
    termination._receive(signal.SIGHUP, None)  # what the first one began is not disturbed


@pytest.fixture
def notices(monkeypatch):
    monkeypatch.setattr(signals, "_NOTICES", [])


def test_the_signal_that_follows_a_notice_is_a_first_one(monkeypatch, notices):
    """The cloud that announces it sends it, too, while the state is saved."""
    monkeypatch.setattr(signals.os, "kill", lambda *_: None)
    signals.notice("the machine goes")
    termination = Termination()
    with termination.deferred():
        termination._receive(signals.NOTICE, None)
        termination._receive(signal.SIGTERM, None)
        assert termination.agreed()[0] and termination.why_of_any() == "a notice (the machine goes)"
        termination._receive(signals.NOTICE, None)
        termination._first -= 1
        with pytest.raises(Stopped, match="SIGTERM"):
            termination._receive(signal.SIGTERM, None)
    with pytest.raises(Stopped, match="stopped by a notice .the machine goes.; start"):
        Termination()._receive(signals.NOTICE, None)


def test_a_notice_interrupts_what_the_main_thread_waits_for(notices):
    thread = threading.Timer(0.1, signals.notice, ("the machine goes",))
    with pytest.raises(Stopped, match="the machine goes"), Termination().listening():
        thread.start()
        time.sleep(60)
    thread.join()


@pytest.fixture
def handlers():
    """Those that Python begins with: a shell that starts the tests behind & has SIGINT ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_that_a_library_made_an_error_of_is_a_stop(handlers, number):
    with pytest.raises((Stopped, KeyboardInterrupt)), signals.raised():
        try:
            signal.raise_signal(number)
        except BaseException as error:
            raise ValueError("could not read the array") from error
    for again in signals.ALL:  # an impatient user: the program is ending already
        signal.raise_signal(again)


def test_an_error_that_no_stop_led_to_stays_itself(handlers):
    with pytest.raises(KeyError), signals.raised():
        raise KeyError("x")
    assert signal.SIG_IGN not in map(signal.getsignal, signals.ALL)


@fault(
    "stopping",
    "a signal while nothing is trained",
    "ends at once",
    lost="nothing: no step has been taken since the last checkpoint",
    code=75,
)
def test_a_signal_outside_the_steps_stops_at_once():
    termination = Termination()
    with termination.deferred():
        pass
    with pytest.raises(Stopped, match="SIGTERM") as stopped:
        termination._receive(signal.SIGTERM, None)
    assert stopped.value.exit_code == STOPPED == 75


def test_no_handler_of_exceptions_takes_a_stop():
    termination = Termination()
    with pytest.raises(Stopped), termination.listening():
        try:
            signal.raise_signal(signal.SIGTERM)
        except Exception:
            pytest.fail("a stop was taken for an error")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_stop_that_could_not_be_raised_is_raised_later(handlers):
    """In a destructor, as in any callback of C, an exception is lost."""

    class Callback:
        def __del__(self):
            signal.raise_signal(signal.SIGHUP)

    with pytest.raises(Stopped, match="stopped by a signal"), Termination().listening():
        Callback()


def test_what_a_shell_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    try:
        with Termination().listening():
            signal.raise_signal(signal.SIGHUP)
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
