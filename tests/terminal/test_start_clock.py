"""How long a start takes, by phase."""

import time

import pytest

from jaxsft.terminal import start_clock
from jaxsft.terminal.start_clock import StartClock


@pytest.fixture
def now(monkeypatch):
    """The time, which passes when it is told to."""
    time_of = [100.0]
    monkeypatch.setattr(start_clock.time, "monotonic", lambda: time_of[0])
    monkeypatch.setattr(start_clock, "_seconds_before", lambda: 2.5)
    return time_of


def test_each_second_belongs_to_one_phase(now):
    clock = StartClock()
    for phase, seconds in (("imports", 1), ("model", 2), ("data", 3), ("model", 4)):
        now[0] += seconds
        clock.ended(phase)
    now[0] += 5
    clock.ended("first step")
    assert clock.seconds == {"imports": 3.5, "model": 6.0, "data": 3.0, "first step": 5.0}
    assert clock.words() == "after 17.5 s: imports 3.5, data 3.0, model 6.0, first step 5.0"
    assert clock.since_made() == 15.0


def test_the_time_before_is_that_of_this_process(monkeypatch, tmp_path):
    assert start_clock._seconds_before() >= time.process_time() * 0.5
    monkeypatch.setattr(start_clock, "_SINCE_BOOT", tmp_path / "no such file")
    assert start_clock._seconds_before() == 0.0
