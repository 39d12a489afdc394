"""Termination signals: deferred while a step runs, at once elsewhere and on the second."""

import signal

import pytest

from jaxsft.errors import STOPPED, Stopped
from jaxsft.termination import Termination


def test_a_deferred_signal_waits_for_the_step_and_a_second_one_does_not():
    termination = Termination()
    with termination.deferred():
        assert not termination.agreed()
        termination._receive(signal.SIGTERM, None)
        assert termination.agreed()
        with pytest.raises(Stopped, match="SIGINT"):
            termination._receive(signal.SIGINT, None)


def test_a_signal_outside_the_steps_stops_at_once():
    termination = Termination()
    with termination.deferred():
        pass
    with pytest.raises(Stopped, match="SIGTERM") as stopped:
        termination._receive(signal.SIGTERM, None)
    assert stopped.value.exit_code == STOPPED == 75
